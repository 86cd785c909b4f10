//! Which target a request goes to: hashing, least connections, latency.

use serde_json::{Value, json};
use silverback_e2e::{Gate, Gateway, Response, Running, Step, Upstream};

/// A service on an upstream entity with these settings and targets.
fn balanced(settings: &Value, targets: &[&Upstream]) -> Value {
    let targets: Vec<Value> = targets.iter().map(|target| json!({ "target": target.target() })).collect();
    let mut upstream = json!({ "name": "balanced", "targets": targets });
    for (name, value) in settings.as_object().unwrap() {
        upstream[name] = value.clone();
    }
    json!({
        "services": [{ "name": "s", "host": "balanced", "routes": [
            { "name": "r", "paths": ["~/(?<user>[^/]+)/", "/"], "strip_path": false },
        ] }],
        "upstreams": [upstream],
    })
}

fn origin(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-origin").unwrap_or_default().to_owned()
}

async fn three() -> [Upstream; 3] {
    [Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await]
}

async fn gateway(settings: &Value, targets: &[Upstream; 3]) -> Running {
    let [a, b, c] = targets;
    Gateway::new().config(balanced(settings, &[a, b, c])).start().await
}

/// Sends requests that are alike four times each; gives the target of each kind. All must stay with theirs, and they must
/// not all have the same.
async fn sticks(gateway: &Running, request: impl Fn(usize) -> (String, Vec<String>)) -> Vec<String> {
    let mut targets = Vec::new();
    for kind in 0..12 {
        let (path, headers) = request(kind);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let first = origin(&gateway.get_with(&path, &headers).await);
        for _ in 0..3 {
            assert_eq!(origin(&gateway.get_with(&path, &headers).await), first, "{path} {headers:?}");
        }
        targets.push(first);
    }
    assert!(targets.iter().any(|target| *target != targets[0]), "{targets:?}");
    targets
}

#[tokio::test]
async fn requests_stick_to_a_target_by_what_they_are_hashed_on() {
    let targets = three().await;
    let header = |kind: usize| ("/".to_owned(), vec![format!("X-User: {kind}")]);
    let by_header = gateway(&json!({ "hash_on": "header", "hash_on_header": "X-User" }), &targets).await;
    sticks(&by_header, header).await;
    let by_argument = gateway(&json!({ "hash_on": "query_arg", "hash_on_query_arg": "u" }), &targets).await;
    sticks(&by_argument, |kind| (format!("/?x=1&u={kind}"), vec![])).await;
    let by_path = gateway(&json!({ "hash_on": "path" }), &targets).await;
    sticks(&by_path, |kind| (format!("/p{kind}?x=1"), vec![])).await;
    let by_capture = gateway(&json!({ "hash_on": "uri_capture", "hash_on_uri_capture": "user" }), &targets).await;
    sticks(&by_capture, |kind| (format!("/{kind}/rest"), vec![])).await;
    let by_fallback = gateway(
        &json!({ "hash_on": "consumer", "hash_fallback": "header", "hash_fallback_header": "X-User" }),
        &targets,
    )
    .await;
    sticks(&by_fallback, header).await;
}

#[tokio::test]
async fn requests_stick_to_a_target_by_their_address() {
    let targets = three().await;
    let [a, b, c] = &targets;
    let gateway = Gateway::new()
        .conf("trusted_ips = 127.0.0.1\nreal_ip_header = X-Real-IP")
        .config(balanced(&json!({ "hash_on": "ip" }), &[a, b, c]))
        .start()
        .await;
    sticks(&gateway, |kind| ("/".to_owned(), vec![format!("X-Real-IP: 10.0.0.{kind}")])).await;
}

#[tokio::test]
async fn requests_stick_to_a_target_by_their_consumer() {
    let targets = three().await;
    let [a, b, c] = &targets;
    let mut config = balanced(&json!({ "hash_on": "consumer" }), &[a, b, c]);
    config["plugins"] = json!([{ "name": "key-auth" }]);
    let consumers =
        (0..12).map(|n| json!({ "username": format!("u{n}"), "keyauth_credentials": [{ "key": format!("k{n}") }] }));
    config["consumers"] = consumers.collect();
    let gateway = Gateway::new().config(config).start().await;
    sticks(&gateway, |kind| ("/".to_owned(), vec![format!("apikey: k{kind}")])).await;
}

#[tokio::test]
async fn a_client_without_the_cookie_gets_one_that_leads_it_back() {
    let targets = three().await;
    let settings = json!({ "hash_on": "cookie", "hash_on_cookie": "sid", "hash_on_cookie_path": "/p" });
    let gateway = gateway(&settings, &targets).await;
    for _ in 0..8 {
        let first = gateway.get("/").await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        assert!(pair.starts_with("sid="), "{cookie}");
        assert_eq!(attributes, "Path=/p; Same-Site=Lax; HttpOnly");
        for _ in 0..3 {
            let again = gateway.get_with("/", &[&format!("Cookie: other=1; {pair}")]).await;
            assert_eq!((origin(&again), again.header("set-cookie")), (origin(&first), None));
        }
    }
}

#[tokio::test]
async fn a_reload_with_one_target_less_moves_only_its_requests() {
    let targets = three().await;
    let [a, b, c] = &targets;
    let settings = json!({ "hash_on": "header", "hash_on_header": "X-User" });
    let header = |kind: usize| ("/".to_owned(), vec![format!("X-User: {kind}")]);
    let gateway = gateway(&settings, &targets).await;
    let before = sticks(&gateway, header).await;
    gateway.rewrite_config(&balanced(&settings, &[c, b, a]));
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    assert_eq!(sticks(&gateway, header).await, before);
    gateway.rewrite_config(&balanced(&settings, &[a, b]));
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    let after = sticks(&gateway, header).await;
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| *before != "c") {
        assert_eq!(before, after);
    }
}

#[tokio::test]
async fn least_connections_prefers_the_target_that_is_idle() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let busy = Upstream::scripted(move |request| {
        let mut steps = vec![Step::send("HTTP/1.1 200 OK\r\nX-Origin: busy\r\nContent-Length: 0\r\n\r\n")];
        if request.target == "/slow" {
            steps.insert(0, Step::Wait(closed.clone()));
        }
        steps
    })
    .await;
    let idle = Upstream::named("idle").await;
    let gateway =
        Gateway::new().config(balanced(&json!({ "algorithm": "least-connections" }), &[&busy, &idle])).start().await;
    // One of two that come one after another goes to the first target; that one stays there.
    let mut waiting = Vec::new();
    while busy.heads(0).await.iter().all(|head| head.target != "/slow") {
        let mut connection = gateway.connect().await;
        connection.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let seen = || busy.heads(0);
        silverback_e2e::eventually_async("the request at one of them", || async {
            let arrived = seen().await.len() + idle.requests().len();
            (arrived > waiting.len()).then_some(())
        })
        .await;
        waiting.push(connection);
    }
    let on_busy = busy.heads(0).await.len();
    for _ in 0..20 {
        assert_eq!(origin(&gateway.get("/").await), "idle");
    }
    assert_eq!(busy.heads(0).await.len(), on_busy);
    gate.open();
    for connection in &mut waiting {
        assert_eq!(connection.response().await.status, 200);
    }
    // Free again, it takes its part.
    silverback_e2e::eventually_async("an answer of the first", || async {
        (origin(&gateway.get("/").await) == "busy").then_some(())
    })
    .await;
}

#[tokio::test]
async fn all_targets_take_part_when_the_fastest_is_wanted() {
    let targets = three().await;
    let gateway = gateway(&json!({ "algorithm": "latency" }), &targets).await;
    silverback_e2e::eventually_async("an answer of each", || async {
        origin(&gateway.get("/").await);
        targets.iter().all(|target| !target.requests().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_upstream_entity_may_set_the_host_header() {
    let targets = three().await;
    let gateway = gateway(&json!({ "host_header": "inner.test" }), &targets).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.echoed("host"), ["inner.test"]);
}

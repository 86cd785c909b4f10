//! Health checks: targets that die are taken out, and come back.

use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use silverback_e2e::{Gateway, Running, Step, Upstream, eventually_async, free_port};

/// A service on an upstream entity with these health checks and targets.
fn checked(checks: &Value, targets: &[&str]) -> Value {
    let targets: Vec<Value> = targets.iter().map(|target| json!({ "target": target })).collect();
    json!({
        "services": [{ "name": "s", "host": "balanced", "routes": [{ "name": "r", "paths": ["/"] }] }],
        "upstreams": [{ "name": "balanced", "healthchecks": checks, "targets": targets }],
    })
}

fn passive(unhealthy: &Value) -> Value {
    json!({ "passive": { "unhealthy": unhealthy } })
}

/// An upstream that answers with the status that is set.
async fn with_status(name: &'static str) -> (Upstream, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let shown = Arc::clone(&status);
    let upstream = Upstream::scripted(move |_| {
        let status = shown.load(Ordering::Relaxed);
        vec![Step::send(&format!("HTTP/1.1 {status} X\r\nX-Origin: {name}\r\nContent-Length: 0\r\n\r\n"))]
    })
    .await;
    (upstream, status)
}

/// The health of a target, as the Admin API tells it.
async fn health_of(gateway: &Running, target: &str) -> String {
    let answer = gateway.admin("/upstreams/balanced/health").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let data = body["data"].as_array().expect("targets");
    let found = data.iter().find(|known| known["target"] == target).expect("the target");
    found["health"].as_str().expect("health").to_owned()
}

async fn becomes(gateway: &Running, target: &str, health: &str) {
    eventually_async(&format!("{target} {health}"), || async {
        (health_of(gateway, target).await == health).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_target_dies_under_load_and_no_request_fails() {
    let (alive, dying) = (Upstream::named("alive").await, Upstream::named("dying").await);
    let target = dying.target();
    let config = checked(&passive(&json!({ "tcp_failures": 2 })), &[&alive.target(), &target]);
    let gateway = Arc::new(Gateway::new().config(config).start().await);
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, done) = (Arc::clone(&gateway), Arc::clone(&done));
            tokio::spawn(async move {
                let mut connection = gateway.connect().await;
                for _ in 0..75 {
                    let answer = connection.get("/", &[]).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually_async("some requests", || async { (done.load(Ordering::Relaxed) > 100).then_some(()) }).await;
    drop(dying);
    for client in clients {
        client.await.expect("every request is answered");
    }
    assert_eq!(done.load(Ordering::Relaxed), 600);
    assert_eq!(health_of(&gateway, &target).await, "UNHEALTHY");
    assert_eq!(health_of(&gateway, &alive.target()).await, "HEALTHY");
}

#[tokio::test]
async fn statuses_of_answers_take_a_target_out() {
    let (good, _) = with_status("good").await;
    let (bad, status) = with_status("bad").await;
    status.store(500, Ordering::Relaxed);
    let config = checked(&passive(&json!({ "http_failures": 3 })), &[&good.target(), &bad.target()]);
    let gateway = Gateway::new().config(config).start().await;
    for _ in 0..20 {
        gateway.get("/").await;
    }
    assert_eq!(bad.requests().len(), 3);
    assert_eq!(health_of(&gateway, &bad.target()).await, "UNHEALTHY");
}

#[tokio::test]
async fn timeouts_take_a_target_out() {
    let good = Upstream::named("good").await;
    let slow = Upstream::scripted(|_| vec![Step::Pause(std::time::Duration::from_secs(3600))]).await;
    let mut config = checked(&passive(&json!({ "timeouts": 1 })), &[&slow.target(), &good.target()]);
    config["services"][0]["read_timeout"] = json!(3000);
    let gateway = Gateway::new().config(config).start().await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(slow.requests().len(), 1);
    assert_eq!(health_of(&gateway, &slow.target()).await, "UNHEALTHY");
}

#[tokio::test]
async fn probes_take_a_target_out_and_bring_it_back() {
    let (steady, _) = with_status("steady").await;
    let (probed, status) = with_status("probed").await;
    let checks = json!({ "active": {
        "http_path": "/probe", "headers": { "X-Probe": ["yes"] },
        "healthy": { "interval": 0.05, "successes": 2 },
        "unhealthy": { "interval": 0.05, "http_failures": 2 },
    } });
    let gateway = Gateway::new().config(checked(&checks, &[&steady.target(), &probed.target()])).start().await;
    becomes(&gateway, &probed.target(), "HEALTHY").await;
    status.store(503, Ordering::Relaxed);
    becomes(&gateway, &probed.target(), "UNHEALTHY").await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.header("x-origin"), Some("steady"));
    }
    status.store(200, Ordering::Relaxed);
    becomes(&gateway, &probed.target(), "HEALTHY").await;
    eventually_async("an answer of the one that came back", || async {
        (gateway.get("/").await.header("x-origin") == Some("probed")).then_some(())
    })
    .await;
    let probe = &probed.requests()[0];
    assert_eq!((probe.method.as_str(), probe.target.as_str()), ("GET", "/probe"));
    assert_eq!((probe.header("x-probe"), probe.header("host")), (Some("yes"), Some("127.0.0.1")));
}

#[tokio::test]
async fn probes_of_connections_find_a_target_that_is_gone() {
    let alive = Upstream::named("alive").await;
    let dead = format!("127.0.0.1:{}", free_port());
    let checks = json!({ "active": {
        "type": "tcp", "healthy": { "interval": 0.05 }, "unhealthy": { "tcp_failures": 1 },
    } });
    let gateway = Gateway::new().config(checked(&checks, &[&alive.target(), &dead])).start().await;
    becomes(&gateway, &dead, "UNHEALTHY").await;
    assert_eq!(health_of(&gateway, &alive.target()).await, "HEALTHY");
}

#[tokio::test]
async fn without_a_healthy_target_there_is_no_peer() {
    let (only, _) = with_status("only").await;
    let config = checked(&passive(&json!({ "http_failures": 1 })), &[&only.target()]);
    let gateway = Gateway::new().config(config).start().await;
    let path = format!("/upstreams/balanced/targets/{}/unhealthy", only.target());
    assert_eq!(gateway.admin_request("PUT", &path).await.status, 204);
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    let message = answer.json()["message"].as_str().map(str::to_owned);
    assert_eq!((answer.status, message.as_deref()), (503, Some("failure to get a peer from the ring-balancer")));
    assert_eq!(answer.header("x-kong-upstream-latency"), None);
    assert_eq!(gateway.admin_request("PUT", &path.replace("unhealthy", "healthy")).await.status, 204);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn too_little_healthy_weight_takes_the_whole_upstream_out() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let mut checks = passive(&json!({ "tcp_failures": 1 }));
    checks["threshold"] = json!(55);
    let gateway = Gateway::new().config(checked(&checks, &[&a.target(), &b.target()])).start().await;
    let whole = async || gateway.admin("/upstreams/balanced/health?balancer_health=1").await.json()["data"].clone();
    let before = whole().await;
    assert_eq!((&before["health"], &before["details"]["weight"]["available"]), (&json!("HEALTHY"), &json!(200)));
    let path = format!("/upstreams/balanced/targets/{}/unhealthy", a.target());
    gateway.admin_request("PUT", &path).await;
    let after = whole().await;
    assert_eq!(after["health"], "UNHEALTHY");
    assert_eq!(after["details"]["weight"], json!({ "total": 200, "unavailable": 100, "available": 100 }));
    assert_eq!(gateway.get("/").await.status, 503);
}

#[tokio::test]
async fn health_outlives_a_reload() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let checks = passive(&json!({ "tcp_failures": 1 }));
    let gateway = Gateway::new().config(checked(&checks, &[&a.target(), &b.target()])).start().await;
    let path = format!("/upstreams/balanced/targets/{}/unhealthy", a.target());
    gateway.admin_request("PUT", &path).await;
    let mut config = checked(&checks, &[&b.target(), &a.target()]);
    config["upstreams"][0]["targets"][0]["weight"] = json!(10);
    gateway.rewrite_config(&config);
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    assert_eq!(health_of(&gateway, &a.target()).await, "UNHEALTHY");
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.header("x-origin"), Some("b"));
    }
    // Without checks nobody would find it healthy again.
    gateway.rewrite_config(&checked(&json!({}), &[&a.target(), &b.target()]));
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    assert_eq!(health_of(&gateway, &a.target()).await, "HEALTHCHECKS_OFF");
    eventually_async("an answer of each", || async {
        (gateway.get("/").await.header("x-origin") == Some("a")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_where_it_was_idle_says_nothing_of_the_target() {
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let upstream = Upstream::scripted(move |request| {
        if seen.lock().unwrap().insert(request.connection) {
            vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]
        } else {
            vec![Step::Close]
        }
    })
    .await;
    let target = upstream.target();
    let config = checked(&passive(&json!({ "tcp_failures": 1 })), &[&target]);
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(config).start().await;
    let mut client = gateway.connect().await;
    // What was sent is not sent twice.
    for status in [200, 502, 200, 502] {
        assert_eq!(client.request("POST", "/", &[], b"body").await.status, status);
        assert_eq!(health_of(&gateway, &target).await, "HEALTHY");
    }
}

/// A body that fails, on its way to an upstream of either protocol.
#[tokio::test]
async fn a_body_that_fails_says_nothing_of_the_target() {
    let (http, grpc) = (Upstream::echo().await, silverback_e2e::GrpcUpstream::start().await);
    let conf = "nginx_http_client_max_body_size = 2k\nnginx_http_client_body_timeout = 3s";
    for (protocol, target, routed) in [("http", http.target(), "http"), ("grpc", grpc.target(), "grpc")] {
        let mut config = checked(&passive(&json!({ "tcp_failures": 1, "http_failures": 1 })), &[&target]);
        config["services"][0]["protocol"] = json!(protocol);
        config["services"][0]["routes"][0]["protocols"] = json!([routed]);
        config["services"][0]["routes"][0]["request_buffering"] = json!(protocol == "grpc");
        let gateway = Gateway::new().conf(conf).config(config).start().await;
        let mut client = gateway.http2().await;
        let request = |length: usize| {
            let request = http::Request::post("http://a.test/test.Service/Wait");
            request.header("content-type", "application/grpc").header("te", "trailers").body(vec![0; length]).unwrap()
        };
        assert_eq!(client.request(request(5000)).await.status, 413, "{protocol}");
        assert_eq!(health_of(&gateway, &target).await, "HEALTHY", "{protocol}");
        assert_eq!(client.begin(request(100)).await.status().await, 408, "{protocol}");
        assert_eq!(health_of(&gateway, &target).await, "HEALTHY", "{protocol}");
    }
}

const UPSTREAM: &str = "0c61e164-6171-4837-8836-8f5298726d53";
const TARGET: &str = "1c61e164-6171-4837-8836-8f5298726d53";

/// An upstream with a target by name and one by address, and one without checks.
async fn observed() -> (Upstream, Running) {
    let a = Upstream::named("a").await;
    let mut config = checked(&passive(&json!({ "tcp_failures": 1 })), &["localhost:1234", &a.target()]);
    config["upstreams"][0]["id"] = json!(UPSTREAM);
    config["upstreams"][0]["targets"][0]["id"] = json!(TARGET);
    let unchecked = json!({ "name": "unchecked", "targets": [{ "target": "10.0.0.1" }] });
    config["upstreams"].as_array_mut().unwrap().push(unchecked);
    let gateway = Gateway::new().conf("dns_order = A").config(config).start().await;
    becomes(&gateway, "localhost:1234", "HEALTHY").await;
    (a, gateway)
}

#[tokio::test]
async fn the_admin_api_tells_the_health_of_targets_as_kong_does() {
    let (_a, gateway) = observed().await;
    let by_name = gateway.admin("/upstreams/balanced/health").await.json();
    let by_id = gateway.admin(&format!("/upstreams/{UPSTREAM}/health")).await.json();
    assert_eq!(by_name, by_id);
    assert_eq!(by_name["node_id"], gateway.admin("/").await.json()["node_id"]);
    assert_eq!(by_name["next"], Value::Null);
    let local = by_name["data"].as_array().unwrap().iter().find(|known| known["target"] == "localhost:1234").unwrap();
    assert_eq!((&local["upstream"]["id"], &local["id"]), (&json!(UPSTREAM), &json!(TARGET)));
    assert_eq!((&local["weight"], &local["tags"]), (&json!(100), &Value::Null));
    let expect = json!({
        "host": "localhost", "port": 1234, "dns": "A", "nodeWeight": 100,
        "weight": { "total": 100, "unavailable": 0, "available": 100 },
        "addresses": [{ "ip": "127.0.0.1", "port": 1234, "weight": 100, "health": "HEALTHY" }],
    });
    assert_eq!(local["data"], expect);
    let off = gateway.admin("/upstreams/unchecked/health").await.json();
    assert_eq!(off["data"][0]["health"], "HEALTHCHECKS_OFF");
    assert_eq!(off["data"][0]["data"]["addresses"][0]["health"], "HEALTHCHECKS_OFF");
}

#[tokio::test]
async fn the_admin_api_tells_the_health_of_targets_page_by_page() {
    let (_a, gateway) = observed().await;
    let page = gateway.admin("/upstreams/balanced/health?size=1").await.json();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["offset"]), (1, &json!("1")));
    assert_eq!(page["next"], "/upstreams/balanced/health?offset=1");
    let answer = gateway.admin("/upstreams/none/health").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (404, Some("Not found")));
}

#[tokio::test]
async fn the_admin_api_sets_the_health_of_targets_as_kong_does() {
    let (_a, gateway) = observed().await;
    for (path, status, message) in [
        ("balanced/targets/localhost:1234/127.0.0.1:1234/unhealthy", 204, None),
        ("none/targets/localhost:1234/unhealthy", 404, Some("Not found")),
        ("balanced/targets/none:1/unhealthy", 404, Some("Not found")),
        ("balanced/targets/2c61e164-6171-4837-8836-8f5298726d53/unhealthy", 404, Some("Not found")),
        // An address that is not there is no error.
        ("balanced/targets/localhost:1234/10.9.9.9:1/unhealthy", 204, None),
        ("unchecked/targets/10.0.0.1:8000/unhealthy", 400, Some("no healthchecker found for unchecked")),
    ] {
        let answer = gateway.admin_request("PUT", &format!("/upstreams/{path}")).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
        match message {
            Some(message) => assert_eq!(answer.json()["message"], message, "{path}"),
            None => assert_eq!(answer.text(), "", "{path}"),
        }
    }
    assert_eq!(health_of(&gateway, "localhost:1234").await, "UNHEALTHY");
    let path = format!("/upstreams/{UPSTREAM}/targets/{TARGET}/healthy");
    assert_eq!(gateway.admin_request("PUT", &path).await.status, 204);
    assert_eq!(health_of(&gateway, "localhost:1234").await, "HEALTHY");
    assert_eq!(gateway.admin_request("GET", &path).await.status, 405);
}

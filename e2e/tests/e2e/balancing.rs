//! Upstreams with several targets, retries, timeouts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use silverback_e2e::{Gateway, Running, Step, Upstream, free_port};

/// A service on an upstream entity with these targets and weights.
fn balanced(targets: &[(&str, u32)]) -> Value {
    let targets: Vec<_> =
        targets.iter().map(|(target, weight)| json!({ "target": target, "weight": weight })).collect();
    json!({
        "services": [{ "name": "s", "host": "balanced", "routes": [{ "name": "r", "paths": ["/"] }] }],
        "upstreams": [{ "name": "balanced", "targets": targets }],
    })
}

async fn tally(gateway: &Running, requests: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    let mut connection = gateway.connect().await;
    for _ in 0..requests {
        let answer = connection.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        *tally.entry(answer.header("x-origin").unwrap_or_default().to_owned()).or_default() += 1;
    }
    tally
}

#[tokio::test]
async fn requests_go_round_the_targets_by_weight() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::new()
        .conf("nginx_worker_processes = 1")
        .config(balanced(&[(&a.target(), 300), (&b.target(), 100)]))
        .start()
        .await;
    let tally = tally(&gateway, 80).await;
    assert_eq!((tally.get("a"), tally.get("b")), (Some(&60), Some(&20)));
}

#[tokio::test]
async fn a_target_without_weight_gets_nothing() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::new().config(balanced(&[(&a.target(), 100), (&b.target(), 0)])).start().await;
    assert_eq!(tally(&gateway, 20).await.get("a"), Some(&20));
}

#[tokio::test]
async fn a_target_that_refuses_is_passed_over() {
    let alive = Upstream::named("alive").await;
    let dead = format!("127.0.0.1:{}", free_port());
    let gateway = Gateway::new().config(balanced(&[(&dead, 100), (&alive.target(), 100)])).start().await;
    assert_eq!(tally(&gateway, 20).await.get("alive"), Some(&20));
}

#[tokio::test]
async fn a_retry_sends_the_body_again() {
    let alive = Upstream::named("alive").await;
    let dead = format!("127.0.0.1:{}", free_port());
    let gateway = Gateway::new().config(balanced(&[(&dead, 100), (&alive.target(), 100)])).start().await;
    for _ in 0..4 {
        let answer = gateway.connect().await.request("POST", "/", &[], &[b'x'; 100_000]).await;
        assert_eq!(answer.json()["body"].as_str().map(str::len), Some(100_000));
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_gets_502() {
    let config = json!({ "services": [{
        "name": "dead", "url": format!("http://127.0.0.1:{}", free_port()), "routes": [{ "paths": ["/"] }],
    }] });
    let gateway = Gateway::new().config(config).start().await;
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["message"], "An invalid response was received from the upstream server");
}

#[tokio::test]
async fn an_upstream_that_closes_without_an_answer_gets_502_and_a_post_is_not_sent_twice() {
    let upstream = Upstream::scripted(|_| vec![Step::Close]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.connect().await.request("POST", "/", &[], b"once").await;
    assert_eq!(answer.status, 502);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_slow_upstream_gets_504() {
    let upstream = Upstream::scripted(|_| vec![Step::Pause(std::time::Duration::from_secs(3600))]).await;
    let mut config = upstream.behind_everything();
    config["services"][0]["read_timeout"] = json!(300);
    config["services"][0]["retries"] = json!(0);
    let gateway = Gateway::new().config(config).start().await;
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["message"], "The upstream server is timing out");
    gateway.logged_access(&["GET / HTTP/1.1", " 504 "]).await;
}

#[tokio::test]
async fn an_answer_that_is_no_http_gets_502() {
    for nonsense in ["nonsense\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
        let upstream = Upstream::scripted(move |_| vec![Step::send(nonsense), Step::Close]).await;
        let mut config = upstream.behind_everything();
        config["services"][0]["retries"] = json!(0);
        let gateway = Gateway::new().config(config).start().await;
        assert_eq!(gateway.get("/").await.status, 502, "{nonsense:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_costs_no_request() {
    let upstream =
        Upstream::scripted(|_| vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Close]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..30 {
        assert_eq!(connection.get("/", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a_broken_off_answer_is_not_taken_for_a_whole_one() {
    let upstream = Upstream::scripted(|_| {
        vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"), Step::Close]
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    connection.response_head().await;
    assert_eq!(connection.closed().await, b"only this");
}

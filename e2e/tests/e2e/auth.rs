//! key-auth and consumers.

use serde_json::{Value, json};
use silverback_e2e::{Gateway, Trial, Upstream};

fn guarded(upstream: &Upstream) -> Value {
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "key-auth" }]);
    config["consumers"] = json!([
        { "username": "alice", "custom_id": "a-1", "keyauth_credentials": [{ "key": "alices-key" }] },
        { "username": "bob", "keyauth_credentials": [{ "key": "bobs-key" }] },
    ]);
    config
}

#[tokio::test]
async fn a_request_without_a_key_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(guarded(&upstream)).start().await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (401, Some("No API key found in request")));
    assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Key")), "{answer:?}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(guarded(&upstream)).start().await;
    let answer = gateway.get_with("/", &["apikey: guessed"]).await;
    assert_eq!(answer.status, 401);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn the_upstream_learns_the_consumer() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(guarded(&upstream)).start().await;
    for (path, header) in [("/", "apikey: alices-key"), ("/?apikey=alices-key", "X-None: 1")] {
        let answer = gateway.get_with(path, &[header, "X-Consumer-Username: mallory"]).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.echoed("x-consumer-username"), ["alice"]);
        assert_eq!(answer.echoed("x-consumer-custom-id"), ["a-1"]);
    }
}

#[tokio::test]
async fn a_plugin_of_a_consumer_runs_for_that_consumer_only() {
    let upstream = Upstream::echo().await;
    let mut config = guarded(&upstream);
    let plugin = |value: &str| json!({ "name": "trial-go", "config": { "header": "X-For", "value": value } });
    config["plugins"].as_array_mut().unwrap().push(plugin("everyone"));
    config["consumers"][1]["plugins"] = json!([plugin("bob")]);
    let gateway = Gateway::new().plugin_servers([Trial::Go.priority(10)]).config(config).start().await;
    assert_eq!(gateway.get_with("/", &["apikey: alices-key"]).await.header("x-for"), Some("everyone"));
    assert_eq!(gateway.get_with("/", &["apikey: bobs-key"]).await.header("x-for"), Some("bob"));
}

#[tokio::test]
async fn a_body_that_a_plugin_could_not_read_goes_nowhere() {
    let upstream = Upstream::echo().await;
    let mut config = guarded(&upstream);
    config["plugins"] = json!([{ "name": "key-auth", "config": { "key_in_body": true, "anonymous": "anyone" } }]);
    config["consumers"].as_array_mut().unwrap().push(json!({ "username": "anyone" }));
    for request_buffering in [true, false] {
        config["services"][0]["routes"][0]["request_buffering"] = json!(request_buffering);
        let gateway = Gateway::new().conf("nginx_http_client_max_body_size = 1k").config(config.clone()).start().await;
        let mut connection = gateway.connect().await;
        connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        connection.send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800))).await;
        assert_eq!(connection.response().await.status, 413);
        assert!(upstream.requests().is_empty(), "nothing of it reaches the upstream");
    }
}

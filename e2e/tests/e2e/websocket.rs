//! Upgrades.

use serde_json::json;
use silverback_e2e::{Gateway, Step, Trial, Upstream};

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways() {
    let upstream = Upstream::scripted(|_| vec![Step::send(SWITCHING), Step::EchoBytes]).await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "trial-go", "config": { "header": "X-Checked", "value": "yes" } }]);
    let gateway = Gateway::new().plugin_servers([Trial::Go]).config(config).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/chat", &UPGRADE).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("x-checked"), Some("yes"), "plugins have seen it");
    let request = upstream.request();
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert!(request.header("connection").is_some_and(|value| value.to_lowercase().ends_with("upgrade")), "{request:?}");
    for length in [1_usize, 100, 100_000] {
        let bytes: Vec<u8> = (0..length).map(|index| index as u8).collect();
        connection.send(&bytes).await;
        assert!(connection.read_exactly(length).await == bytes, "{length} bytes came back changed");
    }
    connection.finish_sending().await;
    assert_eq!(connection.closed().await, b"");
}

#[tokio::test]
async fn no_other_upgrade_reaches_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    let answer = gateway.get_with("/", &headers).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.request().header("upgrade"), None);
}

#[tokio::test]
async fn an_upstream_that_declines_the_upgrade_is_heard() {
    let upstream = Upstream::sending("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/", &UPGRADE).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
}

#[tokio::test]
async fn asking_for_an_upgrade_gets_nobody_past_a_response_plugin() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "content-digest" }]);
    let gateway = Gateway::new().plugin_servers([silverback_e2e::Language::TypeScript]).config(config).start().await;
    let answer = gateway.get_with("/", &UPGRADE).await;
    assert_eq!(answer.status, 200, "the upstream does not switch");
    assert!(answer.header("content-digest").is_some(), "{answer:?}");
}

#[tokio::test]
async fn an_upstream_that_switches_unasked_is_at_fault() {
    let upstream = Upstream::sending(SWITCHING).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    assert_eq!(gateway.get("/").await.status, 502);
}

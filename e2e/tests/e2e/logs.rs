//! What is logged, and how.

use serde_json::Value;
use silverback_e2e::{Gateway, Upstream};

#[tokio::test]
async fn the_access_log_is_combined_with_the_request_id() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/logged?a=1", &["User-Agent: tester \"x\"", "Referer: http://r.example/"]).await;
    let line = gateway.logged_access(&["/logged"]).await;
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let rest = line.split("] ").nth(1).unwrap();
    let expected = format!(
        "\"GET /logged?a=1 HTTP/1.1\" 200 {} \"http://r.example/\" \"tester \\x22x\\x22\" kong_request_id: \"{}\"",
        answer.body.len(),
        answer.header("x-kong-request-id").unwrap()
    );
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn a_log_format_of_ones_own_is_used() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .conf(
            "nginx_http_log_format = mine escape=json '{\"method\":\"$request_method\",\"uri\":\"$request_uri\",\"status\":$status,\"agent\":\"$http_user_agent\",\"time\":$request_time,\"upstream\":\"$upstream_addr\"}'\n\
             proxy_access_log = logs/mine.log mine",
        )
        .config(upstream.behind_everything())
        .start()
        .await;
    gateway.get_with("/own", &["User-Agent: a\"b"]).await;
    let path = gateway.path("logs/mine.log");
    let line = silverback_e2e::eventually("a line", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    let entry: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!((entry["method"].as_str(), entry["uri"].as_str()), (Some("GET"), Some("/own")));
    assert_eq!((entry["status"].as_u64(), entry["agent"].as_str()), (Some(200), Some("a\"b")));
    assert_eq!(entry["upstream"], upstream.target());
}

#[tokio::test]
async fn the_access_log_can_be_turned_off() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().conf("proxy_access_log = off").config(upstream.behind_everything()).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(gateway.access_log(), "");
}

#[tokio::test]
async fn a_client_cannot_forge_log_lines() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send(b"GET /forge HTTP/1.1\r\nHost: a\r\nUser-Agent: \xff\x80\"\\\r\n\r\n").await;
    assert_eq!(connection.response().await.status, 200);
    let line = gateway.logged_access(&["/forge"]).await;
    assert!(line.contains("\"\\xFF\\x80\\x22\\x5C\""), "{line}");
}

#[tokio::test]
async fn the_access_log_has_what_the_client_wrote_and_nothing_that_it_did_not() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for (bytes, line) in [
        (&b"GET http://a.test/whole?x HTTP/1.1\r\nHost: a\r\n\r\n"[..], "\"GET http://a.test/whole?x HTTP/1.1\" 200 "),
        (b"EHLO a.test\r\n", "\"EHLO a.test\" 400 "),
        (b"\x16\x03\x01\xff", "\"\\x16\\x03\\x01\\xFF\" 400 "),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", "\"GET /\\x01 HTTP/1.1\" 400 "),
    ] {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        connection.response().await;
        gateway.logged_access(&[line]).await;
    }
}

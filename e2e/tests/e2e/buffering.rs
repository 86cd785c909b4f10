//! Answers that are held for the response phase: their limits, and what is never held.

use serde_json::{Value, json};
use silverback_e2e::{Calls, Gateway, Running, Step, Upstream};

/// Everything behind a plugin with a response handler that makes these calls.
async fn held(upstream: &Upstream, conf: &str, calls: Value) -> Running {
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    let plugin = json!({ "calls": calls.to_string(), "file": gateway.directory().join("calls") });
    config["plugins"] = json!([{ "name": "calls-go-response", "config": plugin }]);
    gateway.conf(conf).plugin_servers([Calls::GoResponse]).config(config).start().await
}

/// Marks the answers that went through the response phase.
fn marked() -> Value {
    json!({ "response": [["kong.response.set_header", "X-Held", "yes"]] })
}

fn answer_of(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
}

#[tokio::test]
async fn an_answer_that_is_too_large_to_be_held_gets_502() {
    let chunked = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n",
            "x".repeat(length)
        )
    };
    let upstream = Upstream::scripted(move |request| {
        let length = request.target.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let answer = if request.target.starts_with("/chunked") { chunked(length) } else { answer_of(length) };
        vec![Step::send(&answer)]
    })
    .await;
    let gateway = held(&upstream, "buffered_proxying_max_size = 64k", marked()).await;
    for kind in ["plain", "chunked"] {
        let answer = gateway.get(&format!("/{kind}/65536")).await;
        assert_eq!((answer.status, answer.body.len(), answer.header("x-held")), (200, 65536, Some("yes")), "{kind}");
        let answer = gateway.get(&format!("/{kind}/65537")).await;
        assert_eq!((answer.status, answer.header("x-held")), (502, None), "{kind}");
        assert!(answer.text().contains("too large"), "{answer:?}");
    }
    gateway.logged_error(&["more than the 65536 bytes of buffered_proxying_max_size", "/chunked/65537"]).await;
}

#[tokio::test]
async fn answers_for_which_there_is_no_room_any_more_get_503() {
    let upstream = Upstream::sending(answer_of(100_000)).await;
    let conf = "buffered_proxying_max_size = 128k\nbuffered_proxying_total_size = 150k";
    let slow = json!({ "response": [["kong.service.response.get_status"], ["sleep", 1500]] });
    let gateway = held(&upstream, conf, slow).await;
    let mut first = gateway.connect().await;
    first.send("GET /first HTTP/1.1\r\nHost: example.test\r\n\r\n").await;
    upstream.heads(1).await;
    // While the plugin is at the first, there is no room for a second: it is asked for until that shows.
    let mut refused = gateway.get("/second").await;
    while refused.status == 200 {
        first.response().await;
        first.send("GET /first HTTP/1.1\r\nHost: example.test\r\n\r\n").await;
        refused = gateway.get("/second").await;
    }
    assert_eq!(refused.status, 503);
    gateway.logged_error(&["within the 153600 bytes of buffered_proxying_total_size"]).await;
    assert_eq!(first.response().await.status, 200);
    assert_eq!(gateway.get("/third").await.status, 200, "the room is free again");
}

#[tokio::test]
async fn answers_without_a_body_go_through_the_response_phase() {
    let upstream = Upstream::scripted(|request| {
        vec![Step::send(match (request.method.as_str(), request.target.as_str()) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            (_, "/204") => "HTTP/1.1 204 No Content\r\n\r\n",
            (_, "/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n",
            (_, "/interim") => "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        })]
    })
    .await;
    let gateway = held(&upstream, "", marked()).await;
    let mut connection = gateway.connect().await;
    for (method, path, status, length, body) in [
        ("HEAD", "/", 200, Some("5"), ""),
        ("GET", "/204", 204, None, ""),
        ("GET", "/304", 304, None, ""),
        ("GET", "/interim", 200, Some("5"), "hello"),
        ("GET", "/empty", 200, Some("0"), ""),
    ] {
        let answer = connection.request(method, path, &[], b"").await;
        assert_eq!((answer.status, answer.header("x-held")), (status, Some("yes")), "{path}");
        assert_eq!((answer.header("content-length"), answer.text().as_str()), (length, body), "{path}");
    }
}

#[tokio::test]
async fn compressed_answers_are_held_as_they_are() {
    let bytes = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bytes.len()).into_bytes();
    answer.extend_from_slice(bytes);
    let upstream = Upstream::sending(answer).await;
    let gateway = held(&upstream, "", marked()).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.header("content-encoding"), answer.header("x-held")), (Some("gzip"), Some("yes")));
    assert_eq!(answer.body, bytes);
}

#[tokio::test]
async fn trailers_of_an_answer_that_is_held_arrive() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n5\r\nhello\r\n0\r\nX-End: yes\r\n\r\n",
    )
    .await;
    let gateway = held(&upstream, "", marked()).await;
    let answer = gateway.http2().await.get("http://example.test/").await;
    assert_eq!((answer.status, answer.header("x-held"), answer.body.as_slice()), (200, Some("yes"), &b"hello"[..]));
    assert_eq!(answer.trailers.get("x-end").map(|value| value.as_bytes()), Some(&b"yes"[..]));
}

#[tokio::test]
async fn an_upgrade_switches_holding_off() {
    let upstream = Upstream::scripted(|_| {
        vec![
            Step::send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            Step::EchoBytes,
        ]
    })
    .await;
    let gateway = held(&upstream, "", marked()).await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = connection.response_head().await;
    assert_eq!((answer.status, answer.header("x-held")), (101, None));
    connection.send("ping").await;
    assert_eq!(connection.read_exactly(4).await, b"ping");
    gateway.logged_error(&["response buffering was turned off: connection upgrade (websocket)"]).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_while_it_is_held_gets_502() {
    let upstream =
        Upstream::scripted(|_| vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), Step::Close])
            .await;
    let gateway = held(&upstream, "", marked()).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.header("x-held")), (502, None));
}

#[tokio::test]
async fn enable_buffering_holds_answers_for_the_log_phase() {
    let upstream = Upstream::sending(answer_of(100)).await;
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    let calls = json!({
        "access": [["kong.service.request.enable_buffering"]],
        "log": [["kong.service.response.get_raw_body"]],
    });
    let plugin = json!({ "calls": calls.to_string(), "file": gateway.directory().join("calls") });
    config["plugins"] = json!([{ "name": "calls-js", "config": plugin }]);
    let gateway = gateway
        .conf("buffered_proxying_max_size = 1k")
        .plugin_servers([Calls::JavaScript])
        .config(config)
        .start()
        .await;
    assert_eq!(gateway.get("/").await.status, 200);
    let file = gateway.path("calls");
    let logged = silverback_e2e::eventually("the log phase", || {
        std::fs::read_to_string(&file).ok().filter(|text| text.contains("\"log\""))
    })
    .await;
    assert!(logged.contains(&"x".repeat(100)), "{logged}");
}

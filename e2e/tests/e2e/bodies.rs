//! Large bodies, slow readers, buffering.

use serde_json::json;
use silverback_e2e::{Gate, Gateway, Step, Upstream};

/// Bytes that show where they are from.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| b'a' + (index / 977 % 26) as u8).collect()
}

#[tokio::test]
async fn large_request_bodies_arrive_whole() {
    let upstream = Upstream::scripted(|request| vec![Step::send(&length_answer(request.body.len()))]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for length in [1, 8191, 8192, 8193, 65536, 1_000_000, 5_000_000] {
        let body = pattern(length);
        let answer = connection.request("POST", "/", &[], &body).await;
        assert_eq!(answer.text(), length.to_string());
        assert_eq!(upstream.requests().last().unwrap().body, body);
    }
}

#[tokio::test]
async fn a_chunked_upload_reaches_the_upstream_with_its_length() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in ["5\r\nhello\r\n", "1\r\n \r\n", "5\r\nworld\r\n", "0\r\n\r\n"] {
        connection.send(piece).await;
    }
    assert_eq!(connection.response().await.json()["body"], "hello world");
    let request = upstream.request();
    assert_eq!((request.header("content-length"), request.header("transfer-encoding")), (Some("11"), None));
}

#[tokio::test]
async fn a_large_chunked_upload_arrives_whole() {
    let upstream = Upstream::scripted(|request| vec![Step::send(&length_answer(request.body.len()))]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let piece = pattern(10_000);
    for _ in 0..150 {
        connection.send([b"2710\r\n", piece.as_slice(), b"\r\n"].concat()).await;
    }
    connection.send("0\r\n\r\n").await;
    assert_eq!(connection.response().await.text(), "1500000");
    assert_eq!(upstream.request().body, piece.repeat(150));
}

#[tokio::test]
async fn a_buffered_request_reaches_the_upstream_when_its_body_is_complete() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut slow = gateway.connect().await;
    slow.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    assert_eq!(gateway.get("/other").await.status, 200);
    assert_eq!(upstream.heads(1).await.len(), 1, "the half request waits in the gateway");
    slow.send("world").await;
    assert_eq!(slow.response().await.json()["body"], "helloworld");
}

#[tokio::test]
async fn a_client_that_leaves_its_upload_is_no_error_of_the_gateway() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    let gateway = Gateway::new().conf("log_level = info").config(config).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    upstream.heads(1).await;
    drop(connection);
    gateway.logged_access(&["POST /left", " 400 "]).await;
    let line = gateway.logged_error(&["while reading client request body"]).await;
    assert!(line.contains("[info]"), "{line}");
    assert!(!gateway.error_log().contains("[error]"), "{}", gateway.error_log());
}

#[tokio::test]
async fn an_unbuffered_request_reaches_the_upstream_as_it_comes() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    let gateway = Gateway::new().config(config).start().await;
    let mut slow = gateway.connect().await;
    slow.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    upstream.heads(1).await;
    slow.send("world").await;
    assert_eq!(slow.response().await.json()["body"], "helloworld");
}

#[tokio::test]
async fn large_answers_arrive_whole_at_a_slow_reader() {
    let body = pattern(20_000_000);
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend(&body);
    let upstream = Upstream::sending(bytes).await;
    for response_buffering in [true, false] {
        let mut config = upstream.behind_everything();
        config["services"][0]["routes"][0]["response_buffering"] = json!(response_buffering);
        let gateway = Gateway::new().config(config).start().await;
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connection.response_head().await;
        let mut read = Vec::new();
        while read.len() < body.len() {
            if read.len() < 200_000 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            read.extend(connection.read_some().await);
        }
        assert!(read == body, "the bytes differ");
        assert_eq!(gateway.get("/other").await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_ends_after_keepalive_requests() {
    let upstream = Upstream::echo().await;
    let gateway =
        Gateway::new().conf("nginx_http_keepalive_requests = 2").config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.get("/", &[]).await.header("connection"), None);
    assert_eq!(connection.get("/", &[]).await.header("connection"), Some("close"));
}

#[tokio::test]
async fn large_chunked_answers_arrive_whole() {
    let piece = pattern(12_345);
    let upstream = Upstream::scripted({
        let piece = piece.clone();
        move |_| {
            let mut steps = vec![Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")];
            for _ in 0..200 {
                steps.push(Step::Send([b"3039\r\n", piece.as_slice(), b"\r\n"].concat()));
            }
            steps.push(Step::send("0\r\n\r\n"));
            steps
        }
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let answer = connection.get("/", &[]).await;
        assert!(answer.body == piece.repeat(200), "the bytes differ");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_gets_413() {
    let upstream = Upstream::echo().await;
    let gateway =
        Gateway::new().conf("nginx_http_client_max_body_size = 1k").config(upstream.behind_everything()).start().await;
    let answer = gateway.connect().await.request("POST", "/", &[], &pattern(1024)).await;
    assert_eq!(answer.status, 200);
    let answer = gateway.connect().await.request("POST", "/", &[], &pattern(1025)).await;
    assert_eq!(answer.status, 413);
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..3 {
        connection.send(format!("200\r\n{}\r\n", "x".repeat(512))).await;
    }
    connection.send("0\r\n\r\n").await;
    assert_eq!(connection.response().await.status, 413, "a chunked body is counted");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_early_answer_to_an_unfinished_upload_can_be_read() {
    let upstream = Upstream::echo().await;
    let gateway =
        Gateway::new().conf("nginx_http_client_max_body_size = 1k").config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n").await;
    connection.send(pattern(3_000_000)).await;
    assert_eq!(connection.response().await.status, 413);
}

#[tokio::test]
async fn an_upstream_that_answers_before_the_upload_is_done_is_heard() {
    let gate = Gate::closed();
    let upstream = Upstream::scripted({
        let gate = gate.clone();
        move |_| vec![Step::Wait(gate.clone()), Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.heads(1).await;
    gate.open();
    assert_eq!(connection.response().await.text(), "ok");
}

fn length_answer(length: usize) -> String {
    let text = length.to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

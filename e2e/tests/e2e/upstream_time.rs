//! The time that an upstream has: for what it takes, and for what it gives.

use std::time::Duration;

use serde_json::{Value, json};
use silverback_e2e::{Gateway, Step, Upstream};

/// Longer than `write_timeout` in [`streaming`].
const LONG: Duration = Duration::from_millis(1500);

/// Bodies pass as they come, to an upstream that must not take longer than half a second for a piece.
fn streaming(upstream: &Upstream) -> Value {
    let mut config = upstream.behind_everything();
    config["services"][0]["write_timeout"] = json!(500);
    config["services"][0]["retries"] = json!(0);
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    config
}

#[tokio::test]
async fn a_client_that_uploads_slowly_does_not_make_the_upstream_late() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(streaming(&upstream)).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    upstream.heads(1).await;
    tokio::time::sleep(LONG).await;
    connection.send("world").await;
    assert_eq!(connection.response().await.json()["body"], "helloworld");
}

#[tokio::test]
async fn nor_does_one_whose_answer_has_begun() {
    let upstream = Upstream::scripted_at_heads(|_| {
        vec![
            Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"),
            Step::TakeBody,
            Step::send("3\r\nend\r\n0\r\n\r\n"),
        ]
    })
    .await;
    let gateway = Gateway::new().config(streaming(&upstream)).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    assert_eq!(connection.response_head().await.status, 200);
    tokio::time::sleep(LONG).await;
    connection.send("world").await;
    assert_eq!(connection.read_exactly(23).await, b"5\r\nbegun\r\n3\r\nend\r\n0\r\n\r\n"[..].to_vec());
    assert_eq!(upstream.request().body, b"helloworld");
}

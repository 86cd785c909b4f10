//! Answers that come in pieces, bodies on their way, interim answers, trailers.

use serde_json::{Value, json};
use silverback_e2e::{Connection, Gate, Gateway, Running, Step, Trial, Upstream, eventually};

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n";

/// What comes until it ends with `end`; chunk by chunk where the answer is chunked.
async fn text_until(connection: &mut Connection, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        text += &String::from_utf8_lossy(&connection.read_some().await);
    }
    text
}

async fn gateway_with_plugin(config: &Value, plugin: bool) -> Running {
    let mut config = config.clone();
    let mut gateway = Gateway::new();
    if plugin {
        config["plugins"] = json!([{ "name": "trial-go", "config": { "header": "X-Checked", "value": "yes" } }]);
        gateway = gateway.plugin_servers([Trial::Go]);
    }
    gateway.config(config).start().await
}

#[tokio::test]
async fn each_event_of_a_stream_reaches_the_client_before_the_next_is_made() {
    for plugin in [false, true] {
        let gates: Vec<_> = (0..4).map(|_| Gate::closed()).collect();
        let upstream = Upstream::scripted({
            let gates = gates.clone();
            move |_| {
                let mut steps = vec![Step::send(&format!("{EVENTS}Connection: close\r\n\r\n"))];
                for (number, gate) in gates.iter().enumerate() {
                    steps.push(Step::Send(format!("id: {number}\ndata: event\n\n").into_bytes()));
                    steps.push(Step::Wait(gate.clone()));
                }
                steps.push(Step::Close);
                steps
            }
        })
        .await;
        let gateway = gateway_with_plugin(&upstream.behind_everything(), plugin).await;
        let mut connection = gateway.connect().await;
        connection.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n").await;
        let head = connection.response_head().await;
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("x-checked").is_some(), plugin);
        for (number, gate) in gates.iter().enumerate() {
            let text = text_until(&mut connection, "data: event\n\n").await;
            assert!(text.contains(&format!("id: {number}\n")), "{text:?}");
            gate.open();
        }
        assert!(text_until(&mut connection, "0\r\n\r\n").await.ends_with("0\r\n\r\n"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_of_events_ends_it_for_the_upstream() {
    let upstream =
        Upstream::scripted(|_| vec![Step::send(&format!("{EVENTS}\r\ndata: first\n\n")), Step::EchoBytes]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    text_until(&mut connection, "data: first\n\n").await;
    assert_eq!(upstream.live(), 1);
    drop(connection);
    eventually("the upstream's connection ends", || (upstream.live() == 0).then_some(())).await;
}

#[tokio::test]
async fn trailers_of_a_chunked_answer_reach_a_client_that_wants_them() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
    )
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/", &["TE: trailers", "Connection: TE"]).await;
    assert_eq!((answer.text().as_str(), answer.header("trailer")), ("ok", Some("X-Sum")));
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "42".to_owned())]);
    assert_eq!(upstream.request().header("te"), Some("trailers"));
    let answer = connection.get("/", &[]).await;
    assert_eq!((answer.text().as_str(), answer.header("trailer"), answer.trailers.len()), ("ok", None, 0));
    // HTTP/2 has them anyway.
    let answer = gateway.http2().await.get("http://a.test/").await;
    assert_eq!(answer.trailers.get("x-sum").unwrap(), "42");
}

#[tokio::test]
async fn interim_answers_of_the_upstream_stay_with_the_gateway() {
    let upstream = Upstream::sending(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let answer = connection.get("/", &[]).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (200, "ok", 0));
        assert_eq!(answer.header("link"), None);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_and_the_upstream_is_not_asked() {
    let upstream = Upstream::echo().await;
    for request_buffering in [true, false] {
        let mut config = upstream.behind_everything();
        config["services"][0]["routes"][0]["request_buffering"] = json!(request_buffering);
        let gateway = Gateway::new().config(config).start().await;
        let mut connection = gateway.connect().await;
        connection.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        assert_eq!(connection.response_head().await.status, 100);
        connection.send("hello").await;
        let answer = connection.response().await;
        assert_eq!(answer.json()["body"], "hello");
        assert_eq!(answer.echoed("expect"), [""; 0]);
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let upstream = Upstream::early("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\ntoo big").await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    let gateway = Gateway::new().config(config).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nfirst").await;
    let answer = connection.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "too big"));
    assert_eq!(gateway.get("/other").await.status, 403, "the next request has a connection of its own");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn head_and_ranges_pass_as_they_are() {
    let upstream = Upstream::scripted(|request| {
        let body = if request.method == "HEAD" { "" } else { "34" };
        let range = request.header("range").map_or("", |_| "Content-Range: bytes 2-3/10\r\n");
        let (status, length) = if range.is_empty() { ("200 OK", 10) } else { ("206 Partial Content", 2) };
        vec![Step::send(&format!(
            "HTTP/1.1 {status}\r\n{range}Accept-Ranges: bytes\r\nContent-Length: {length}\r\n\r\n{body}"
        ))]
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let answer = connection.request("HEAD", "/", &[], b"").await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("10")));
        let answer = connection.get("/", &["Range: bytes=2-3"]).await;
        assert_eq!((answer.status, answer.text().as_str()), (206, "34"));
        assert_eq!(answer.header("content-range"), Some("bytes 2-3/10"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn headers_that_connection_lists_stay_on_their_side() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-Kept: 2\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/", &["Connection: X-Mine", "X-Mine: 1", "X-Own: 2", "Keep-Alive: timeout=9"]).await;
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive"), answer.header("x-kept")), (None, None, Some("2")));
    let request = upstream.request();
    assert_eq!((request.header("x-mine"), request.header("keep-alive")), (None, None));
    assert_eq!((request.header("x-own"), request.header("connection")), (Some("2"), Some("keep-alive")));
}

#[tokio::test]
async fn an_answer_whose_end_is_not_certain_is_not_passed_on() {
    for head in [
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let upstream = Upstream::sending(format!("HTTP/1.1 200 OK\r\n{head}\r\n2\r\nok\r\n0\r\n\r\n")).await;
        let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
        assert_eq!(gateway.get("/").await.status, 502, "{head:?}");
        assert_eq!(upstream.requests().len(), 1, "{head:?}: it is not asked again");
        gateway.logged_error(&["upstream sent", "while reading response header from upstream"]).await;
    }
}

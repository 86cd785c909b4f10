//! Answers as odd upstreams give them: what is passed on, what is refused, and what comes on the connection afterwards.

use silverback_e2e::{Gateway, Step, Upstream};

/// What the client gets of an answer (status, and body where that is an upstream's), and whether the next request goes
/// over the same connection to the upstream.
async fn check(answer: &[u8], expect: (u16, &str), same: bool) {
    let told = String::from_utf8_lossy(answer).into_owned();
    let bytes = answer.to_vec();
    let upstream = Upstream::scripted(move |request| match request.target.as_str() {
        "/odd" => vec![Step::Send(bytes.clone())],
        _ => vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")],
    })
    .await;
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/odd", &[]).await;
    let (status, body) = expect;
    assert_eq!(answer.status, status, "{told:?}");
    if status < 500 {
        assert_eq!(answer.text(), body, "{told:?}");
    }
    assert_eq!(connection.get("/next", &[]).await.text(), "next", "{told:?}");
    assert_eq!(upstream.connections(), if same { 1 } else { 2 }, "{told:?}");
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_never_taken_for_the_next() {
    const STRAY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for head in ["200 OK\r\nContent-Length: 0", "204 No Content", "304 Not Modified\r\nContent-Length: 100"] {
        check(format!("HTTP/1.1 {head}\r\n\r\n{STRAY}").as_bytes(), (head[..3].parse().unwrap(), ""), false).await;
        check(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), (head[..3].parse().unwrap(), ""), true).await;
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n";
    check(format!("{chunked}\r\n{STRAY}").as_bytes(), (200, "ok"), false).await;
    check(format!("{chunked}X-Sum: 1\r\n\r\n").as_bytes(), (200, "ok"), true).await;
}

#[tokio::test]
async fn odd_heads_are_understood_where_they_can_be_read_in_one_way() {
    for head in [
        "\r\nHTTP/1.1 200 OK\r\nContent-Length:2  \r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\n",
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX(y): 1\r\n{z}: 2\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    ] {
        check(format!("{head}ok").as_bytes(), (200, "ok"), true).await;
    }
    // Chunks that HTTP/1.0 does not have: they are taken, but who knows what comes next?
    let chunked = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    check(chunked.as_bytes(), (200, "ok"), false).await;
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_or_in_none_are_bad_gateways() {
    for head in [
        &b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n",
        b"<html></html>",
    ] {
        check(&[head, b"ok"].concat(), (502, ""), false).await;
    }
    check("HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000).as_bytes(), (502, ""), false).await;
}

#[tokio::test]
async fn a_reason_reaches_the_client_as_it_came() {
    let upstream = Upstream::sending(b"HTTP/1.1 200 \xc3\xa9t\xe9 (x)\r\nContent-Length: 2\r\n\r\nok").await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(connection.closed().await.starts_with(b"HTTP/1.1 200 \xc3\xa9t\xe9 (x)\r\n"));
}

#[tokio::test]
async fn an_upstream_that_refuses_an_upload_and_hangs_up_is_heard() {
    const ANSWER: &str = "HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\ntoo big";
    for request_buffering in [true, false] {
        // What it has not read makes the kernel reset the connection.
        let upstream = Upstream::scripted_at_heads(|_| vec![Step::send(ANSWER), Step::Close]).await;
        let mut config = upstream.behind_everything();
        config["services"][0]["routes"][0]["request_buffering"] = request_buffering.into();
        config["services"][0]["retries"] = 0.into();
        let gateway = Gateway::new().config(config).start().await;
        let mut connection = gateway.connect().await;
        connection.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n").await;
        connection.send(vec![b'x'; 3_000_000]).await;
        let answer = connection.response().await;
        assert_eq!((answer.status, answer.text().as_str()), (413, "too big"), "buffering: {request_buffering}");
    }
}

//! Requests that a gateway and the server behind it could read differently are refused, and the connection ends.

use serde_json::json;
use silverback_e2e::{Gateway, Running, Trial, Upstream, eventually};

/// Sends the bytes and wants 400, the end of the connection, an access-log line, and nothing at the upstream.
async fn refuses(gateway: &Running, upstream: &Upstream, what: &str, bytes: &[u8]) {
    let lines = gateway.access_log().lines().count();
    let mut connection = gateway.connect().await;
    connection.send(bytes).await;
    let answer = connection.response().await;
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    assert_eq!(answer.header("connection").map(str::to_lowercase).as_deref(), Some("close"), "{what}");
    assert!(answer.header("x-kong-request-id").is_some(), "{what}: {answer:?}");
    assert!(!answer.body.is_empty(), "{what} has no body");
    assert_eq!(connection.closed().await, b"", "{what}: more than one answer");
    assert!(upstream.requests().is_empty(), "{what} reached the upstream: {:?}", upstream.requests());
    eventually(&format!("an access-log line for {what}"), || {
        let text = gateway.access_log();
        text.lines().skip(lines).any(|line| line.contains(" 400 ")).then_some(())
    })
    .await;
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn an_ambiguous_length_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for (what, headers, body) in [
        ("CL and TE", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("TE and CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ("two different CLs", "Content-Length: 5\r\nContent-Length: 0\r\n", "hello"),
        ("two equal CLs", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("a list as CL", "Content-Length: 5, 5\r\n", "hello"),
        ("CL with a sign", "Content-Length: +5\r\n", "hello"),
        ("negative CL", "Content-Length: -5\r\n", "hello"),
        ("hexadecimal CL", "Content-Length: 0x5\r\n", "hello"),
        ("empty CL", "Content-Length: \r\n", "hello"),
        ("CL with a space inside", "Content-Length: 5 0\r\n", "hello"),
        ("CL too large for any machine", "Content-Length: 99999999999999999999999\r\n", "hello"),
        ("CL with a letter", "Content-Length: 5b\r\n", "hello"),
        ("chunked not last", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ("two TEs", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("TE and TE identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("quoted TE", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        ("TE with a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        ("TE with a parameter", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        ("empty TE", "Transfer-Encoding: \r\n", "0\r\n\r\n"),
        ("space before the colon of CL", "Content-Length : 5\r\n", "hello"),
        ("space before the colon of TE", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{SMUGGLED}");
        refuses(&gateway, &upstream, what, bytes.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_malformed_head_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for (what, bytes) in [
        ("no Host", "GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("Host with a slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
        ("bare CR before a name", "GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n"),
        ("bare LF between headers", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        ("bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("bare LF at the end of the head", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
        ("control byte in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n"),
        ("DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n"),
        ("control byte in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\x01: b\r\n\r\n"),
        ("space in a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n"),
        ("space before a colon", "GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n"),
        ("a line without a colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
        ("an empty name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        ("a space before the first header", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("control byte in the path", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no version", "GET /\r\nHost: a\r\n\r\n"),
        ("a version that does not exist", "GET / HTTP/1.2x\r\nHost: a\r\n\r\n"),
        ("no method", " / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a relative path", "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        refuses(&gateway, &upstream, what, bytes.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_malformed_chunk_never_gets_a_second_request_through() {
    for (what, chunks) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a size that is no number", "xyz\r\nhello\r\n0\r\n\r\n"),
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size too large", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
        ("bare LF after the chunk", "5\r\nhello\n0\r\n\r\n"),
    ] {
        let upstream = Upstream::echo().await;
        let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
        let mut connection = gateway.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send(format!("{head}{chunks}{SMUGGLED}")).await;
        let answer = connection.response().await;
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert_eq!(connection.closed().await, b"", "{what}: more than one answer");
        assert!(upstream.requests().is_empty(), "{what} reached the upstream: {:?}", upstream.requests());
    }
}

#[tokio::test]
async fn what_cannot_become_a_request_is_refused_at_once() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for (what, bytes) in [
        ("TLS without TLS", &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..]),
        ("a method in small letters", b"get"),
        ("HTTP/0.9", b"GET /\r\n"),
        ("another protocol", b"EHLO a.test\r\n"),
    ] {
        refuses(&gateway, &upstream, what, bytes).await;
    }
}

#[tokio::test]
async fn a_header_that_says_who_is_asking_is_not_said_twice() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n";
    refuses(&gateway, &upstream, "two Authorizations", bytes.as_bytes()).await;
    let request = http::Request::get("http://a.test/").header("authorization", "a").header("authorization", "b");
    assert_eq!(gateway.http2().await.request(request.body(Vec::new()).unwrap()).await.status, 400);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn trailers_do_not_get_headers_past_the_plugins() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    let gateway = Gateway::new().config(config).start().await;
    let mut connection = gateway.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Consumer-Username\r\n\r\n";
    connection.send(format!("{head}5\r\nhello\r\n0\r\nX-Consumer-Username: admin\r\n\r\n")).await;
    assert_eq!(connection.response().await.json()["body"], "hello");
    assert_eq!(upstream.request().trailers, []);
}

#[tokio::test]
async fn what_is_unusual_but_clear_is_served() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for (what, bytes) in [
        ("an absolute target", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an empty line before the request", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no space after a colon", "GET / HTTP/1.1\r\nHost:a\r\n\r\n"),
        ("tabs around a value", "GET / HTTP/1.1\r\nHost: a\r\nX:\tb\t\r\n\r\n"),
        ("an empty value", "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n"),
        ("bytes above 127 in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n"),
        ("leading zeros in CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello"),
        ("TE in capitals", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n"),
        (
            "a chunk extension",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
        ),
        ("a method of one's own", "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a port in Host", "GET / HTTP/1.1\r\nHost: a:8000\r\n\r\n"),
        ("an IPv6 Host", "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n"),
        ("a later version of HTTP/1", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("a target of host and query", "GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.0 without Host", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    ] {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        let answer = connection.response().await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn connect_and_trace_are_not_allowed() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for request in ["CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut connection = gateway.connect().await;
        connection.send(request).await;
        assert_eq!(connection.response().await.status, 405, "{request:?}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_refused_request_still_runs_the_log_phase_of_global_plugins() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let log = gateway.directory().join("log");
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "trial-go", "config": { "log_file": log } }]);
    let gateway = gateway.plugin_servers([Trial::Go]).config(config).start().await;
    let bytes = b"POST /odd HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    refuses(&gateway, &upstream, "two CLs", bytes).await;
    eventually("the log phase", || std::fs::read_to_string(&log).ok().filter(|text| text.starts_with("400 "))).await;
}

#[tokio::test]
async fn too_large_a_head_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let large = "x".repeat(9000);
    let line = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {large}\r\n\r\n");
    refuses(&gateway, &upstream, "a header line over 8k", line.as_bytes()).await;
    let many: String = (0..40).map(|n| format!("X-{n}: {}\r\n", "y".repeat(1000))).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    refuses(&gateway, &upstream, "a head over 32k", head.as_bytes()).await;
    let mut connection = gateway.connect().await;
    connection.send(format!("GET /{large} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert_eq!(connection.response().await.status, 414, "a request line over 8k");
}

#[tokio::test]
async fn a_header_with_an_odd_name_is_dropped() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/", &["X.Dotted: 1", "X_Under: 2", "X-Plain: 3"]).await;
    assert_eq!(answer.status, 200);
    let request = upstream.request();
    assert_eq!((request.header("x.dotted"), request.header("x-plain")), (None, Some("3")));
}

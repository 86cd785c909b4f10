use std::{io, time::Duration};

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{Limits, Refusal, Sanitised, framing, head};

const LIMITS: Limits = Limits {
    line: 8 * 1024,
    head: 32 * 1024,
    lines: 512,
    underscores: true,
    head_timeout: Duration::from_secs(60),
    idle_timeout: Duration::from_secs(75),
    body_timeout: Duration::from_secs(60),
};

fn check(request: &str, expect: Result<(), Refusal>) {
    let got = match head::find_end(request.as_bytes(), 0, &LIMITS) {
        Err(why) => Err(why),
        Ok(None) => panic!("no end in {request:?}"),
        Ok(Some(end)) => head::check(&request.as_bytes()[..end], &LIMITS).map(|_| ()),
    };
    assert_eq!(got, expect, "{request:?}");
}

#[test]
fn what_can_be_read_in_one_way_passes() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a:8000\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\ttab\r\nEmpty:\r\n\r\n",
        "M-SEARCH_X / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        check(request, Ok(()));
    }
}

#[test]
fn what_is_ambiguous_is_refused() {
    let body = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
    for (headers, why) in [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", Refusal::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", Refusal::LengthAndEncoding),
        ("Content-Length: 1\r\nContent-Length: 1", Refusal::SeveralLengths),
        ("Content-Length: 1, 1", Refusal::BadLength),
        ("Content-Length: +1", Refusal::BadLength),
        ("Content-Length: 0x1", Refusal::BadLength),
        ("Content-Length:", Refusal::BadLength),
        ("Content-Length: 1 2", Refusal::BadLength),
        ("Content-Length: 99999999999999999999", Refusal::BadLength),
        ("Transfer-Encoding: gzip, chunked", Refusal::BadEncoding),
        ("Transfer-Encoding: chunked, chunked", Refusal::BadEncoding),
        ("Transfer-Encoding: identity", Refusal::BadEncoding),
        ("Transfer-Encoding:", Refusal::BadEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refusal::BadEncoding),
        ("Transfer-Encoding: xchunked", Refusal::BadEncoding),
        ("Content-Length : 1", Refusal::BadHeaderName),
        ("Transfer Encoding: chunked", Refusal::BadHeaderName),
        ("X\u{1}: 1", Refusal::BadHeaderName),
        (": 1", Refusal::BadHeaderName),
        ("no colon", Refusal::BadHeaderName),
        ("X: 1\r\n folded", Refusal::FoldedHeader),
        ("X: a\0b", Refusal::ControlByte),
        ("X: a\u{b}b", Refusal::ControlByte),
        ("X: a\u{7f}", Refusal::ControlByte),
        ("X: a\rTransfer-Encoding: chunked", Refusal::BareLineEnd),
        ("X: a\nTransfer-Encoding: chunked", Refusal::BareLineEnd),
        ("Host: b", Refusal::SeveralHosts),
    ] {
        check(&body(headers), Err(why));
    }
    for (request, why) in [
        ("GET / HTTP/1.1\r\n\r\n", Refusal::MissingHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Refusal::BadHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refusal::BadHost),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refusal::BadHost),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::EncodingInHttp10),
        ("GET /\r\n\r\n", Refusal::BadRequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refusal::UnsupportedVersion),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::MethodNotAllowed),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::MethodNotAllowed),
        ("GET / HTTP/1.1\nHost: a\n\n", Refusal::BareLineEnd),
    ] {
        check(request, Err(why));
    }
}

#[test]
fn long_heads_are_refused_before_they_are_whole() {
    let long = "x".repeat(9000);
    for (request, why) in [
        (format!("GET /{long}"), Refusal::RequestLineTooLong),
        (format!("GET / HTTP/1.1\r\nX: {long}"), Refusal::HeadTooLarge),
        (format!("GET / HTTP/1.1\r\n{}", format!("X: {}\r\n", "y".repeat(4000)).repeat(9)), Refusal::HeadTooLarge),
    ] {
        assert_eq!(head::find_end(request.as_bytes(), 0, &LIMITS), Err(why));
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(600));
    check(&many, Err(Refusal::HeadTooLarge));
}

#[test]
fn headers_with_odd_names_are_left_out() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX(odd): 1\r\nX-Kept: 2\r\n\r\n";
    let rewritten = |request: &[u8], limits: &Limits| {
        String::from_utf8(head::check(request, limits).unwrap().rewritten.unwrap()).unwrap()
    };
    assert_eq!(rewritten(request, &LIMITS), "GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 2\r\n\r\n");
    let strict = Limits { underscores: false, ..LIMITS };
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n\r\n";
    assert_eq!(rewritten(request, &strict), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let request = b"GET /<a>?q=\xc3\xa9 HTTP/1.1\r\nHost: a\r\nX(): 1\r\nB: 1\r\n\r\n";
    assert_eq!(
        rewritten(request, &LIMITS),
        "GET /%3Ca%3E?q=%C3%A9 HTTP/1.1\r\n!raw-target: /<a>?q=\u{e9}\r\nHost: a\r\nB: 1\r\n\r\n"
    );
}

#[test]
fn a_fragment_goes_on_beside_the_target() {
    for (target, raw) in [("/a#b?c", "/a#b?c"), ("http://a/b#c", "/b#c"), ("http://a#c", "/")] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n!raw-target: /forged\r\n\r\n");
        let rewritten = head::check(request.as_bytes(), &LIMITS).unwrap().rewritten.unwrap();
        assert_eq!(
            String::from_utf8(rewritten).unwrap(),
            format!("GET {target} HTTP/1.1\r\n!raw-target: {raw}\r\nHost: a\r\n\r\n")
        );
    }
}

fn chunked(bytes: &[u8]) -> Result<(usize, bool), framing::BodyError> {
    let mut body = framing::Body::new(framing::Framing::Chunked);
    body.advance(bytes).map(|taken| (taken, body.is_complete()))
}

#[test]
fn chunked_bodies_are_followed_to_their_end() {
    for (bytes, expect) in [
        (&b"0\r\n\r\nGET"[..], Ok((5, true))),
        (b"3\r\nabc\r\n0\r\n\r\n", Ok((13, true))),
        (b"3;ext=\"1\"\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", Ok((33, true))),
        (b"3\r\nab", Ok((5, false))),
    ] {
        assert_eq!(chunked(bytes), expect, "{:?}", String::from_utf8_lossy(bytes));
    }
    for bytes in [
        &b"3\nabc\n0\n\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b" 3\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc0\r\n",
        b"ffffffffffffffffff\r\n",
        b"0\r\nX: a\0\r\n\r\n",
        b"\r\n",
        b"3;\0\r\n",
    ] {
        assert!(chunked(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
    }
}

/// A connection whose client end is written by the test.
fn connection() -> (DuplexStream, Sanitised<DuplexStream>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    (client, Sanitised::new(server, LIMITS, BytesMut::new()))
}

async fn read_some(wire: &mut Sanitised<DuplexStream>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let n = wire.read(&mut bytes).await?;
    bytes.truncate(n);
    Ok(bytes)
}

#[tokio::test]
async fn nothing_of_a_refused_request_is_handed_on() {
    let (mut client, mut wire) = connection();
    let good = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(good).await.unwrap();
    client.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /3 HTTP/1.1\r\n").await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), good);
    // The input seems to go on until the first answer is out, and ends then.
    {
        let mut reader = wire.clone();
        let pending = tokio::time::timeout(Duration::ZERO, read_some(&mut reader)).await;
        assert!(pending.is_err());
    }
    wire.answered();
    wire.flush().await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), b"");
    let refused = wire.take_refused().unwrap();
    assert_eq!(refused.why, Refusal::SeveralHosts);
    assert_eq!(refused.head, b"GET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
}

#[tokio::test]
async fn a_body_that_looks_like_a_request_is_a_body() {
    let (mut client, mut wire) = connection();
    let smuggled = b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}",
        smuggled.len(),
        String::from_utf8_lossy(smuggled)
    );
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    loop {
        let some = read_some(&mut wire).await.unwrap();
        if some.is_empty() {
            break;
        }
        all.extend(some);
    }
    assert_eq!(all, request.as_bytes());
    assert!(wire.take_refused().is_none());
}

#[tokio::test]
async fn nothing_after_a_broken_chunk_is_handed_on() {
    let (mut client, mut wire) = connection();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rest = "0;\u{1}\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    client.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), head.as_bytes());
    assert_eq!(read_some(&mut wire).await.unwrap(), b"", "the input ends in the middle of the body");
}

#[tokio::test(start_paused = true)]
async fn a_late_head_waits_for_the_answers_before_it() {
    let (mut client, mut wire) = connection();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /late").await.unwrap();
    read_some(&mut wire).await.unwrap();
    let mut reader = wire.clone();
    let read = tokio::time::timeout(Duration::from_secs(120), read_some(&mut reader)).await;
    assert!(read.is_err(), "the first request is still being answered");
    wire.answered();
    wire.flush().await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), b"");
    assert_eq!(wire.take_refused().unwrap().why, Refusal::HeadTimeout);
}

#[tokio::test]
async fn endless_empty_lines_are_no_request() {
    let (mut client, mut wire) = connection();
    client.write_all(&b"\r\n".repeat(2000)).await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), b"");
    assert_eq!(wire.take_refused().unwrap().why, Refusal::BadRequestLine);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_its_time_only_while_it_is_waited_for() {
    let (mut client, mut wire) = connection();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n").await.unwrap();
    read_some(&mut wire).await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (read, ()) = tokio::join!(read_some(&mut wire), async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.write_all(b"ab").await.unwrap();
    });
    assert_eq!(read.unwrap(), b"ab");
}

#[tokio::test]
async fn after_a_switch_of_protocol_bytes_pass_as_they_are() {
    let (mut client, mut wire) = connection();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    read_some(&mut wire).await.unwrap();
    wire.switch_protocol();
    client.write_all(b"\x81\x02\n\nhi\0").await.unwrap();
    assert_eq!(read_some(&mut wire).await.unwrap(), b"\x81\x02\n\nhi\0");
}

proptest! {
    /// However the bytes are cut into pieces, the same of them pass.
    #[test]
    fn cutting_changes_nothing(
        pieces in prop::collection::vec(prop_oneof![
            Just(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
            Just(&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"[..]),
            Just(&b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"[..]),
            Just(&b"GET / HTTP/1.1\r\nHost: a\r\nX(): 1\r\n\r\n"[..]),
            Just(&b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"[..]),
            Just(&b"\r\n"[..]),
        ], 1..6),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let whole: Vec<u8> = pieces.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let passed = |cuts: Vec<usize>| {
            let whole = whole.clone();
            runtime.block_on(async move {
                let (mut client, mut wire) = connection();
                let mut all = Vec::new();
                let mut rest = &whole[..];
                let mut cuts = cuts.into_iter().cycle();
                while !rest.is_empty() {
                    let n = cuts.next().unwrap_or(1).min(rest.len());
                    client.write_all(&rest[..n]).await.unwrap();
                    rest = &rest[n..];
                    let mut reader = wire.clone();
                    while let Ok(Ok(some)) = tokio::time::timeout(Duration::ZERO, read_some(&mut reader)).await {
                        if some.is_empty() { break; }
                        all.extend(some);
                    }
                }
                client.shutdown().await.unwrap();
                let mut reader = wire.clone();
                while let Ok(Ok(some)) = tokio::time::timeout(Duration::ZERO, read_some(&mut reader)).await {
                    if some.is_empty() { break; }
                    all.extend(some);
                }
                let _ = wire.flush().await;
                (all, wire.take_refused().map(|refused| refused.why))
            })
        };
        prop_assert_eq!(passed(vec![whole.len()]), passed(cuts));
    }

    /// No bytes make it panic.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = head::find_end(&bytes, 0, &LIMITS);
        let _ = head::check(&bytes, &LIMITS);
        let _ = chunked(&bytes);
    }
}

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{Limits, Reader, Refusal, Seen, follow, head};
use crate::http1::decoder::Framing;

const LIMITS: Limits = Limits { line: 8 * 1024, head: 32 * 1024, lines: 512, underscores: true };

fn parse(request: &str, limits: &Limits) -> Result<super::Head, Refusal> {
    match head::find_end(request.as_bytes(), 0, limits)? {
        None => panic!("no end in {request:?}"),
        Some(end) => head::parse(&Bytes::copy_from_slice(&request.as_bytes()[..end]), limits),
    }
}

fn check(request: &str, expect: Result<(), Refusal>) {
    assert_eq!(parse(request, &LIMITS).map(|_| ()), expect, "{request:?}");
}

#[test]
fn what_can_be_read_in_one_way_passes() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET HTTPS://[::1]:80?b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: a\r\nCookie: a\r\nAuthorization: a\r\n\r\n",
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
        ("X: a\r", Refusal::BareLineEnd),
        ("\rX: a", Refusal::BareLineEnd),
        ("X: a\u{c}", Refusal::ControlByte),
        ("X: a\nTransfer-Encoding: chunked", Refusal::BareLineEnd),
        ("Host: b", Refusal::SeveralHosts),
        ("Authorization: a\r\nX: b\r\nauthorization: a", Refusal::RepeatedHeader),
        ("If-None-Match: a\r\nIf-None-Match: b", Refusal::RepeatedHeader),
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
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Refusal::UnsupportedVersion),
        ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BadRequestLine),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::MethodNotAllowed),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::MethodNotAllowed),
        ("GET / HTTP/1.1\nHost: a\n\n", Refusal::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLineEnd),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BareLineEnd),
    ] {
        check(request, Err(why));
    }
}

#[test]
fn what_cannot_become_a_request_is_not_waited_for() {
    for (beginning, expect) in [
        ("", None),
        ("GET", None),
        ("GET /", None),
        ("\r", None),
        ("GET / HTTP/1.1\r\nHost", None),
        ("GET / HTTP/1.1\r\nHost: a\r\n", None),
        ("\u{16}\u{3}\u{1}", Some(Refusal::BadRequestLine)),
        ("get", Some(Refusal::BadRequestLine)),
        (" ", Some(Refusal::BadRequestLine)),
        ("\rG", Some(Refusal::BareLineEnd)),
        ("GET /\r\n", Some(Refusal::BadRequestLine)),
        ("GET / HTTP/1.1\rX\r\n", Some(Refusal::BareLineEnd)),
        ("GET / HTTP/3.0\r\nHost", Some(Refusal::UnsupportedVersion)),
    ] {
        let expect: Vec<Seen> = expect.map(Seen::Refused).into_iter().collect();
        assert_eq!(follow(LIMITS, [beginning.as_bytes()]), expect, "{beginning:?}");
        assert_eq!(follow(LIMITS, beginning.as_bytes().chunks(1)), expect, "{beginning:?} in pieces");
    }
}

#[test]
fn a_head_may_be_as_long_as_the_limits_say() {
    let limits = Limits { line: 1 << 20, head: 2 << 20, ..LIMITS };
    let head = parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat((1 << 20) - 9)), &limits);
    assert_eq!(head.unwrap().headers.len(), 2);
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
    let names = |request: &str, limits: &Limits| {
        let head = parse(request, limits).unwrap();
        head.headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX(odd): 1\r\nX-Kept: 2\r\nx_y: 1\r\n!raw-target: /forged\r\n\r\n";
    assert_eq!(names(request, &LIMITS), ["host", "x-kept", "x_y"]);
    assert_eq!(names(request, &Limits { underscores: false, ..LIMITS }), ["host", "x-kept"]);
    // Nor do they say where a body ends.
    check("GET / HTTP/1.1\r\nHost: a\r\nContent.Length: x\r\n\r\n", Ok(()));
    check("GET / HTTP/1.1\r\nHost: a\r\nX(odd): a\0\r\n\r\n", Err(Refusal::ControlByte));
}

#[test]
fn a_target_that_no_uri_may_hold_goes_on_beside_one_that_may() {
    for (target, uri, raw) in [
        ("/a?b", "/a?b", None),
        ("http://a/b?c", "http://a/b?c", None),
        ("/<a>?q=\u{e9}", "/%3Ca%3E?q=%C3%A9", Some("/<a>?q=\u{e9}")),
        ("/a#b?c", "/a", Some("/a#b?c")),
        ("http://a/b#c", "http://a/b", Some("/b#c")),
        ("http://a#c", "http://a/", Some("/")),
        ("http://a?<", "http://a/?%3C", Some("/?<")),
    ] {
        let head = parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), &LIMITS).unwrap();
        let told = head.raw_target.map(|raw| String::from_utf8(raw.0.to_vec()).unwrap());
        assert_eq!((head.uri.to_string().as_str(), told.as_deref()), (uri, raw), "{target}");
    }
}

#[test]
fn values_lose_the_space_around_them() {
    let head = parse("GET / HTTP/1.1\r\nHost:a\r\nX: \t b c\t \r\nY: \r\n\r\n", &LIMITS).unwrap();
    assert_eq!(
        (&head.headers["host"], &head.headers["x"], &head.headers["y"]),
        (&"a".parse().unwrap(), &"b c".parse().unwrap(), &"".parse().unwrap())
    );
}

#[test]
fn a_length_is_written_in_one_way() {
    for (said, length, expect) in [("5", 5, "5"), ("0", 0, "0"), ("010", 10, "10"), ("000", 0, "0")] {
        let head = parse(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {said}\r\n\r\n"), &LIMITS).unwrap();
        assert_eq!(
            (head.framing, &head.headers["content-length"]),
            (Framing::Length(length), &expect.parse().unwrap())
        );
    }
}

#[test]
fn a_client_of_http_1_0_expects_no_interim_answer() {
    for (version, expect) in [("1.0", false), ("1.1", true)] {
        let request = format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n");
        assert_eq!(parse(&request, &LIMITS).unwrap().expects_continue, expect);
    }
}

fn seen(bytes: &[u8]) -> Vec<Seen> {
    follow(LIMITS, [bytes])
}

fn is_get(seen: &Seen, target: &str) -> bool {
    matches!(seen, Seen::Request(text) if text.starts_with(&format!("GET {target} ")))
}

#[test]
fn nothing_behind_a_refused_request_is_read() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    let seen = seen(bytes);
    assert!(is_get(&seen[0], "/1"), "{seen:?}");
    assert_eq!(seen[1..], [Seen::End(0), Seen::Refused(Refusal::SeveralHosts)]);
    let mut reader = Reader::new(LIMITS, BytesMut::from(&bytes[28..]));
    assert_eq!(reader.head().unwrap_err().head, b"GET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
}

#[test]
fn a_body_that_looks_like_a_request_is_a_body() {
    let smuggled = "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let seen = seen(request.as_bytes());
    assert_eq!(seen[1..], [Seen::Data(smuggled.into()), Seen::End(0)]);
}

#[test]
fn nothing_after_a_broken_chunk_is_read() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rest = "1\r\na\r\n0;\u{1}\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(seen(format!("{head}{rest}").as_bytes())[1..], [Seen::Broken]);
}

#[test]
fn a_few_empty_lines_may_come_before_a_head_but_no_end_of_them() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (count, refused) in [(16, false), (17, true)] {
        let bytes = [&b"\r\n".repeat(count)[..], head].concat();
        assert_eq!(seen(&bytes)[0] == Seen::Refused(Refusal::BadRequestLine), refused, "{count}");
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(follow(LIMITS, pieces), seen(&bytes), "{count}");
    }
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
            Just(&b"GET / HTTP/3.0\r\n"[..]),
            Just(&b"get \n"[..]),
            Just(&b"\rGET"[..]),
            Just(&b"GET\rX: y\r\n"[..]),
        ], 1..6),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let whole: Vec<u8> = pieces.concat();
        let mut rest = &whole[..];
        let pieces = cuts.into_iter().cycle().map_while(|cut| {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(follow(LIMITS, pieces), follow(LIMITS, [&whole[..]]));
    }

    /// No bytes make it panic, and what is handed on is never more than came.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), begun in any::<bool>()) {
        let begin: &[u8] = if begun { b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" } else { b"" };
        let data: usize = follow(LIMITS, [begin, &bytes[..]])
            .iter()
            .map(|seen| if let Seen::Data(data) = seen { data.len() } else { 0 })
            .sum();
        prop_assert!(data <= bytes.len());
    }
}

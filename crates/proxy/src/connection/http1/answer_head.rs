//! The head of an answer as it goes to a client, and how its body is framed.

use std::io::Write;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, response};
use http_body::SizeHint;
use hyper::ext::ReasonPhrase;

use crate::http1::{encoder::Encoder, lines, spelling::Spelling};

/// What of a request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) is_http10: bool,
}

impl Asked {
    pub(super) fn of(method: &Method, version: Version) -> Self {
        Self { is_head: *method == Method::HEAD, is_http10: version == Version::HTTP_10 }
    }
}

/// What is known of the body before it is read.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// There is nothing in it.
    pub(super) is_empty: bool,
    pub(super) size: SizeHint,
}

/// Writes a head. Gives what frames the body, `None` where none goes, whatever there is; and whether the connection ends
/// with it, which `closing` demands.
pub(super) fn put(
    out: &mut Vec<u8>,
    asked: Asked,
    mut head: response::Parts,
    body: &Known,
    closing: bool,
) -> (Option<Encoder>, bool) {
    let headers = &mut head.headers;
    let said = Said::by(headers);
    if said.transfer_encoding {
        // That is said here alone.
        headers.remove(header::TRANSFER_ENCODING);
    }
    let framing = (!asked.is_head && may_have_body(head.status)).then(|| framing(headers, &said, asked, body));
    let closing = closing || matches!(framing, Some(Encoder::UntilClose));
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        say_what_becomes_of_connection(headers, asked, closing);
    }
    if said.trailer && (asked.is_http10 || framing.is_none()) {
        headers.remove(header::TRAILER);
    }

    put_status_line(out, &head);
    let begin = out.len();
    lines::put_all(out, &head.headers);
    match &framing {
        Some(Encoder::Length(length)) if said.length != Some(*length) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Some(Encoder::Chunked(_)) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    if let Some(spelling) = head.extensions.get::<Spelling>() {
        spelling.restore(&mut out[begin..]);
    }
    out.extend_from_slice(b"\r\n");
    (framing, closing)
}

/// What a head says of its body. To look at all names once takes less than to look up two of them.
#[derive(Default)]
struct Said {
    /// Its length, where it is said once.
    length: Option<u64>,
    /// Its length, whatever that may be.
    any_length: bool,
    transfer_encoding: bool,
    trailer: bool,
}

impl Said {
    fn by(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            if *name == header::CONTENT_LENGTH {
                let length = value.to_str().ok().and_then(|value| value.parse().ok());
                said.length = length.filter(|_| !said.any_length);
                said.any_length = true;
            }
            said.transfer_encoding |= *name == header::TRANSFER_ENCODING;
            said.trailer |= *name == header::TRAILER;
        }
        said
    }
}

/// It tells what the gateway speaks, whatever the client does (RFC 9110, 2.5).
fn put_status_line(out: &mut Vec<u8>, head: &response::Parts) {
    let reason = match head.extensions.get::<ReasonPhrase>() {
        None if head.status == StatusCode::OK => {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
            return;
        }
        Some(reason) => reason.as_bytes(),
        None => head.status.canonical_reason().unwrap_or_default().as_bytes(),
    };
    for part in [&b"HTTP/1.1 "[..], head.status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn may_have_body(status: StatusCode) -> bool {
    !(status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED))
}

/// How a body goes. A length that the head says otherwise is taken out of it.
fn framing(headers: &mut HeaderMap, said: &Said, asked: Asked, body: &Known) -> Encoder {
    let length = if body.is_empty { Some(0) } else { said.length.or(body.size.exact()) };
    if said.any_length && (said.length.is_none() || said.length != length) {
        headers.remove(header::CONTENT_LENGTH);
    }
    match length {
        Some(length) => Encoder::Length(length),
        None if asked.is_http10 => Encoder::UntilClose,
        None => Encoder::chunked(headers),
    }
}

/// HTTP/1.1 goes on where nobody says otherwise, HTTP/1.0 ends.
fn say_what_becomes_of_connection(headers: &mut HeaderMap, asked: Asked, closing: bool) {
    if !closing && !asked.is_http10 {
        return;
    }
    let word = if closing { "close" } else { "keep-alive" };
    let said = headers.get(header::CONNECTION);
    if !said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(word.as_bytes())) {
        headers.insert(header::CONNECTION, HeaderValue::from_static(word));
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const HTTP11: Asked = Asked { is_head: false, is_http10: false };
    const HTTP10: Asked = Asked { is_head: false, is_http10: true };
    const HEAD: Asked = Asked { is_head: true, is_http10: false };

    fn check(
        asked: Asked,
        status: u16,
        lines: &[(&'static str, &str)],
        length: Option<u64>,
        closing: bool,
        expect: &str,
    ) {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in lines {
            answer.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        let known =
            Known { is_empty: length == Some(0), size: length.map_or_else(SizeHint::default, SizeHint::with_exact) };
        let mut out = Vec::new();
        let (framing, ends) = put(&mut out, asked, answer.into_parts().0, &known, closing);
        let text = String::from_utf8(out).unwrap().replace("\r\n", "|");
        let framing = match framing {
            None => "none".to_owned(),
            Some(Encoder::Length(length)) => length.to_string(),
            Some(Encoder::Chunked(_)) => "chunked".to_owned(),
            Some(Encoder::UntilClose) => "until close".to_owned(),
        };
        assert_eq!(format!("{text} {framing}{}", if ends { ", ends" } else { "" }), expect);
    }

    #[test]
    fn the_length_of_a_body_is_said_where_it_is_known() {
        let length = |length| [("content-length", length)];
        check(HTTP11, 200, &length("5"), Some(5), false, "HTTP/1.1 200 OK|Content-Length: 5|| 5");
        check(HTTP11, 200, &[], Some(5), false, "HTTP/1.1 200 OK|Content-Length: 5|| 5");
        check(HTTP11, 200, &[], Some(0), false, "HTTP/1.1 200 OK|Content-Length: 0|| 0");
        // What a plugin says of a body that is not there.
        check(HTTP11, 200, &length("5"), Some(0), false, "HTTP/1.1 200 OK|Content-Length: 0|| 0");
        let twice = [("content-length", "5"), ("content-length", "6")];
        check(HTTP11, 200, &twice, Some(7), false, "HTTP/1.1 200 OK|Content-Length: 7|| 7");
        check(HTTP11, 200, &length("x"), Some(7), false, "HTTP/1.1 200 OK|Content-Length: 7|| 7");
        check(HTTP11, 200, &length("x"), None, false, "HTTP/1.1 200 OK|Transfer-Encoding: chunked|| chunked");
        check(HTTP11, 200, &[], None, false, "HTTP/1.1 200 OK|Transfer-Encoding: chunked|| chunked");
        check(HTTP10, 200, &[], None, false, "HTTP/1.1 200 OK|Connection: close|| until close, ends");
    }

    #[test]
    fn answers_without_a_body_keep_what_they_say_of_one() {
        check(HEAD, 200, &[("content-length", "5")], Some(0), false, "HTTP/1.1 200 OK|Content-Length: 5|| none");
        check(HEAD, 200, &[], Some(0), false, "HTTP/1.1 200 OK|| none");
        check(
            HTTP11,
            304,
            &[("content-length", "5")],
            Some(0),
            false,
            "HTTP/1.1 304 Not Modified|Content-Length: 5|| none",
        );
        check(HTTP11, 204, &[], None, false, "HTTP/1.1 204 No Content|| none");
    }

    #[test]
    fn the_client_is_told_what_becomes_of_its_connection() {
        check(HTTP11, 200, &[], Some(0), true, "HTTP/1.1 200 OK|Connection: close|Content-Length: 0|| 0, ends");
        check(
            HTTP11,
            200,
            &[("connection", "keep-alive"), ("connection", "x")],
            Some(0),
            false,
            "HTTP/1.1 200 OK|Connection: keep-alive|Connection: x|Content-Length: 0|| 0",
        );
        check(HTTP10, 200, &[], Some(0), false, "HTTP/1.1 200 OK|Connection: keep-alive|Content-Length: 0|| 0");
    }

    #[test]
    fn a_switch_of_protocols_is_said_even_if_no_other_request_could_follow() {
        let upgrade = [("connection", "upgrade")];
        let expect = "HTTP/1.1 101 Switching Protocols|Connection: upgrade|| none, ends";
        check(HTTP11, 101, &upgrade, Some(0), true, expect);
    }

    #[test]
    fn a_status_that_nobody_knows_has_no_reason() {
        check(HTTP11, 299, &[], Some(0), false, "HTTP/1.1 299 |Content-Length: 0|| 0");
    }
}

//! The heads that an upstream sends: interim answers, and the one that counts.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{decoder::Framing, spelling::Spelling, title_case::is_title_case};
use crate::{answer::ADDED, request::list};

/// Header lines in a head: far more than nginx's proxy_buffer_size lets through in practice.
const MAX_HEADERS: usize = 512;

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// The reason phrase, where it is not the status's own.
    pub reason: Option<Bytes>,
    pub headers: HeaderMap,
    /// How its names are written.
    pub(crate) spelling: Spelling,
    pub framing: Framing,
    /// The connection goes on after it.
    pub keeps_alive: bool,
}

/// Why a head cannot be used, in nginx's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("upstream sent too big header")]
    TooBig,
    #[error("upstream sent invalid header ({0})")]
    Invalid(&'static str),
    /// It is not certain where the body ends: such an answer must not be passed on.
    #[error("upstream sent {0}")]
    Framing(&'static str),
}

/// Takes heads out of what an upstream sends.
pub struct Heads {
    max: usize,
    to_head: bool,
    /// Bytes of interim answers, which count as parts of the head.
    interim: usize,
    /// Bytes that were searched for the head's end: it may come byte by byte.
    searched: usize,
}

impl Heads {
    /// `to_head`: the answer to HEAD.
    pub const fn new(max: usize, to_head: bool) -> Self {
        Self { max, to_head, interim: 0, searched: 0 }
    }

    /// Takes the head that counts, if it is whole. Interim ones are left out, but for the one that switches protocols.
    ///
    /// # Errors
    /// It cannot be used, whatever comes behind it.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Head>, HeadError> {
        loop {
            let Some(end) = end_of_head(buffer, self.searched) else {
                if self.interim + buffer.len() > self.max {
                    return Err(HeadError::TooBig);
                }
                if !is_beginning(buffer) {
                    return Err(HeadError::Invalid("no status line"));
                }
                self.searched = buffer.len().saturating_sub(2);
                return Ok(None);
            };
            self.interim += end;
            if self.interim > self.max {
                return Err(HeadError::TooBig);
            }
            self.searched = 0;
            let head = buffer.split_to(end).freeze();
            let head = parse(&head, self.to_head)?;
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
        }
    }
}

/// Whether a status line can begin so: what does not is refused before it is long.
fn is_beginning(bytes: &[u8]) -> bool {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let bytes = match bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) {
        Some(begin) => &bytes[begin..],
        None => return true,
    };
    let seen = bytes.len().min(BEGINNING.len());
    bytes[..seen] == BEGINNING[..seen]
}

/// How long a head is that these bytes begin with, with the empty line that ends it. Lines may end without CR. None ends
/// in the first `searched` bytes.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[searched..]).map(|at| searched + at).find_map(|at| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// What is found out about a body on the way through the lines.
#[derive(Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Facts {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), HeadError> {
        if *name == header::CONTENT_LENGTH {
            let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok()).filter(|length| *length <= i64::MAX as u64);
            let length = length.ok_or(HeadError::Invalid("Content-Length"))?;
            if self.length.replace(length).is_some() {
                return Err(HeadError::Framing("duplicate header line: \"Content-Length\""));
            }
        } else if *name == header::TRANSFER_ENCODING {
            if self.chunked {
                return Err(HeadError::Framing("duplicate header line: \"Transfer-Encoding\""));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Framing("unknown \"Transfer-Encoding\""));
            }
            self.chunked = true;
        } else if *name == header::CONNECTION {
            for item in list(value) {
                self.close |= item.eq_ignore_ascii_case(b"close");
                self.keep_alive |= item.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }
}

/// Reads a whole head.
fn parse(bytes: &Bytes, to_head: bool) -> Result<Head, HeadError> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut lines) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadError::Invalid("it ends early")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooBig),
        Err(httparse::Error::Status | httparse::Error::Version) => return Err(HeadError::Invalid("status line")),
        Err(httparse::Error::HeaderName) => {
            let rest = without_odd_names(bytes).ok_or(HeadError::Invalid("name of a header"))?;
            return parse(&rest, to_head);
        }
        Err(httparse::Error::HeaderValue) => return Err(HeadError::Invalid("value of a header")),
        Err(_) => return Err(HeadError::Invalid("end of a line")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Invalid("status line"))?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ADDED);
    let mut facts = Facts::default();
    let mut title_case = true;
    for line in &*parsed.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let name = name.map_err(|_| HeadError::Invalid("name of a header"))?;
        facts.note(&name, line.value)?;
        title_case &= is_title_case(line.name.as_bytes());
        // No copy: a value is a part of the head.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value));
        headers.append(name, value.map_err(|_| HeadError::Invalid("value of a header"))?);
    }
    let Facts { length, chunked, close, keep_alive } = facts;
    if chunked && length.is_some() {
        return Err(HeadError::Framing("\"Content-Length\" and \"Transfer-Encoding\" headers at the same time"));
    }
    let http11 = parsed.version == Some(1);
    let framing = if status == StatusCode::SWITCHING_PROTOCOLS {
        // What follows is no body, and nothing follows it.
        Framing::UntilClose
    } else if to_head || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        Framing::Length(0)
    } else if chunked {
        Framing::Chunked
    } else {
        length.map_or(Framing::UntilClose, Framing::Length)
    };
    let reason = match parsed.reason {
        Some("") => Some(reason(bytes)),
        parsed => parsed.filter(|reason| Some(*reason) != status.canonical_reason()).map(str::as_bytes),
    };
    Ok(Head {
        status,
        reason: reason.map(|reason| bytes.slice_ref(reason)),
        headers,
        spelling: if title_case { Spelling::default() } else { Spelling::of_head(bytes) },
        framing,
        // Who chunks in HTTP/1.0 may not mean what it says (RFC 9112, 6.1).
        keeps_alive: if http11 { !close } else { keep_alive && !close && !chunked },
    })
}

/// The reason phrase of a head, as it came: the parser has none if it is not ASCII.
fn reason(head: &[u8]) -> &[u8] {
    const BEFORE: usize = "HTTP/1.1 200 ".len();
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.find(|line| !line.is_empty()).and_then(|line| line.get(BEFORE..)).unwrap_or_default()
}

/// A head without the lines whose names no header can have (`X(a)`), which are no reason to refuse an answer. `None` if
/// there are no such lines, or others are in doubt: with a space in a name, for example, or without a colon.
fn without_odd_names(head: &Bytes) -> Option<Bytes> {
    let mut rest = Vec::with_capacity(head.len());
    let mut status_line = true;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let is_empty = matches!(line, b"\n" | b"\r\n");
        if !is_empty && !std::mem::take(&mut status_line) {
            let name = &line[..memchr::memchr(b':', line)?];
            if name.is_empty() || name.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
                return None;
            }
            if HeaderName::from_bytes(name).is_err() {
                continue;
            }
        }
        rest.extend_from_slice(line);
    }
    (rest.len() < head.len()).then(|| rest.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]], to_head: bool) -> Result<Option<Head>, HeadError> {
        let (mut heads, mut buffer) = (Heads::new(1024, to_head), BytesMut::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if let Some(head) = heads.take(&mut buffer)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    fn head(text: &str) -> Result<Option<Head>, HeadError> {
        read(&[text.as_bytes()], false)
    }

    #[test]
    fn a_head_says_where_its_body_ends_and_whether_the_connection_goes_on() {
        use Framing::{Chunked, Length, UntilClose};
        for (lines, framing, keeps_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5", Length(5), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", Chunked, true),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close", UntilClose, false),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5", Length(0), true),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked", Length(0), true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0", Length(0), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive", Length(0), true),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive", Chunked, false),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket", UntilClose, true),
        ] {
            let head = head(&format!("{lines}\r\n\r\n")).unwrap().unwrap();
            assert_eq!((head.framing, head.keeps_alive), (framing, keeps_alive), "{lines}");
        }
        let to_head = read(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], true).unwrap().unwrap();
        assert_eq!((to_head.framing, to_head.headers["content-length"].as_bytes()), (Length(0), &b"5"[..]));
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        for (lines, why) in [
            ("Content-Length: 5\r\nContent-Length: 5", "duplicate header line: \"Content-Length\""),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "duplicate header line: \"Transfer-Encoding\"",
            ),
            ("Transfer-Encoding: gzip, chunked", "unknown \"Transfer-Encoding\""),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "\"Content-Length\" and \"Transfer-Encoding\" headers at the same time",
            ),
        ] {
            let refused = head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).unwrap_err();
            assert_eq!(refused, HeadError::Framing(why), "{lines}");
        }
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "<html>",
        ] {
            assert!(matches!(head(text), Err(HeadError::Invalid(_))), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1024));
        assert_eq!(head(&long).unwrap_err(), HeadError::TooBig);
        assert_eq!(head(&format!("{long}\r\n\r\n")).unwrap_err(), HeadError::TooBig);
    }

    #[test]
    fn interim_answers_go_before() {
        let head = head(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\nHTTP/1.1 200 Fine\nA: 1\n\nbody",
        );
        let head = head.unwrap().unwrap();
        assert_eq!((head.status.as_u16(), head.reason.as_deref()), (200, Some(&b"Fine"[..])));
        assert_eq!((head.headers.len(), head.headers["a"].as_bytes()), (1, &b"1"[..]));
    }

    #[test]
    fn interim_answers_do_not_go_on_for_ever() {
        let interim = [&b"HTTP/1.1 102 Processing\r\n\r\n"[..]; 100];
        assert_eq!(read(&interim, false).unwrap_err(), HeadError::TooBig);
        assert_eq!(head(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(100)).unwrap_err(), HeadError::TooBig);
    }

    #[test]
    fn a_reason_is_passed_on_as_it_came() {
        let reason = |line: &[u8]| {
            let head = read(&[line, b"\r\n\r\n"], false).unwrap().unwrap();
            head.reason.map(|reason| reason.to_vec())
        };
        assert_eq!(reason(b"HTTP/1.1 200 OK"), None);
        for odd in [&b"Fine"[..], b"", b" ", b"\xc3\xa9t\xe9 (x)", b"a\tb"] {
            assert_eq!(reason(&[b"HTTP/1.1 200 ", odd].concat()), Some(odd.to_vec()));
            assert_eq!(reason(&[b"\r\nHTTP/1.1 200 ", odd].concat()), Some(odd.to_vec()));
        }
        assert_eq!(reason(b"HTTP/1.1 200"), Some(Vec::new()));
    }

    #[test]
    fn lines_whose_names_no_header_can_have_are_left_out() {
        for odd in ["X(y)", "X/y", "{x}", "X@y", "[", "X\u{e9}"] {
            let text =
                format!("\r\nHTTP/1.1 200 OK\r\nA: 1\r\n{odd}: b: c\r\nContent-Length: 2\n{odd}:\r\nB: 2\r\n\r\n");
            let head = head(&text).unwrap().unwrap();
            let lines: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            assert_eq!(lines, [("a", &b"1"[..]), ("content-length", b"2"), ("b", b"2")], "{odd}");
            assert_eq!(head.framing, Framing::Length(2), "{odd}");
        }
        for doubtful in ["X(y) : 1", ": 1", " X(y): 1", "X(y)", "X\0(y): 1", "X(y): 1\r\n folded"] {
            let text = format!("HTTP/1.1 200 OK\r\nX(z): 1\r\n{doubtful}\r\nContent-Length: 2\r\n\r\n");
            assert!(matches!(head(&text), Err(HeadError::Invalid(_))), "{doubtful}");
        }
    }

    #[test]
    fn it_is_remembered_how_names_are_written() {
        let spelt = |name: &str| {
            let head = head(&format!("HTTP/1.1 200 OK\r\n{name}: 1\r\n\r\n")).unwrap().unwrap();
            let mut line = b"Etag: 1\r\n".to_vec();
            head.spelling.restore(&mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!((spelt("ETag").as_str(), spelt("X-A").as_str()), ("ETag: 1\r\n", "Etag: 1\r\n"));
    }

    proptest! {
        /// Whatever an upstream sends, in whatever pieces: the same is made of it.
        #[test]
        fn pieces_make_no_difference(
            sent in proptest::collection::vec(prop_oneof![
                Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 100 \r\n\r\n"), Just("\r\n"), Just("\n"), Just("A"), Just(": "),
                Just("Content-Length"), Just("7"),
            ], 0..20),
            cut in 1..9_usize,
        ) {
            let sent = sent.concat().into_bytes();
            let told = |read: Result<Option<Head>, HeadError>| match read {
                Ok(Some(head)) => format!("{head:?}"),
                // What is said of it depends on how much of it was seen.
                Ok(None) | Err(_) => "none".to_owned(),
            };
            let pieces: Vec<&[u8]> = sent.chunks(cut).collect();
            prop_assert_eq!(told(read(&[&sent], false)), told(read(&pieces, false)));
        }
    }
}

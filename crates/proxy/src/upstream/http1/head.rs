//! The heads that an upstream sends: interim answers, and the one that counts.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    http1::{
        decoder::Framing,
        spelling::{Spelling, is_title_case},
    },
    request::list,
};

/// Header lines in a head: far more than nginx's proxy_buffer_size lets through in practice.
const MAX_HEADERS: usize = 512;

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// The reason phrase, where it is not the status's own.
    pub(crate) reason: Option<Bytes>,
    pub(crate) headers: HeaderMap,
    /// How its names are written.
    pub(crate) spelling: Spelling,
    pub(super) framing: Framing,
    pub(super) keeps_alive: bool,
}

/// Why a head cannot be used, in nginx's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("upstream sent too big header")]
    TooBig,
    #[error("upstream sent invalid header ({0})")]
    Invalid(&'static str),
    /// It is not certain where the body ends: such an answer must not be passed on.
    #[error("upstream sent {0}")]
    Framing(&'static str),
}

/// Takes heads out of what an upstream sends.
pub(super) struct Heads {
    max: usize,
    to_head: bool,
    /// Bytes that were searched for the head's end: it may come byte by byte.
    searched: usize,
}

impl Heads {
    /// `to_head`: the answer to HEAD.
    pub(super) const fn new(max: usize, to_head: bool) -> Self {
        Self { max, to_head, searched: 0 }
    }

    /// The head that counts, if it is whole. Interim ones are left out, but for the one that switches protocols.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Head>, HeadError> {
        loop {
            let Some(end) = end_of_head(buffer, self.searched) else {
                if buffer.len() > self.max {
                    return Err(HeadError::TooBig);
                }
                if !is_beginning(buffer) {
                    return Err(HeadError::Invalid("no status line"));
                }
                self.searched = buffer.len().saturating_sub(2);
                return Ok(None);
            };
            if end > self.max {
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
        Err(httparse::Error::HeaderName) => return Err(HeadError::Invalid("name of a header")),
        Err(httparse::Error::HeaderValue) => return Err(HeadError::Invalid("value of a header")),
        Err(_) => return Err(HeadError::Invalid("end of a line")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Invalid("status line"))?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
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
    if chunked && !http11 {
        return Err(HeadError::Framing("\"Transfer-Encoding\" in an HTTP/1.0 response"));
    }
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
    let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason() && !reason.is_empty());
    Ok(Head {
        status,
        reason: reason.map(|reason| bytes.slice_ref(reason.as_bytes())),
        headers,
        spelling: if title_case { Spelling::default() } else { Spelling::of_head(bytes) },
        framing,
        keeps_alive: if http11 { !close } else { keep_alive && !close },
    })
}

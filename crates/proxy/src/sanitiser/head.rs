//! The checks that a request's head must pass, and what is said of one that does not.

use super::{Limits, framing::Framing};
use crate::http1::spelling::{Spelling, is_title_case};

/// Why a request is refused. nginx, and so Kong, answers 400 to most; RFC 9112 section 3, 5 and 6 and RFC 9110 say
/// what is wrong with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    BadRequestLine,
    RequestLineTooLong,
    /// nginx's 494, which clients see as 400.
    HeadTooLarge,
    UnsupportedVersion,
    MethodNotAllowed,
    /// A line that ends in a bare CR or LF.
    BareLineEnd,
    ControlByte,
    /// A space or control byte in a name, no name, or no colon.
    BadHeaderName,
    /// A line that continues the one before it.
    FoldedHeader,
    MissingHost,
    SeveralHosts,
    BadHost,
    SeveralLengths,
    BadLength,
    /// Content-Length and Transfer-Encoding.
    LengthAndEncoding,
    /// Anything but one `chunked`.
    BadEncoding,
    /// HTTP/1.0 has no transfer encodings.
    EncodingInHttp10,
    /// The head did not arrive in time.
    HeadTimeout,
}

impl Refusal {
    /// The status that nginx has inside (494, 408); the error page turns it into what the client sees.
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::HeadTooLarge => 494,
            Self::UnsupportedVersion => 505,
            Self::MethodNotAllowed => 405,
            Self::HeadTimeout => 408,
            _ => 400,
        }
    }

    /// For the error log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadRequestLine => "client sent invalid request line",
            Self::RequestLineTooLong => "client sent too long URI",
            Self::HeadTooLarge => "client sent too large request header",
            Self::UnsupportedVersion => "client sent unsupported HTTP version",
            Self::MethodNotAllowed => "client sent a method that is not proxied",
            Self::BareLineEnd => "client sent a line without CRLF",
            Self::ControlByte => "client sent a control byte in its header",
            Self::BadHeaderName => "client sent invalid header line",
            Self::FoldedHeader => "client sent a folded header line",
            Self::MissingHost => "client sent HTTP/1.1 request without \"Host\" header",
            Self::SeveralHosts => "client sent duplicate host header",
            Self::BadHost => "client sent invalid host header",
            Self::SeveralLengths => "client sent duplicate \"Content-Length\" header",
            Self::BadLength => "client sent invalid \"Content-Length\" header",
            Self::LengthAndEncoding => {
                "client sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time"
            }
            Self::BadEncoding => "client sent unknown \"Transfer-Encoding\"",
            Self::EncodingInHttp10 => "client sent HTTP/1.0 request with \"Transfer-Encoding\" header",
            Self::HeadTimeout => "client timed out while sending its header",
        }
    }
}

/// A head that may be handed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) framing: Framing,
    /// The head to hand on in its place: without the headers whose names nginx ignores, and with those bytes of the
    /// target percent-encoded that nginx takes as they are and hyper does not.
    pub(super) rewritten: Option<Vec<u8>>,
    pub(super) spelling: Spelling,
}

/// Length of the head at the front of `bytes`, its empty line included; `None` if it is not whole yet. The first
/// `searched` bytes are known not to hold its end.
pub(super) fn find_end(bytes: &[u8], searched: usize, limits: &Limits) -> Result<Option<usize>, Refusal> {
    let from = searched.saturating_sub(3);
    let end = memchr::memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4);
    if end.is_none() && memchr::memmem::find(&bytes[from..], b"\n\n").is_some() {
        return Err(Refusal::BareLineEnd);
    }
    let seen = end.unwrap_or(bytes.len());
    if seen <= limits.line {
        return Ok(end);
    }
    // Only a long head is measured line by line.
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', &bytes[..seen]).chain([seen]) {
        if at - start > limits.line {
            return Err(if start == 0 { Refusal::RequestLineTooLong } else { Refusal::HeadTooLarge });
        }
        start = at + 1;
    }
    if seen > limits.head { Err(Refusal::HeadTooLarge) } else { Ok(end) }
}

/// Checks a whole head.
pub(super) fn check(head: &[u8], limits: &Limits) -> Result<Checked, Refusal> {
    let mut lines = Lines { head, at: 0 };
    let Some((_, request_line)) = lines.next()? else { return Err(Refusal::BadRequestLine) };
    let request = check_request_line(request_line)?;

    // Offset and length of each line to leave out.
    let mut dropped: Vec<(usize, usize)> = Vec::new();
    let mut host: Option<&[u8]> = None;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut title_case = true;
    let mut count = 0;
    while let Some((start, line)) = lines.next()? {
        count += 1;
        if count > limits.lines {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, value) = split_header(line)?;
        match is_kept(name, limits.underscores)? {
            Kept::Dropped => {
                dropped.push((start, line.len() + 2));
                continue;
            }
            Kept::Yes => {}
        }
        title_case = title_case && is_title_case(name);
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(Refusal::SeveralHosts);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(parse_length(value)?).is_some() {
                return Err(Refusal::SeveralLengths);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::BadEncoding);
            }
            chunked = true;
        }
    }
    match host {
        Some(host) if !is_host(host) => return Err(Refusal::BadHost),
        None if request.version == 1 => return Err(Refusal::MissingHost),
        _ => {}
    }
    if chunked && length.is_some() {
        return Err(Refusal::LengthAndEncoding);
    }
    if chunked && request.version == 0 {
        return Err(Refusal::EncodingInHttp10);
    }
    if request.refused_method {
        return Err(Refusal::MethodNotAllowed);
    }
    let rewritten =
        (request.encoded_line.is_some() || request.raw_target.is_some() || !dropped.is_empty()).then(|| {
            let line = request.encoded_line.as_deref().unwrap_or(request_line);
            let mut rewritten = Vec::with_capacity(head.len() + line.len());
            rewritten.extend_from_slice(line);
            if let Some(target) = &request.raw_target {
                for part in [b"\r\n", RAW_TARGET.as_bytes(), b": ", target] {
                    rewritten.extend_from_slice(part);
                }
            }
            let mut at = request_line.len();
            for (start, length) in dropped {
                rewritten.extend_from_slice(&head[at..start]);
                at = start + length;
            }
            rewritten.extend_from_slice(&head[at..]);
            rewritten
        });
    let framing = if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) };
    let spelling = if title_case { Spelling::default() } else { Spelling::of_head(head) };
    Ok(Checked { framing, rewritten, spelling })
}

/// The lines of a head, up to its empty one, each with its offset.
struct Lines<'a> {
    head: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<Option<(usize, &'a [u8])>, Refusal> {
        let start = self.at;
        let rest = &self.head[start..];
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else { return Ok(None) };
        if rest[end] != b'\r' || rest.get(end + 1) != Some(&b'\n') {
            return Err(Refusal::BareLineEnd);
        }
        self.at = start + end + 2;
        Ok((end > 0).then_some((start, &rest[..end])))
    }
}

struct RequestLine {
    /// The minor version of HTTP/1.
    version: u8,
    refused_method: bool,
    /// The line with its target percent-encoded, where hyper would not take it as it is.
    encoded_line: Option<Vec<u8>>,
    /// Path and query as they came, where hyper will tell of others: it knows no fragment.
    raw_target: Option<Vec<u8>>,
}

/// The header in which the head carries path and query as they came, where hyper would lose them. No client can send
/// a header of this name: it is one of those that nginx ignores.
pub(crate) const RAW_TARGET: &str = "!raw-target";

fn check_request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::BadRequestLine);
    };
    if method.is_empty() || !method.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'_' | b'-')) {
        return Err(Refusal::BadRequestLine);
    }
    if target.is_empty() || target.iter().any(|byte| *byte < 0x21 || *byte == 0x7f) {
        return Err(Refusal::BadRequestLine);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', b'0'..=b'9'] if major.is_ascii_digit() => {
            return Err(Refusal::UnsupportedVersion);
        }
        _ => return Err(Refusal::BadRequestLine),
    };
    let refused_method = method == b"TRACE" || method == b"CONNECT";
    let absolute = |scheme: &[u8]| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme);
    if !refused_method && target[0] != b'/' && !absolute(b"http://") && !absolute(b"https://") {
        return Err(Refusal::BadRequestLine);
    }
    if refused_method || http::Uri::try_from(target).is_ok() {
        let raw_target = target.contains(&b'#').then(|| path_and_query(target).to_vec());
        return Ok(RequestLine { version: minor, refused_method, encoded_line: None, raw_target });
    }
    let encoded = encode(target);
    if http::Uri::try_from(encoded.as_slice()).is_err() {
        return Err(Refusal::BadRequestLine);
    }
    let encoded_line = Some([method, b" ", &encoded, b" ", version].concat());
    let raw_target = Some(path_and_query(target).to_vec());
    Ok(RequestLine { version: minor, refused_method, encoded_line, raw_target })
}

/// A target without scheme and host: nginx's `$request_uri`.
fn path_and_query(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let authority = memchr::memmem::find(target, b"://").map_or(0, |at| at + 3);
    let end = target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    match end.map(|at| &target[authority + at..]) {
        Some(rest) if rest.first() == Some(&b'/') => rest,
        _ => b"/",
    }
}

/// Percent-encodes what a URI may not hold (RFC 3986, 2), and browsers and scripts send all the same.
fn encode(target: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for byte in target {
        if matches!(byte, b'<' | b'>' | b'`' | b'"' | b'{' | b'}' | b'|' | b'\\' | b'^' | 0x80..) {
            encoded.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            encoded.push(*byte);
        }
    }
    encoded
}

fn split_header(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::FoldedHeader);
    }
    let Some(colon) = memchr::memchr(b':', line) else { return Err(Refusal::BadHeaderName) };
    let value = line[colon + 1..].trim_ascii();
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return Err(Refusal::ControlByte);
    }
    Ok((&line[..colon], value))
}

pub(crate) enum Kept {
    Yes,
    Dropped,
}

pub(crate) fn is_kept(name: &[u8], underscores: bool) -> Result<Kept, Refusal> {
    if name.is_empty() {
        return Err(Refusal::BadHeaderName);
    }
    let mut kept = Kept::Yes;
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => {}
            b'_' if underscores => {}
            0..=0x20 | 0x7f => return Err(Refusal::BadHeaderName),
            _ => kept = Kept::Dropped,
        }
    }
    Ok(kept)
}

fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse::<u64>().ok());
    // No body is as long as that; hyper keeps the highest values for its own use.
    length.filter(|length| *length <= i64::MAX as u64).ok_or(Refusal::BadLength)
}

/// Whether a Host header names a host as nginx accepts it: no empty one, no control bytes, spaces or slashes.
pub(crate) fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host.iter().all(|byte| !matches!(byte, 0..=0x20 | 0x7f | b'/' | b'\\' | b'@' | b'?' | b'#' | b',' | 0x80..))
}

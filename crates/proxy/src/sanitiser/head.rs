//! The checks that a request's head must pass, and what is said of one that does not.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::{Head, Limits, request_line};
use crate::http1::{decoder::Framing, spelling::Spelling};

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
    /// A header twice of which there is one at most: one that reads the first could let in what another reads last.
    RepeatedHeader,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The client closed its connection in the middle of the head.
    ClientLeft,
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
            Self::RepeatedHeader => "client sent duplicate header line",
            Self::HeadTimeout => "client timed out while sending its header",
            Self::ClientLeft => "client prematurely closed connection",
        }
    }
}

/// Length of the head at the front of `bytes`, its empty line included; `None` if it is not whole yet. The first
/// `searched` bytes are known not to hold its end. A line without CR is an end too: nothing behind it is read.
pub(super) fn find_end(bytes: &[u8], searched: usize, limits: &Limits) -> Result<Option<usize>, Refusal> {
    let mut end = None;
    for at in memchr::memchr_iter(b'\n', &bytes[searched..]).map(|at| searched + at) {
        if !matches!(bytes[..at], [.., b'\r']) || matches!(bytes[..at], [.., b'\n', b'\r']) {
            end = Some(at + 1);
            break;
        }
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

/// Checks a whole head, and reads it.
pub(super) fn parse(head: &Bytes, limits: &Limits) -> Result<Head, Refusal> {
    let mut lines = Lines { head, at: 0 };
    // As when it comes byte by byte: the method comes first.
    let line = lines.next().map_err(|why| request_line::check_method(head).err().unwrap_or(why))?;
    let Some((_, line)) = line else { return Err(Refusal::BadRequestLine) };
    let request = request_line::parse(head, line)?;

    // Few lines are shorter than that with all that is in a head.
    let mut headers = HeaderMap::with_capacity((head.len() / 32 + 1).min(limits.lines));
    let mut host: Option<bool> = None;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut expects_continue = false;
    let mut title_case = true;
    let mut count = 0;
    while let Some((start, line)) = lines.next()? {
        count += 1;
        if count > limits.lines {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, mut value) = parse_header(head, start, line, limits).map_err(|why| blame(line, why))?;
        if !name.kept {
            continue;
        }
        title_case &= name.title_case;
        let name = HeaderName::from_bytes(&line[..name.length]).map_err(|_| Refusal::BadHeaderName)?;
        if name == header::HOST {
            if host.replace(is_host(value.as_bytes())).is_some() {
                return Err(Refusal::SeveralHosts);
            }
        } else if name == header::CONTENT_LENGTH {
            let said = parse_length(value.as_bytes())?;
            if length.replace(said).is_some() {
                return Err(Refusal::SeveralLengths);
            }
            if matches!(value.as_bytes(), [b'0', _, ..]) {
                // Nobody behind this is to take it for an octal number.
                value = said.into();
            }
        } else if name == header::TRANSFER_ENCODING {
            if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::BadEncoding);
            }
            chunked = true;
        } else if name == header::EXPECT {
            expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        headers.try_append(name, value).map_err(|_| Refusal::HeadTooLarge)?;
    }
    match host {
        Some(false) => return Err(Refusal::BadHost),
        None if request.version == Version::HTTP_11 => return Err(Refusal::MissingHost),
        _ => {}
    }
    if chunked && length.is_some() {
        return Err(Refusal::LengthAndEncoding);
    }
    if chunked && request.version == Version::HTTP_10 {
        return Err(Refusal::EncodingInHttp10);
    }
    if repeats_what_is_single(&headers) {
        return Err(Refusal::RepeatedHeader);
    }
    let Some((uri, raw_target)) = request.target else { return Err(Refusal::MethodNotAllowed) };
    Ok(Head {
        method: request.method,
        uri,
        version: request.version,
        headers,
        framing: if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) },
        spelling: if title_case { Spelling::default() } else { Spelling::of_head(head) },
        raw_target,
        // HTTP/1.0 does not know it.
        expects_continue: expects_continue && request.version == Version::HTTP_11,
    })
}

/// Whether there is a second line of a header of which nginx takes one only (`ngx_http_process_unique_header_line`).
pub(crate) fn repeats_what_is_single(headers: &HeaderMap) -> bool {
    const SINGLE: [HeaderName; 8] = [
        header::AUTHORIZATION,
        header::CONTENT_RANGE,
        header::EXPECT,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
    ];
    // Few repeat any.
    headers.len() != headers.keys_len() && SINGLE.iter().any(|name| headers.get_all(name).iter().nth(1).is_some())
}

/// Of a line with a CR in its middle it is that what is told: wherever it stands, it is refused.
pub(super) fn blame(line: &[u8], why: Refusal) -> Refusal {
    if line.contains(&b'\r') { Refusal::BareLineEnd } else { why }
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
        let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(None) };
        self.at = start + end + 1;
        let line = rest[..end].strip_suffix(b"\r").ok_or(Refusal::BareLineEnd)?;
        Ok((!line.is_empty()).then_some((start, line)))
    }
}

/// Name and value of a header line that begins at `start`.
fn parse_header(head: &Bytes, start: usize, line: &[u8], limits: &Limits) -> Result<(Name, HeaderValue), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::FoldedHeader);
    }
    let name = read_name(line, limits.underscores)?;
    if name.length == line.len() {
        // No colon.
        return Err(Refusal::BadHeaderName);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[name.length + 1..];
    let before = value.iter().take_while(|byte| is_space(byte)).count();
    let value = &value[before..];
    let length = value.len() - value.iter().rev().take_while(|byte| is_space(byte)).count();
    let at = start + name.length + 1 + before;
    // It takes no control bytes but tabs.
    let value = HeaderValue::from_maybe_shared(head.slice(at..at + length)).map_err(|_| Refusal::ControlByte)?;
    Ok((name, value))
}

/// What is to be known of a header's name.
struct Name {
    length: usize,
    /// False for those that nginx ignores.
    kept: bool,
    title_case: bool,
}

/// Reads the name that a line begins with, up to its colon.
fn read_name(line: &[u8], underscores: bool) -> Result<Name, Refusal> {
    let mut read = Name { length: line.len(), kept: true, title_case: true };
    let mut after_hyphen = true;
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b'a'..=b'z' => read.title_case &= !after_hyphen,
            b'A'..=b'Z' => read.title_case &= after_hyphen,
            b'0'..=b'9' | b'-' => {}
            b':' => {
                read.length = at;
                break;
            }
            b'_' if underscores => {}
            0..=0x20 | 0x7f => return Err(Refusal::BadHeaderName),
            _ => read.kept = false,
        }
        after_hyphen = *byte == b'-';
    }
    if read.length == 0 { Err(Refusal::BadHeaderName) } else { Ok(read) }
}

/// Whether nginx takes a header of this name.
pub(crate) fn is_kept(name: &[u8], underscores: bool) -> bool {
    read_name(name, underscores).is_ok_and(|read| read.kept && read.length == name.len())
}

fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse::<u64>().ok());
    // No body is as long as that.
    length.filter(|length| *length <= i64::MAX as u64).ok_or(Refusal::BadLength)
}

/// What no host may hold: control bytes, spaces, slashes.
const NO_HOST: [bool; 256] = {
    let mut no_host = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        no_host[byte] = matches!(byte as u8, 0..=0x20 | 0x7f | b'/' | b'\\' | b'@' | b'?' | b'#' | b',' | 0x80..);
        byte += 1;
    }
    no_host
};

/// Whether a Host header names a host as nginx accepts it: no empty one, no control bytes, spaces or slashes.
pub(crate) fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && !host.iter().any(|byte| NO_HOST[usize::from(*byte)])
}

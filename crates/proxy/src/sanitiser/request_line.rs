//! The first line of a head: what is asked for.

use bytes::Bytes;
use http::{Method, Uri, Version, uri::Authority};

use super::{
    Limits, RawTarget,
    head::{Refusal, blame},
};

/// What a request line says.
pub(super) struct RequestLine {
    pub(super) method: Method,
    pub(super) version: Version,
    /// And as it came, where the URI is another. `None` for methods that are refused.
    pub(super) target: Option<(Uri, Option<RawTarget>)>,
}

/// Checks the beginning of a head of which more is to come: what cannot become a request is not waited for. The client may
/// speak another protocol, TLS for example, and wait for an answer. The first `searched` bytes were checked before.
pub(super) fn check_beginning(bytes: &[u8], searched: usize, limits: &Limits) -> Result<(), Refusal> {
    match bytes[method_length(bytes)..] {
        // That may go on, or end as it should.
        [] | [b'\r'] => return Ok(()),
        [b'\r', b'\n', ..] => return Err(Refusal::BadRequestLine),
        _ => check_method(bytes)?,
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end >= searched && end <= limits.line => {
            let line = bytes[..end].strip_suffix(b"\r").ok_or(Refusal::BareLineEnd)?;
            parse(&Bytes::copy_from_slice(line), line).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// Reads a request line, the first of this head.
pub(super) fn parse(head: &Bytes, line: &[u8]) -> Result<RequestLine, Refusal> {
    let method_end = method_length(line);
    let (method, rest) = line.split_at(method_end);
    let Some(rest) = rest.strip_prefix(b" ").filter(|_| method_end > 0) else {
        return Err(check_method(line).err().unwrap_or(Refusal::BadRequestLine));
    };
    parse_target_and_version(head, method, rest).map_err(|why| blame(line, why))
}

/// How many bytes of a method there are.
fn method_length(line: &[u8]) -> usize {
    let is_method = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'_' | b'-');
    line.iter().position(|byte| !is_method(byte)).unwrap_or(line.len())
}

/// Whether a line begins with a method and a space.
pub(super) fn check_method(line: &[u8]) -> Result<(), Refusal> {
    let length = method_length(line);
    match line.get(length) {
        Some(b' ') if length > 0 => Ok(()),
        Some(b'\r' | b'\n') => Err(Refusal::BareLineEnd),
        _ => Err(Refusal::BadRequestLine),
    }
}

fn parse_target_and_version(head: &Bytes, method: &[u8], rest: &[u8]) -> Result<RequestLine, Refusal> {
    let target_end = rest.iter().position(|byte| *byte < 0x21 || *byte == 0x7f).unwrap_or(rest.len());
    let (target, version) = rest.split_at(target_end);
    let version = version.strip_prefix(b" ").ok_or(Refusal::BadRequestLine)?;
    if target.is_empty() {
        return Err(Refusal::BadRequestLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        // Later ones add nothing that an earlier one could not leave out (RFC 9110, 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::HTTP_11,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Refusal::UnsupportedVersion),
        _ => return Err(Refusal::BadRequestLine),
    };
    let at = method.len() + 1;
    let method = Method::from_bytes(method).map_err(|_| Refusal::BadRequestLine)?;
    if method == Method::TRACE || method == Method::CONNECT {
        return Ok(RequestLine { method, version, target: None });
    }
    let is_absolute = target[0] != b'/';
    if is_absolute && !["http://", "https://"].iter().any(|scheme| starts_with(target, scheme)) {
        return Err(Refusal::BadRequestLine);
    }
    let target = head.slice(at..at + target_end);
    let target = match Uri::from_maybe_shared(target.clone()) {
        Ok(uri) => (uri, target.contains(&b'#').then(|| raw(&target))),
        Err(_) => {
            let uri = Uri::from_maybe_shared(Bytes::from(encode(&target))).map_err(|_| Refusal::BadRequestLine)?;
            (uri, Some(raw(&target)))
        }
    };
    if is_absolute && !target.0.authority().is_some_and(is_host_and_port) {
        return Err(Refusal::BadRequestLine);
    }
    Ok(RequestLine { method, version, target: Some(target) })
}

fn starts_with(target: &[u8], scheme: &str) -> bool {
    target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// Whether an absolute target names nothing but a host and a port: no user, whom somebody could take for the host.
fn is_host_and_port(authority: &Authority) -> bool {
    let (authority, host) = (authority.as_str(), authority.host());
    authority.strip_prefix(host).is_some_and(|port| {
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|digit| digit.is_ascii_digit()))
    })
}

/// A target without scheme and host.
fn raw(target: &Bytes) -> RawTarget {
    if target.first() == Some(&b'/') {
        return RawTarget(target.clone());
    }
    let authority = memchr::memmem::find(target, b"://").map_or(0, |at| at + 3);
    let end = target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    RawTarget(match end.map(|at| authority + at) {
        Some(at) if target[at] == b'/' => target.slice(at..),
        Some(at) if target[at] == b'?' => [b"/", &target[at..]].concat().into(),
        _ => Bytes::from_static(b"/"),
    })
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

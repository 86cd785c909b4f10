//! From a request as it was read to an [`Exchange`].

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use silverback_config::Settings;
use silverback_model::Phase;
use silverback_pdk::{
    Exchange,
    exchange::{
        Client, HttpVersion, Kept as KeptByPlugins, Request, RequestBody, Response, Stream, Subsystem, Timings,
        TlsInfo, UpstreamChoice, Wishes,
    },
};

use crate::{
    connection::{Connection, From, Origin},
    generation::Generation,
    real_ip,
    request_body::Incoming,
    sanitiser::{RawTarget, is_host, is_kept, repeats_what_is_single},
};

/// nginx's `server_name` in Kong's configuration.
pub(crate) const SERVER_NAME: &str = "kong";

/// Whether the client asks for a WebSocket: the only upgrade that is passed on.
pub(crate) fn wants_websocket(request: &http::Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && request
            .headers()
            .get_all(header::CONNECTION)
            .iter()
            .any(|value| list(value.as_bytes()).any(|item| item.eq_ignore_ascii_case(b"upgrade")))
}

/// Whether a client wants its connection to go on.
pub(crate) fn keeps_alive(request: &Request) -> bool {
    let asks = |token: &[u8]| {
        let values = request.headers.get_all(header::CONNECTION).iter();
        values.flat_map(|value| list(value.as_bytes())).any(|item| item.eq_ignore_ascii_case(token))
    };
    match request.version {
        HttpVersion::Http10 => asks(b"keep-alive") && !asks(b"close"),
        HttpVersion::Http11 => !asks(b"close"),
        HttpVersion::Http2 => true,
    }
}

/// The items of a comma-separated header.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// The state that a request begins with, and its body.
pub(crate) fn exchange(
    connection: &Connection,
    generation: &Generation,
    request: http::Request<Incoming>,
) -> (Box<Exchange>, Option<Incoming>) {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    let raw_target = parts.extensions.get::<RawTarget>();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if let Some(authority) = authority
        && let Ok(value) = HeaderValue::from_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
    {
        // The request line's host wins over the header (RFC 9112, 3.2.2); HTTP/2 has it there only.
        headers.insert(header::HOST, value);
    }
    if connection.http2 {
        join_cookies(&mut headers);
        drop_odd_names(&mut headers, generation.profile.settings.http.underscores_in_headers);
    }
    let host = match headers.get(header::HOST) {
        Some(value) => value.to_str().map(host_name).unwrap_or_default(),
        // HTTP/1.0 needs none: nginx takes its server's name.
        None if parts.version < Version::HTTP_11 => SERVER_NAME.to_owned(),
        None => String::new(),
    };
    let raw_uri = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    // Bytes that are no text stay percent-encoded.
    let raw_uri = raw_target.and_then(|raw| std::str::from_utf8(&raw.0).ok()).unwrap_or(raw_uri);
    // A target may be an authority, and a query.
    let raw_uri = if raw_uri.starts_with('/') { raw_uri.to_owned() } else { ["/", raw_uri].concat() };
    let version = match parts.version {
        Version::HTTP_10 | Version::HTTP_09 => HttpVersion::Http10,
        Version::HTTP_2 => HttpVersion::Http2,
        _ => HttpVersion::Http11,
    };
    // HTTP/2 has no lines.
    let names_host = parts.version < Version::HTTP_2 && parts.uri.scheme().is_some();
    let line = names_host.then(|| format!("{} {} {:?}", parts.method, parts.uri, parts.version).into());
    let body = (!body.is_end_stream()).then_some(body);
    let head_length = parts.method.as_str().len()
        + raw_uri.len()
        + 12
        + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let (path, query) = path_and_query(&raw_uri);
    let request = Request {
        method: parts.method,
        version,
        line,
        path: decoded_path(path),
        query: query.map(str::to_owned),
        raw_uri,
        host,
        headers,
        body: if body.is_some() { RequestBody::Unread } else { RequestBody::None },
        length: head_length as u64,
    };
    (begin(connection, generation, request), body)
}

/// The state of a request that the sanitiser refused: what its head says, as far as that can be read.
pub(crate) fn refused_exchange(connection: &Connection, generation: &Generation, head: &[u8]) -> Box<Exchange> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.next().unwrap_or_default();
    let request_line = String::from_utf8_lossy(line);
    let mut words = request_line.split(' ');
    let method = words.next().and_then(|word| Method::from_bytes(word.as_bytes()).ok()).unwrap_or(Method::GET);
    let raw_uri = words.next().filter(|target| target.starts_with('/')).unwrap_or("/").to_owned();
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(host_name).unwrap_or_default();
    let (path, query) = path_and_query(&raw_uri);
    let request = Request {
        method,
        version: HttpVersion::Http11,
        line: Some(Bytes::copy_from_slice(line)),
        path: decoded_path(path),
        query: query.map(str::to_owned),
        raw_uri,
        host,
        headers,
        body: RequestBody::None,
        length: head.len() as u64,
    };
    begin(connection, generation, request)
}

fn begin(connection: &Connection, generation: &Generation, request: Request) -> Box<Exchange> {
    let mut exchange =
        blank(&connection.origin, generation, Subsystem::Http, Phase::Rewrite, connection.tls.clone(), request);
    exchange.client.connection_requests = connection.requests.get();
    exchange
}

/// The state of a connection that has made no request: what plugins see in `certificate`, and in the phases of a stream.
pub(crate) fn of_connection(
    origin: &Origin,
    generation: &Generation,
    subsystem: Subsystem,
    phase: Phase,
    tls: Option<Arc<TlsInfo>>,
) -> Box<Exchange> {
    let request = Request {
        method: Method::GET,
        version: HttpVersion::Http11,
        line: None,
        path: String::new(),
        query: None,
        raw_uri: String::new(),
        host: String::new(),
        headers: HeaderMap::new(),
        body: RequestBody::None,
        length: 0,
    };
    blank(origin, generation, subsystem, phase, tls, request)
}

fn blank(
    origin: &Origin,
    generation: &Generation,
    subsystem: Subsystem,
    phase: Phase,
    tls: Option<Arc<TlsInfo>>,
    request: Request,
) -> Box<Exchange> {
    let node = Arc::clone(&generation.profile.node);
    let started = node.surroundings.now();
    let (ip, port, local_ip, local_port) = match origin.from {
        From::Tcp { peer, local } => {
            (Some(peer.ip().to_canonical()), peer.port(), Some(local.ip().to_canonical()), local.port())
        }
        From::Unix => (None, 0, None, 0),
    };
    let trust = &generation.profile.settings.real_ip;
    let (real_ip, real_port) = match subsystem {
        Subsystem::Http => real_ip::resolve(trust, ip, origin.proxied, &request.headers),
        Subsystem::Stream => real_ip::of_stream(trust, ip, origin.proxied),
    };
    // Made where it stays: it is large.
    Box::write(
        Box::new_uninit(),
        Exchange {
            node,
            directory: Arc::clone(&generation.directory),
            upstream_names: Arc::clone(&generation.upstreams.names),
            subsystem,
            phase,
            id: new_id(),
            started,
            timings: Timings::default(),
            client: Client {
                ip,
                port,
                real_ip: real_ip.or(ip),
                real_port: if real_ip.is_some() { real_port } else { Some(port) },
                local_ip,
                local_port,
                proxied: origin.proxied,
                tls,
                connection: origin.serial,
                connection_requests: 0,
            },
            request,
            upstream: UpstreamChoice::default(),
            matched: None,
            consumer: None,
            consumer_given: None,
            credential: None,
            shared: Vec::new(),
            nginx_ctx: Vec::new(),
            serialize_values: Vec::new(),
            kept: KeptByPlugins::default(),
            service_response: None,
            response: Response::default(),
            exit: None,
            wishes: Wishes::default(),
            stream: Stream::default(),
        },
    )
}

/// `$kong_request_id`: 32 hex digits. Written by hand: each request has one.
fn new_id() -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(fastrand::u128(..).to_be_bytes()) {
        *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    }
    std::str::from_utf8(&digits).unwrap_or_default().to_owned()
}

/// Leaves out the headers whose names nginx ignores, as the sanitiser does for HTTP/1.
fn drop_odd_names(headers: &mut HeaderMap, underscores: bool) {
    let odd: Vec<HeaderName> =
        headers.keys().filter(|name| !is_kept(name.as_str().as_bytes(), underscores)).cloned().collect();
    for name in odd {
        headers.remove(name);
    }
}

/// HTTP/2 may split Cookie over several lines; everybody else expects one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// `$host`: lower case, without the port.
fn host_name(host: &str) -> String {
    let name = match host.bytes().rposition(|byte| byte == b':') {
        // The colons of an IPv6 address in brackets are not the port's.
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    };
    // A search for a pattern takes longer than to see that there is no dot.
    let name = if name.ends_with('.') { name.trim_end_matches('.') } else { name };
    name.to_ascii_lowercase()
}

/// The path of a target as nginx reads it, to the query or the fragment; and `$args`, to the fragment, in which there are
/// none.
fn path_and_query(raw_uri: &str) -> (&str, Option<&str>) {
    let Some(end) = memchr::memchr2(b'?', b'#', raw_uri.as_bytes()) else { return (raw_uri, None) };
    let (path, rest) = raw_uri.split_at(end);
    (path, rest.strip_prefix('?').map(|query| query.split('#').next().unwrap_or_default()))
}

/// `$uri`: percent-decoded, dots and doubled slashes resolved. Bytes that are no UTF-8 are shown as such.
fn decoded_path(raw: &str) -> String {
    match silverback_router::normalize_path(raw.as_bytes()) {
        // It is as it came: there was nothing to decode.
        Cow::Borrowed(_) => raw.to_owned(),
        Cow::Owned(normalised) => percent_encoding::percent_decode(&normalised).decode_utf8_lossy().into_owned(),
    }
}

/// The status with which nginx refuses a request by itself: methods that are not proxied (over HTTP/2 nobody has looked yet), and bodies that
/// say that they are too large.
pub(crate) fn refusal(exchange: &Exchange, settings: &Settings) -> Option<u16> {
    let request = &exchange.request;
    if request.method == Method::TRACE || request.method == Method::CONNECT {
        return Some(405);
    }
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let is_sound = hosts.next().is_none_or(|host| is_host(host.as_bytes())) && hosts.next().is_none();
    if request.host.is_empty() || !is_sound || repeats_what_is_single(&request.headers) {
        return Some(400);
    }
    if !is_path(path_and_query(&request.raw_uri).0) {
        return Some(400);
    }
    let max = settings.http.max_body_size;
    if matches!(request.body, RequestBody::None) {
        return None;
    }
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if max > 0 && length.is_some_and(|length| length > max) {
        return Some(413);
    }
    None
}

/// Whether nginx can make sense of a path: no broken percent-encoding, no NUL, no way up from the root.
fn is_path(path: &str) -> bool {
    if memchr::memchr2(b'%', b'.', path.as_bytes()).is_none() {
        return true;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| (digit as char).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => decoded.push((high * 16 + low) as u8),
            _ => return false,
        }
    }
    let mut depth = 0_i32;
    for segment in decoded.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty() && *segment != b".") {
        depth += if segment == b".." { -1 } else { 1 };
        if depth < 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{decoded_path, host_name, is_path, path_and_query};

    #[test]
    fn paths_that_make_no_sense_are_told_apart() {
        for path in ["/", "/a%20b", "/a/../b", "/a//..", "/a/.", "/..a", "/%2e"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["/..", "/a/../..", "/%zz", "/a%", "/a%2", "/a%00", "/%2e%2e"] {
            assert!(!is_path(path), "{path}");
        }
    }

    #[test]
    fn the_host_loses_port_and_case() {
        for (header, host) in [
            ("Example.Test:8000", "example.test"),
            ("example.test", "example.test"),
            ("[::1]:8000", "[::1]"),
            ("[::1]", "[::1]"),
            ("example.test.", "example.test"),
        ] {
            assert_eq!(host_name(header), host, "{header}");
        }
    }

    #[test]
    fn the_path_is_decoded() {
        for (raw, decoded) in [
            ("/a%20b", "/a b"),
            ("/a//b/.", "/a/b/"),
            ("/%2525", "/%25"),
            ("/%ff", "/\u{fffd}"),
            ("/\u{e9}", "/\u{e9}"),
        ] {
            assert_eq!(decoded_path(raw), decoded, "{raw}");
        }
    }

    #[test]
    fn a_fragment_is_no_part_of_the_query() {
        for (raw_uri, path, query) in [
            ("/a?b=1#c", "/a", Some("b=1")),
            ("/a#c?b=1", "/a", None),
            ("/a?", "/a", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("/a", "/a", None),
        ] {
            assert_eq!(path_and_query(raw_uri), (path, query), "{raw_uri}");
        }
    }
}

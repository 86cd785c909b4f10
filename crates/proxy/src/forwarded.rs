//! What a request becomes on its way upstream: where it goes, and the headers that proxies add and take away
//! (Kong's `runloop/handler.lua`, RFC 9110 section 7.6).

use std::{borrow::Cow, net::IpAddr, ops::Range, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use silverback_model::Protocol;
use silverback_pdk::{
    Exchange, address,
    exchange::{HopHeaders, HttpVersion, RequestBody},
};

use crate::{
    SERVER_TOKEN,
    body::UpstreamRequestBody,
    flight::Flight,
    generation::RouteEntry,
    http1::{decoder::Framing, encoder::Encoder, lines},
    request::list,
};

/// Room for most heads.
const HEAD_SIZE: usize = 1024;

/// Room for most of what is said of the way here.
const LINES_SIZE: usize = 384;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(crate) const X_KONG_REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");

/// `http` or `https`, by the client's connection.
pub(crate) fn scheme(exchange: &Exchange) -> &'static str {
    if exchange.client.tls.is_some() { "https" } else { "http" }
}

/// The listener's port as clients see it (`port_maps`).
pub(crate) fn port(exchange: &Exchange) -> u16 {
    let port = exchange.client.local_port;
    exchange.node.port_maps.iter().find(|(_, inside)| *inside == port).map_or(port, |(outside, _)| *outside)
}

fn is_trusted(exchange: &Exchange) -> bool {
    match exchange.client.ip {
        Some(ip) => exchange.node.trusted_ips.iter().any(|net| net.contains(&ip)),
        None => exchange.node.trust_unix,
    }
}

/// What the request says of its way here, as it was when it was routed: what plugins change later has no part in it.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// The lines as they go upstream, and behind them, from `end` on, values that have no line.
    text: Vec<u8>,
    end: usize,
    /// Where the values are.
    hops: Range<usize>,
    proto: Range<usize>,
    host: Range<usize>,
    port: Range<usize>,
    path: Range<usize>,
    prefix: Range<usize>,
    /// With this hop added.
    via: Cow<'static, str>,
    /// The client takes trailers.
    trailers: bool,
    /// It asks for a WebSocket.
    upgrade: bool,
}

/// Writes a line; gives the place of its value.
fn put_line(text: &mut Vec<u8>, name: &str, put_value: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    let begin = text.len();
    put_value(text);
    let place = begin..text.len();
    text.extend_from_slice(b"\r\n");
    place
}

impl Forwarded {
    /// `prefix` is the part of the path that the route takes away; `upgrade`: a WebSocket was asked for.
    pub(crate) fn of(exchange: &Exchange, prefix: Option<&str>, upgrade: bool) -> Self {
        let headers = &exchange.request.headers;
        // What only a trusted peer may say.
        let is_trusted = is_trusted(exchange);
        let trusted = |name: HeaderName| {
            let value = is_trusted.then(|| headers.get(name))??;
            Some(String::from_utf8_lossy(value.as_bytes()))
        };
        let own = own_via(exchange.request.version);
        // Hardly any client says these: to look at all names takes less than to look two up.
        let (mut names_hops, mut names_via, mut names_te) = (false, false, false);
        for name in headers.keys() {
            names_hops |= *name == X_FORWARDED_FOR;
            names_via |= *name == header::VIA;
            names_te |= *name == header::TE;
        }
        let raw_uri = &exchange.request.raw_uri;
        let path = || memchr::memchr(b'?', raw_uri.as_bytes()).map_or(&**raw_uri, |end| &raw_uri[..end]);
        let mut text = Vec::with_capacity(LINES_SIZE);
        let hops = put_line(&mut text, "X-Forwarded-For", |text| {
            match names_hops.then(|| joined(headers, &X_FORWARDED_FOR)).flatten() {
                Some(list) => {
                    text.extend_from_slice(list.as_bytes());
                    text.extend_from_slice(b", ");
                    put_address(text, exchange.client.ip);
                }
                None => put_address(text, exchange.client.real_ip),
            }
        });
        let mut put = |name, value: &str| put_line(&mut text, name, |text| text.extend_from_slice(value.as_bytes()));
        let proto = put("X-Forwarded-Proto", &trusted(X_FORWARDED_PROTO).unwrap_or(scheme(exchange).into()));
        let host = put("X-Forwarded-Host", &trusted(X_FORWARDED_HOST).unwrap_or(exchange.request.host.as_str().into()));
        // A Unix socket has none.
        let port = trusted(X_FORWARDED_PORT).unwrap_or_else(|| port(exchange).to_string().into());
        let mut without_line = None;
        let port = if port == "0" { 0..0 } else { put("X-Forwarded-Port", &port) };
        let path = put("X-Forwarded-Path", &trusted(X_FORWARDED_PATH).unwrap_or_else(|| path().into()));
        let mut prefix_place = 0..0;
        if let Some(prefix) = trusted(X_FORWARDED_PREFIX).or(prefix.map(Cow::Borrowed)) {
            // A part of a path: it may hold, percent-decoded, what a header cannot. All else came in headers, or in the
            // target.
            if is_value(&prefix) {
                prefix_place = put("X-Forwarded-Prefix", &prefix);
            } else {
                without_line = Some(prefix);
            }
        }
        put_line(&mut text, "X-Real-IP", |text| put_address(text, exchange.client.real_ip));
        let end = text.len();
        if let Some(prefix) = without_line {
            text.extend_from_slice(prefix.as_bytes());
            prefix_place = end..text.len();
        }
        Self {
            text,
            end,
            hops,
            proto,
            host,
            port,
            path,
            prefix: prefix_place,
            via: match names_via.then(|| joined(headers, &header::VIA)).flatten() {
                Some(via) => Cow::Owned(format!("{via}, {own}")),
                None => Cow::Borrowed(own),
            },
            trailers: names_te && asks_for_trailers(headers),
            upgrade,
        }
    }

    fn value(&self, place: &Range<usize>) -> &str {
        // It was text when it was put there.
        self.text.get(place.clone()).and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// `http` or `https`.
    pub(crate) fn proto(&self) -> &str {
        self.value(&self.proto)
    }

    pub(crate) fn host(&self) -> &str {
        self.value(&self.host)
    }

    /// The lines, each with its end.
    fn lines(&self) -> &[u8] {
        &self.text[..self.end]
    }
}

impl HopHeaders for Forwarded {
    fn variable(&self, name: &str) -> &str {
        match name {
            "x_forwarded_for" => self.value(&self.hops),
            "x_forwarded_proto" => self.value(&self.proto),
            "x_forwarded_host" => self.value(&self.host),
            "x_forwarded_port" if self.port.is_empty() => "0",
            "x_forwarded_port" => self.value(&self.port),
            "x_forwarded_path" => self.value(&self.path),
            "x_forwarded_prefix" => self.value(&self.prefix),
            "via" => &self.via,
            "te" if self.trailers => "trailers",
            "upgrade" if self.upgrade => "websocket",
            "connection" if self.upgrade => "keep-alive, Upgrade",
            "connection" => "keep-alive",
            _ => "",
        }
    }
}

/// A client's address, as `$remote_addr` has it.
fn put_address(text: &mut Vec<u8>, ip: Option<IpAddr>) {
    match ip {
        Some(ip) => address::append(text, ip),
        None => text.extend_from_slice(b"unix:"),
    }
}

/// What this gateway calls itself in Via, by the version of HTTP that it was spoken to with.
pub(crate) fn own_via(version: HttpVersion) -> &'static str {
    static NAMES: LazyLock<[String; 3]> =
        LazyLock::new(|| ["1.0", "1.1", "2"].map(|version| format!("{version} {SERVER_TOKEN}")));
    let [http10, http11, http2] = &*NAMES;
    match version {
        HttpVersion::Http10 => http10,
        HttpVersion::Http11 => http11,
        HttpVersion::Http2 => http2,
    }
}

/// Sets where the request goes, from its route and service.
pub(crate) fn choose_upstream(exchange: &mut Exchange, entry: &RouteEntry, path: String) {
    let upstream = &mut exchange.upstream;
    upstream.path = path;
    if entry.route.preserve_host {
        upstream.host_header = exchange
            .request
            .headers
            .get(header::HOST)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default();
    }
    let Some(service) = &entry.service else { return };
    upstream.scheme = match service.protocol {
        Protocol::Https | Protocol::Wss | Protocol::Tls => "https",
        Protocol::Grpc => "grpc",
        Protocol::Grpcs => "grpcs",
        _ => "http",
    }
    .into();
    upstream.host.clone_from(&service.host);
    upstream.port = service.port;
    upstream.retries = service.retries;
    upstream.connect_timeout = service.connect_timeout;
    upstream.write_timeout = service.write_timeout;
    upstream.read_timeout = service.read_timeout;
    // What a plugin said before stands where the service says nothing.
    upstream.tls_verify = service.tls_verify.or(upstream.tls_verify);
    let depth = &mut exchange.wishes.upstream_tls_verify_depth;
    *depth = service.tls_verify_depth.or(*depth);
}

/// A length that a plugin set, shorter than the body: nginx sends no more than it says.
pub(crate) fn declared_length(exchange: &Exchange) -> Option<u64> {
    exchange.request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Path and query. A client's empty query stays (`/a?`).
fn target(exchange: &Exchange) -> Cow<'_, str> {
    let path = if exchange.upstream.path.is_empty() { "/" } else { &exchange.upstream.path };
    match &exchange.request.query {
        Some(query) => [path, "?", query].concat().into(),
        None => path.into(),
    }
}

/// The values of a header, as nginx's variable has them.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |list, value| list + ", " + &value))
}

/// Whether a client takes trailers.
pub(crate) fn asks_for_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .any(|value| list(value.as_bytes()).any(|item| item.eq_ignore_ascii_case(b"trailers")))
}

/// A target as it goes upstream: as nginx has it, but that what no URI may hold goes percent-encoded.
fn encoded(target: &str) -> Result<Cow<'_, str>, http::Error> {
    // What most targets are made of.
    let plain = |byte: u8| matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~');
    if target.bytes().all(plain) || target.parse::<http::Uri>().is_ok() && !target.contains('#') {
        return Ok(Cow::Borrowed(target));
    }
    let mut encoded = String::with_capacity(target.len() + 16);
    for c in target.chars() {
        match c {
            '<' | '>' | '`' | '"' | '{' | '}' | '|' | '\\' | '^' => encoded.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_ascii() => encoded.push(c),
            c => encoded.extend(percent_encoding::utf8_percent_encode(
                c.encode_utf8(&mut [0; 4]),
                percent_encoding::NON_ALPHANUMERIC,
            )),
        }
    }
    // A `#` goes as it is, as nginx sends it; a URI of this crate ends there.
    encoded.replace('#', "!").parse::<http::Uri>()?;
    Ok(Cow::Owned(encoded))
}

/// A line of the head that goes upstream.
enum Line<'a> {
    /// The gateway's own: its name as it is written.
    Own(&'static str, &'a [u8]),
    /// Several of the gateway's, as they are written.
    Lines(&'a [u8]),
    /// The client's.
    Passed(&'a HeaderName, &'a HeaderValue),
}

/// What goes upstream, to this host, in nginx's order: what the gateway sets first, then the client's own. Returns how the
/// body is framed.
fn for_each_line(
    flight: &Flight,
    forwarded: &Forwarded,
    host: &str,
    body: &UpstreamRequestBody,
    mut put: impl FnMut(Line<'_>),
) -> Framing {
    let exchange = &*flight.exchange;
    let incoming = &exchange.request.headers;
    let mut own = |name, value: &str| put(Line::Own(name, value.as_bytes()));
    if asks_for_trailers(incoming) {
        own("TE", "trailers");
    }
    own("Via", &forwarded.via);
    own("Host", host);
    if flight.is_upgrade() {
        own("Upgrade", "websocket");
        own("Connection", "keep-alive, Upgrade");
    } else {
        own("Connection", "keep-alive");
    }
    put(Line::Lines(forwarded.lines()));
    let mut own = |name, value: &str| put(Line::Own(name, value.as_bytes()));
    if flight.profile.settings.upstream_request_id {
        own("X-Kong-Request-Id", &exchange.id);
    }
    let known = known_length(exchange);
    if let Some(length) = known {
        own("Content-Length", &length.to_string());
    }
    let mut passed_length = None;
    let listed = listed_in_connection(incoming);
    let gives_id = flight.profile.settings.upstream_request_id;
    for (name, value) in incoming {
        if !is_end_to_end(name, &listed) || (gives_id && *name == X_KONG_REQUEST_ID) {
            continue;
        }
        if *name == header::CONTENT_LENGTH {
            let length = value.to_str().ok().and_then(|length| length.parse().ok());
            if known.is_some() || passed_length.is_some() || length.is_none() {
                continue;
            }
            passed_length = length;
        }
        put(Line::Passed(name, value));
    }
    if let Some(length) = known.or(passed_length) {
        return Framing::Length(length);
    }
    if matches!(body, UpstreamRequestBody::Client(..)) {
        put(Line::Own("Transfer-Encoding", b"chunked"));
        return Framing::Chunked;
    }
    Framing::Length(0)
}

/// The length of a body that was read, whatever the client said of it.
fn known_length(exchange: &Exchange) -> Option<u64> {
    let length = match &exchange.request.body {
        RequestBody::Memory(bytes) => bytes.len() as u64,
        RequestBody::File(_, length) => *length,
        RequestBody::None if exchange.request.headers.contains_key(header::CONTENT_LENGTH) => 0,
        _ => return None,
    };
    Some(length.min(declared_length(exchange).unwrap_or(length)))
}

/// Whether a header can have such a value.
fn is_value(value: &str) -> bool {
    value.bytes().all(|byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t')
}

/// What the client says that it concerns its connection only.
fn listed_in_connection(headers: &HeaderMap) -> Vec<&[u8]> {
    headers.get_all(header::CONNECTION).iter().flat_map(|value| list(value.as_bytes())).collect()
}

/// Whether a header of the client's is passed on: not what concerns one connection, and not what the gateway sets, or nobody
/// else may.
fn is_end_to_end(name: &HeaderName, listed: &[&[u8]]) -> bool {
    let name = name.as_str();
    let is_own = matches!(
        name,
        "connection"
            | "upgrade"
            | "te"
            | "keep-alive"
            | "proxy"
            | "proxy-connection"
            | "transfer-encoding"
            | "expect"
            | "host"
            | "via"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-path"
            | "x-forwarded-prefix"
            | "x-real-ip"
    );
    !is_own && !listed.iter().any(|listed| listed.eq_ignore_ascii_case(name.as_bytes()))
}

/// The head of a request over HTTP/1.1, and how its body is framed.
pub(crate) fn http1_head(
    flight: &Flight,
    forwarded: &Forwarded,
    host: &str,
    body: &UpstreamRequestBody,
) -> Result<(Vec<u8>, Encoder), http::Error> {
    if !is_value(host) {
        // A plugin's: nothing of it may become a line of its own.
        HeaderValue::from_str(host)?;
    }
    let exchange = &*flight.exchange;
    let target = target(exchange);
    let mut head = Vec::with_capacity(HEAD_SIZE);
    for part in [exchange.request.method.as_str(), " ", &*encoded(&target)?, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let mut passed = None;
    let framing = for_each_line(flight, forwarded, host, body, |line| match line {
        Line::Own(name, value) => {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        Line::Lines(lines) => head.extend_from_slice(lines),
        Line::Passed(name, value) => {
            passed.get_or_insert(head.len());
            lines::put(&mut head, name.as_str(), value.as_bytes());
        }
    });
    if let Some(begin) = passed {
        flight.spelling.restore(&mut head[begin..]);
    }
    head.extend_from_slice(b"\r\n");
    let encoder = match framing {
        Framing::Length(length) => Encoder::Length(length),
        // Trailers end here, as in nginx: no plugin has seen them, and an upstream may take them for headers.
        Framing::Chunked | Framing::UntilClose => Encoder::Chunked(Vec::new()),
    };
    Ok((head, encoder))
}

/// A request over HTTP/2, where the host is the authority, and connections have no headers.
pub(crate) fn http2_request(
    flight: &Flight,
    forwarded: &Forwarded,
    host: &str,
    secure: bool,
    body: UpstreamRequestBody,
) -> Result<http::Request<UpstreamRequestBody>, http::Error> {
    let mut headers = HeaderMap::with_capacity(flight.exchange.request.headers.len() + 8);
    let mut invalid = None;
    let mut put = |headers: &mut HeaderMap, name: &[u8], value: &[u8]| match (
        HeaderName::from_bytes(name),
        HeaderValue::from_bytes(value),
    ) {
        (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
        (Err(error), _) => invalid = Some(http::Error::from(error)),
        (_, Err(error)) => invalid = Some(error.into()),
    };
    for_each_line(flight, forwarded, host, &body, |line| match line {
        Line::Own("Host" | "Connection" | "Upgrade" | "Transfer-Encoding", _) => {}
        Line::Own(name, value) => put(&mut headers, name.as_bytes(), value),
        Line::Lines(lines) => {
            for line in lines.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")) {
                if let Some(colon) = memchr::memchr(b':', line) {
                    put(&mut headers, &line[..colon], line[colon + 1..].trim_ascii());
                }
            }
        }
        Line::Passed(name, value) => drop(headers.append(name, value.clone())),
    });
    if let Some(error) = invalid {
        return Err(error);
    }
    let target = target(&flight.exchange);
    // No fragment over HTTP/2.
    let target = encoded(target.split('#').next().unwrap_or_default())?;
    let uri = http::Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(host)
        .path_and_query(&*target)
        .build()?;
    let mut request = http::Request::new(body);
    *request.method_mut() = flight.exchange.request.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

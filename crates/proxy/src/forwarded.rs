//! What a request becomes on its way upstream: where it goes, and the headers that proxies add and take away
//! (Kong's `runloop/handler.lua`, RFC 9110 section 7.6).

use std::{borrow::Cow, net::IpAddr, sync::LazyLock};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use silverback_model::Protocol;
use silverback_pdk::{
    Exchange, address,
    exchange::{HttpVersion, RequestBody},
};

use crate::{
    SERVER_TOKEN,
    flight::Flight,
    generation::RouteEntry,
    header_case::{self, RequestLooks},
    request::list,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const X_KONG_REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What a client may not set itself.
const X_SET: [HeaderName; 7] = [
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PATH,
    X_FORWARDED_PREFIX,
    X_REAL_IP,
];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The head of one attempt at an upstream.
pub(crate) struct UpstreamHead {
    method: http::Method,
    target: String,
    headers: HeaderMap,
}

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
#[derive(Clone, Debug)]
pub(crate) struct Forwarded {
    pub(crate) proto: Cow<'static, str>,
    pub(crate) host: String,
    port: String,
    path: String,
    prefix: Option<String>,
    /// `X-Forwarded-For` and `Via`, with this hop added.
    hops: String,
    via: Cow<'static, str>,
}

impl Forwarded {
    /// `prefix` is the part of the path that the route takes away.
    pub(crate) fn of(exchange: &Exchange, prefix: Option<&str>) -> Self {
        let headers = &exchange.request.headers;
        // What only a trusted peer may say.
        let is_trusted = is_trusted(exchange);
        let trusted = |name| {
            let value = is_trusted.then(|| headers.get(name))??;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let own = own_via(exchange.request.version);
        Self {
            proto: trusted(&X_FORWARDED_PROTO).map_or(Cow::Borrowed(scheme(exchange)), Cow::Owned),
            host: trusted(&X_FORWARDED_HOST).unwrap_or_else(|| exchange.request.host.clone()),
            port: trusted(&X_FORWARDED_PORT).unwrap_or_else(|| port(exchange).to_string()),
            path: trusted(&X_FORWARDED_PATH)
                .unwrap_or_else(|| exchange.request.raw_uri.split('?').next().unwrap_or_default().to_owned()),
            prefix: trusted(&X_FORWARDED_PREFIX).or_else(|| prefix.map(str::to_owned)),
            hops: match joined(headers, &X_FORWARDED_FOR) {
                Some(list) => format!("{list}, {}", address_text(exchange.client.ip)),
                None => real_ip(exchange),
            },
            via: match joined(headers, &header::VIA) {
                Some(via) => Cow::Owned(format!("{via}, {own}")),
                None => Cow::Borrowed(own),
            },
        }
    }
}

impl Forwarded {
    /// The same as variables of nginx, without their `upstream_`.
    pub(crate) fn variables(&self, exchange: &Exchange, upgrade: bool) -> Vec<(&'static str, String)> {
        let te = if asks_for_trailers(&exchange.request.headers) { "trailers" } else { "" };
        vec![
            ("x_forwarded_for", self.hops.clone()),
            ("x_forwarded_proto", self.proto.clone().into_owned()),
            ("x_forwarded_host", self.host.clone()),
            ("x_forwarded_port", self.port.clone()),
            ("x_forwarded_path", self.path.clone()),
            ("x_forwarded_prefix", self.prefix.clone().unwrap_or_default()),
            ("via", self.via.clone().into_owned()),
            ("te", te.to_owned()),
            ("upgrade", if upgrade { "websocket" } else { "" }.to_owned()),
            ("connection", if upgrade { "keep-alive, Upgrade" } else { "keep-alive" }.to_owned()),
        ]
    }
}

/// `$remote_addr`.
fn real_ip(exchange: &Exchange) -> String {
    address_text(exchange.client.real_ip)
}

fn address_text(ip: Option<IpAddr>) -> String {
    ip.map_or_else(|| "unix:".to_owned(), address::text)
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
    .to_owned();
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
fn target(exchange: &Exchange) -> String {
    let path = if exchange.upstream.path.is_empty() { "/" } else { &exchange.upstream.path };
    match &exchange.request.query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// The lines that the gateway adds, but for those that belong to HTTP itself.
fn own_lines<'a>(
    flight: &'a Flight,
    forwarded: &'a Forwarded,
    real_ip: &'a str,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    // A Unix socket has none.
    let port = Some(forwarded.port.as_str()).filter(|port| *port != "0");
    // A part of a path: it may hold, percent-decoded, what a header cannot. All else came in headers, or in the target.
    let is_value = |value: &&str| value.bytes().all(|byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t');
    let prefix = forwarded.prefix.as_deref().filter(is_value);
    let id = flight.profile.settings.upstream_request_id.then_some(flight.exchange.id.as_str());
    let lines = [
        ("X-Forwarded-For", Some(forwarded.hops.as_str())),
        ("X-Forwarded-Proto", Some(&*forwarded.proto)),
        ("X-Forwarded-Host", Some(forwarded.host.as_str())),
        ("X-Forwarded-Port", port),
        ("X-Forwarded-Path", Some(forwarded.path.as_str())),
        ("X-Forwarded-Prefix", prefix),
        ("X-Real-IP", Some(real_ip)),
        ("X-Kong-Request-Id", id),
    ];
    lines.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

/// Copies the client's headers but those that concern one connection only, and those that are set already.
fn copy_end_to_end(incoming: &HeaderMap, headers: &mut HeaderMap, gives_id: bool) {
    let connection: Vec<&[u8]> =
        incoming.get_all(header::CONNECTION).iter().flat_map(|value| list(value.as_bytes())).collect();
    for name in incoming.keys() {
        let hop_by_hop = *name == header::CONNECTION
            || *name == header::UPGRADE
            || *name == header::TE
            || *name == KEEP_ALIVE
            || *name == PROXY
            || *name == PROXY_CONNECTION
            || *name == header::TRANSFER_ENCODING
            || *name == header::EXPECT
            // Set by the gateway, or not at all.
            || X_SET.contains(name)
            || (gives_id && *name == X_KONG_REQUEST_ID)
            || connection.iter().any(|listed| listed.eq_ignore_ascii_case(name.as_str().as_bytes()));
        if hop_by_hop {
            continue;
        }
        let Entry::Vacant(place) = headers.entry(name) else { continue };
        let mut values = incoming.get_all(name).iter().cloned();
        let Some(first) = values.next() else { continue };
        let mut place = place.insert_entry(first);
        for value in values {
            place.append(value);
        }
    }
}

/// The values of a header, as nginx's variable has them.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |list, value| list + ", " + &value))
}

fn asks_for_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .any(|value| list(value.as_bytes()).any(|item| item.eq_ignore_ascii_case(b"trailers")))
}

/// A target as hyper takes it, and where in it `#` belongs: hyper would end the target there, so that another character
/// holds the place. What else a URI may not hold goes percent-encoded.
fn uri(target: &str) -> Result<(http::Uri, Vec<usize>), http::Error> {
    if !target.contains('#')
        && let Ok(uri) = target.parse::<http::Uri>()
    {
        return Ok((uri, Vec::new()));
    }
    let mut hashes = Vec::new();
    let mut encoded = String::with_capacity(target.len() + 16);
    for c in target.chars() {
        match c {
            // It goes as it is, as nginx sends it.
            '#' => {
                hashes.push(encoded.len());
                encoded.push(header_case::PLACE_OF_HASH);
            }
            '<' | '>' | '`' | '"' | '{' | '}' | '|' | '\\' | '^' => encoded.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_ascii() => encoded.push(c),
            c => encoded.extend(percent_encoding::utf8_percent_encode(
                c.encode_utf8(&mut [0; 4]),
                percent_encoding::NON_ALPHANUMERIC,
            )),
        }
    }
    Ok((encoded.parse()?, hashes))
}

impl UpstreamHead {
    /// What goes upstream, to this host, in nginx's order: what the gateway sets first, then the client's own.
    pub(crate) fn of(flight: &Flight, forwarded: &Forwarded, host: &str) -> Result<Self, http::Error> {
        let exchange = &*flight.exchange;
        let incoming = &exchange.request.headers;
        let mut headers = HeaderMap::with_capacity(incoming.len() + 8);
        if asks_for_trailers(incoming) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        match &forwarded.via {
            Cow::Borrowed(via) => drop(headers.insert(header::VIA, HeaderValue::from_static(via))),
            Cow::Owned(via) => drop(headers.insert(header::VIA, HeaderValue::from_str(via)?)),
        }
        headers.insert(header::HOST, HeaderValue::from_str(host)?);
        if flight.is_upgrade() {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        let gives_id = flight.profile.settings.upstream_request_id;
        // A body that was read has a length, whatever the client said of it.
        let known_length = match &exchange.request.body {
            RequestBody::Memory(bytes) => Some(bytes.len() as u64),
            RequestBody::File(_, length) => Some(*length),
            RequestBody::None if incoming.contains_key(header::CONTENT_LENGTH) => Some(0),
            _ => None,
        };
        if let Some(length) = known_length {
            headers.insert(
                header::CONTENT_LENGTH,
                HeaderValue::from(length.min(declared_length(exchange).unwrap_or(length))),
            );
        }
        copy_end_to_end(incoming, &mut headers, gives_id);
        if flight.incoming.is_some() && !headers.contains_key(header::CONTENT_LENGTH) {
            // hyper takes a GET for one without a body.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok(Self { method: exchange.request.method.clone(), target: target(exchange), headers })
    }

    /// The request over HTTP/1.1, and what hyper is not told of it. The gateway's own lines are a part of that: as text
    /// they cost a tenth of what they cost as headers.
    pub(crate) fn into_http1<B>(
        self,
        flight: &Flight,
        forwarded: &Forwarded,
        body: B,
    ) -> Result<(http::Request<B>, RequestLooks), http::Error> {
        let (uri, hashes) = uri(&self.target)?;
        let real_ip = real_ip(&flight.exchange);
        let mut lines = Vec::with_capacity(512);
        for (name, value) in own_lines(flight, forwarded, &real_ip) {
            for part in [name, ": ", value, "\r\n"] {
                lines.extend_from_slice(part.as_bytes());
            }
        }
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers;
        Ok((request, RequestLooks { hashes, lines, spelling: flight.spelling.clone() }))
    }

    /// The request over HTTP/2, where the host is the authority, and connections have no headers.
    pub(crate) fn into_http2<B>(
        mut self,
        flight: &Flight,
        forwarded: &Forwarded,
        secure: bool,
        body: B,
    ) -> Result<http::Request<B>, http::Error> {
        let host = self.headers.remove(header::HOST);
        // No fragment over HTTP/2.
        let (target, _) = uri(self.target.split('#').next().unwrap_or_default())?;
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = http::Uri::builder()
            .scheme(if secure { "https" } else { "http" })
            .authority(host.as_ref().map_or(&b""[..], HeaderValue::as_bytes))
            .path_and_query(target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
            .build()?;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        *headers = self.headers;
        for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        for (name, value) in own_lines(flight, forwarded, &real_ip(&flight.exchange)) {
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        Ok(request)
    }
}

//! What goes back to the client: the head as Kong makes it (`runloop.header_filter`), and the body.

use std::{sync::LazyLock, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{self, Entry},
};
use hyper::ext::ReasonPhrase;
use silverback_model::Phase;
use silverback_pdk::{
    error_page,
    exchange::{Exit, ExitBody, HttpVersion, ServiceResponse, Source},
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    SERVER_TOKEN,
    body::ClientBody,
    flight::{Finish, Flight},
    forwarded::{X_KONG_REQUEST_ID, asks_for_trailers, own_via},
    http1::{lines, spelling::Spelling},
    request::list,
    request_debug,
    tunnel::{self, Traffic},
    upstream::{
        answer::{UpstreamResponseBody, Upstreamed},
        hash_input::HashCookie,
    },
};

const X_KONG_PROXY_LATENCY: HeaderName = HeaderName::from_static("x-kong-proxy-latency");
const X_KONG_UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-kong-upstream-latency");
const X_KONG_RESPONSE_LATENCY: HeaderName = HeaderName::from_static("x-kong-response-latency");
const X_KONG_UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-kong-upstream-status");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Takes over an upstream's head: the headers that plugins set before stand beside its own, but for those of which
/// there can be one only.
pub(crate) fn take_upstream_head(flight: &mut Flight, status: StatusCode, mut headers: HeaderMap) {
    let said = Said::by(&headers);
    remove_hop_by_hop(&mut headers, &said, flight);
    flight.encoded = said.content_encoding && headers.contains_key(header::CONTENT_ENCODING);
    let response = &mut flight.exchange.response;
    response.status = Some(status.as_u16());
    response.source = Some(Source::Service);
    if response.headers.is_empty() {
        response.headers = headers;
        return;
    }
    if response.headers.contains_key(header::CONTENT_LENGTH) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in [header::CONTENT_TYPE, header::LOCATION, header::LAST_MODIFIED] {
        if headers.contains_key(&name) {
            response.headers.remove(&name);
        }
    }
    response.headers.reserve(headers.len() + ADDED);
    let mut repeated = None;
    for (name, value) in headers {
        // Further values of a header come without its name.
        repeated = name.or(repeated);
        if let Some(name) = &repeated {
            response.headers.append(name, value);
        }
    }
}

/// How many headers the gateway adds to an answer, about.
pub(crate) const ADDED: usize = 6;

/// Which of the headers that the gateway has something to do with an answer has. To look at all names once takes less than
/// to look up two of them.
#[derive(Default)]
struct Said {
    connection: bool,
    keep_alive: bool,
    transfer_encoding: bool,
    upgrade: bool,
    trailer: bool,
    content_encoding: bool,
    server: bool,
    via: bool,
}

impl Said {
    fn by(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for name in headers.keys() {
            said.connection |= *name == header::CONNECTION;
            said.keep_alive |= *name == KEEP_ALIVE;
            said.transfer_encoding |= *name == header::TRANSFER_ENCODING;
            said.upgrade |= *name == header::UPGRADE;
            said.trailer |= *name == header::TRAILER;
            said.content_encoding |= *name == header::CONTENT_ENCODING;
            said.server |= *name == header::SERVER;
            said.via |= *name == header::VIA;
        }
        said
    }
}

/// Takes away what concerned the connection to the upstream only.
fn remove_hop_by_hop(headers: &mut HeaderMap, said: &Said, flight: &Flight) {
    if said.connection
        && let Entry::Occupied(connection) = headers.entry(header::CONNECTION)
    {
        let listed: Vec<HeaderName> = connection
            .iter()
            .flat_map(|value| list(value.as_bytes()))
            .filter(|item| !item.eq_ignore_ascii_case(b"keep-alive") && !item.eq_ignore_ascii_case(b"connection"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        connection.remove();
        for name in &listed {
            headers.remove(name);
        }
    }
    if said.keep_alive {
        headers.remove(KEEP_ALIVE);
    }
    if said.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if said.upgrade && !flight.is_upgrade() {
        headers.remove(header::UPGRADE);
    }
    if said.trailer && !asks_for_trailers(&flight.exchange.request.headers) {
        headers.remove(header::TRAILER);
    }
}

/// The answer that an upstream gave, passed on as it comes.
pub(crate) fn from_upstream(mut flight: Box<Flight>, upstreamed: Upstreamed) -> Response<ClientBody> {
    let Upstreamed { status, reason, headers, spelling, body } = upstreamed;
    if flight.keeps_upstream_head() {
        flight.exchange.service_response =
            Some(ServiceResponse { status: status.as_u16(), headers: headers.clone(), body: None });
    }
    let declared = content_length(&flight.exchange.response.headers);
    take_upstream_head(&mut flight, status, headers);
    let mut answer = finish_head(&mut flight, status.as_u16());
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        answer.extensions_mut().insert(reason);
    }
    if has_no_body(status.as_u16()) && flight.connection.http2 {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if spelling != Spelling::default() {
        // Names are written as the upstream wrote them.
        answer.extensions_mut().insert(spelling);
    }
    let paced = flight.exchange.matched.as_ref().is_some_and(|matched| !matched.route.response_buffering);
    answer.map(|()| ClientBody::upstream(body, declared, paced, Finish::new(flight)))
}

/// The switch to the protocol that client and upstream agreed on.
pub(crate) fn switching(mut flight: Box<Flight>, upstreamed: Upstreamed) -> Response<ClientBody> {
    let Upstreamed { status, headers, body, .. } = upstreamed;
    take_upstream_head(&mut flight, status, headers);
    let mut answer = finish_head(&mut flight, status.as_u16());
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.map(|()| ClientBody::switching(Tunnel(body), Finish::new(flight)))
}

/// The upstream's side of a connection whose protocol is switched.
pub(crate) struct Tunnel(UpstreamResponseBody);

impl Tunnel {
    /// Passes bytes on both ways, until one of them ends.
    pub(crate) async fn run<C>(self, client: C, mut finish: Finish)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some((upstream, silence)) = self.0.into_tunnel() {
            let traffic = Traffic::new();
            let ended = tunnel::run(client, upstream, silence, &traffic).await;
            finish.sent(usize::try_from(traffic.down()).unwrap_or(usize::MAX));
            if let Err(why) = ended {
                return finish.tunnel_broke(&why);
            }
        }
        finish.complete();
    }
}

/// The gateway's own answer: an exit, an error page, or a buffered answer after its response phase.
pub(crate) fn from_gateway(mut flight: Box<Flight>) -> Response<ClientBody> {
    let exit = flight.exchange.exit.as_ref().map(|exit| (exit.status, exit.body == ExitBody::None));
    let buffered = exit.is_none();
    let (status, mut body) = gateway_content(&mut flight);
    let mut head = finish_head(&mut flight, status);
    let headers = head.headers_mut();
    if !flight.exchange.wishes.omit_date {
        headers.entry(header::DATE).or_insert_with(date);
    }
    let declared = content_length(headers);
    let is_head = flight.exchange.request.method == Method::HEAD;
    let bodiless = has_no_body(status) || status < 200;
    let chunked = buffered && (declared.is_none() || flight.trailers.is_some()) && !is_head;
    if chunked {
        headers.remove(header::CONTENT_LENGTH);
    }
    if bodiless {
        let length = headers.remove(header::CONTENT_LENGTH);
        // nginx's page for 204, unlike the one for 304, has not even a length.
        let length = match exit {
            None => length,
            Some((204, true)) => None,
            Some(_) => length.or_else(|| Some(HeaderValue::from(body.len()))),
        };
        // Over HTTP/2 there is none.
        if let Some(length) = length.filter(|_| !flight.connection.http2) {
            headers.insert(header::CONTENT_LENGTH, length);
        }
    } else if !(chunked || (buffered && is_head)) {
        // A plugin that declares less than there is gets no more than that sent.
        if let Some(declared) = declared.and_then(|length| usize::try_from(length).ok()).filter(|_| !is_head) {
            body.truncate(declared);
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let trailers = flight.trailers.take().filter(|_| buffered);
    let finish = Finish::new(flight);
    head.map(|()| {
        if bodiless || is_head {
            ClientBody::empty(finish)
        } else if chunked {
            ClientBody::chunked(body, trailers, finish)
        } else {
            ClientBody::whole(body, finish)
        }
    })
}

/// Whether answers of this status end with their head.
const fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

/// What the headers say of the body's length.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Status and body of what the gateway answers itself; the headers are in the exchange then.
fn gateway_content(flight: &mut Flight) -> (u16, Bytes) {
    let Some(Exit { status, body, headers }) = flight.exchange.exit.take() else {
        let body = flight.exchange.response.body.take().unwrap_or_default();
        let response = &mut flight.exchange.response;
        response.headers.remove(header::TRANSFER_ENCODING);
        // Without an exit there is an upstream's answer, and it has a status.
        return (response.status.unwrap_or(500), body);
    };
    let response = &mut flight.exchange.response.headers;
    response.remove(header::TRANSFER_ENCODING);
    // What was said of another body.
    response.remove(header::CONTENT_LENGTH);
    for name in headers.keys() {
        response.remove(name);
    }
    for (name, value) in &headers {
        response.append(name.clone(), value.clone());
    }
    match body {
        ExitBody::Bytes(bytes) => (status, bytes),
        ExitBody::Page(message) => page(flight, status, Some(&message)),
        ExitBody::None if error_page::has_page(status) => page(flight, status, None),
        ExitBody::None => match builtin_page(status).filter(|_| flight.exchange.phase != Phase::Response) {
            Some(page) => {
                let headers = &mut flight.exchange.response.headers;
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
                (status, Bytes::from(page))
            }
            None => {
                if status == 304 {
                    // nginx's page for it: nothing, of no type.
                    flight.exchange.response.headers.remove(header::CONTENT_TYPE);
                }
                (status, Bytes::new())
            }
        },
    }
}

/// The gateway's error page, as nginx's `error_page` makes it.
fn page(flight: &mut Flight, status: u16, message: Option<&str>) -> (u16, Bytes) {
    flight.closes |= matches!(status, 400 | 413 | 414 | 494 | 500 | 501);
    flight.exchange.response.headers.remove(header::CONTENT_LENGTH);
    let exit =
        crate::error::proxy_exit(&flight.exchange, &flight.profile.settings.errors.default_type, status, message);
    for (name, value) in &exit.headers {
        flight.exchange.response.headers.insert(name.clone(), value.clone());
    }
    let body = match exit.body {
        ExitBody::Bytes(bytes) => bytes,
        ExitBody::Page(_) | ExitBody::None => Bytes::new(),
    };
    (exit.status, body)
}

/// nginx's own page for a redirect.
fn builtin_page(status: u16) -> Option<String> {
    let title = match status {
        301 => "301 Moved Permanently",
        302 => "302 Found",
        303 => "303 See Other",
        307 => "307 Temporary Redirect",
        308 => "308 Permanent Redirect",
        _ => return None,
    };
    Some(format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    ))
}

/// Sets a cookie; one of the same name that the upstream sets gives way (Kong's `balancer.set_cookie`).
fn set_hash_cookie(headers: &mut HeaderMap, cookie: &HashCookie) {
    let Some(ours) = cookie.header() else { return };
    let others: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    headers.remove(header::SET_COOKIE);
    let kept = others.into_iter().filter(|other| !cookie.is_set_by(other));
    for value in kept.chain([ours]) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Adds what the gateway adds to every answer, and moves the headers out of the exchange (a copy stays for those
/// that log).
fn finish_head(flight: &mut Flight, status: u16) -> Response<()> {
    let begun = flight.clock();
    let (proxied, encoded) = (flight.proxied, flight.encoded);
    if proxied && let Some(cookie) = flight.hash_cookie.take() {
        set_hash_cookie(&mut flight.exchange.response.headers, &cookie);
    }
    let added = flight.profile.settings.headers;
    let exchange = &mut *flight.exchange;
    exchange.response.status = Some(status);
    let now = || exchange.node.surroundings.now();
    let timings = &exchange.timings;
    let headers = &mut exchange.response.headers;
    let said = Said::by(headers);
    let milliseconds = |from: f64, to: f64| number(((to - from) * 1000.0).max(0.0).round() as u64);
    if proxied {
        let balanced = timings.balancer_start.unwrap_or_else(now);
        if added.upstream_status {
            let status = exchange.service_response.as_ref().map_or(status, |service| service.status);
            headers.insert(X_KONG_UPSTREAM_STATUS, number(status.into()));
        }
        if added.upstream_latency {
            let latency = milliseconds(balanced, timings.upstream_header.unwrap_or_else(now));
            headers.insert(X_KONG_UPSTREAM_LATENCY, latency);
        }
        if added.proxy_latency {
            headers.insert(X_KONG_PROXY_LATENCY, milliseconds(exchange.started, balanced));
        }
        if added.via {
            let grpc = exchange.upstream.scheme.starts_with("grpc");
            let own = own_via(if grpc { HttpVersion::Http2 } else { HttpVersion::Http11 });
            let via = match said.via.then(|| headers.get(header::VIA)?.to_str().ok()).flatten() {
                Some(via) => HeaderValue::from_str(&format!("{via}, {own}")).ok(),
                None => Some(HeaderValue::from_static(own)),
            };
            if let Some(via) = via {
                headers.insert(header::VIA, via);
            }
        }
        if added.server && !said.server {
            headers.insert(header::SERVER, HeaderValue::from_static(SERVER_TOKEN));
        }
    } else {
        if added.response_latency {
            headers.insert(X_KONG_RESPONSE_LATENCY, milliseconds(exchange.started, now()));
        }
        if added.server {
            headers.insert(header::SERVER, HeaderValue::from_static(SERVER_TOKEN));
        } else {
            headers.remove(header::SERVER);
        }
    }
    if added.request_id
        && let Ok(id) = HeaderValue::from_str(&exchange.id)
    {
        headers.insert(X_KONG_REQUEST_ID, id);
    }
    if !encoded {
        add_charset(headers, status);
    }
    if status == 204 {
        headers.remove(header::CONTENT_TYPE);
    }
    if begun.is_some() {
        flight.timed(&["header_filter"], begun);
        if let Some(output) = flight.debug.as_mut().and_then(|debug| debug.header(&flight.exchange)) {
            flight.exchange.response.headers.insert(request_debug::OUTPUT, output);
        }
    }
    let exchange = &mut *flight.exchange;
    let headers = &mut exchange.response.headers;
    exchange.response.sent = true;
    let (mut length, mut names_connection) = (0, false);
    for (name, value) in headers.iter() {
        length += name.as_str().len() + value.len() + 4;
        names_connection |= *name == header::CONNECTION;
    }
    exchange.response.bytes_sent = length as u64 + 19;
    let keeps_head = flight.keeps_head();
    let response = &mut flight.exchange.response;
    let headers = if keeps_head { response.headers.clone() } else { std::mem::take(&mut response.headers) };
    let closes = flight.closes || flight.worker.is_draining();
    if keeps_head && !names_connection {
        // What those that log see in nginx, whose request is done with its connection by then.
        response.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *answer.headers_mut() = headers;
    flight.connection.closing.set(closes);
    if closes && !flight.connection.http2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if names_connection && !flight.connection.http2 {
        put_own_connection_first(answer.headers_mut(), "keep-alive");
    }
    flight.exchange.phase = if proxied { Phase::Response } else { flight.exchange.phase };
    answer
}

/// What plugins say in Connection stands beside what the gateway says, as in nginx.
fn put_own_connection_first(headers: &mut HeaderMap, own: &'static str) {
    let said: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    if said.is_empty() {
        return;
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static(own));
    for value in said {
        headers.append(header::CONNECTION, value);
    }
}

/// Takes back the Connection that plugins were shown; what they made of it stays.
pub(crate) fn take_back_connection(headers: &mut HeaderMap, shown: &HeaderValue) {
    let mut said = headers.get_all(header::CONNECTION).iter().cloned().collect::<Vec<_>>().into_iter().peekable();
    said.next_if_eq(shown);
    headers.remove(header::CONNECTION);
    for value in said {
        headers.append(header::CONNECTION, value);
    }
}

/// A number as text: those that most latencies are take no allocation.
fn number(number: u64) -> HeaderValue {
    static SMALL: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| (0..1000).map(|number: u32| &*number.to_string().leak()).collect());
    let small = usize::try_from(number).ok().and_then(|number| SMALL.get(number));
    small.map_or_else(|| HeaderValue::from(number), |text| HeaderValue::from_static(text))
}

/// The media types whose text is said to be UTF-8 where nobody says otherwise, and what they are then: Kong's
/// `nginx_http_charset` with nginx's `charset_types`.
const CHARSET_TYPES: [(&str, &str); 6] = [
    ("text/html", "text/html; charset=UTF-8"),
    ("text/xml", "text/xml; charset=UTF-8"),
    ("text/plain", "text/plain; charset=UTF-8"),
    ("text/vnd.wap.wml", "text/vnd.wap.wml; charset=UTF-8"),
    ("application/javascript", "application/javascript; charset=UTF-8"),
    ("application/rss+xml", "application/rss+xml; charset=UTF-8"),
];

fn add_charset(headers: &mut HeaderMap, status: u16) {
    // nginx spares redirects, for the sake of a browser of the nineties.
    if matches!(status, 301 | 302) {
        return;
    }
    let Entry::Occupied(mut entry) = headers.entry(header::CONTENT_TYPE) else { return };
    let content_type = entry.get().as_bytes();
    let mut known = CHARSET_TYPES.iter().filter(|(known, _)| known.as_bytes().eq_ignore_ascii_case(content_type));
    let Some((known, with_charset)) = known.next() else { return };
    let value = if known.as_bytes() == content_type {
        HeaderValue::from_static(with_charset)
    } else {
        // It keeps its letters.
        let Ok(value) = HeaderValue::from_bytes(&[content_type, b"; charset=UTF-8"].concat()) else { return };
        value
    };
    entry.insert(value);
}

/// The time of an answer that the gateway makes.
fn date() -> HeaderValue {
    let text = httpdate::fmt_http_date(SystemTime::now());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A whole answer as bytes, for a request that was not one. It is over with it.
pub(crate) fn to_bytes(mut flight: Box<Flight>) -> Vec<u8> {
    let (status, body) = gateway_content(&mut flight);
    let head = finish_head(&mut flight, status);
    let reason = head.status().canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    let mut headers = head.into_parts().0.headers;
    headers.insert(header::DATE, date());
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    lines::put_all(&mut bytes, &headers);
    bytes.extend_from_slice(b"\r\n");
    let mut finish = Finish::new(flight);
    if !finish.is_bodiless() {
        bytes.extend_from_slice(&body);
        finish.sent(body.len());
    }
    finish.complete();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_says_what_the_gateway_says_and_what_plugins_say() {
        let keep_alive = HeaderValue::from_static("keep-alive");
        for (said, expect) in [
            (&["keep-alive"][..], &[][..]),
            (&[], &[]),
            (&["close"], &["keep-alive", "close"]),
            (&["keep-alive", "x"], &["keep-alive", "x"]),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(header::CONNECTION, HeaderValue::from_static(value));
            }
            take_back_connection(&mut headers, &keep_alive);
            put_own_connection_first(&mut headers, "keep-alive");
            assert!(headers.get_all(header::CONNECTION).iter().eq(expect), "{said:?}");
        }
    }
}

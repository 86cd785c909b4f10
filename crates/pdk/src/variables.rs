//! nginx's variables, as plugins (`kong.nginx.get_var`) and access-log formats read them.

mod common;
mod time;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::HeaderMap;

use crate::{
    Exchange,
    exchange::{ClientCertificate, Hello, HttpVersion, RequestBody, Subsystem, Transport, Try},
    headers,
};

pub use common::{Appended, Common};

/// `$server_name`, and `$host` of a request without one.
pub(crate) const SERVER_NAME: &str = "kong";

/// The value of a variable; `None` for one that there is not, or that has no value. The name is in any case.
pub fn variable<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return in_lower_case(exchange, &name.to_ascii_lowercase());
    }
    in_lower_case(exchange, name)
}

fn in_lower_case<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    by_prefix(exchange, name).unwrap_or_else(|| {
        connection(exchange, name)
            .or_else(|| tls(exchange, name))
            .or_else(|| node(exchange, name))
            .or_else(|| upstream(exchange, name))
            .or_else(|| match exchange.subsystem {
                Subsystem::Http => request(exchange, name).or_else(|| response(exchange, name)),
                Subsystem::Stream => stream(exchange, name),
            })
    })
}

fn text<'a>(text: impl Into<String>) -> Option<Cow<'a, [u8]>> {
    Some(Cow::Owned(text.into().into_bytes()))
}

const fn borrowed(text: &str) -> Option<Cow<'_, [u8]>> {
    Some(Cow::Borrowed(text.as_bytes()))
}

/// Families of variables: `http_NAME` and the like. The outer option tells whether the name is of a family.
fn by_prefix<'a>(exchange: &'a Exchange, name: &str) -> Option<Option<Cow<'a, [u8]>>> {
    if exchange.subsystem == Subsystem::Stream {
        return None;
    }
    let from = |headers: &HeaderMap, name: &str| headers::joined(headers, name).map(|value| Cow::Owned(value.to_vec()));
    if name == "http2" || name == "http3" {
        return None;
    }
    if let Some(header) = name.strip_prefix("http_") {
        Some(from(&exchange.request.headers, header))
    } else if let Some(header) = name.strip_prefix("sent_http_") {
        Some(from(&exchange.response.headers, header))
    } else if let Some(header) = name.strip_prefix("upstream_http_") {
        Some(exchange.service_response.as_ref().and_then(|response| from(&response.headers, header)))
    } else if let Some(argument) = name.strip_prefix("arg_") {
        Some(exchange.request.query.as_deref().and_then(|query| raw_argument(query, argument)))
    } else if let Some(cookie) = name.strip_prefix("cookie_") {
        Some(self::cookie(&exchange.request.headers, "cookie", cookie))
    } else {
        let cookie = name.strip_prefix("upstream_cookie_")?;
        let response = exchange.service_response.as_ref();
        Some(response.and_then(|response| self::cookie(&response.headers, "set-cookie", cookie)))
    }
}

/// The first argument of this name (in any case), not decoded.
fn raw_argument<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.eq_ignore_ascii_case(name).then_some(Cow::Borrowed(value.as_bytes()))
    })
}

fn cookie<'a>(headers: &'a HeaderMap, header: &str, name: &str) -> Option<Cow<'a, [u8]>> {
    headers.get_all(header).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii_start();
        let at = pair.iter().position(|&byte| byte == b'=')?;
        let (key, value) = pair.split_at(at);
        key.eq_ignore_ascii_case(name.as_bytes()).then(|| Cow::Borrowed(value.get(1..).unwrap_or_default()))
    })
}

fn address<'a>(ip: Option<IpAddr>) -> Option<Cow<'a, [u8]>> {
    match ip {
        Some(ip) => text(crate::address::text(ip)),
        None => borrowed("unix:"),
    }
}

fn connection<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let client = &exchange.client;
    match name {
        "remote_addr" => address(client.real_ip.or(client.ip)),
        "remote_port" => match (client.real_ip, client.real_port) {
            (Some(_), port) => text(port.map(|port| port.to_string()).unwrap_or_default()),
            (None, port) => text(port.unwrap_or(client.port).to_string()),
        },
        "realip_remote_addr" => address(client.ip),
        "realip_remote_port" => text(client.port.to_string()),
        "binary_remote_addr" => Some(Cow::Owned(match client.real_ip.or(client.ip) {
            Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
            None => b"unix:".to_vec(),
        })),
        "proxy_protocol_addr" => text(client.proxied?.source.ip().to_string()),
        "proxy_protocol_port" => text(client.proxied?.source.port().to_string()),
        "proxy_protocol_server_addr" => text(client.proxied?.destination.ip().to_string()),
        "proxy_protocol_server_port" => text(client.proxied?.destination.port().to_string()),
        "server_addr" => address(client.local_ip),
        "server_port" => text(client.local_port.to_string()),
        "connection" => text(client.connection.to_string()),
        "connection_requests" => text(client.connection_requests.to_string()),
        "connection_time" | "session_time" => text(format!("{:.3}", elapsed(exchange))),
        _ => None,
    }
}

fn tls<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    if name.starts_with("ssl_preread_") {
        return preread(exchange.stream.hello.as_ref()?, name);
    }
    let tls = exchange.client.tls.as_ref();
    match name {
        "https" => tls.and_then(|_| borrowed("on")).or(borrowed("")),
        "ssl_protocol" => borrowed(tls?.version),
        "ssl_cipher" => borrowed(&tls?.cipher),
        "ssl_curve" => borrowed(tls?.curve?),
        "ssl_alpn_protocol" => borrowed(tls?.alpn.as_deref()?),
        "ssl_server_name" => borrowed(tls?.sni.as_deref()?),
        "ssl_session_reused" => borrowed(if tls?.resumed { "r" } else { "." }),
        "ssl_client_verify" => borrowed(&tls?.client_verify),
        _ => client_certificate(exchange, tls?.client_certificate.as_ref()?, name),
    }
}

fn client_certificate<'a>(
    exchange: &Exchange,
    certificate: &'a ClientCertificate,
    name: &str,
) -> Option<Cow<'a, [u8]>> {
    match name {
        "ssl_client_raw_cert" => borrowed(certificate.pem.trim_end()),
        // Fit for a header line of old: each line but the first begins with a tab.
        "ssl_client_cert" => text(certificate.pem.trim_end().replace('\n', "\n\t")),
        "ssl_client_escaped_cert" => text(escaped(&certificate.pem)),
        "ssl_client_s_dn" => borrowed(&certificate.subject),
        "ssl_client_s_dn_legacy" => borrowed(&certificate.subject_legacy),
        "ssl_client_i_dn" => borrowed(&certificate.issuer),
        "ssl_client_i_dn_legacy" => borrowed(&certificate.issuer_legacy),
        "ssl_client_serial" => borrowed(&certificate.serial),
        "ssl_client_fingerprint" => borrowed(&certificate.fingerprint),
        "ssl_client_v_start" => borrowed(&certificate.valid_from),
        "ssl_client_v_end" => borrowed(&certificate.valid_to),
        "ssl_client_v_remain" => {
            let left = certificate.expires as f64 - exchange.node.surroundings.now();
            text(format!("{:.0}", (left / 86_400.0).floor().max(0.0)))
        }
        _ => None,
    }
}

/// Percent-encoded as nginx does it for a URI component.
fn escaped(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn preread<'a>(hello: &'a Hello, name: &str) -> Option<Cow<'a, [u8]>> {
    match name {
        "ssl_preread_server_name" => borrowed(hello.server_name.as_deref()?),
        "ssl_preread_protocol" => borrowed(hello.protocol?),
        "ssl_preread_alpn_protocols" => text(hello.alpn.join(",")),
        _ => None,
    }
}

/// What only streams have.
fn stream<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let session = &exchange.stream;
    let last = exchange.upstream.tries.last();
    // Of several attempts, all but the last one came to nothing.
    let of_last = |count: u64| {
        let tries = &exchange.upstream.tries;
        let counts = tries.iter().enumerate().map(|(at, _)| if at + 1 == tries.len() { count } else { 0 }.to_string());
        last.and_then(|_| text(counts.collect::<Vec<_>>().join(", ")))
    };
    match name {
        "protocol" => borrowed(match session.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }),
        "status" => text(format!("{:03}", exchange.response.status.unwrap_or(0))),
        "bytes_sent" => text(exchange.response.bytes_sent.to_string()),
        "bytes_received" => text(exchange.request.length.to_string()),
        "upstream_bytes_sent" => of_last(session.upstream_sent),
        "upstream_bytes_received" => of_last(session.upstream_received),
        "upstream_first_byte_time" => last_try_time(exchange, exchange.timings.upstream_header),
        _ => None,
    }
}

fn node<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let now = || exchange.node.surroundings.now();
    match name {
        "hostname" => borrowed(&exchange.node.hostname),
        "pid" => text(std::process::id().to_string()),
        "nginx_version" => borrowed("1.25.3"),
        "msec" => text(format!("{:.3}", now())),
        "time_iso8601" => text(time::iso8601(now())),
        "time_local" => text(time::local(now())),
        "pipe" => borrowed("."),
        "dollar" => borrowed("$"),
        _ => None,
    }
}

/// Seconds since the request began.
fn elapsed(exchange: &Exchange) -> f64 {
    let end = exchange.timings.response_end.unwrap_or_else(|| exchange.node.surroundings.now());
    (end - exchange.started).max(0.0)
}

fn upstream<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let choice = &exchange.upstream;
    match name {
        "upstream_scheme" => borrowed(&choice.scheme),
        "upstream_host" => borrowed(&choice.host_header),
        "upstream_uri" => borrowed(&choice.path),
        "upstream_addr" => tries(exchange, |attempt| SocketAddr::new(attempt.ip, attempt.port).to_string()),
        "upstream_status" => upstream_status(exchange),
        "upstream_connect_time" => {
            tries(exchange, |a| a.connect_ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.3}", ms / 1000.0)))
        }
        "upstream_header_time" => last_try_time(exchange, exchange.timings.upstream_header),
        "upstream_response_time" | "upstream_session_time" => last_try_time(exchange, exchange.timings.upstream_end),
        "upstream_response_length" => {
            exchange.service_response.as_ref()?;
            text(exchange.response.body_bytes.to_string())
        }
        "upstream_x_forwarded_for"
        | "upstream_x_forwarded_proto"
        | "upstream_x_forwarded_host"
        | "upstream_x_forwarded_port"
        | "upstream_x_forwarded_path"
        | "upstream_x_forwarded_prefix"
        | "upstream_via"
        | "upstream_te"
        | "upstream_upgrade"
        | "upstream_connection"
            if exchange.subsystem == Subsystem::Http =>
        {
            let name = name.strip_prefix("upstream_").unwrap_or_default();
            // Empty until the request is routed.
            borrowed(choice.hop_headers.as_ref().map_or("", |sent| sent.variable(name)))
        }
        "kong_proxy_mode" => borrowed(match () {
            () if choice.scheme.starts_with("grpc") => "grpc",
            () if !exchange.matched.as_ref().is_none_or(|matched| matched.route.request_buffering) => "unbuffered",
            () => "http",
        }),
        _ => None,
    }
}

fn forwarded_for<'a>(exchange: &Exchange) -> Option<Cow<'a, [u8]>> {
    let mut chain =
        headers::joined(&exchange.request.headers, "x_forwarded_for").map(|v| v.to_vec()).unwrap_or_default();
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(&address(exchange.client.ip).unwrap_or_default());
    Some(Cow::Owned(chain))
}

fn tries<'a>(exchange: &Exchange, show: impl Fn(&Try) -> String) -> Option<Cow<'a, [u8]>> {
    if exchange.upstream.tries.is_empty() {
        return None;
    }
    text(exchange.upstream.tries.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn upstream_status<'a>(exchange: &Exchange) -> Option<Cow<'a, [u8]>> {
    let status = exchange.service_response.as_ref().map(|response| response.status);
    let answer = status.or(exchange.response.status).unwrap_or(502);
    tries(exchange, |attempt| attempt.failure.unwrap_or(answer).to_string())
        .or_else(|| status.and_then(|status| text(status.to_string())))
}

fn last_try_time<'a>(exchange: &Exchange, end: Option<f64>) -> Option<Cow<'a, [u8]>> {
    let last = exchange.upstream.tries.len().checked_sub(1)?;
    let times: Vec<_> = exchange
        .upstream
        .tries
        .iter()
        .enumerate()
        .map(|(i, attempt)| match end {
            Some(end) if i == last => format!("{:.3}", (end - attempt.started).max(0.0)),
            _ => "-".to_owned(),
        })
        .collect();
    text(times.join(", "))
}

/// `$scheme`.
pub(crate) const fn scheme(exchange: &Exchange) -> &'static str {
    if exchange.client.tls.is_some() { "https" } else { "http" }
}

/// `$server_protocol`.
const fn protocol(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http10 => "HTTP/1.0",
        HttpVersion::Http11 => "HTTP/1.1",
        HttpVersion::Http2 => "HTTP/2.0",
    }
}

fn request<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let request = &exchange.request;
    match name {
        "request" => {
            if let Some(line) = &request.line {
                return Some(Cow::Borrowed(line));
            }
            let method = exchange.wishes.original_method.as_ref().unwrap_or(&request.method);
            let (method, version) = (method.as_str(), protocol(request.version));
            text([method, &request.raw_uri, version].join(" "))
        }
        "request_method" => borrowed(request.method.as_str()),
        "request_uri" => borrowed(&request.raw_uri),
        "uri" | "document_uri" => borrowed(&request.path),
        "args" | "query_string" => borrowed(request.query.as_deref()?),
        "is_args" => borrowed(if request.query.as_deref().unwrap_or_default().is_empty() { "" } else { "?" }),
        "host" => borrowed(&request.host),
        "scheme" => borrowed(scheme(exchange)),
        "server_protocol" => borrowed(protocol(request.version)),
        "server_name" => borrowed(SERVER_NAME),
        "http2" => borrowed(match (request.version, exchange.client.tls.is_some()) {
            (HttpVersion::Http2, true) => "h2",
            (HttpVersion::Http2, false) => "h2c",
            _ => "",
        }),
        "http3" => borrowed(""),
        "content_type" => Some(Cow::Owned(headers::joined(&request.headers, "content_type")?.to_vec())),
        "content_length" => Some(Cow::Owned(headers::joined(&request.headers, "content_length")?.to_vec())),
        "request_length" => text(request.length.to_string()),
        "request_time" => text(format!("{:.3}", elapsed(exchange))),
        "request_id" | "kong_request_id" => borrowed(&exchange.id),
        "request_completion" => borrowed(if exchange.timings.response_end.is_some() { "OK" } else { "" }),
        "request_body" => match &request.body {
            RequestBody::Memory(body) if !body.is_empty() => Some(Cow::Borrowed(body.as_ref())),
            _ => None,
        },
        "request_body_file" => match &request.body {
            RequestBody::File(path, _) => text(path.to_string_lossy()),
            _ => None,
        },
        "remote_user" => basic_auth_user(&request.headers),
        "limit_rate" => borrowed("0"),
        "document_root" | "realpath_root" => borrowed("html"),
        "request_filename" => text(format!("html{}", request.path)),
        "proxy_host" => borrowed("kong_upstream"),
        "proxy_port" => borrowed("80"),
        "proxy_add_x_forwarded_for" => forwarded_for(exchange),
        _ => None,
    }
}

fn response<'a>(exchange: &'a Exchange, name: &str) -> Option<Cow<'a, [u8]>> {
    let response = &exchange.response;
    match name {
        "status" => text(match response.status {
            Some(status @ 100..) => status.to_string(),
            status => format!("{:03}", status.unwrap_or(0)),
        }),
        "body_bytes_sent" => text(response.body_bytes.to_string()),
        "bytes_sent" => text(response.bytes_sent.max(response.body_bytes).to_string()),
        _ => None,
    }
}

/// The user name of `Authorization: Basic`.
fn basic_auth_user<'a>(headers: &HeaderMap) -> Option<Cow<'a, [u8]>> {
    let value = headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = base64(credentials.trim_ascii())?;
    let user = decoded.split(|&byte| byte == b':').next()?;
    (!user.is_empty() && decoded.contains(&b':')).then(|| Cow::Owned(user.to_vec()))
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &byte in text.iter().take_while(|&&byte| byte != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).unwrap_or_default());
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;

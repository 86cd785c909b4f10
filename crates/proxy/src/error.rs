//! The answers to errors of the gateway's own: which page, in which format (Kong's `error_handlers.lua` and
//! `kong.response.error`).

use http::{HeaderMap, HeaderValue, header};
use silverback_pdk::{
    Exchange,
    error_page::{self, PageFormat},
    exchange::{Exit, ExitBody},
};

/// An error of the router or of a plugin: its page takes its format from Accept only.
pub(crate) fn error_exit(exchange: &Exchange, status: u16, message: &str) -> Exit {
    let accept = exchange.request.headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    exit(exchange, error_page::format_for(accept), status, message)
}

/// An error of the proxy or the upstream: its page takes its format from Accept, then the request's Content-Type,
/// then `error_default_type`. `status` may be one of nginx's inner ones (494).
pub(crate) fn proxy_exit(exchange: &Exchange, default_type: &str, status: u16, message: Option<&str>) -> Exit {
    let value = |name| exchange.request.headers.get(name).map(HeaderValue::as_bytes);
    let format = error_page::format_of_proxy_error(value(header::ACCEPT), value(header::CONTENT_TYPE), default_type);
    let said = error_page::message_for(status);
    exit(exchange, format, if status == 494 { 400 } else { status }, message.unwrap_or(&said))
}

fn exit(exchange: &Exchange, format: PageFormat, status: u16, message: &str) -> Exit {
    let (content_type, body) = error_page::render(format, status, message, &exchange.id, &exchange.node.templates);
    let mut headers = HeaderMap::new();
    if format == PageFormat::Grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Ok(message) = HeaderValue::from_str(message) {
            headers.insert("grpc-message", message);
        }
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Exit { status, body: ExitBody::Bytes(body), headers }
}

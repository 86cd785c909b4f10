//! The answers to errors of the gateway's own: which page, in which format (Kong's `error_handlers.lua` and
//! `kong.response.error`). A gRPC client gets no page but a status in headers, and beside it the status of HTTP.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use silverback_pdk::{
    Exchange,
    error_page::{self, PageFormat},
    exchange::{Exit, ExitBody, HttpVersion},
};

const GRPC: &str = "application/grpc";

/// An error of the router or of a plugin: its page takes its format from Accept only.
pub(crate) fn error_exit(exchange: &Exchange, status: u16, message: &str) -> Exit {
    if is_grpc_request(exchange) {
        // Kong drops the message here, and tells what the status is called.
        let mut exit = grpc_exit(status, error_page::grpc_message(error_page::grpc_status(status)));
        exit.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
        return exit;
    }
    let accept = exchange.request.headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    exit(exchange, error_page::format_for(accept), status, message)
}

/// An error of the proxy or the upstream: its page takes its format from Accept, then the request's Content-Type,
/// then `error_default_type`. `status` may be one of nginx's inner ones (494).
pub(crate) fn proxy_exit(exchange: &Exchange, default_type: &str, status: u16, message: Option<&str>) -> Exit {
    let value = |name| exchange.request.headers.get(name).map(HeaderValue::as_bytes);
    let format = error_page::format_of_proxy_error(value(header::ACCEPT), value(header::CONTENT_TYPE), default_type);
    let said = error_page::message_for(status);
    let (status, message) = (if status == 494 { 400 } else { status }, message.unwrap_or(&said));
    match format {
        PageFormat::Grpc if is_grpc_request(exchange) => grpc_exit(status, message),
        // Asked for by a client that speaks no gRPC.
        PageFormat::Grpc => json_exit(status, message),
        format => exit(exchange, format, status, message),
    }
}

/// Kong's `is_grpc_request`.
fn is_grpc_request(exchange: &Exchange) -> bool {
    let content_type = exchange.request.headers.get(header::CONTENT_TYPE);
    exchange.request.version == HttpVersion::Http2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()))
}

fn grpc_exit(status: u16, message: &str) -> Exit {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(u16::from(error_page::grpc_status(status))));
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert("grpc-message", message);
    }
    Exit { status, body: ExitBody::Bytes(Bytes::new()), headers }
}

fn json_exit(status: u16, message: &str) -> Exit {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PageFormat::Json.content_type()));
    let body = serde_json::json!({ "message": message }).to_string();
    Exit { status, body: ExitBody::Bytes(Bytes::from(body)), headers }
}

fn exit(exchange: &Exchange, format: PageFormat, status: u16, message: &str) -> Exit {
    let (content_type, body) = error_page::render(format, status, message, &exchange.id, &exchange.node.templates);
    let mut headers = HeaderMap::new();
    if format != PageFormat::Grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Exit { status, body: ExitBody::Bytes(body), headers }
}

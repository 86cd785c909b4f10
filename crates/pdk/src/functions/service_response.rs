//! `kong.service.response`: what the upstream answered.

use bytes::Bytes;
use http::HeaderMap;
use silverback_protocol::Value;

use super::{argument, raising, string};
use crate::{
    Caller, Exchange, Outcome,
    body::{self, Format},
    function::{Function, KongPhases, PhaseRule},
    headers, lua,
};

const HEADER_BODY_LOG: PhaseRule =
    PhaseRule::Only(KongPhases::RESPONSE.or(KongPhases::HEADER_FILTER).or(KongPhases::BODY_FILTER).or(KongPhases::LOG));

const NOT_BUFFERED: &str =
    "service body is only available with buffered proxying (see: kong.service.request.enable_buffering function)";

/// How many arguments of a form are read where the plugin gives no limit.
const DEFAULT_POST_ARGS: usize = 100;

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.service.response.get_status",
        run: status,
        phases: HEADER_BODY_LOG,
        args: "",
        result: "number or nil",
        about: "The upstream's status.",
        since: "0.1",
    },
    Function {
        name: "kong.service.response.get_headers",
        run: all_headers,
        phases: HEADER_BODY_LOG,
        args: "max_headers: number?",
        result: "table",
        about: "The upstream's headers by their names in lower case; a repeated one is a list.",
        since: "0.1",
    },
    Function {
        name: "kong.service.response.get_header",
        run: header,
        phases: HEADER_BODY_LOG,
        args: "name: string",
        result: "string or nil",
        about: "The first of the upstream's headers of this name, in any case.",
        since: "0.1",
    },
    Function {
        name: "kong.service.response.get_raw_body",
        run: raw_body,
        phases: HEADER_BODY_LOG,
        args: "",
        result: "string",
        about: "The upstream's body, if the answer is buffered.",
        since: "0.1",
    },
    Function {
        name: "kong.service.response.get_body",
        run: parsed_body,
        phases: HEADER_BODY_LOG,
        args: "mimetype: string?, max_args: number?",
        result: "table, or nil and an error",
        about: "The upstream's body taken apart, if the answer is buffered.",
        since: "0.1",
    },
];

fn status(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.service_response.as_ref().map(|response| i64::from(response.status)))
}

fn upstream_headers(exchange: &Exchange) -> Option<&HeaderMap> {
    exchange.service_response.as_ref().map(|response| &response.headers)
}

fn all_headers(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(body::limit(argument(args, 0), "max_headers").map(|max| {
        let max = max.unwrap_or(exchange.node.limits.resp_headers);
        let headers = upstream_headers(exchange);
        Outcome::value(headers.map_or_else(|| Value::Map(Vec::new()), |headers| headers::multimap(headers, max)))
    }))
}

fn first_header(exchange: &Exchange, name: &[u8]) -> Option<Bytes> {
    let max = exchange.node.limits.resp_headers;
    let found = headers::first(upstream_headers(exchange)?, name, max)?;
    Some(Bytes::copy_from_slice(found.as_bytes()))
}

fn header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "name must be a string").map(|name| {
        let value = first_header(exchange, name);
        // Of a buffered answer, Kong knows the length as a number.
        let buffered = exchange.service_response.as_ref().is_some_and(|response| response.body.is_some());
        if buffered && name.eq_ignore_ascii_case(b"content-length") {
            return Outcome::value(value.as_deref().and_then(lua::parse_number).map(lua::from_number));
        }
        Outcome::value(value.map(Value::Text))
    }))
}

/// The whole body of a buffered answer.
fn buffered(exchange: &Exchange) -> Result<Bytes, String> {
    let body = exchange.service_response.as_ref().and_then(|response| response.body.clone());
    if body.is_none() && !exchange.wishes.buffer_response {
        return Err(NOT_BUFFERED.to_owned());
    }
    Ok(body.unwrap_or_default())
}

fn raw_body(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    raising(buffered(exchange).map(|body| Outcome::value(Value::Binary(body))))
}

fn parsed_body(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let body = buffered(exchange)?;
        let mime = argument(args, 0);
        let content_type = match mime {
            mime if !lua::truthy(mime) => first_header(exchange, b"Content-Type"),
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                return Err(format!("bad argument #1 to 'lower' (string expected, got {})", lua::type_name(mime)));
            }
            mime => Some(lua::to_text(mime)),
        };
        let Some(content_type) = content_type else { return Ok(Outcome::failed("missing content type")) };
        let Some(format) = Format::of(&content_type) else {
            let shown = String::from_utf8_lossy(&content_type);
            return Ok(Outcome::failed(format!("unsupported content type '{shown}'")));
        };
        let mut max_args = DEFAULT_POST_ARGS;
        if format == Format::Form {
            max_args = body::max_args(argument(args, 1))?.unwrap_or(max_args);
        }
        Ok(format.parse(&body, &content_type, max_args))
    })())
}

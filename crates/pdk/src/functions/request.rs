//! `kong.request`: the request as it came in, with what plugins changed since.

use bytes::Bytes;
use http::HeaderMap;
use silverback_model::Phase;
use silverback_protocol::{Return, Value};

use super::{argument, raising, string};
use crate::{
    Caller, Exchange, Outcome,
    body::{self, Format},
    exchange::{HttpVersion, RequestBody},
    function::{Function, KongPhases, PhaseRule},
    headers, lua, query, uri, variables,
};

const REQUEST: PhaseRule = PhaseRule::Only(KongPhases::REQUEST);

const BEFORE_CONTENT: PhaseRule = PhaseRule::Only(
    KongPhases::REWRITE.or(KongPhases::ACCESS).or(KongPhases::RESPONSE).or(KongPhases::ERROR).or(KongPhases::ADMIN_API),
);

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.request.get_scheme",
        run: scheme,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "`http` or `https`: what the connection is.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_host",
        run: host,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The host that the client asked for, in lower case, without port.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_port",
        run: port,
        phases: PhaseRule::AfterHandshake,
        args: "",
        result: "number",
        about: "The port that was connected to.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_forwarded_scheme",
        run: forwarded_scheme,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The scheme from `X-Forwarded-Proto` of a trusted client, else the connection's.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_forwarded_host",
        run: forwarded_host,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The host from `X-Forwarded-Host` of a trusted client, else the request's.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_forwarded_port",
        run: forwarded_port,
        phases: REQUEST,
        args: "",
        result: "number",
        about: "The port from `X-Forwarded-Port` or `X-Forwarded-Host` of a trusted client, else the mapped one.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_forwarded_path",
        run: forwarded_path,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The path from `X-Forwarded-Path` of a trusted client, else the request's.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_forwarded_prefix",
        run: forwarded_prefix,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The prefix from `X-Forwarded-Prefix` of a trusted client, else what the route stripped.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_http_version",
        run: http_version,
        phases: REQUEST,
        args: "",
        result: "number",
        about: "1, 1.1 or 2.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_method",
        run: method,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The method.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_path",
        run: path,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The path, normalised, without the query.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_raw_path",
        run: raw_path,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The path as it was sent, without the query.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_path_with_query",
        run: path_with_query,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "Path and query as they were sent.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_raw_query",
        run: raw_query,
        phases: REQUEST,
        args: "",
        result: "string",
        about: "The query as it now is, not decoded.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_query_arg",
        run: query_arg,
        phases: REQUEST,
        args: "name: string",
        result: "string, true or nil",
        about: "The first argument of this name; true for one without a value.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_query",
        run: query_args,
        phases: REQUEST,
        args: "max_args: number?",
        result: "table",
        about: "All arguments; a repeated one is a list.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_header",
        run: header,
        phases: REQUEST,
        args: "name: string",
        result: "string or nil",
        about: "The first header of this name, in any case.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_headers",
        run: all_headers,
        phases: REQUEST,
        args: "max_headers: number?",
        result: "table",
        about: "All headers by their names in lower case; a repeated one is a list.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_raw_body",
        run: raw_body,
        phases: BEFORE_CONTENT,
        args: "max_allowed_file_size: number?",
        result: "string, or nil and an error",
        about: "The body, whatever its size; a Go plugin gets the path of the file that a large one was written to.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_body",
        run: parsed_body,
        phases: BEFORE_CONTENT,
        args: "mimetype: string?, max_args: number?, max_allowed_file_size: number?",
        result: "table, or nil and an error",
        about: "The body of a form, a JSON document or a multipart form, taken apart.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_start_time",
        run: start_time,
        phases: REQUEST,
        args: "",
        result: "number",
        about: "When the request began, in milliseconds since 1970.",
        since: "0.1",
    },
    Function {
        name: "kong.request.get_uri_captures",
        run: uri_captures,
        phases: REQUEST,
        args: "",
        result: "table",
        about: "What the groups of the route's path matched: `unnamed` and `named`.",
        since: "0.1",
    },
];

fn scheme(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(variables::scheme(exchange))
}

fn host(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.request.host.as_str())
}

fn port(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(i64::from(exchange.client.local_port))
}

/// A header that a trusted client may set.
fn trusted_header(exchange: &Exchange, name: &str) -> Option<Bytes> {
    exchange.client_is_trusted().then(|| first_header(exchange, name.as_bytes())).flatten()
}

/// The first value of a header, as `kong.request.get_header` finds it: by nginx's variable, which has no limit, unless
/// its value looks like several.
pub(super) fn first_header(exchange: &Exchange, name: &[u8]) -> Option<Bytes> {
    let headers = &exchange.request.headers;
    let joined = headers::joined_by_name(headers, name)?;
    if !joined.windows(2).any(|pair| pair == b", ") {
        return Some(joined);
    }
    let first = headers::first(headers, name, exchange.node.limits.req_headers)?;
    Some(Bytes::copy_from_slice(first.as_bytes()))
}

fn text(bytes: Bytes) -> Outcome {
    Outcome::value(Value::Text(bytes))
}

fn forwarded_scheme(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    match trusted_header(exchange, "X-Forwarded-Proto") {
        Some(scheme) => text(scheme.to_ascii_lowercase().into()),
        None => Outcome::value(variables::scheme(exchange)),
    }
}

/// The host and port of `X-Forwarded-Host`, without a user name.
fn split_forwarded_host(header: &[u8]) -> (&[u8], Option<&[u8]>) {
    let host = match header.iter().position(|&byte| byte == b'@') {
        Some(at) => header.get(at + 1..).unwrap_or_default(),
        None => header,
    };
    match host.iter().position(|&byte| byte == b':') {
        Some(at) => (&host[..at], host.get(at + 1..)),
        None => (host, None),
    }
}

fn forwarded_host(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    match trusted_header(exchange, "X-Forwarded-Host") {
        Some(header) => text(split_forwarded_host(&header).0.to_ascii_lowercase().into()),
        None => host(exchange, caller, args),
    }
}

fn forwarded_port(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    let valid = |text: &[u8]| lua::parse_number(text).filter(|port| (1.0..=65535.0).contains(port));
    let from_port = trusted_header(exchange, "X-Forwarded-Port").and_then(|header| valid(&header));
    let port = from_port.or_else(|| {
        let header = trusted_header(exchange, "X-Forwarded-Host")?;
        split_forwarded_host(&header).1.and_then(valid)
    });
    Outcome::value(port.map_or_else(|| Value::Int(exchange.mapped_port().into()), lua::from_number))
}

fn forwarded_path(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    match trusted_header(exchange, "X-Forwarded-Path") {
        Some(path) => text(path),
        None => path(exchange, caller, args),
    }
}

fn forwarded_prefix(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    match trusted_header(exchange, "X-Forwarded-Prefix") {
        Some(prefix) => text(prefix),
        None => {
            Outcome::value(exchange.matched.as_ref().and_then(|matched| matched.prefix.as_deref()).unwrap_or_default())
        }
    }
}

fn http_version(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(match exchange.request.version {
        HttpVersion::Http10 => Value::Int(1),
        HttpVersion::Http11 => Value::Float(1.1),
        HttpVersion::Http2 => Value::Int(2),
    })
}

fn method(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.request.method.as_str())
}

/// The path as it was sent. A question mark in first place belongs to it.
fn sent_path(exchange: &Exchange) -> &str {
    let uri = exchange.request.raw_uri.as_str();
    match uri.bytes().skip(1).position(|byte| byte == b'?') {
        Some(at) => uri.get(..=at).unwrap_or(uri),
        None => uri,
    }
}

fn path(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    text(uri::normalise(sent_path(exchange).as_bytes()).into())
}

fn raw_path(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(sent_path(exchange))
}

fn path_with_query(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.request.raw_uri.as_str())
}

fn raw_query(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.request.query.as_deref().unwrap_or_default())
}

/// The query as a table; at most `max` arguments, or `lua_max_uri_args`.
pub(crate) fn query_table(exchange: &Exchange, max: Option<usize>) -> Value {
    let query = exchange.request.query.as_deref().unwrap_or_default();
    query::decode(query.as_bytes(), max.unwrap_or(exchange.node.limits.uri_args))
}

fn query_arg(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let name = string(args, 0, "query argument name must be a string")?;
        let Value::Map(table) = query_table(exchange, None) else { return Ok(Outcome::nothing()) };
        let found = table.into_iter().find(|(known, _)| known.as_bytes() == name.as_ref()).map(|(_, value)| value);
        Ok(Outcome::value(match found {
            Some(Value::List(values)) => values.into_iter().next().unwrap_or_default(),
            other => other.unwrap_or_default(),
        }))
    })())
}

fn query_args(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(body::limit(argument(args, 0), "max_args").map(|max| Outcome::value(query_table(exchange, max))))
}

fn header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    if exchange.phase == Phase::Log {
        return saved_header(&exchange.request.headers, args, exchange.node.limits.req_headers);
    }
    raising(string(args, 0, "header name must be a string").map(|name| match first_header(exchange, name) {
        Some(value) => text(value),
        None => Outcome::nothing(),
    }))
}

/// In log, a header is looked up in the table of the saved ones, also by a number.
pub(super) fn saved_header(headers: &HeaderMap, args: &[Value], limit: usize) -> Outcome {
    let name = argument(args, 0);
    if !matches!(name, Value::Text(_) | Value::Binary(_) | Value::Int(_) | Value::Float(_)) {
        return Outcome::raise(format!("bad argument #1 to 'lower' (string expected, got {})", lua::type_name(name)));
    }
    let found = headers::first(headers, &lua::to_text(name), limit);
    Outcome::value(found.map(|value| Value::Text(Bytes::copy_from_slice(value.as_bytes()))))
}

/// The `max_headers` that a plugin gave. In log there are the saved headers, all of them, whatever it asks for.
///
/// # Errors
/// Kong's text for one that is no number from 1 to 1000.
pub(super) fn max_headers(exchange: &Exchange, args: &[Value]) -> Result<Option<usize>, String> {
    if exchange.phase == Phase::Log { Ok(None) } else { body::limit(argument(args, 0), "max_headers") }
}

fn all_headers(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(max_headers(exchange, args).map(|max| {
        let max = max.unwrap_or(exchange.node.limits.req_headers);
        Outcome::value(headers::multimap(&exchange.request.headers, max))
    }))
}

/// Kong's refusal of a spooled body that is larger than the plugin wants.
fn too_large(exchange: &Exchange, max: &Value) -> Option<Outcome> {
    let max = lua::number(max).filter(|max| *max > 0.0)?;
    let RequestBody::File(_, size) = exchange.request.body else { return None };
    #[expect(clippy::cast_precision_loss, reason = "sizes of files that fit on a disk")]
    let over = size as f64 > max;
    over.then(|| Outcome::failed(format!("request body file too big: {size} > {}", lua::format_number(max, 14))))
}

fn raw_body(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    let delivered = raw_body_or_error(exchange, caller, args);
    match delivered {
        // As in Kong, a MessagePack plugin cannot be told why there is no body: its event ends.
        Outcome::Done(Return { value: Value::Nil, error: Some(error) }) if !caller.takes_body_files => {
            Outcome::Raise(error)
        }
        other => other,
    }
}

fn raw_body_or_error(exchange: &Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    if let Some(refusal) = too_large(exchange, argument(args, 0)) {
        return refusal;
    }
    if let (RequestBody::File(path, _), true) = (&exchange.request.body, caller.takes_body_files) {
        let path = Value::text(path.to_string_lossy());
        return Outcome::value(Value::Map(vec![("body_filepath".to_owned(), path)]));
    }
    match body::request(exchange) {
        Ok(bytes) => Outcome::value(Value::Binary(bytes)),
        Err(outcome) => outcome,
    }
}

fn parsed_body(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let mime = argument(args, 0);
    let content_type = if lua::truthy(mime) {
        match mime {
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                return Outcome::raise(format!(
                    "bad argument #1 to 'lower' (string expected, got {})",
                    lua::type_name(mime)
                ));
            }
            mime => lua::to_text(mime),
        }
    } else {
        match first_header(exchange, b"Content-Type") {
            Some(header) => header,
            None => return Outcome::failed("missing content type"),
        }
    };
    let Some(format) = Format::of(&content_type) else {
        return Outcome::failed(format!("unsupported content type '{}'", String::from_utf8_lossy(&content_type)));
    };
    let mut max_args = exchange.node.limits.post_args;
    if format == Format::Form {
        match body::max_args(argument(args, 1)) {
            Ok(max) => max_args = max.unwrap_or(max_args),
            Err(error) => return Outcome::Raise(error),
        }
    } else if let Some(refusal) = too_large(exchange, argument(args, 2)) {
        return refusal;
    }
    match body::request(exchange) {
        Ok(bytes) => format.parse(&bytes, &content_type, max_args),
        Err(outcome) => outcome,
    }
}

fn start_time(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(lua::from_number((exchange.started * 1000.0).floor()))
}

fn uri_captures(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    let (unnamed, named) = match &exchange.matched {
        Some(matched) => (
            matched.captures.iter().map(|text| Value::text(text.clone())).collect(),
            matched.named_captures.iter().map(|(name, text)| (name.clone(), Value::text(text.clone()))).collect(),
        ),
        None => (Vec::new(), Vec::new()),
    };
    Outcome::value(Value::Map(vec![
        ("unnamed".to_owned(), Value::List(unnamed)),
        ("named".to_owned(), Value::Map(named)),
    ]))
}

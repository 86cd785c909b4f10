//! `kong.response`: the answer to the client.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use silverback_model::Phase;
use silverback_protocol::Value;

use super::{
    argument, raising,
    request::{max_headers, saved_header},
    string,
};
use crate::{
    Caller, Exchange, Outcome, error_page,
    error_page::PageFormat,
    exchange::{Exit, ExitBody, HttpVersion, LogLevel, Source, Subsystem},
    function::{Function, KongPhases, PhaseRule},
    headers::{self, Change, Side},
    json::{self, EmptyList},
    lua,
};

const HEADER_BODY_LOG: PhaseRule = PhaseRule::Only(
    KongPhases::RESPONSE
        .or(KongPhases::HEADER_FILTER)
        .or(KongPhases::BODY_FILTER)
        .or(KongPhases::LOG)
        .or(KongPhases::ERROR)
        .or(KongPhases::ADMIN_API),
);

const REWRITE_TO_HEADER: PhaseRule = PhaseRule::Only(
    KongPhases::REWRITE
        .or(KongPhases::ACCESS)
        .or(KongPhases::RESPONSE)
        .or(KongPhases::BALANCER)
        .or(KongPhases::HEADER_FILTER)
        .or(KongPhases::ERROR)
        .or(KongPhases::ADMIN_API),
);

/// `exit` works in streams too, where it looks at no phase.
const BODY_FILTER: PhaseRule = PhaseRule::Only(KongPhases::BODY_FILTER);

const TRANSFER_ENCODING_IGNORED: &str = "manually setting Transfer-Encoding. Ignored.";
const ALREADY_SENT: &str = "headers have already been sent";

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.response.get_status",
        run: status,
        phases: HEADER_BODY_LOG,
        args: "",
        result: "number",
        about: "The status that goes to the client.",
        since: "0.1",
    },
    Function {
        name: "kong.response.get_header",
        run: header,
        phases: HEADER_BODY_LOG,
        args: "name: string",
        result: "string or nil",
        about: "The first header of this name, in any case.",
        since: "0.1",
    },
    Function {
        name: "kong.response.get_headers",
        run: all_headers,
        phases: HEADER_BODY_LOG,
        args: "max_headers: number?",
        result: "table",
        about: "All headers by their names in lower case; a repeated one is a list.",
        since: "0.1",
    },
    Function {
        name: "kong.response.get_source",
        run: source,
        phases: HEADER_BODY_LOG,
        args: "",
        result: "string",
        about: "`service`, `exit` or `error`: where the answer came from.",
        since: "0.1",
    },
    Function {
        name: "kong.response.set_status",
        run: set_status,
        phases: REWRITE_TO_HEADER,
        args: "status: number",
        result: "nothing",
        about: "Sets the status that goes to the client.",
        since: "0.1",
    },
    Function {
        name: "kong.response.set_header",
        run: set_header,
        phases: REWRITE_TO_HEADER,
        args: "name: string, value: string, number, boolean or list of strings",
        result: "nothing",
        about: "Sets a header, in place of all of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.response.add_header",
        run: add_header,
        phases: REWRITE_TO_HEADER,
        args: "name: string, value: string, number, boolean or list of strings",
        result: "nothing",
        about: "Adds a header beside those of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.response.clear_header",
        run: clear_header,
        phases: REWRITE_TO_HEADER,
        args: "name: string",
        result: "nothing",
        about: "Removes all headers of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.response.set_headers",
        run: set_headers,
        phases: REWRITE_TO_HEADER,
        args: "headers: table",
        result: "nothing",
        about: "Sets several headers.",
        since: "0.1",
    },
    Function {
        name: "kong.response.get_raw_body",
        run: unreachable_body,
        phases: BODY_FILTER,
        args: "",
        result: "string",
        about: "Belongs to a phase that external plugins do not have; `kong.service.response.get_raw_body` is theirs.",
        since: "0.1",
    },
    Function {
        name: "kong.response.set_raw_body",
        run: unreachable_body,
        phases: BODY_FILTER,
        args: "body: string",
        result: "nothing",
        about: "Belongs to a phase that external plugins do not have; `kong.response.exit` is theirs.",
        since: "0.1",
    },
    Function {
        name: "kong.response.exit",
        run: exit,
        phases: PhaseRule::Any,
        args: "status: number, body: string or table?, headers: table?",
        result: "nothing: it ends the phase",
        about: "Answers the client. Rewrite, access and response; in preread it ends the connection.",
        since: "0.1",
    },
    Function {
        name: "kong.response.error",
        run: error,
        phases: REWRITE_TO_HEADER,
        args: "status: number, message: string or table?, headers: table?",
        result: "nothing: it ends the phase",
        about: "Answers the client with an error page in the format that it accepts.",
        since: "0.1",
    },
];

fn unreachable_body(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::nothing()
}

fn status(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(i64::from(exchange.response.status.unwrap_or(0)))
}

fn header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    if exchange.phase == Phase::Log {
        return saved_header(&exchange.response.headers, args, exchange.node.limits.resp_headers);
    }
    raising(string(args, 0, "header name must be a string").map(|name| {
        let found = headers::first(&exchange.response.headers, name, exchange.node.limits.resp_headers);
        Outcome::value(found.map(|value| Value::Text(Bytes::copy_from_slice(value.as_bytes()))))
    }))
}

fn all_headers(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(max_headers(exchange, args).map(|max| {
        let max = max.unwrap_or(exchange.node.limits.resp_headers);
        Outcome::value(headers::multimap(&exchange.response.headers, max))
    }))
}

fn source(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(source_name(exchange))
}

/// Where the answer came from, as Kong names it.
pub(crate) const fn source_name(exchange: &Exchange) -> &'static str {
    match exchange.response.source {
        Some(Source::Service) => "service",
        Some(Source::Exit) => "exit",
        Some(Source::Error) | None => "error",
    }
}

const fn not_sent(exchange: &Exchange) -> Result<(), &'static str> {
    if exchange.response.sent { Err(ALREADY_SENT) } else { Ok(()) }
}

/// The status argument of `set_status`, `exit` and `error`; a fraction is cut off.
fn status_argument(args: &[Value], lowest: u16) -> Result<u16, String> {
    let Some(code) = lua::number(argument(args, 0)) else { return Err("code must be a number".to_owned()) };
    if !(f64::from(lowest)..=599.0).contains(&code) {
        return Err(format!("code must be a number between {lowest} and 599"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 100 and 599")]
    Ok(code as u16)
}

fn set_status(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        exchange.response.status = Some(status_argument(args, 100)?);
        Ok(Outcome::nothing())
    })())
}

/// The name of a header of an answer: ngx_lua writes `-` for `_`.
fn answer_name(raw: &[u8]) -> Option<HeaderName> {
    if !raw.contains(&b'_') {
        return headers::name(raw);
    }
    let dashed: Vec<u8> = raw.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
    headers::name(&dashed)
}

/// Sets one header of an answer, Transfer-Encoding excepted.
fn put(
    exchange: &mut Exchange,
    caller: &Caller,
    name: &[u8],
    value: &Value,
    target: Option<&mut HeaderMap>,
) -> Result<(), String> {
    answer_name(name).map_or(Ok(()), |name| put_named(exchange, caller, &name, value, target))
}

fn put_named(
    exchange: &mut Exchange,
    caller: &Caller,
    name: &HeaderName,
    value: &Value,
    target: Option<&mut HeaderMap>,
) -> Result<(), String> {
    if *name == header::TRANSFER_ENCODING {
        warn(exchange, caller, TRANSFER_ENCODING_IGNORED);
        return Ok(());
    }
    headers::set(target.unwrap_or(&mut exchange.response.headers), name, headers::values(value), Side::Answer)
}

fn warn(exchange: &Exchange, caller: &Caller, message: &str) {
    exchange.node.surroundings.log(LogLevel::Warn, &caller.plugin_name, message, exchange);
}

fn set_header(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        let (name, value) = (argument(args, 0), argument(args, 1));
        headers::check(name, value)?;
        let named = named(name, value);
        headers::room(&exchange.response.headers, named.clone(), Change::Set)?;
        if let Some((name, value)) = named {
            put_named(exchange, caller, &name, value, None)?;
        }
        Ok(Outcome::nothing())
    })())
}

fn add_header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        let (name, value) = (argument(args, 0), argument(args, 1));
        headers::check(name, value)?;
        headers::room(&exchange.response.headers, named(name, value), Change::Add)?;
        let name = answer_name(name.as_bytes().map(AsRef::as_ref).unwrap_or_default());
        if let Some(name) = name.filter(|name| *name != header::TRANSFER_ENCODING) {
            headers::add(&mut exchange.response.headers, &name, headers::values(value), Side::Answer)?;
        }
        Ok(Outcome::nothing())
    })())
}

fn clear_header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        let name = string(args, 0, "header name must be a string")?;
        if let Some(name) = answer_name(name) {
            exchange.wishes.omit_date |= name == header::DATE;
            exchange.response.headers.remove(name);
        }
        Ok(Outcome::nothing())
    })())
}

/// The entries of a table of headers, those of nil left out.
fn entries(table: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let entries = if let Value::Map(entries) = table { entries.as_slice() } else { &[] };
    entries.iter().filter(|(_, value)| !value.is_nil()).map(|(name, value)| (name, value))
}

/// A header that a call gives, by the name that it will have.
fn named<'v>(name: &Value, value: &'v Value) -> Option<(HeaderName, &'v Value)> {
    answer_name(name.as_bytes()?).map(|name| (name, value))
}

/// The headers of a table, by the names that they will have.
fn all_named(table: &Value) -> impl Iterator<Item = (HeaderName, &Value)> {
    entries(table).filter_map(|(name, value)| answer_name(name.as_bytes()).map(|name| (name, value)))
}

fn set_headers(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        headers::check_table(argument(args, 0))?;
        headers::room(&exchange.response.headers, all_named(argument(args, 0)), Change::Set)?;
        for (name, value) in entries(argument(args, 0)) {
            put(exchange, caller, name.as_bytes(), value, None)?;
        }
        Ok(Outcome::nothing())
    })())
}

/// What ends the request: the statuses below 200 would leave the client waiting for another answer.
fn exit(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    raising(match exchange.subsystem {
        Subsystem::Http => exit_http(exchange, caller, args),
        Subsystem::Stream => exit_stream(exchange, args),
    })
}

fn exit_http(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Result<Outcome, String> {
    REWRITE_TO_HEADER.check(exchange.phase)?;
    not_sent(exchange)?;
    let status = status_argument(args, 100)?;
    let (body, headers) = (argument(args, 1), argument(args, 2));
    if !body.is_nil() && body.as_bytes().is_none() && !lua::is_table(body) {
        return Err("body must be a nil, string or table".to_owned());
    }
    check_headers(headers)?;
    if status < 200 {
        return Err(format!("code must be that of a final answer: given {status}"));
    }
    send(exchange, caller, status, body, headers)
}

fn check_headers(given: &Value) -> Result<(), String> {
    match given {
        Value::Nil => Ok(()),
        given if lua::is_table(given) => headers::check_table(given),
        _ => Err("headers must be a nil or table".to_owned()),
    }
}

/// Puts the answer together as Kong's `send` does.
fn send(exchange: &mut Exchange, caller: &Caller, status: u16, body: &Value, given: &Value) -> Result<Outcome, String> {
    let mut headers = HeaderMap::new();
    headers::room(&headers, all_named(given), Change::Set)?;
    for (name, value) in entries(given) {
        put(exchange, caller, name.as_bytes(), value, Some(&mut headers))?;
    }
    let own_content_type = headers.contains_key(header::CONTENT_TYPE);
    let content_type =
        headers.get(header::CONTENT_TYPE).or_else(|| exchange.response.headers.get(header::CONTENT_TYPE));
    let is_grpc_output = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let is_grpc = is_grpc_output || (content_type.is_none() && is_grpc_request(exchange));
    let mut grpc_message = None;
    if is_grpc && !headers.contains_key("grpc-status") && !exchange.response.headers.contains_key("grpc-status") {
        let code = error_page::grpc_status(status);
        headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
        grpc_message = Some(error_page::grpc_message(code));
    }
    let text = match body {
        table if lua::is_table(table) && is_grpc => {
            if is_grpc_output {
                keep(exchange, &headers);
                return Err("table body encoding with gRPC is not supported".to_owned());
            }
            let message = entries(table).find(|(name, _)| *name == "message").and_then(|(_, text)| text.as_bytes());
            if message.is_none() {
                warn(exchange, caller, "body was removed because table body encoding with gRPC is not supported");
            }
            message.cloned()
        }
        table if lua::is_table(table) => {
            let json =
                encode(table).map_err(|error| format!("body encoding failed while flushing response: {error}"))?;
            if !own_content_type {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PageFormat::Json.content_type()));
            }
            Some(json)
        }
        text => text.as_bytes().cloned(),
    };
    let body = match text {
        Some(message) if is_grpc && !is_grpc_output => {
            let name = HeaderName::from_static("grpc-message");
            headers::room(&headers, [(name, &Value::Text(message.clone()))], Change::Set)?;
            headers.insert("grpc-message", headers::value(&message));
            ExitBody::Bytes(Bytes::new())
        }
        text => {
            if let Some(message) = grpc_message
                && !headers.contains_key("grpc-message")
            {
                headers.insert("grpc-message", HeaderValue::from_static(message));
            }
            match text {
                Some(text) => ExitBody::Bytes(text),
                None if is_grpc => ExitBody::Bytes(Bytes::new()),
                None => ExitBody::None,
            }
        }
    };
    if let ExitBody::Bytes(bytes) = &body {
        // In response, the upstream's would be there otherwise.
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(bytes.len()));
    }
    exchange.response.source = Some(Source::Exit);
    exchange.exit = Some(Exit { status, body, headers });
    Ok(Outcome::Exit)
}

/// The headers of an answer that came to nothing are those of the error that is sent instead.
fn keep(exchange: &mut Exchange, headers: &HeaderMap) {
    let named: Vec<_> = headers.keys().cloned().collect();
    for name in named {
        let values = headers.get_all(&name).iter().cloned().collect();
        // They have been checked when they were given.
        let _ = headers::set(&mut exchange.response.headers, &name, values, Side::Answer);
    }
}

/// A table as JSON, as a plugin's body.
fn encode(table: &Value) -> Result<Bytes, String> {
    json::encode(&lua::encodable(table)?, 14, EmptyList::Object)
}

fn is_grpc_request(exchange: &Exchange) -> bool {
    exchange.request.version == HttpVersion::Http2
        && exchange
            .request
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn exit_stream(exchange: &mut Exchange, args: &[Value]) -> Result<Outcome, String> {
    let Some(code) = lua::number(argument(args, 0)) else { return Err("code must be a number".to_owned()) };
    let Some(status) = [200_u16, 400, 403, 500, 502, 503].into_iter().find(|valid| f64::from(*valid) == code) else {
        return Err("unacceptable code, only 200, 400, 403, 500, 502 and 503 are accepted".to_owned());
    };
    let body = match argument(args, 1) {
        Value::Nil => ExitBody::None,
        table if lua::is_table(table) => {
            ExitBody::Bytes(encode(table).map_err(|error| format!("invalid body: {error}"))?)
        }
        other => match other.as_bytes() {
            Some(text) => ExitBody::Bytes(text.clone()),
            None => return Err("body must be a nil, string or table".to_owned()),
        },
    };
    exchange.response.source = Some(Source::Exit);
    exchange.exit = Some(Exit { status, body, headers: HeaderMap::new() });
    Ok(Outcome::Exit)
}

fn error(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        not_sent(exchange)?;
        let status = status_argument(args, 400)?;
        let message = match argument(args, 1) {
            Value::Nil => None,
            table if lua::is_table(table) => {
                Some(encode(table).map_err(|error| format!("could not JSON encode the error message: {error}"))?)
            }
            other => match other.as_bytes() {
                Some(text) => Some(text.clone()),
                None => return Err("message must be a nil, a string or a table".to_owned()),
            },
        };
        check_headers(argument(args, 2))?;
        error_answer(exchange, caller, status, message, argument(args, 2))
    })())
}

fn error_answer(
    exchange: &mut Exchange,
    caller: &Caller,
    status: u16,
    message: Option<Bytes>,
    given: &Value,
) -> Result<Outcome, String> {
    let mut answer: Vec<(String, Value)> = entries(given).map(|(name, value)| (name.clone(), value.clone())).collect();
    // As in Kong, the name in this spelling chooses the page.
    let named = answer.iter().position(|(name, _)| name == "Content-Type");
    let content_type = match named.map(|at| answer.remove(at).1) {
        Some(Value::List(values)) => values.into_iter().next().unwrap_or_default(),
        Some(single) => single,
        None if is_grpc_request(exchange) => Value::text("application/grpc"),
        None => {
            let accept = headers::joined(&exchange.request.headers, "accept");
            Value::text(error_page::format_for(accept.as_deref()).content_type())
        }
    };
    let text = lua::to_text(&content_type);
    let Some(format) = PageFormat::from_content_type(&text) else {
        return Err(format!("no template found for MIME type {}", String::from_utf8_lossy(&text)));
    };
    if !text.is_empty() {
        answer.push(("content-type".to_owned(), content_type));
    }
    let body = if text == "application/grpc" {
        Value::Nil
    } else {
        let message = message.map_or_else(
            || error_page::message_for(status).into_owned(),
            |message| String::from_utf8_lossy(&message).into_owned(),
        );
        let (_, page) = error_page::render(format, status, &message, &exchange.id, &exchange.node.templates);
        Value::Text(page)
    };
    send(exchange, caller, status, &body, &Value::Map(answer))
}

//! `kong.service.request`: what goes upstream.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use silverback_protocol::Value;

use super::{argument, raising, string};
use crate::{
    Caller, Exchange, Outcome, body,
    exchange::RequestBody,
    function::{Function, KongPhases, PhaseRule},
    headers::{self, Change, Side},
    json::{self, EmptyList},
    lua, multipart, query, uri,
    variables::SERVER_NAME,
};

const ACCESS_REWRITE: PhaseRule = PhaseRule::Only(KongPhases::REWRITE.or(KongPhases::ACCESS));
const ACCESS_REWRITE_BALANCER: PhaseRule =
    PhaseRule::Only(KongPhases::REWRITE.or(KongPhases::ACCESS).or(KongPhases::BALANCER));
const PREREAD_BALANCER: PhaseRule = PhaseRule::Only(KongPhases::PREREAD.or(KongPhases::BALANCER));

/// The methods that `set_method` takes, those of nginx.
const METHODS: [&str; 15] = [
    "GET",
    "HEAD",
    "PUT",
    "POST",
    "DELETE",
    "OPTIONS",
    "MKCOL",
    "COPY",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "LOCK",
    "UNLOCK",
    "PATCH",
    "TRACE",
];

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.service.request.enable_buffering",
        run: enable_buffering,
        phases: ACCESS_REWRITE_BALANCER,
        args: "",
        result: "nothing",
        about: "Holds the upstream's answer whole, so that `kong.service.response.get_raw_body` can read it.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_scheme",
        run: set_scheme,
        phases: ACCESS_REWRITE_BALANCER,
        args: "scheme: string",
        result: "nothing",
        about: "`http` or `https`, towards the upstream.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_path",
        run: set_path,
        phases: ACCESS_REWRITE_BALANCER,
        args: "path: string",
        result: "nothing",
        about: "The path that goes upstream; what may not stand in one is percent-encoded.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_raw_query",
        run: set_raw_query,
        phases: ACCESS_REWRITE,
        args: "query: string",
        result: "nothing",
        about: "The query, as it is to be sent.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_method",
        run: set_method,
        phases: ACCESS_REWRITE,
        args: "method: string",
        result: "nothing",
        about: "The method, in upper case.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_query",
        run: set_query,
        phases: ACCESS_REWRITE,
        args: "args: table",
        result: "nothing",
        about: "The query, from a table: sorted by name, lists repeat, true is a name alone.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.clear_query_arg",
        run: clear_query_arg,
        phases: ACCESS_REWRITE,
        args: "name: string",
        result: "nothing",
        about: "Takes all arguments of this name out of the query.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_header",
        run: set_header,
        phases: ACCESS_REWRITE_BALANCER,
        args: "name: string, value: string, number, boolean or list of strings",
        result: "nothing",
        about: "Sets a header, in place of all of this name. Host is what the upstream gets as Host.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.add_header",
        run: add_header,
        phases: ACCESS_REWRITE,
        args: "name: string, value: string, number, boolean or list of strings",
        result: "nothing",
        about: "Adds a header beside those of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.clear_header",
        run: clear_header,
        phases: ACCESS_REWRITE,
        args: "name: string",
        result: "nothing",
        about: "Removes all headers of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_headers",
        run: set_headers,
        phases: ACCESS_REWRITE,
        args: "headers: table",
        result: "nothing",
        about: "Sets several headers.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_raw_body",
        run: set_raw_body,
        phases: ACCESS_REWRITE_BALANCER,
        args: "body: string",
        result: "nothing",
        about: "The body, as it is to be sent.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.set_body",
        run: set_body,
        phases: ACCESS_REWRITE,
        args: "args: table, mimetype: string?",
        result: "true, or nil and an error",
        about: "The body, from a table, as a form, JSON or a multipart form; sets Content-Type.",
        since: "0.1",
    },
    Function {
        name: "kong.service.request.disable_tls",
        run: disable_tls,
        phases: PREREAD_BALANCER,
        args: "",
        result: "true",
        about: "In streams: speaks to the upstream in clear text.",
        since: "0.1",
    },
];

fn enable_buffering(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    exchange.wishes.buffer_response = true;
    Outcome::nothing()
}

fn disable_tls(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    exchange.upstream.scheme = "tcp".into();
    Outcome::value(true)
}

fn set_scheme(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "scheme must be a string").and_then(|scheme| match scheme.as_ref() {
        b"http" | b"https" => {
            exchange.upstream.scheme = String::from_utf8_lossy(scheme).into_owned().into();
            Ok(Outcome::nothing())
        }
        other => Err(format!("invalid scheme: {}", String::from_utf8_lossy(other))),
    }))
}

fn set_path(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "path must be a string").and_then(|path| {
        if path.first() != Some(&b'/') {
            return Err("path must start with /".to_owned());
        }
        exchange.upstream.path = uri::escape(path);
        Ok(Outcome::nothing())
    }))
}

fn put_query(exchange: &mut Exchange, query: &[u8]) {
    let query = query::sanitise(query);
    exchange.request.query = (!query.is_empty()).then_some(query);
}

fn set_raw_query(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "query must be a string").map(|query| {
        put_query(exchange, query);
        Outcome::nothing()
    }))
}

fn set_method(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "method must be a string").and_then(|name| {
        let known = METHODS.iter().find(|method| method.as_bytes() == name.as_ref());
        let method = known.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
        let Some(method) = method else { return Err(format!("invalid method: {}", String::from_utf8_lossy(name))) };
        let before = std::mem::replace(&mut exchange.request.method, method);
        exchange.wishes.original_method.get_or_insert(before);
        Ok(Outcome::nothing())
    }))
}

fn set_query(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let table = argument(args, 0);
        if !lua::is_table(table) {
            return Err("args must be a table".to_owned());
        }
        put_query(exchange, query::encode_sorted(table)?.as_bytes());
        Ok(Outcome::nothing())
    })())
}

fn clear_query_arg(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "query argument name must be a string").map(|name| {
        if let Some(query) = exchange.request.query.as_deref().filter(|query| !query.is_empty()) {
            let rest = query::remove(query, name);
            exchange.request.query = (!rest.is_empty()).then_some(rest);
        }
        Outcome::nothing()
    }))
}

/// Sets one header of the request, and what follows from it: Host is a matter of the upstream and of `$host`.
fn put(exchange: &mut Exchange, name: &[u8], value: &Value) -> Result<(), String> {
    if name.eq_ignore_ascii_case(b"host") {
        let single = match value {
            Value::List(values) => values.first().unwrap_or(&Value::Nil),
            single => single,
        };
        set_host(exchange, single)?;
    }
    match headers::name(name) {
        Some(name) => headers::set(&mut exchange.request.headers, &name, headers::values(value), Side::Request),
        None => Ok(()),
    }
}

fn set_host(exchange: &mut Exchange, value: &Value) -> Result<(), String> {
    let value = if value.is_nil() { Bytes::new() } else { lua::to_text(value) };
    let sent = headers::value(&value);
    if !sent.is_empty() && !is_host(sent.as_bytes()) {
        return Err("failed to set header".to_owned());
    }
    exchange.upstream.host_header = String::from_utf8_lossy(sent.as_bytes()).into_owned();
    exchange.request.host = host_without_port(&exchange.upstream.host_header);
    Ok(())
}

/// Whether nginx takes it for a host, with or without a port.
fn is_host(text: &[u8]) -> bool {
    let end = if text.starts_with(b"[") {
        text.iter().position(|&byte| byte == b']').map_or(text.len(), |at| at + 1)
    } else {
        text.iter().position(|&byte| byte == b':').unwrap_or(text.len())
    };
    let host = text.get(..end).unwrap_or(text);
    !text.contains(&b'/') && !text.windows(2).any(|pair| pair == b"..") && !matches!(host, b"" | b".")
}

/// `$host` of a Host header.
fn host_without_port(host: &str) -> String {
    let end = match host.find(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    host.get(..end).unwrap_or(host).trim_end_matches('.').to_ascii_lowercase()
}

fn set_header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let (name, value) = (argument(args, 0), argument(args, 1));
        headers::check(name, value)?;
        headers::room(&exchange.request.headers, named(name, value), Change::Set)?;
        let name = name.as_bytes().map(AsRef::as_ref).unwrap_or_default();
        if name.eq_ignore_ascii_case(b":authority") {
            if !exchange.upstream.scheme.starts_with("grpc") {
                return Ok(Outcome::failed("cannot set :authority pseudo-header on non-grpc requests"));
            }
            set_host(exchange, value)?;
            return Ok(Outcome::nothing());
        }
        put(exchange, name, value)?;
        Ok(Outcome::nothing())
    })())
}

fn add_header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let (name, value) = (argument(args, 0), argument(args, 1));
        headers::check(name, value)?;
        headers::room(&exchange.request.headers, named(name, value), Change::Add)?;
        let name = name.as_bytes().map(AsRef::as_ref).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"host") {
            // A second Host would be no request at all.
            put(exchange, name, value)?;
        } else if let Some(header) = headers::name(name) {
            let request = &mut exchange.request.headers;
            let mut values = headers::values(value);
            if !request.contains_key(&header) && name.contains(&b'_') {
                // Kong finds the header of this name with dashes too, and repeats its values.
                let dashed: Vec<_> = name.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
                let known: Option<Vec<_>> =
                    headers::name(&dashed).map(|dashed| request.get_all(dashed).iter().cloned().collect());
                values.splice(..0, known.unwrap_or_default());
            }
            headers::add(request, &header, values, Side::Request)?;
        }
        Ok(Outcome::nothing())
    })())
}

/// A header that a call gives, by the name that it will have.
fn named<'v>(name: &Value, value: &'v Value) -> Option<(HeaderName, &'v Value)> {
    headers::name(name.as_bytes()?).map(|name| (name, value))
}

fn clear_header(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "header must be a string").map(|name| {
        if let Some(name) = headers::name(name) {
            if name == header::HOST {
                exchange.request.host = SERVER_NAME.to_owned();
            }
            exchange.request.headers.remove(name);
        }
        Outcome::nothing()
    }))
}

fn set_headers(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let table = argument(args, 0);
        headers::check_table(table)?;
        if let Value::Map(entries) = table {
            let given = entries.iter().filter(|(_, value)| !value.is_nil());
            let named = given.filter_map(|(name, value)| Some((headers::name(name.as_bytes())?, value)));
            headers::room(&exchange.request.headers, named, Change::Set)?;
            for (name, value) in entries.iter().filter(|(_, value)| !value.is_nil()) {
                put(exchange, name.as_bytes(), value)?;
            }
        }
        Ok(Outcome::nothing())
    })())
}

/// The body that goes upstream from now on, with the length that it has.
fn put_body(exchange: &mut Exchange, body: Bytes) {
    exchange.request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    exchange.request.headers.remove(header::TRANSFER_ENCODING);
    exchange.request.body = RequestBody::Memory(body);
}

/// What is to be read before a body is replaced: the one that the client is still sending.
fn read_first(exchange: &Exchange) -> Option<Outcome> {
    matches!(exchange.request.body, RequestBody::Unread).then_some(Outcome::Need(crate::Need::RequestBody))
}

fn set_raw_body(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "body must be a string").map(|body| {
        if let Some(need) = read_first(exchange) {
            return need;
        }
        put_body(exchange, body.clone());
        Outcome::nothing()
    }))
}

fn set_body(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let (table, mime) = (argument(args, 0), argument(args, 1));
        if !lua::is_table(table) {
            return Err("args must be a table".to_owned());
        }
        if lua::truthy(mime) && mime.as_bytes().is_none() {
            return Err("mime must be a string".to_owned());
        }
        let header = || exchange.request.headers.get(header::CONTENT_TYPE);
        let mime = match mime.as_bytes() {
            Some(mime) => mime.clone(),
            None => match header() {
                Some(value) => Bytes::copy_from_slice(value.as_bytes()),
                None => {
                    return Ok(Outcome::failed(
                        "content type was neither explicitly given as an argument or received as a header",
                    ));
                }
            },
        };
        let (body, content_type) = encode_body(exchange, table, &mime)?;
        if let Some(need) = read_first(exchange) {
            return Ok(need);
        }
        let sent = Value::Text(content_type.clone());
        headers::room(&exchange.request.headers, [(header::CONTENT_TYPE, &sent)], Change::Set)?;
        put_body(exchange, body);
        exchange.request.headers.insert(header::CONTENT_TYPE, headers::value(&content_type));
        Ok(Outcome::value(true))
    })())
}

/// The body that a table makes in a format, and its Content-Type.
fn encode_body(exchange: &Exchange, table: &Value, mime: &Bytes) -> Result<(Bytes, Bytes), String> {
    let stored = lua::stored(table.clone());
    let bare = mime.split(|&byte| byte == b';').next().unwrap_or_default();
    if bare == body::FORM.as_bytes() {
        Ok((query::encode_sorted(&stored)?.into(), mime.clone()))
    } else if bare == body::JSON.as_bytes() {
        Ok((json::encode(&lua::encodable(table)?, 16, EmptyList::Object)?, mime.clone()))
    } else if bare == body::MULTIPART.as_bytes() {
        let entries: &[(String, Value)] = match &stored {
            Value::Map(entries) => entries,
            Value::List(items) if items.is_empty() => &[],
            _ => return Err("invalid key \"1\": got number, expected string".to_owned()),
        };
        let boundary = multipart::boundary_for(entries, mime, &exchange.id);
        let content_type = [b"multipart/form-data; boundary=", boundary.as_slice()].concat();
        Ok((multipart::encode(entries, &boundary)?, content_type.into()))
    } else {
        Err(format!("unsupported content type {}", String::from_utf8_lossy(mime)))
    }
}

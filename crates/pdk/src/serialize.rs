//! The log entry, `kong.log.serialize`: what log plugins send on.

use silverback_protocol::Value;

use crate::{
    Exchange, entities,
    exchange::{Matched, SerializeMode, Subsystem, Try},
    functions, headers, lua, variables,
};

/// The entry of a request whose answer is known, with what plugins added to it.
///
/// # Errors
/// Kong's text for a value that cannot be put where a plugin wants it.
pub(crate) fn entry(exchange: &Exchange) -> Result<Value, String> {
    let mut root = match exchange.subsystem {
        Subsystem::Http => http(exchange),
        Subsystem::Stream => stream(exchange),
    };
    root.retain(|(_, value)| !value.is_nil());
    for (key, value, mode) in &exchange.serialize_values {
        edit(&mut root, key, value, *mode)?;
    }
    Ok(Value::Map(root))
}

type Fields = Vec<(String, Value)>;

fn table<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(
        fields.into_iter().filter(|(_, value)| !value.is_nil()).map(|(name, value)| (name.to_owned(), value)).collect(),
    )
}

fn variable(exchange: &Exchange, name: &str) -> Value {
    variables::variable(exchange, name).map_or(Value::Nil, |value| Value::Text(value.into_owned().into()))
}

/// A variable that is a number, as one.
fn numeric(exchange: &Exchange, name: &str) -> Value {
    let Some(text) = variables::variable(exchange, name) else { return Value::Nil };
    lua::parse_number(&text).map_or_else(|| Value::Text(text.into_owned().into()), lua::from_number)
}

fn http(exchange: &Exchange) -> Fields {
    let request = &exchange.request;
    let url =
        format!("{}://{}:{}{}", variables::scheme(exchange), request.host, exchange.mapped_port(), request.raw_uri);
    let limits = exchange.node.limits;
    let request_table = table([
        ("id", exchange.id.as_str().into()),
        ("uri", request.raw_uri.as_str().into()),
        ("url", url.into()),
        ("querystring", functions::query_table(exchange)),
        ("method", request.method.as_str().into()),
        ("headers", redacted(headers::multimap(&request.headers, limits.req_headers))),
        ("size", numeric(exchange, "request_length")),
        ("tls", tls(exchange)),
    ]);
    let response = table([
        ("status", i64::from(exchange.response.status.unwrap_or(0)).into()),
        ("headers", headers::multimap(&exchange.response.headers, limits.resp_headers)),
        ("size", numeric(exchange, "bytes_sent")),
    ]);
    let status = match variable(exchange, "upstream_status") {
        Value::Nil => Value::text(""),
        status => status,
    };
    let mut fields = vec![
        ("request".to_owned(), request_table),
        ("upstream_uri".to_owned(), upstream_uri(exchange).into()),
        ("upstream_status".to_owned(), status),
        ("response".to_owned(), response),
        ("latencies".to_owned(), http_latencies(exchange)),
    ];
    fields.extend(common(exchange));
    let source = if functions::source_name(exchange) == "service" { "upstream" } else { "kong" };
    fields.push(("source".to_owned(), source.into()));
    fields
}

/// The path that went upstream, with its query.
fn upstream_uri(exchange: &Exchange) -> String {
    let path = exchange.upstream.path.as_str();
    let query = exchange.request.query.as_deref().unwrap_or_default();
    if path.is_empty() || path.contains('?') {
        path.to_owned()
    } else if exchange.request.raw_uri.ends_with('?') {
        format!("{path}?")
    } else if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

fn redacted(headers: Value) -> Value {
    let Value::Map(mut entries) = headers else { return headers };
    for (name, value) in &mut entries {
        if name == "authorization" || name == "proxy-authorization" {
            *value = "REDACTED".into();
        }
    }
    Value::Map(entries)
}

fn tls(exchange: &Exchange) -> Value {
    let Some(tls) = &exchange.client.tls else { return Value::Nil };
    let verify = exchange.wishes.client_verify.as_ref().unwrap_or(&tls.client_verify);
    table([
        ("version", tls.version.into()),
        ("cipher", tls.cipher.as_str().into()),
        ("client_verify", verify.as_str().into()),
    ])
}

/// Whole milliseconds between two moments.
fn milliseconds(from: f64, to: f64) -> Value {
    lua::from_number(((to - from) * 1000.0).round().max(0.0))
}

fn http_latencies(exchange: &Exchange) -> Value {
    let timings = &exchange.timings;
    let end = timings.response_end.unwrap_or_else(|| exchange.node.surroundings.now());
    let kong = match timings.balancer_start {
        Some(start) => milliseconds(exchange.started, start),
        None => milliseconds(exchange.started, end),
    };
    let proxy = match (timings.balancer_start, timings.upstream_header) {
        (Some(start), Some(header)) => milliseconds(start, header),
        _ => Value::Int(-1),
    };
    let receive = match (timings.upstream_header, timings.upstream_end) {
        (Some(header), Some(last)) => milliseconds(header, last),
        _ => Value::Int(0),
    };
    table([("kong", kong), ("proxy", proxy), ("request", milliseconds(exchange.started, end)), ("receive", receive)])
}

/// What entries of HTTP and of streams have in common.
fn common(exchange: &Exchange) -> Fields {
    let matched = exchange.matched.as_ref();
    let fields: [(&str, Value); 9] = [
        // Kong makes the list when a request is routed.
        ("tries", matched.map_or(Value::Nil, |_| tries(exchange))),
        ("authenticated_entity", authenticated_entity(exchange)),
        ("route", matched.map_or(Value::Nil, Matched::route_value)),
        ("service", matched.and_then(Matched::service_value).unwrap_or_default()),
        ("consumer", as_written(exchange.consumer_given.as_ref()).unwrap_or_else(|| exchange.consumer_value())),
        ("client_ip", variable(exchange, "remote_addr")),
        ("started_at", lua::from_number((exchange.started * 1000.0).floor())),
        ("workspace", entities::WORKSPACE_ID.into()),
        ("workspace_name", entities::WORKSPACE_NAME.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a plugin gave, as it is written: its empty lists are objects.
fn as_written(given: Option<&Value>) -> Option<Value> {
    given.and_then(|given| lua::encodable(given).ok())
}

fn tries(exchange: &Exchange) -> Value {
    let tries = exchange.upstream.tries.iter().enumerate();
    let is_last = |at| at + 1 == exchange.upstream.tries.len() && exchange.subsystem == Subsystem::Http;
    let code = |at, attempt: &Try| if is_last(at) { last_failure(exchange) } else { attempt.failure };
    Value::List(tries.map(|(at, tried)| attempt(tried, code(at, tried))).collect())
}

/// The last attempt of a request has failed for Kong where the status says so and no other was left (its runloop's
/// `header_filter`); of those before, nginx says how they failed.
fn last_failure(exchange: &Exchange) -> Option<u16> {
    let status = exchange.service_response.as_ref().map(|response| response.status).or(exchange.response.status)?;
    (status > 499 && exchange.upstream.tries.len() as u64 > u64::from(exchange.upstream.retries)).then_some(status)
}

fn attempt(attempt: &Try, failure: Option<u16>) -> Value {
    let latency = attempt.connect_ms.unwrap_or(0.0);
    let mut fields = vec![
        ("balancer_start".to_owned(), lua::from_number((attempt.started * 1000.0).floor())),
        ("balancer_start_ns".to_owned(), Value::Float(attempt.started * 1e9)),
        ("ip".to_owned(), crate::address::text(attempt.ip).as_str().into()),
        ("port".to_owned(), i64::from(attempt.port).into()),
        ("balancer_latency".to_owned(), lua::from_number(latency.floor())),
        ("balancer_latency_ns".to_owned(), lua::from_number((latency * 1e6).floor())),
    ];
    if let Some(code) = failure {
        fields.push(("state".to_owned(), "failed".into()));
        fields.push(("code".to_owned(), i64::from(code).into()));
    }
    Value::Map(fields)
}

fn authenticated_entity(exchange: &Exchange) -> Value {
    let fields: &[_] = match &exchange.credential {
        None => return Value::Nil,
        Some(Value::Map(fields)) => fields,
        Some(_) => &[],
    };
    let field =
        |name: &str| fields.iter().find(|(known, _)| known == name).map_or(Value::Nil, |(_, value)| value.clone());
    table([("id", field("id")), ("consumer_id", field("consumer_id"))])
}

fn stream(exchange: &Exchange) -> Fields {
    let session = table([
        ("tls", tls(exchange)),
        ("received", numeric(exchange, "bytes_received")),
        ("sent", numeric(exchange, "bytes_sent")),
        ("status", i64::from(exchange.response.status.unwrap_or(0)).into()),
        ("server_port", i64::from(exchange.mapped_port()).into()),
    ]);
    let end = exchange.timings.response_end.unwrap_or_else(|| exchange.node.surroundings.now());
    let kong = exchange.timings.balancer_start.unwrap_or(end);
    let latencies =
        table([("kong", milliseconds(exchange.started, kong)), ("session", milliseconds(exchange.started, end))]);
    let bytes = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    let upstream =
        table([("received", bytes(exchange.stream.upstream_received)), ("sent", bytes(exchange.stream.upstream_sent))]);
    let mut fields =
        vec![("session".to_owned(), session), ("upstream".to_owned(), upstream), ("latencies".to_owned(), latencies)];
    fields.extend(common(exchange));
    fields
}

/// Puts a value at a dotted key.
fn edit(root: &mut Fields, key: &str, value: &Value, mode: SerializeMode) -> Result<(), String> {
    // As in Kong, a dot in first place is no separator.
    let cut = |text: &str| text.char_indices().skip(1).find(|(_, c)| *c == '.').map(|(at, _)| at);
    let mut node = root;
    let mut rest = key;
    while let Some(at) = cut(rest) {
        let (name, tail) = rest.split_at(at);
        rest = tail.get(1..).unwrap_or_default();
        let index = match node.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None if mode == SerializeMode::Replace => return Ok(()),
            None => {
                node.push((name.to_owned(), Value::Map(Vec::new())));
                node.len() - 1
            }
        };
        let Some((_, child)) = node.get_mut(index) else { return Ok(()) };
        if let Value::List(items) = child {
            // Lua's tables are both: a list is a map with numbers for keys.
            let numbered = items.drain(..).enumerate().map(|(i, item)| ((i + 1).to_string(), item)).collect();
            *child = Value::Map(numbered);
        }
        let shown = lua::to_text(child);
        let Value::Map(fields) = child else {
            return Err(format!(
                "The key '{key}' could not be used as a serialize value. Subkey '{name}' is not a table. It's {}",
                String::from_utf8_lossy(&shown)
            ));
        };
        node = fields;
    }
    let known = node.iter().position(|(known, _)| known == rest);
    let wanted = match mode {
        SerializeMode::Set => true,
        SerializeMode::Add => known.is_none(),
        SerializeMode::Replace => known.is_some(),
    };
    if wanted {
        match known {
            Some(index) if value.is_nil() => drop(node.remove(index)),
            Some(index) => {
                if let Some(entry) = node.get_mut(index) {
                    entry.1 = value.clone();
                }
            }
            None if value.is_nil() => {}
            None => node.push((rest.to_owned(), value.clone())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_by_dotted_key() {
        let mut root: Fields = vec![("a".into(), table([("b", Value::Int(1))])), ("t".into(), "x".into())];
        for (key, mode, value) in [
            ("a.c", SerializeMode::Set, Value::Int(2)),
            ("a.b", SerializeMode::Add, Value::Int(9)),
            ("new.deep", SerializeMode::Add, Value::Int(3)),
            ("none.x", SerializeMode::Replace, Value::Int(4)),
            ("a.b", SerializeMode::Replace, Value::Int(5)),
            ("a.c", SerializeMode::Set, Value::Nil),
        ] {
            edit(&mut root, key, &value, mode).unwrap();
        }
        let expect: Fields = vec![
            ("a".into(), table([("b", Value::Int(5))])),
            ("t".into(), "x".into()),
            ("new".into(), table([("deep", Value::Int(3))])),
        ];
        assert_eq!(root, expect);
        assert_eq!(
            edit(&mut root, "t.x", &Value::Int(1), SerializeMode::Set).unwrap_err(),
            "The key 't.x' could not be used as a serialize value. Subkey 't' is not a table. It's x"
        );
    }

    #[test]
    fn attempts_tell_how_they_failed() {
        let mut exchange = crate::testing::http_exchange();
        let attempt = exchange.upstream.tries[0].clone();
        // Each attempt's failure, retries, the status of the answer; and the code of each.
        for (failures, retries, status, expect) in [
            (vec![Some(502), None], 5, 200, vec![Some(502), None]),
            (vec![Some(504), Some(502), None], 5, 200, vec![Some(504), Some(502), None]),
            (vec![Some(504), Some(504)], 1, 504, vec![Some(504), Some(504)]),
            // It was not tried again, though it could have been.
            (vec![Some(502)], 5, 502, vec![None]),
            // The answer of an upstream.
            (vec![None], 0, 503, vec![Some(503)]),
            (vec![None], 0, 499, vec![None]),
        ] {
            exchange.upstream.retries = retries;
            exchange.service_response.as_mut().unwrap().status = status;
            exchange.upstream.tries = failures.iter().map(|&failure| Try { failure, ..attempt.clone() }).collect();
            let Value::List(shown) = tries(&exchange) else { panic!("no list") };
            let field = |attempt: &Value, name: &str| {
                let Value::Map(fields) = attempt else { panic!("no map: {attempt:?}") };
                fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            };
            for (attempt, code) in shown.iter().zip(&expect) {
                assert_eq!(field(attempt, "code"), code.map(|code| Value::Int(i64::from(code))), "{failures:?}");
                assert_eq!(field(attempt, "state"), code.map(|_| "failed".into()), "{failures:?}");
            }
            assert_eq!(shown.len(), expect.len());
        }
    }
}

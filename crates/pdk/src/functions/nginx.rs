//! `kong.nginx`: nginx's variables, its context and its counters.

use silverback_model::Phase;
use silverback_protocol::Value;

use super::{argument, ctx};
use crate::{
    Caller, Exchange, Outcome,
    exchange::Subsystem,
    function::{Function, PhaseRule},
    lua, variables,
};

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.nginx.get_var",
        run: var,
        phases: PhaseRule::AfterHandshake,
        args: "name: string",
        result: "string or nil",
        about: "The value of a variable of nginx.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.get_tls1_version_str",
        run: tls_version,
        phases: PhaseRule::Any,
        args: "",
        result: "string or nil",
        about: "The version of TLS that the client speaks, `TLSv1.3` for instance.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.get_ctx",
        run: ctx_value,
        phases: PhaseRule::Any,
        args: "key: string",
        result: "any",
        about: "A value that a plugin put into the context of nginx.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.set_ctx",
        run: set_ctx,
        phases: PhaseRule::Any,
        args: "key: string, value: any",
        result: "nothing",
        about: "Puts a value into the context of nginx, for one request.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.req_start_time",
        run: start_time,
        phases: PhaseRule::Any,
        args: "",
        result: "number",
        about: "When the request began, in seconds since 1970.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.get_subsystem",
        run: subsystem,
        phases: PhaseRule::Any,
        args: "",
        result: "string",
        about: "`http` or `stream`.",
        since: "0.1",
    },
    Function {
        name: "kong.nginx.get_statistics",
        run: statistics,
        phases: PhaseRule::Any,
        args: "",
        result: "table",
        about: "How many connections and requests there are, and were.",
        since: "0.1",
    },
];

fn var(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    match argument(args, 0) {
        Value::Text(name) | Value::Binary(name) => {
            let name = String::from_utf8_lossy(name);
            let value = variables::variable(exchange, &name);
            Outcome::value(value.map(|value| Value::Text(value.into_owned().into())))
        }
        // A group of a regular expression in nginx's configuration: there is none.
        Value::Int(_) | Value::Float(_) => Outcome::nothing(),
        _ => Outcome::raise("bad variable name"),
    }
}

fn tls_version(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.client.tls.as_ref().map(|tls| tls.version))
}

fn ctx_value(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    Outcome::value(ctx::find(&exchange.nginx_ctx, argument(args, 0)))
}

fn set_ctx(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    ctx::put(&mut exchange.nginx_ctx, &mut exchange.kept, args)
}

fn start_time(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    if exchange.subsystem == Subsystem::Stream || exchange.phase == Phase::Certificate {
        return Outcome::nothing();
    }
    Outcome::value(lua::from_number((exchange.started * 1000.0).floor() / 1000.0))
}

fn subsystem(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(match exchange.subsystem {
        Subsystem::Http => "http",
        Subsystem::Stream => "stream",
    })
}

fn statistics(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    let counters = exchange.node.surroundings.statistics();
    let fields = [
        ("connections_active", counters.connections_active),
        ("connections_reading", counters.connections_reading),
        ("connections_writing", counters.connections_writing),
        ("connections_waiting", counters.connections_waiting),
        ("connections_accepted", counters.connections_accepted),
        ("connections_handled", counters.connections_handled),
        ("total_requests", counters.total_requests),
    ];
    let count = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    Outcome::value(Value::Map(fields.into_iter().map(|(name, n)| (name.to_owned(), count(n))).collect()))
}

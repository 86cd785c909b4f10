//! `kong.service`: where the request goes.

use silverback_model::Phase;
use silverback_protocol::Value;

use super::{argument, integer, raising, string};
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, KongPhases, PhaseRule},
    lua,
};

const ACCESS: PhaseRule = PhaseRule::Only(KongPhases::ACCESS);

const BEFORE_UPSTREAM: PhaseRule =
    PhaseRule::Only(KongPhases::REWRITE.or(KongPhases::ACCESS).or(KongPhases::BALANCER).or(KongPhases::PREREAD));

/// The longest timeout, in milliseconds.
const MAX_TIMEOUT: i64 = 2_147_483_646;

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.service.set_upstream",
        run: set_upstream,
        phases: ACCESS,
        args: "host: string",
        result: "true, or nil and an error",
        about: "Sends the request to the upstream entity of this name.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_target",
        run: set_target,
        phases: BEFORE_UPSTREAM,
        args: "host: string, port: number",
        result: "nothing",
        about: "Sends the request to this host and port, which becomes its Host header too.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_retries",
        run: set_retries,
        phases: ACCESS,
        args: "retries: number",
        result: "nothing",
        about: "How many further attempts follow a failed one, 0 to 32767.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_timeouts",
        run: set_timeouts,
        phases: ACCESS,
        args: "connect_timeout: number, write_timeout: number, read_timeout: number",
        result: "nothing",
        about: "The timeouts towards the upstream, in milliseconds.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_tls_verify",
        run: set_tls_verify,
        phases: BEFORE_UPSTREAM,
        args: "on: boolean",
        result: "true",
        about: "Whether the upstream's certificate is verified.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_tls_verify_depth",
        run: set_tls_verify_depth,
        phases: BEFORE_UPSTREAM,
        args: "depth: number",
        result: "true",
        about: "How long the chain of the upstream's certificate may be.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_tls_cert_key",
        run: set_tls_cert_key,
        phases: BEFORE_UPSTREAM,
        args: "chain, key",
        result: "never",
        about: "Takes objects that only Lua has: an error for every external plugin.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_tls_verify_store",
        run: set_tls_verify_store,
        phases: BEFORE_UPSTREAM,
        args: "store",
        result: "never",
        about: "Takes an object that only Lua has: an error for every external plugin.",
        since: "0.1",
    },
    Function {
        name: "kong.service.set_target_retry_callback",
        run: set_target_retry_callback,
        phases: ACCESS,
        args: "callback",
        result: "never",
        about: "Takes a function, which only Lua can pass: an error for every external plugin.",
        since: "0.1",
    },
];

fn set_upstream(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(string(args, 0, "host must be a string").map(|host| {
        let name = String::from_utf8_lossy(host).into_owned();
        if exchange.upstream_names.contains(&name) {
            exchange.upstream.host = name;
            Outcome::value(true)
        } else {
            Outcome::failed(format!("could not find an Upstream named '{name}'"))
        }
    }))
}

fn set_target(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let host = string(args, 0, "host must be a string")?;
        let port = integer(args, 1, "port", 0, i64::from(u16::MAX))?;
        if exchange.phase == Phase::Rewrite {
            // No route is chosen yet, so there is nothing to change.
            return Err("attempt to index field 'balancer_data' (a nil value)".to_owned());
        }
        let host = String::from_utf8_lossy(host).into_owned();
        exchange.upstream.host_header.clone_from(&host);
        exchange.upstream.host = host;
        exchange.upstream.port = u16::try_from(port).unwrap_or_default();
        Ok(Outcome::nothing())
    })())
}

fn set_retries(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(integer(args, 0, "retries", 0, 32767).map(|retries| {
        exchange.upstream.retries = u32::try_from(retries).unwrap_or_default();
        Outcome::nothing()
    }))
}

fn set_timeouts(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let timeout =
            |index, name| integer(args, index, name, 1, MAX_TIMEOUT).map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
        let (connect, write, read) =
            (timeout(0, "connect_timeout")?, timeout(1, "write_timeout")?, timeout(2, "read_timeout")?);
        let upstream = &mut exchange.upstream;
        (upstream.connect_timeout, upstream.write_timeout, upstream.read_timeout) = (connect, write, read);
        Ok(Outcome::nothing())
    })())
}

fn set_tls_verify(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Value::Bool(on) = argument(args, 0) else { return Outcome::raise("argument must be a boolean") };
    exchange.upstream.tls_verify = Some(*on);
    Outcome::value(true)
}

fn set_tls_verify_depth(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Some(depth) = lua::number(argument(args, 0)) else { return Outcome::raise("argument must be a number") };
    if depth.is_nan() || depth < 0.0 {
        return Outcome::raise("depth must not be negative");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let depth = depth as u32;
    exchange.wishes.upstream_tls_verify_depth = Some(depth);
    Outcome::value(true)
}

fn set_tls_cert_key(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::raise("chain must be a parsed cdata object")
}

fn set_tls_verify_store(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::raise("argument must be a resty.openssl.x509.store object")
}

fn set_target_retry_callback(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::raise("retry_callback must be a function")
}

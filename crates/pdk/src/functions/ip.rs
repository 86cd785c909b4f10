//! `kong.ip`: whom the gateway trusts.

use std::net::IpAddr;

use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    lua,
};

pub(crate) const FUNCTIONS: &[Function] = &[Function {
    name: "kong.ip.is_trusted",
    run: is_trusted,
    phases: PhaseRule::Any,
    args: "address: string",
    result: "boolean",
    about: "Whether an address is one of `trusted_ips`.",
    since: "0.1",
}];

fn is_trusted(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    if exchange.node.trusted_ips.is_empty() {
        return Outcome::value(false);
    }
    match argument(args, 0) {
        absent if !lua::truthy(absent) => Outcome::value(false),
        Value::Text(text) | Value::Binary(text) => {
            let ip = std::str::from_utf8(text).ok().and_then(|text| text.parse::<IpAddr>().ok());
            Outcome::value(ip.is_some_and(|ip| exchange.trusts(ip)))
        }
        other => Outcome::raise(format!("bad argument #1 (string expected, got {})", lua::type_name(other))),
    }
}

//! `kong.client`: who sent the request.

use std::sync::Arc;

use silverback_model::{Consumer, Id};
use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome, entities,
    exchange::Subsystem,
    function::{Function, KongPhases, PhaseRule},
    headers, lua, variables,
};

const AUTH_AND_LATER: KongPhases = KongPhases::ACCESS
    .or(KongPhases::HEADER_FILTER)
    .or(KongPhases::RESPONSE)
    .or(KongPhases::BODY_FILTER)
    .or(KongPhases::LOG);

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.client.get_ip",
        run: ip,
        phases: PhaseRule::AfterHandshake,
        args: "",
        result: "string",
        about: "The address of the peer that made the connection.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_forwarded_ip",
        run: forwarded_ip,
        phases: PhaseRule::AfterHandshake,
        args: "",
        result: "string",
        about: "The client's address, taken from `real_ip_header` where the peer is trusted.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_port",
        run: port,
        phases: PhaseRule::AfterHandshake,
        args: "",
        result: "number",
        about: "The port of the peer that made the connection.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_forwarded_port",
        run: forwarded_port,
        phases: PhaseRule::AfterHandshake,
        args: "",
        result: "number",
        about: "The client's port, taken from `real_ip_header` where the peer is trusted and the header has one.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_credential",
        run: credential,
        phases: PhaseRule::Only(AUTH_AND_LATER),
        args: "",
        result: "table or nil",
        about: "The credential that authenticated the request.",
        since: "0.1",
    },
    Function {
        name: "kong.client.load_consumer",
        run: load_consumer,
        phases: PhaseRule::Only(AUTH_AND_LATER),
        args: "id: string, by_username: boolean?",
        result: "table or nil",
        about: "Finds a consumer by its id, or by its user name where that is asked for.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_consumer",
        run: consumer,
        phases: PhaseRule::Only(AUTH_AND_LATER),
        args: "",
        result: "table or nil",
        about: "The consumer that makes the request.",
        since: "0.1",
    },
    Function {
        name: "kong.client.authenticate",
        run: authenticate,
        phases: PhaseRule::Only(KongPhases::ACCESS),
        args: "consumer: table?, credential: table?",
        result: "nothing",
        about: "Sets the consumer and the credential of the request; at least one must be given.",
        since: "0.1",
    },
    Function {
        name: "kong.client.get_protocol",
        run: protocol,
        phases: PhaseRule::Only(AUTH_AND_LATER),
        args: "allow_terminated: boolean?",
        result: "string, or nil and an error",
        about: "The route's protocol that the request came by; TLS that a trusted proxy ended counts where allowed.",
        since: "0.1",
    },
];

fn ip(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(match exchange.client.ip {
        Some(ip) => Value::text(crate::address::text(ip)),
        None => Value::text("unix:"),
    })
}

fn forwarded_ip(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(match exchange.client.real_ip.or(exchange.client.ip) {
        Some(ip) => Value::text(crate::address::text(ip)),
        None => Value::text("unix:"),
    })
}

fn port(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(i64::from(exchange.client.port))
}

fn forwarded_port(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    let text = variables::variable(exchange, "remote_port");
    let port = text.and_then(|text| lua::parse_number(&text)).map(lua::from_number);
    Outcome::value(port)
}

fn credential(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.credential.clone())
}

fn load_consumer(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Some(id) = args.first().and_then(Value::as_bytes) else {
        return Outcome::raise("consumer_id must be a string");
    };
    let by_username = args.get(1).is_some_and(lua::truthy);
    let uuid = uuid(id);
    if uuid.is_none() && !by_username {
        return Outcome::raise("cannot load a consumer with an id that is not a uuid");
    }
    let found = uuid.and_then(|id| exchange.directory.consumer(id)).or_else(|| {
        let name = by_username.then(|| std::str::from_utf8(id).ok()).flatten()?;
        exchange.directory.consumer_by_username(name)
    });
    Outcome::value(found.map(|consumer| entities::consumer(consumer)))
}

/// An id in the one spelling that Kong takes: 36 characters.
fn uuid(text: &[u8]) -> Option<Id> {
    (text.len() == 36).then(|| Id::try_parse_ascii(text).ok()).flatten()
}

fn consumer(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.consumer_value())
}

fn authenticate(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let (consumer, credential) = (argument(args, 0), argument(args, 1));
    if !consumer.is_nil() && !lua::is_table(consumer) {
        return Outcome::raise("consumer must be a table or nil");
    }
    if !credential.is_nil() && !lua::is_table(credential) {
        return Outcome::raise("credential must be a table or nil");
    }
    if consumer.is_nil() && credential.is_nil() {
        return Outcome::raise("either credential or consumer must be provided");
    }
    let known = known_consumer(exchange, consumer);
    let credential = (!credential.is_nil()).then(|| lua::stored(credential.clone()));
    exchange.authenticate(known, credential);
    exchange.consumer_given = (!consumer.is_nil()).then(|| lua::stored(consumer.clone()));
    Outcome::nothing()
}

/// The configured consumer that a table with an `id` means: plugins bound to it apply from now on.
fn known_consumer(exchange: &Exchange, table: &Value) -> Option<Arc<Consumer>> {
    let Value::Map(fields) = table else { return None };
    let id = fields.iter().find(|(name, _)| name == "id").and_then(|(_, id)| id.as_bytes())?;
    exchange.directory.consumer(uuid(id)?).cloned()
}

fn protocol(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Some(matched) = &exchange.matched else { return Outcome::failed("No active route found") };
    if let [protocol] = matched.route.protocols.as_slice() {
        return Outcome::value(protocol.name());
    }
    let tls = exchange.client.tls.is_some();
    if exchange.subsystem == Subsystem::Stream {
        return Outcome::value(if tls { "tls" } else { "tcp" });
    }
    let allow_terminated = args.first().is_some_and(lua::truthy);
    if tls {
        return Outcome::value("https");
    }
    if !allow_terminated || !exchange.client_is_trusted() {
        return Outcome::value("http");
    }
    match headers::joined(&exchange.request.headers, "x_forwarded_proto") {
        Some(scheme) if scheme.contains(&b',') => Outcome::failed("Only one X-Forwarded-Proto header allowed"),
        Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => Outcome::value("https"),
        _ => Outcome::value("http"),
    }
}

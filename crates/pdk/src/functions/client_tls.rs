//! `kong.client.tls`: the client's side of TLS.

use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, KongPhases, PhaseRule},
};

const CERTIFICATE: PhaseRule = PhaseRule::Only(KongPhases::CERTIFICATE);
const REWRITE_AND_LATER: KongPhases =
    KongPhases::REWRITE.or(KongPhases::ACCESS).or(KongPhases::RESPONSE).or(KongPhases::BALANCER);

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.client.tls.request_client_certificate",
        run: request_client_certificate,
        phases: CERTIFICATE,
        args: "",
        result: "true",
        about: "Asks the client for a certificate during the handshake.",
        since: "0.1",
    },
    Function {
        name: "kong.client.tls.disable_session_reuse",
        run: disable_session_reuse,
        phases: CERTIFICATE,
        args: "",
        result: "true",
        about: "Keeps the client from taking the session up again on another connection.",
        since: "0.1",
    },
    Function {
        name: "kong.client.tls.get_full_client_certificate_chain",
        run: full_client_certificate_chain,
        phases: PhaseRule::Only(REWRITE_AND_LATER.or(KongPhases::LOG)),
        args: "",
        result: "string or nil",
        about: "The client's certificate and those it sent with it, PEM.",
        since: "0.1",
    },
    Function {
        name: "kong.client.tls.set_client_verify",
        run: set_client_verify,
        phases: PhaseRule::Only(REWRITE_AND_LATER),
        args: "result: string",
        result: "nothing",
        about: "What the log entry says of the client's certificate: `SUCCESS`, `NONE` or `FAILED:reason`.",
        since: "0.1",
    },
    Function {
        name: "kong.client.tls.disable_http2_alpn",
        run: disable_http2_alpn,
        phases: PhaseRule::Only(KongPhases::CLIENT_HELLO),
        args: "",
        result: "true",
        about: "Belongs to a phase that external plugins do not have.",
        since: "0.1",
    },
];

fn request_client_certificate(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    exchange.wishes.request_client_certificate = true;
    Outcome::value(true)
}

fn disable_session_reuse(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    exchange.wishes.disable_session_reuse = true;
    Outcome::value(true)
}

fn full_client_certificate_chain(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    match &exchange.client.tls {
        None => Outcome::failed("connection is not TLS or TLS support for Nginx not enabled"),
        Some(tls) => Outcome::value(tls.client_chain.as_deref()),
    }
}

fn set_client_verify(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Some(text) = argument(args, 0).as_bytes() else { return Outcome::raise("assertion failed!") };
    let text = String::from_utf8_lossy(text).into_owned();
    if text != "SUCCESS" && text != "NONE" && !text.starts_with("FAILED:") {
        return Outcome::raise(format!(
            "unknown client verify value: {text} accepted values are: \"SUCCESS\", \"NONE\" or \"FAILED:<reason>\""
        ));
    }
    exchange.wishes.client_verify = Some(text);
    Outcome::nothing()
}

fn disable_http2_alpn(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(true)
}

//! `kong.router`: what the request matched.

use silverback_protocol::Value;

use crate::{
    Caller, Exchange, Outcome,
    exchange::Matched,
    function::{Function, KongPhases, PhaseRule},
};

const ROUTED: PhaseRule = PhaseRule::Only(
    KongPhases::ACCESS
        .or(KongPhases::HEADER_FILTER)
        .or(KongPhases::RESPONSE)
        .or(KongPhases::BODY_FILTER)
        .or(KongPhases::LOG),
);

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.router.get_route",
        run: route,
        phases: ROUTED,
        args: "",
        result: "table or nil",
        about: "The route that the request matched.",
        since: "0.1",
    },
    Function {
        name: "kong.router.get_service",
        run: service,
        phases: ROUTED,
        args: "",
        result: "table or nil",
        about: "The service that the route leads to.",
        since: "0.1",
    },
];

fn route(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.matched.as_ref().map(Matched::route_value))
}

fn service(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.matched.as_ref().and_then(Matched::service_value))
}

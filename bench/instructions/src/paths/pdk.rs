//! Calls of PDK functions, from their names to their results.

use std::{hint::black_box, sync::Arc};

use silverback_model::Phase;
use silverback_pdk::{
    Exchange, Outcome, call,
    exchange::{LogLevel, Surroundings},
    testing, variables,
};
use silverback_protocol::{Call, Value};

use super::{HotPath, requests};

pub(super) fn paths() -> Vec<HotPath> {
    use Phase::{Access, Log, Response};
    let text = Value::from;
    let mut paths = vec![
        function("kong.request.get_method", Access, vec![]),
        function("kong.request.get_path", Access, vec![]),
        function("kong.request.get_query", Access, vec![]),
        function("kong.request.get_query_arg", Access, vec![text("sort")]),
        function("kong.request.get_header", Access, vec![text("X-Tenant")]),
        function("kong.request.get_headers", Access, vec![]),
        function("kong.client.get_ip", Access, vec![]),
        function("kong.client.get_forwarded_ip", Access, vec![]),
        function("kong.client.get_consumer", Access, vec![]),
        function("kong.router.get_route", Access, vec![]),
        function("kong.ctx.shared.set", Access, vec![text("tenant"), text("acme")]),
        function("kong.ctx.shared.get", Access, vec![text("tenant")]),
        function("kong.log.info", Access, vec![text("tenant "), text("acme"), text(" has used "), 42.into()]),
        function("kong.service.request.set_header", Access, vec![text("X-Tenant-Plan"), text("gold")]),
        function("kong.service.request.clear_header", Access, vec![text("X-Not-There")]),
        function("kong.service.request.set_path", Access, vec![text("/v2/items")]),
        function("kong.response.set_header", Access, vec![text("X-Tenant-Plan"), text("gold")]),
        function(
            "kong.response.exit",
            Access,
            vec![403.into(), text(r#"{"message":"no"}"#), Value::Map(vec![("X-Why".to_owned(), text("quota"))])],
        ),
        function("kong.response.get_status", Response, vec![]),
        function("kong.response.get_header", Response, vec![text("Content-Type")]),
        function("kong.service.response.get_headers", Response, vec![]),
        function("kong.log.serialize", Log, vec![]),
    ];
    paths.push(access_log());
    paths
}

fn function(name: &'static str, phase: Phase, args: Vec<Value>) -> HotPath {
    let (mut exchange, caller) = (exchange(phase), testing::caller());
    let call_it = Call { method: name.to_owned().into(), args };
    let outcome = call(&mut exchange, &caller, &call_it);
    let is_right = match &outcome {
        Outcome::Done(result) => result.error.is_none(),
        outcome => *outcome == Outcome::Exit && name == "kong.response.exit",
    };
    assert!(is_right, "{name} gives {outcome:?}");
    let name = name.trim_start_matches("kong.");
    HotPath::new(format!("pdk/{name}"), move |_| {
        black_box(call(&mut exchange, &caller, black_box(&call_it)));
    })
}

/// What the default format of the access log reads of a request.
fn access_log() -> HotPath {
    const VARIABLES: [&str; 9] = [
        "remote_addr",
        "remote_user",
        "time_local",
        "request",
        "status",
        "body_bytes_sent",
        "http_referer",
        "http_user_agent",
        "kong_request_id",
    ];
    let exchange = exchange(Phase::Log);
    HotPath::new("access_log/variables", move |_| {
        for name in VARIABLES {
            black_box(variables::variable(&exchange, black_box(name)));
        }
    })
}

fn exchange(phase: Phase) -> Exchange {
    let mut exchange = testing::http_exchange();
    exchange.phase = phase;
    exchange.request.headers = requests::headers();
    exchange.request.raw_uri = "/team-7/service-42/items?page=3&sort=name".to_owned();
    exchange.request.path = "/team-7/service-42/items".to_owned();
    exchange.request.query = Some("page=3&sort=name".to_owned());
    exchange.matched = Some(testing::matched());
    if phase == Phase::Access {
        (exchange.service_response, exchange.response) = Default::default();
        exchange.upstream.tries.clear();
    }
    if let Some(node) = Arc::get_mut(&mut exchange.node) {
        node.surroundings = Box::new(Nowhere);
    }
    exchange
}

/// Takes log lines and does not write them.
struct Nowhere;

impl Surroundings for Nowhere {
    fn now(&self) -> f64 {
        1_000_000_000.25
    }

    fn log(&self, level: LogLevel, plugin: &str, message: &str, _: &Exchange) {
        black_box((level, plugin, message));
    }

    fn logs(&self, _: LogLevel) -> bool {
        true
    }

    fn env(&self, _: &str) -> Option<String> {
        None
    }
}

//! The timing breakdown of one request, for those who may ask for it: `request_debug` of Kong 3.9 (`kong/timing`).
//!
//! A client asks with `X-Kong-Request-Debug: *`, and proves that it may with the token, unless it is on this machine. It
//! gets a tree of times in `X-Kong-Request-Debug-Output`: phases, in them plugins by name and id, the upstream. What a
//! plugin broke stands in it too, which Kong does not have.

use std::time::Instant;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value as Json, json};
use silverback_log::Level;
use silverback_model::Phase;
use silverback_pdk::{Caller, Exchange, entities};
use silverback_plugin_host::EventFailure;

use crate::surroundings;

const DEBUG: HeaderName = HeaderName::from_static("x-kong-request-debug");
const TOKEN: HeaderName = HeaderName::from_static("x-kong-request-debug-token");
const LOG: HeaderName = HeaderName::from_static("x-kong-request-debug-log");
pub(crate) const OUTPUT: HeaderName = HeaderName::from_static("x-kong-request-debug-output");

/// A longer output is not put into a header, unless the client is on this machine.
const MAX_HEADER: usize = 2 * 1024;
/// The longest header in any case: most clients refuse more.
const MAX_LOCAL_HEADER: usize = 32 * 1024;
/// A longer output takes several lines of the log.
const MAX_LINE: usize = 3 * 1024;

/// How many failures are told.
const MAX_FAILURES: usize = 5;

/// The times of a request.
#[derive(Debug)]
pub(crate) struct RequestDebug {
    /// The output goes to the error log as well.
    log: bool,
    /// The client is on this machine.
    local: bool,
    /// Its parts are the phases.
    root: Span,
    failures: Vec<Json>,
}

/// A part of a request.
#[derive(Debug, Default)]
struct Span {
    /// In milliseconds.
    total: f64,
    parts: Vec<(String, Self)>,
}

impl Span {
    fn part(&mut self, name: &str) -> &mut Self {
        let place = self.parts.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.parts.push((name.to_owned(), Self::default()));
            self.parts.len() - 1
        });
        // It was just found or made.
        &mut self.parts[place].1
    }

    fn to_json(&self) -> Json {
        let mut json = Map::new();
        if !self.parts.is_empty() {
            json.insert("child".to_owned(), children(&self.parts));
        }
        json.insert("total_time".to_owned(), hundredths(self.total));
        json.into()
    }
}

fn children(parts: &[(String, Span)]) -> Json {
    parts.iter().map(|(name, span)| (name.clone(), span.to_json())).collect::<Map<_, _>>().into()
}

/// Milliseconds with two decimals.
fn hundredths(milliseconds: f64) -> Json {
    ((milliseconds * 100.0).floor() / 100.0).into()
}

impl RequestDebug {
    /// What a client asks for, if it may. Takes the headers that ask out of the request; `token` is `None` where debugging
    /// is off, and they go upstream like any other.
    pub(crate) fn asked_for(exchange: &mut Exchange, token: Option<&str>) -> Option<Box<Self>> {
        let token = token?;
        let headers = &mut exchange.request.headers;
        if !headers.keys().any(|name| name.as_str().starts_with(DEBUG.as_str())) {
            return None;
        }
        let asked = headers.remove(DEBUG);
        let (given, log) = (headers.remove(TOKEN), headers.remove(LOG));
        if asked? != "*" {
            return None;
        }
        let local = exchange.client.real_ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        if !local && !given.is_some_and(|given| same(given.as_bytes(), token.as_bytes())) {
            return None;
        }
        let log = log.is_some_and(|log| log == "true");
        Some(Box::new(Self { log, local, root: Span::default(), failures: Vec::new() }))
    }

    /// Adds the time since `begun` to the part at `path`.
    pub(crate) fn add(&mut self, path: &[&str], begun: Instant) {
        self.add_milliseconds(path, begun.elapsed().as_secs_f64() * 1000.0);
    }

    fn add_milliseconds(&mut self, path: &[&str], milliseconds: f64) {
        self.span(path).total += milliseconds;
    }

    fn span(&mut self, path: &[&str]) -> &mut Span {
        path.iter().fold(&mut self.root, |span, name| span.part(name))
    }

    /// A plugin's handler has ended, which began then.
    pub(crate) fn ran(&mut self, phase: Phase, caller: &Caller, begun: Instant) {
        let id = caller.plugin_id.to_string();
        let path = [phase.name(), "plugins", &caller.plugin_name, &id];
        for length in 2..=path.len() {
            self.add(path.get(..length).unwrap_or_default(), begun);
        }
    }

    /// A log handler has ended, which began then. Those of one request run side by side: the phase takes as long as the
    /// longest.
    pub(crate) fn logged(&mut self, caller: &Caller, begun: Instant) {
        let id = caller.plugin_id.to_string();
        self.add(&["log", "plugins", &caller.plugin_name, &id], begun);
        self.add(&["log", "plugins", &caller.plugin_name], begun);
        let longest = begun.elapsed().as_secs_f64() * 1000.0;
        for path in [&["log"][..], &["log", "plugins"]] {
            let span = self.span(path);
            span.total = span.total.max(longest);
        }
    }

    /// A plugin's event failed.
    pub(crate) fn failed(&mut self, failure: &EventFailure) {
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(json!({
                "plugin": failure.plugin,
                "phase": failure.phase.name(),
                "server": failure.server,
                "pid": failure.pid,
                "cause": failure.message,
                "last_output": failure.lines,
            }));
        }
    }

    /// The header that the client gets.
    pub(crate) fn header(&mut self, exchange: &Exchange) -> Option<HeaderValue> {
        let mut output = self.output(exchange, false);
        if output.len() >= if self.local { MAX_LOCAL_HEADER } else { MAX_HEADER } {
            self.log = true;
            output = json!({
                "truncated": true,
                "request_id": exchange.id,
                "message":
                    "Output is truncated, please check the error_log for full output by filtering with the request_id.",
            })
            .to_string();
        }
        HeaderValue::from_str(&ascii(&output)).ok()
    }

    /// Writes the whole output to the error log, if that is wanted. The request has ended.
    pub(crate) fn log(&self, exchange: &Exchange) {
        if !self.log {
            return;
        }
        let output = ascii(&self.output(exchange, true));
        let context = surroundings::context(exchange);
        let parts: Vec<&[u8]> = output.as_bytes().chunks(MAX_LINE).collect();
        for (number, part) in parts.iter().enumerate() {
            let of = match parts.len() {
                1 => String::new(),
                count => format!("parts: {}/{count} ", number + 1),
            };
            let part = String::from_utf8_lossy(part);
            silverback_log::write(
                Level::Notice,
                format_args!("[request-debug] {of}output: {part} while logging request"),
                Some(&context),
            );
        }
    }

    fn output(&self, exchange: &Exchange, ended: bool) -> String {
        let mut output = Map::new();
        let Json::Object(mut child) = children(&self.root.parts) else { return String::new() };
        let own: f64 = self.root.parts.iter().map(|(_, span)| span.total).sum();
        if let Some(upstream) = upstream(exchange, ended) {
            child.insert("upstream".to_owned(), upstream);
        }
        if ended {
            // Kong runs filters over every piece of a body; here nothing does.
            child.insert("body_filter".to_owned(), json!({ "total_time": 0 }));
        }
        output.insert("child".to_owned(), child.into());
        output.insert("request_id".to_owned(), exchange.id.clone().into());
        output.insert("workspace_id".to_owned(), entities::WORKSPACE_ID.into());
        output.insert("total_time_without_upstream".to_owned(), hundredths(own));
        if !self.failures.is_empty() {
            output.insert("plugin_failures".to_owned(), self.failures.clone().into());
        }
        Json::Object(output).to_string()
    }
}

/// Whole milliseconds, as Kong takes them from nginx.
fn upstream(exchange: &Exchange, ended: bool) -> Option<Json> {
    let timings = &exchange.timings;
    let whole = |from: f64, to: f64| ((to - from) * 1000.0).max(0.0).floor();
    let (start, header) = (timings.balancer_start?, timings.upstream_header?);
    let first = whole(start, header);
    let mut child = Map::new();
    child.insert("time_to_first_byte".to_owned(), json!({ "total_time": first }));
    let mut total = first;
    if let Some(end) = timings.upstream_end.filter(|_| ended) {
        total = whole(start, end);
        child.insert("streaming".to_owned(), json!({ "total_time": total - first }));
    }
    Some(json!({ "total_time": total, "child": child }))
}

/// JSON in ASCII: a header can hold it, and its parts can be cut anywhere.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// Compares without telling by its time where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use silverback_pdk::testing;

    use super::*;

    fn exchange(headers: &[(&'static str, &'static str)], client: &str) -> Exchange {
        let mut exchange = testing::exchange();
        for (name, value) in headers {
            exchange.request.headers.insert(*name, HeaderValue::from_static(value));
        }
        exchange.client.real_ip = client.parse().ok();
        exchange
    }

    #[test]
    fn only_those_may_ask_who_know_the_token_or_are_here() {
        let asked = ("x-kong-request-debug", "*");
        let token = |value| ("x-kong-request-debug-token", value);
        for (headers, client, expect) in [
            (vec![asked], "127.0.0.1", true),
            (vec![asked], "127.1.2.3", true),
            (vec![asked], "::1", true),
            (vec![asked], "::ffff:127.0.0.1", true),
            (vec![asked], "10.0.0.1", false),
            (vec![asked, token("secret")], "10.0.0.1", true),
            (vec![asked, token("secreT")], "10.0.0.1", false),
            (vec![asked, token("")], "10.0.0.1", false),
            (vec![("x-kong-request-debug", "access")], "127.0.0.1", false),
            (vec![token("secret")], "127.0.0.1", false),
            (vec![asked, token("secret")], "", true),
            (vec![asked], "", false),
        ] {
            let mut exchange = exchange(&headers, client);
            assert_eq!(
                RequestDebug::asked_for(&mut exchange, Some("secret")).is_some(),
                expect,
                "{headers:?} {client}"
            );
            assert!(!exchange.request.headers.keys().any(|name| name.as_str().starts_with("x-kong-request-debug")));
        }
        let mut exchange = exchange(&[asked], "127.0.0.1");
        assert!(RequestDebug::asked_for(&mut exchange, None).is_none());
        assert!(exchange.request.headers.contains_key(DEBUG));
    }

    fn debug(client: &str) -> (Exchange, Box<RequestDebug>) {
        let headers = [("x-kong-request-debug", "*"), ("x-kong-request-debug-token", "t")];
        let mut exchange = exchange(&headers, client);
        let debug = RequestDebug::asked_for(&mut exchange, Some("t")).unwrap();
        (exchange, debug)
    }

    #[test]
    fn times_are_a_tree() {
        let (mut exchange, mut debug) = debug("127.0.0.1");
        debug.add_milliseconds(&["access", "plugins", "tenant", "id"], 1.239);
        debug.add_milliseconds(&["access", "plugins", "tenant", "id"], 1.0);
        debug.add_milliseconds(&["access"], 3.0);
        exchange.timings.balancer_start = Some(10.0);
        exchange.timings.upstream_header = Some(10.0255);
        exchange.timings.upstream_end = Some(10.05);
        let json: Json = serde_json::from_slice(debug.header(&exchange).unwrap().as_bytes()).unwrap();
        assert_eq!(json["child"]["access"]["child"]["plugins"]["child"]["tenant"]["child"]["id"]["total_time"], 2.23);
        assert_eq!(json["total_time_without_upstream"], 3.0);
        assert_eq!(
            json["child"]["upstream"],
            json!({ "total_time": 25.0, "child": { "time_to_first_byte": { "total_time": 25.0 } } })
        );
        assert_eq!(json["request_id"], exchange.id.as_str());
        let json: Json = serde_json::from_str(&debug.output(&exchange, true)).unwrap();
        assert_eq!(json["child"]["upstream"]["child"]["streaming"]["total_time"], 25.0);
    }

    #[test]
    fn a_failure_is_told_and_a_long_output_is_cut() {
        for (client, truncated) in [("127.0.0.1", false), ("10.0.0.1", true)] {
            let (exchange, mut debug) = debug(client);
            debug.failed(&EventFailure {
                kind: silverback_plugin_host::FailureKind::Closed,
                message: "its process ended".to_owned(),
                plugin: "mine".to_owned(),
                phase: Phase::Access,
                server: "go".to_owned(),
                pid: Some(7),
                lines: (0..5).map(|number| format!("{number} é {}", "x".repeat(500))).collect(),
            });
            let json: Json = serde_json::from_slice(debug.header(&exchange).unwrap().as_bytes()).unwrap();
            assert_eq!(json["truncated"] == true, truncated, "{json}");
            assert_eq!(debug.log, truncated);
            if !truncated {
                let failure = &json["plugin_failures"][0];
                assert_eq!((failure["plugin"].as_str(), failure["pid"].as_i64()), (Some("mine"), Some(7)));
                assert!(failure["last_output"][0].as_str().unwrap().starts_with("0 é x"), "{failure}");
            }
        }
    }
}

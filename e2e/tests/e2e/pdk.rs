//! The PDK, function by function, in every language: the table `pdk/calls.jsonl`, a case a line.
//!
//! | field | what it says |
//! |---|---|
//! | `f`, `a` | the function and its arguments |
//! | `p` | the phase: `access` unless it says otherwise |
//! | `first`, `access` | calls made before it, in its phase and in access |
//! | `r` | the request: `m`ethod, `u`ri after the route's, more `h`eaders, `b`ody |
//! | `route` | fields of its route |
//! | `v` | what it gives: a value, `~number`, `~string`, `~uuid`, `~any`, `{"~has": some fields}`, `{"~json": of a text}` |
//! | `answer`, `upstream` | what the client gets, what the upstream sees |
//! | `logs` | a part of a line of the error log |
//! | `fails` | the call is refused: this is in the log, and the client gets 500 |
//! | `go`, `py`, `js` | fields that are others in a language; false: its PDK does not have the function |
//!
//! `{route}`, `{name}`, `{port}` and `{upstream_port}` stand for what is known only when the gateway runs.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use silverback_e2e::{Calls, DEADLINE, Gateway, Response, Running, Upstream};

const TABLE: &str = include_str!("pdk/calls.jsonl");

const LANGUAGES: [&str; 3] = ["go", "py", "js"];

/// The consumer whose user name is `ann`.
const ANN: &str = "11111111-1111-4111-8111-111111111111";

/// A line of the table, for one language.
struct Case {
    language: &'static str,
    number: usize,
    fields: Value,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (index, line) in TABLE.lines().enumerate() {
            let shared: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("line {}: {error}", index + 1));
            for language in LANGUAGES {
                let mut fields = shared.clone();
                match &shared[language] {
                    Value::Bool(false) => continue,
                    Value::Object(own) => fields.as_object_mut().unwrap().extend(own.clone()),
                    _ => {}
                }
                cases.push(Self { language, number: index + 1, fields });
            }
        }
        cases
    }

    fn function(&self) -> &str {
        self.fields["f"].as_str().expect("a case names a function")
    }

    fn phase(&self) -> &str {
        self.fields["p"].as_str().unwrap_or("access")
    }

    /// The name of its route, and of its file.
    fn name(&self) -> String {
        format!("{}-{}", self.language, self.number)
    }

    /// The path of its route.
    fn route(&self) -> String {
        format!("/{}/{}", self.language, self.number)
    }

    fn plugin(&self) -> String {
        let suffix = if self.phase() == "response" { "-response" } else { "" };
        format!("calls-{}{suffix}", self.language)
    }

    /// Puts in what was not known when the table was written.
    fn filled(&self, value: &Value, ports: (u16, u16)) -> Value {
        match value {
            Value::String(text) if text == "{port}" => ports.0.into(),
            Value::String(text) if text == "{upstream_port}" => ports.1.into(),
            Value::String(text) => text
                .replace("{route}", &self.route())
                .replace("{name}", &self.name())
                .replace("{upstream_port}", &ports.1.to_string())
                .into(),
            Value::Array(items) => items.iter().map(|item| self.filled(item, ports)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, item)| (name.clone(), self.filled(item, ports)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    /// The calls of each phase, as the plugin takes them.
    fn calls(&self, ports: (u16, u16)) -> Value {
        let list = |name: &str| self.fields[name].as_array().cloned().unwrap_or_default();
        let mut own = list("first");
        let call = [Value::from(self.function())].into_iter().chain(list("a"));
        own.push(call.collect());
        let mut calls = json!({});
        if !self.fields["access"].is_null() {
            calls["access"] = self.fields["access"].clone();
        }
        calls[self.phase()] = Value::Array(own);
        self.filled(&calls, ports)
    }

    fn route_entity(&self, gateway: &std::path::Path, ports: (u16, u16)) -> Value {
        let mut route = json!({
            "name": self.name(),
            "paths": [format!("{}/", self.route())],
            "protocols": ["http", "https"],
            "plugins": [{ "name": self.plugin(), "config": {
                "calls": self.calls(ports).to_string(),
                "file": gateway.join(self.name()),
            }}],
        });
        if let Some(own) = self.filled(&self.fields["route"], ports).as_object() {
            route.as_object_mut().unwrap().extend(own.clone());
        }
        route
    }

    async fn request(&self, gateway: &Running) -> Response {
        let request = &self.fields["r"];
        let method = request["m"].as_str().unwrap_or("GET");
        let path = self.route() + request["u"].as_str().unwrap_or("/x?a=1&a=2&b");
        let mut headers = vec!["X-A: 1", "X-A: 2"];
        headers.extend(request["h"].as_array().into_iter().flatten().filter_map(Value::as_str));
        let body = request["b"].as_str().unwrap_or_default();
        // Header values of the table are ISO 8859-1.
        let mut connection = gateway.connect().await;
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            head.push_str("Host: example.test\r\n");
        }
        for header in headers {
            let _ = write!(head, "{header}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        let mut bytes: Vec<u8> = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_bytes());
        connection.send(bytes).await;
        connection.response_to(method).await
    }

    /// Makes the case's request; gives what is not as it should be.
    async fn run(&self, gateway: &Running, ports: (u16, u16)) -> Vec<String> {
        let answer = self.request(gateway).await;
        let mut wrong = Vec::new();
        let mut check = |what: &str, expect: &Value, got: Value| {
            let expect = self.filled(expect, ports);
            if !matches(&expect, &got) {
                wrong.push(format!("{what}: expected {expect}, got {got}"));
            }
        };
        if !self.fields["fails"].is_null() {
            let status = if self.phase() == "log" { 200 } else { 500 };
            check("status", &status.into(), answer.status.into());
            return wrong;
        }
        if self.fields.get("v").is_some() {
            let got = self.written(gateway).await;
            check("value", &self.fields["v"], got);
        }
        let headers = |expect: &Value, all: &dyn Fn(&str) -> Vec<String>| -> Value {
            let names = expect["headers"].as_object().into_iter().flatten();
            names.map(|(name, _)| (name.clone(), json!(all(name)))).collect::<serde_json::Map<_, _>>().into()
        };
        if let Some(expect) = self.fields.get("answer") {
            let own = |name: &str| answer.all(name).into_iter().map(str::to_owned).collect();
            let mut got = json!({ "status": answer.status, "body": answer.text(), "json": answer.json() });
            got["headers"] = headers(expect, &own);
            check("answer", &json!({ "~has": expect }), got);
        } else {
            check("status", &200.into(), answer.status.into());
        }
        if let Some(expect) = self.fields.get("upstream") {
            let own = |name: &str| answer.echoed(name);
            let mut got = answer.json();
            got["headers"] = headers(expect, &own);
            check("upstream", &json!({ "~has": expect }), got);
        }
        wrong
    }

    /// A part of a line that must be in the error log.
    fn logged(&self, ports: (u16, u16)) -> Option<String> {
        let text = [&self.fields["logs"], &self.fields["fails"]].into_iter().find(|text| !text.is_null())?;
        self.filled(text, ports).as_str().map(str::to_owned)
    }

    /// What the plugin wrote of the call.
    async fn written(&self, gateway: &Running) -> Value {
        let path = gateway.path(&self.name());
        let give_up = Instant::now() + DEADLINE / 3;
        let line = loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["phase"] == self.phase()) {
                break line;
            }
            if Instant::now() > give_up {
                return "the plugin wrote nothing".into();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let answer = line["answers"].as_array().and_then(|answers| answers.last()).cloned().unwrap_or_default();
        match &answer[2] {
            Value::Null => answer[1].clone(),
            error => json!({ "error": error }),
        }
    }
}

/// Whether a value is as the table says.
fn matches(expect: &Value, got: &Value) -> bool {
    let is_uuid = |text: &str| text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match expect {
        Value::String(text) => match text.as_str() {
            "~any" => true,
            "~number" => got.is_number(),
            "~string" => got.is_string(),
            "~uuid" => got.as_str().is_some_and(is_uuid),
            text => got.as_str() == Some(text),
        },
        Value::Number(number) => got.as_f64() == number.as_f64(),
        Value::Array(items) => {
            let got = got.as_array();
            got.is_some_and(|got| got.len() == items.len() && items.iter().zip(got).all(|(e, g)| matches(e, g)))
        }
        Value::Object(fields) => {
            if let Some(some) = fields.get("~has") {
                return has(some, got);
            }
            if let Some(some) = fields.get("~json") {
                let parsed: Value = got.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                return has(some, &parsed);
            }
            got.as_object().is_some_and(|got| {
                got.len() == fields.len() && fields.iter().all(|(k, e)| got.get(k).is_some_and(|g| matches(e, g)))
            })
        }
        other => other == got,
    }
}

/// Whether an object has these fields, in depth.
fn has(expect: &Value, got: &Value) -> bool {
    match expect {
        Value::Object(fields) => fields.iter().all(|(name, expect)| has(expect, &got[name])),
        other => matches(other, got),
    }
}

#[tokio::test]
async fn every_function_of_the_pdk_works_in_every_language_that_has_it() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let port = silverback_e2e::free_port();
    let ports = (port, upstream.port());
    let cases = Case::all();
    let routes: Vec<Value> = cases.iter().map(|case| case.route_entity(gateway.directory(), ports)).collect();
    let gateway = gateway
        .conf("trusted_ips = 127.0.0.0/8")
        .environment("CALLS_SECRET", "hidden")
        .plugin_servers(Calls::ALL)
        .config(json!({
            "services": [{ "name": "echo", "url": format!("{}/base", upstream.url()), "routes": routes }],
            "upstreams": [{ "name": "pool.test", "targets": [{ "target": upstream.target() }] }],
            "consumers": [{ "id": ANN, "username": "ann", "custom_id": "a-1" }],
        }))
        .proxy_port(port)
        .start()
        .await;
    let mut failures = String::new();
    for case in &cases {
        for wrong in case.run(&gateway, ports).await {
            let _ = writeln!(failures, "line {}, {} in {}: {wrong}", case.number, case.function(), case.language);
        }
    }
    let logged: Vec<_> = cases.iter().filter_map(|case| Some((case, case.logged(ports)?))).collect();
    let missing = || -> Vec<_> {
        let log = gateway.error_log();
        let is_there =
            |case: &Case, text: &str| log.lines().any(|line| line.contains(text) && line.contains(&case.plugin()));
        logged.iter().filter(|(case, text)| !is_there(case, text)).collect()
    };
    let give_up = Instant::now() + DEADLINE / 3;
    while !missing().is_empty() && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (case, text) in missing() {
        let _ = writeln!(
            failures,
            "line {}, {} in {}: not in the log: {text}",
            case.number,
            case.function(),
            case.language
        );
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn every_function_has_its_line_in_the_table() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pdk.md")).unwrap();
    let tested: BTreeSet<String> = Case::all().iter().map(|case| case.function().to_owned()).collect();
    let missing: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|row| {
            let phases = row.rsplit('|').nth(2).unwrap_or_default().trim();
            // Those of the handshake and of streams have tests of their own.
            phases == "all" || ["rewrite", "access", "response", "log"].iter().any(|phase| phases.contains(phase))
        })
        .filter_map(|row| row.split('(').next())
        .filter(|function| !tested.contains(*function))
        .collect();
    assert!(missing.is_empty(), "functions without a line in pdk/calls.jsonl: {missing:?}");
}

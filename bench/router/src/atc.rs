//! `atc-router`, fed with what Kong's flavour `traditional_compatible` makes of routes.

use std::{collections::HashMap, fmt::Write};

use atc_router::{
    ast::{Type, Value},
    context::Context,
    router::Router,
    schema::Schema,
};
use silverback_model::{Id, Route};

use crate::workload::Request;

/// The fields of Kong's HTTP routes.
pub fn schema() -> Schema {
    let mut schema = Schema::default();
    for field in ["net.protocol", "tls.sni", "http.method", "http.host", "http.path", "http.headers.*"] {
        schema.add_field(field, Type::String);
    }
    schema.add_field("net.dst.port", Type::Int);
    schema
}

/// A router, and the routes that its matchers belong to.
pub struct Atc<'s> {
    schema: &'s Schema,
    router: Router<'s>,
    routes: HashMap<uuid::Uuid, Id>,
}

impl<'s> Atc<'s> {
    /// # Errors
    /// What `atc-router` says of an expression.
    pub fn build(schema: &'s Schema, routes: &[Route]) -> Result<Self, String> {
        let mut atc = Self { schema, router: Router::new(schema), routes: HashMap::new() };
        for route in routes {
            for (id, part) in parts(route) {
                let expression = expression(&part);
                if expression.is_empty() {
                    continue;
                }
                let priority = usize::try_from(priority(&part)).map_err(|error| error.to_string())?;
                atc.router.add_matcher(priority, id, &expression)?;
                atc.routes.insert(id, route.id);
            }
        }
        Ok(atc)
    }

    /// The route, and the text that its path matched.
    pub fn find(&self, request: &Request) -> Option<(Id, Option<String>)> {
        let mut context = Context::new(self.schema);
        for field in self.router.fields.keys() {
            fill(&mut context, field, request);
        }
        self.router.execute(&mut context);
        let found = context.result?;
        let path = match found.matches.get("http.path") {
            Some(Value::String(path)) => Some(path.clone()),
            _ => None,
        };
        Some((*self.routes.get(&found.uuid)?, path))
    }
}

fn fill(context: &mut Context<'_>, field: &str, request: &Request) {
    let mut add = |value: &str| context.add_value(field, Value::String(value.to_owned()));
    match field {
        "net.protocol" => add(request.scheme),
        "tls.sni" => request.sni.iter().for_each(|sni| add(sni)),
        "http.method" => add(request.method.as_str()),
        "http.host" => add(host_and_port(&request.host).0),
        "http.path" => add(&request.path),
        "net.dst.port" => {
            let port = host_and_port(&request.host).1.unwrap_or(request.port);
            context.add_value(field, Value::Int(port.into()));
        }
        _ => {
            let name = field.trim_start_matches("http.headers.").replace('_', "-");
            request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).for_each(add);
        }
    }
}

fn host_and_port(host: &str) -> (&str, Option<u16>) {
    let split = host.split_once(':').and_then(|(name, port)| Some((name, Some(port.parse().ok()?))));
    split.unwrap_or((host, None))
}

/// A route for each group of paths of the same kind, with the id of its matcher.
fn parts(route: &Route) -> Vec<(uuid::Uuid, Route)> {
    let kind = |path: &str| if path.starts_with('~') { 0 } else { path.len() };
    let mut groups: Vec<(usize, Vec<String>)> = Vec::new();
    for path in route.paths.iter().flatten() {
        match groups.iter_mut().find(|(known, _)| *known == kind(path)) {
            Some((_, group)) => group.push(path.clone()),
            None => groups.push((kind(path), vec![path.clone()])),
        }
    }
    if groups.len() <= 1 {
        return vec![(route.id, route.clone())];
    }
    let namespace = uuid::Uuid::from_u128(0x7f14_5bf9_0dce_4f91_98eb_debb_ce4b_9f6b);
    let id = |number: u32| uuid::Uuid::new_v5(&namespace, format!("{}#{number}", route.id).as_bytes());
    let part = |paths| Route { paths: Some(paths), ..route.clone() };
    groups.into_iter().zip(1..).map(|((_, paths), number)| (id(number), part(paths))).collect()
}

/// The conditions, each of alternatives.
fn expression(route: &Route) -> String {
    let mut conditions = Vec::new();
    let mut any = |alternatives: Vec<String>, before: &str| {
        if !alternatives.is_empty() {
            conditions.push(format!("({before}({}))", alternatives.join(" || ")));
        }
    };
    let snis = route.snis.iter().flatten().map(|sni| named("tls.sni", sni.trim_end_matches('.')));
    any(snis.collect(), "net.protocol != \"https\" || ");
    let methods = route.methods.iter().flatten().map(|method| format!("http.method == {}", quoted(method)));
    any(methods.collect(), "");
    let hosts = route.hosts.iter().flatten().map(|host| match host_and_port(host) {
        (name, Some(port)) => format!("({} && net.dst.port == {port})", named("http.host", name)),
        (name, None) => named("http.host", name),
    });
    any(hosts.collect(), "");
    let paths = route.paths.iter().flatten().map(|path| match path.strip_prefix('~') {
        Some(pattern) => format!("http.path ~ {}", quoted(&format!("^{}", pattern.replace("?<", "?P<")))),
        None => format!("http.path ^= {}", quoted(path)),
    });
    any(paths.collect(), "");
    for (name, values) in route.headers.iter().flatten() {
        let field = format!("any(lower(http.headers.{}))", name.to_lowercase().replace('-', "_"));
        let values = values.iter().map(|value| match value.strip_prefix("~*") {
            Some(pattern) => format!("{field} ~ {}", quoted(&pattern.to_lowercase())),
            None => format!("{field} == {}", quoted(&value.to_lowercase())),
        });
        any(values.collect(), "");
    }
    conditions.join(" && ")
}

fn named(field: &str, pattern: &str) -> String {
    if let Some(suffix) = pattern.strip_prefix('*') {
        format!("{field} =^ {}", quoted(suffix))
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        format!("{field} ^= {}", quoted(prefix))
    } else {
        format!("{field} == {}", quoted(pattern))
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        if matches!(char, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    let _ = write!(quoted, "\"");
    quoted
}

/// What LuaJIT computes for Kong's priority, see `crates/router/src/priority.rs`.
fn priority(route: &Route) -> u64 {
    let set = |list: &Option<Vec<String>>| i32::from(list.is_some());
    let kinds = set(&route.methods) + set(&route.hosts) + set(&route.paths) + set(&route.snis);
    let headers = i32::try_from(route.headers.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
    let mut low = (kinds + i32::from(headers > 0)) << 29 | headers << 20;
    let mut high = 0;
    if route.hosts.as_ref().is_some_and(|hosts| hosts.iter().all(|host| !host.contains('*'))) {
        high |= 1 << 60;
    }
    match route.paths.as_ref().and_then(|paths| paths.first()) {
        Some(path) if path.starts_with('~') => {
            high |= 1 << 51;
            low |= route.regex_priority << 19;
        }
        Some(path) => low |= i32::try_from(path.len()).unwrap_or(i32::MAX),
        None => {}
    }
    high | i64::from(low) as u64
}

//! An upstream entity in the form in which its balancer uses it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::{Map, Value as Json};
use silverback_model::{Id, Target, Upstream};

use crate::upstream::health::{ActiveCheck, CheckKind, Checks, Limits, PassiveCheck, Statuses};

/// `algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    RoundRobin,
    ConsistentHashing,
    LeastConnections,
    Latency,
}

/// `hash_on` or `hash_fallback`, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashOn {
    Consumer,
    Ip,
    Header(String),
    /// Its name and the path of the one that is set where there is none.
    Cookie {
        name: String,
        path: String,
    },
    Path,
    QueryArgument(String),
    UriCapture(String),
}

/// An upstream and its targets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) hash_on: Option<HashOn>,
    pub(crate) hash_fallback: Option<HashOn>,
    pub(crate) slots: u32,
    pub(crate) host_header: Option<String>,
    pub(crate) use_srv_name: bool,
    pub(crate) checks: Checks,
    /// Percentage of the weight that must be available.
    pub(crate) threshold: f64,
    /// In Kong's order: by date, then by id.
    pub(crate) targets: Vec<Arc<Target>>,
}

impl Definition {
    pub(crate) fn new(upstream: &Upstream, mut targets: Vec<Arc<Target>>) -> Self {
        targets.sort_by(|a, b| a.created_at.total_cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
        let settings = Fields(&upstream.settings);
        let checks = settings.record("healthchecks");
        Self {
            id: upstream.id,
            name: upstream.name.clone(),
            algorithm: match upstream.algorithm.as_str() {
                "consistent-hashing" => Algorithm::ConsistentHashing,
                "least-connections" => Algorithm::LeastConnections,
                "latency" => Algorithm::Latency,
                _ => Algorithm::RoundRobin,
            },
            hash_on: hash(settings, "hash_on"),
            hash_fallback: hash(settings, "hash_fallback"),
            slots: u32::try_from(settings.integer("slots", 10_000)).unwrap_or(10_000),
            host_header: upstream.host_header.clone(),
            use_srv_name: settings.flag("use_srv_name", false),
            threshold: checks.number("threshold", 0.0),
            checks: Checks { active: active(checks.record("active")), passive: passive(checks.record("passive")) },
            targets,
        }
    }

    /// The names of targets, as DNS knows them; those that are addresses are none.
    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        let names = self.targets.iter().filter(|target| target.host.parse::<IpAddr>().is_err());
        names.map(|target| target.host.to_ascii_lowercase().into())
    }
}

/// A record of an entity. Validation has seen to the types; defaults are Kong's.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Map<String, Json>);

static NOTHING: std::sync::LazyLock<Map<String, Json>> = std::sync::LazyLock::new(Map::new);

impl<'a> Fields<'a> {
    fn record(self, name: &str) -> Self {
        Self(self.0.get(name).and_then(Json::as_object).unwrap_or(&NOTHING))
    }

    fn text(self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Json::as_str).map(str::to_owned)
    }

    fn integer(self, name: &str, default: u64) -> u64 {
        self.0.get(name).and_then(Json::as_u64).unwrap_or(default)
    }

    fn number(self, name: &str, default: f64) -> f64 {
        self.0.get(name).and_then(Json::as_f64).unwrap_or(default)
    }

    fn seconds(self, name: &str, default: u32) -> Duration {
        Duration::try_from_secs_f64(self.number(name, default.into())).unwrap_or_default()
    }

    fn flag(self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(Json::as_bool).unwrap_or(default)
    }

    fn statuses(self, default: &[u16]) -> Statuses {
        match self.0.get("http_statuses").and_then(Json::as_array) {
            Some(list) => {
                list.iter().filter_map(Json::as_u64).filter_map(|status| u16::try_from(status).ok()).collect()
            }
            None => default.iter().copied().collect(),
        }
    }

    fn counter(self, name: &str) -> u8 {
        u8::try_from(self.integer(name, 0)).unwrap_or(u8::MAX)
    }

    fn headers(self) -> &'a Map<String, Json> {
        self.0.get("headers").and_then(Json::as_object).unwrap_or(&NOTHING)
    }
}

fn hash(settings: Fields<'_>, field: &str) -> Option<HashOn> {
    let argument = |name: &str| settings.text(&format!("{field}_{name}")).unwrap_or_default();
    match settings.text(field).as_deref() {
        Some("consumer") => Some(HashOn::Consumer),
        Some("ip") => Some(HashOn::Ip),
        Some("header") => Some(HashOn::Header(argument("header"))),
        Some("cookie") => Some(HashOn::Cookie {
            name: settings.text("hash_on_cookie").unwrap_or_default(),
            path: settings.text("hash_on_cookie_path").unwrap_or_else(|| "/".to_owned()),
        }),
        Some("path") => Some(HashOn::Path),
        Some("query_arg") => Some(HashOn::QueryArgument(argument("query_arg"))),
        Some("uri_capture") => Some(HashOn::UriCapture(argument("uri_capture"))),
        _ => None,
    }
}

fn limits(healthy: Fields<'_>, unhealthy: Fields<'_>, defaults: (&[u16], &[u16])) -> Limits {
    Limits {
        healthy_statuses: healthy.statuses(defaults.0),
        unhealthy_statuses: unhealthy.statuses(defaults.1),
        successes: healthy.counter("successes"),
        http_failures: unhealthy.counter("http_failures"),
        tcp_failures: unhealthy.counter("tcp_failures"),
        timeouts: unhealthy.counter("timeouts"),
    }
}

fn kind(fields: Fields<'_>) -> CheckKind {
    match fields.text("type").as_deref() {
        Some("tcp") => CheckKind::Tcp,
        Some("https") => CheckKind::Https,
        Some("grpc") => CheckKind::Grpc,
        Some("grpcs") => CheckKind::Grpcs,
        _ => CheckKind::Http,
    }
}

fn active(fields: Fields<'_>) -> ActiveCheck {
    let (healthy, unhealthy) = (fields.record("healthy"), fields.record("unhealthy"));
    let headers = fields.headers().iter().flat_map(|(name, values)| {
        let values = values.as_array().into_iter().flatten().filter_map(Json::as_str);
        values.map(|value| (name.clone(), value.to_owned())).collect::<Vec<_>>()
    });
    ActiveCheck {
        kind: kind(fields),
        timeout: fields.seconds("timeout", 1),
        concurrency: usize::try_from(fields.integer("concurrency", 10)).unwrap_or(usize::MAX),
        http_path: fields.text("http_path").unwrap_or_else(|| "/".to_owned()),
        https_sni: fields.text("https_sni"),
        https_verify_certificate: fields.flag("https_verify_certificate", true),
        headers: headers.collect(),
        healthy_interval: healthy.seconds("interval", 0),
        unhealthy_interval: unhealthy.seconds("interval", 0),
        limits: limits(healthy, unhealthy, (&[200, 302], &[429, 404, 500, 501, 502, 503, 504, 505])),
    }
}

fn passive(fields: Fields<'_>) -> PassiveCheck {
    const HEALTHY: [u16; 19] =
        [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
    let (healthy, unhealthy) = (fields.record("healthy"), fields.record("unhealthy"));
    PassiveCheck { kind: kind(fields), limits: limits(healthy, unhealthy, (&HEALTHY, &[429, 500, 503])) }
}

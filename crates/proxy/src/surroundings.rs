//! What the PDK's pure code needs of the world: the clock, the log, counters.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use silverback_config::Settings;
use silverback_log::{Context, Level};
use silverback_model::Phase;
use silverback_pdk::{
    Exchange,
    error_page::Templates,
    exchange::{HttpVersion, Limits, LogLevel, MemoryStats, Node, Statistics, Subsystem, Surroundings},
};

use crate::{
    connection::{From, Origin},
    generation::Registries,
};

/// Counters since the start, one set for all workers.
#[derive(Debug, Default)]
pub(crate) struct AtomicCounters {
    pub(crate) accepted: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) requests: AtomicU64,
}

/// What the counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections_accepted: u64,
    pub connections_active: u64,
    pub requests: u64,
}

impl AtomicCounters {
    pub(crate) fn clone_values(&self, order: Ordering) -> Counters {
        Counters {
            connections_accepted: self.accepted.load(order),
            connections_active: self.active.load(order),
            requests: self.requests.load(order),
        }
    }
}

struct World {
    counters: Arc<AtomicCounters>,
}

pub(crate) fn node(settings: &Settings, registries: &Registries) -> Node {
    Node {
        id: registries.node_id.clone(),
        hostname: hostname(),
        trusted_ips: settings.real_ip.trusted.clone(),
        trust_unix: settings.real_ip.trust_unix,
        limits: Limits {
            req_headers: settings.lua.max_req_headers,
            resp_headers: settings.lua.max_resp_headers,
            uri_args: settings.lua.max_uri_args,
            post_args: settings.lua.max_post_args,
        },
        port_maps: settings.port_maps.clone(),
        templates: Templates {
            json: settings.errors.json.clone(),
            html: settings.errors.html.clone(),
            xml: settings.errors.xml.clone(),
            plain: settings.errors.plain.clone(),
        },
        surroundings: Box::new(World { counters: Arc::clone(&registries.counters) }),
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

impl Surroundings for World {
    fn now(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    fn log(&self, level: LogLevel, plugin: &str, message: &str, exchange: &Exchange) {
        let context = context(exchange);
        silverback_log::write(severity(level), format_args!("[kong] [{plugin}] {message}"), Some(&context));
    }

    fn logs(&self, level: LogLevel) -> bool {
        silverback_log::enabled(severity(level))
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn statistics(&self) -> Statistics {
        let counters = self.counters.clone_values(Ordering::Relaxed);
        Statistics {
            connections_active: counters.connections_active,
            connections_accepted: counters.connections_accepted,
            connections_handled: counters.connections_accepted,
            total_requests: counters.requests,
            ..Statistics::default()
        }
    }

    fn memory(&self) -> MemoryStats {
        // There are no shared dictionaries, and one process for all workers.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|size| size.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        MemoryStats {
            shared: ["kong", "kong_db_cache"].map(|name| (name.to_owned(), 0, 0)).to_vec(),
            workers: vec![(std::process::id(), kilobytes * 1024)],
        }
    }
}

const fn severity(level: LogLevel) -> Level {
    match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Notice => Level::Notice,
        LogLevel::Warn => Level::Warn,
        LogLevel::Err => Level::Error,
        LogLevel::Crit => Level::Crit,
        LogLevel::Alert => Level::Alert,
        LogLevel::Emerg => Level::Emerg,
    }
}

/// What an error-log line says of the request that it belongs to, or of the connection where there is none (yet).
pub(crate) fn context(exchange: &Exchange) -> Context {
    let request = &exchange.request;
    let connection = Context {
        connection: Some(exchange.client.connection),
        client: exchange.client.real_ip.map(|ip| ip.to_string()),
        server: Some("kong".to_owned()),
        ..Context::default()
    };
    if exchange.subsystem == Subsystem::Stream {
        let listener = exchange.client.local_ip.map(|ip| SocketAddr::new(ip, exchange.client.local_port).to_string());
        return Context { server: listener, stream: true, ..connection };
    }
    if exchange.phase == Phase::Certificate {
        return connection;
    }
    let version = match request.version {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
        HttpVersion::Http2 => "2.0",
    };
    let line = match &request.line {
        Some(line) => String::from_utf8_lossy(line).into_owned(),
        None => format!("{} {} HTTP/{version}", request.method, request.raw_uri),
    };
    Context {
        request: Some(line),
        host: (!request.host.is_empty()).then(|| request.host.clone()),
        request_id: Some(exchange.id.clone()),
        ..connection
    }
}

/// What an error-log line says of a connection that no exchange was made for.
pub(crate) fn connection_context(origin: &Origin) -> Context {
    let client = match origin.from {
        From::Tcp { peer, .. } => peer.ip().to_canonical().to_string(),
        From::Unix => "unix:".to_owned(),
    };
    Context {
        connection: Some(origin.serial),
        client: Some(client),
        server: Some("kong".to_owned()),
        ..Context::default()
    }
}

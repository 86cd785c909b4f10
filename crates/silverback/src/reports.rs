//! What the parts of the node report to its APIs: plugin servers for `/status`, the health of upstreams, and the families of
//! `/metrics` that they know of.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value as Json, json};
use silverback_admin::{Exposition, HealthNotSet, Kind, PluginServer, Reports, Upstreams};
use silverback_plugin_host::{
    BreakerState, EventMetrics, HistogramValues, Host, ProcessStatus, ServerState, ServerStatus,
};
use silverback_proxy::{AddressHealth, HealthState, HttpMetrics, Proxy, SetHealthError, UpstreamHealth};

/// Addresses of targets that `/metrics` tells of, four series each.
const MAX_ADDRESSES: usize = 4096;

pub(crate) struct NodeReports {
    node_id: String,
    host: Arc<Host>,
    http: Box<dyn Fn() -> HttpMetrics + Send + Sync>,
    upstreams: UpstreamHealth,
}

impl NodeReports {
    pub(crate) fn new(node_id: String, host: Arc<Host>, proxy: &Proxy) -> Self {
        Self { node_id, host, http: Box::new(proxy.metrics_source()), upstreams: proxy.upstream_health() }
    }
}

impl Reports for NodeReports {
    fn plugin_servers(&self) -> Vec<PluginServer> {
        self.host.status().iter().map(plugin_server).collect()
    }

    fn metrics(&self, exposition: &mut Exposition) {
        http(&self.node_id, &(self.http)(), exposition);
        targets(|tell| self.upstreams.addresses(tell), exposition);
        events(&self.host.metrics(), exposition);
        servers(&self.host.status(), exposition);
    }
}

/// The balancers, as the Admin API asks them.
pub(crate) struct BalancerReports(pub(crate) UpstreamHealth);

impl Upstreams for BalancerReports {
    fn targets(&self, upstream: &str) -> Option<Vec<Json>> {
        self.0.targets(upstream)
    }

    fn balancer(&self, upstream: &str) -> Option<Json> {
        self.0.balancer(upstream)
    }

    fn set_health(
        &self,
        upstream: &str,
        target: &str,
        address: Option<&str>,
        healthy: bool,
    ) -> Result<(), HealthNotSet> {
        self.0.set(upstream, target, address, healthy).map_err(|error| match error {
            SetHealthError::NotFound => HealthNotSet::NotFound,
            SetHealthError::Refused(why) => HealthNotSet::Refused(why),
        })
    }
}

const fn state_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Starting => "starting",
        ServerState::Ready => "ready",
        ServerState::Backoff => "backoff",
        ServerState::Draining => "draining",
        ServerState::Dead => "dead",
    }
}

const STATES: [ServerState; 5] =
    [ServerState::Starting, ServerState::Ready, ServerState::Backoff, ServerState::Draining, ServerState::Dead];

const fn breaker_name(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
    }
}

const BREAKER_STATES: [BreakerState; 3] = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];

fn plugin_server(server: &ServerStatus) -> PluginServer {
    let description = json!({
        "name": server.name,
        "state": state_name(server.state),
        "protocol": server.protocol.name(),
        "plugins": server.plugins,
        "socket": server.socket.display().to_string(),
        "managed": server.managed,
        "restarts": server.restarts,
        "in_flight": server.in_flight,
        "queue": server.queue,
        "breaker": breaker_name(server.breaker),
        "processes": server.processes.iter().map(process).collect::<Vec<_>>(),
    });
    PluginServer { name: server.name.clone(), ready: server.state == ServerState::Ready, description }
}

fn process(process: &ProcessStatus) -> Json {
    json!({
        "pid": process.pid,
        "state": state_name(process.state),
        "epoch": process.epoch,
        "started_at": process.started.map(seconds),
        "memory_bytes": process.usage.map(|usage| usage.memory),
        "cpu_seconds": process.usage.map(|usage| usage.cpu.as_secs_f64()),
        "in_flight": process.in_flight,
        "events": process.events,
        "instances": process.instances,
        "abandoned_handlers": process.parked,
    })
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn histogram(exposition: &mut Exposition, labels: silverback_admin::Labels<'_>, values: &HistogramValues) {
    exposition.histogram(labels, values.bounds, &values.within, values.count, values.sum);
}

/// Kong's names, for the node as a whole: Kong has them for each service and route.
fn http(node_id: &str, http: &HttpMetrics, exposition: &mut Exposition) {
    exposition.family("kong_http_requests_total", Kind::Counter, "HTTP status codes in Kong, and who answered");
    for (status, of_service, count) in &http.answers {
        let source = if *of_service { "service" } else { "kong" };
        exposition.sample(&[("code", &status.to_string()), ("source", source)], count);
    }
    for (name, help, values) in [
        ("kong_kong_latency_ms", "Latency added by Kong and enabled plugins", &http.gateway),
        ("kong_upstream_latency_ms", "Latency added by upstream response", &http.upstream),
        ("kong_request_latency_ms", "Total latency incurred during requests", &http.request),
    ] {
        exposition.family(name, Kind::Histogram, help);
        histogram(exposition, &[], values);
    }
    exposition.family("kong_bandwidth_bytes", Kind::Counter, "Total bandwidth (ingress/egress) throughput in bytes");
    exposition.sample(&[("direction", "ingress")], http.bytes_received);
    exposition.sample(&[("direction", "egress")], http.bytes_sent);
    exposition.family("silverback_buffered_bytes", Kind::Gauge, "Bytes of request and response bodies in memory");
    exposition.sample(&[("node_id", node_id)], http.buffered);
}

/// What is told of addresses of targets, one after the other.
type Tell<'t> = &'t mut dyn FnMut(&AddressHealth);

/// As Kong's prometheus plugin with `upstream_health_metrics`; `addresses` tells of each.
fn targets(addresses: impl FnOnce(Tell<'_>), exposition: &mut Exposition) {
    let help = "Health status of targets of upstream. States = healthchecks_off|healthy|unhealthy|dns_error, value is 1 \
                when state is populated.";
    exposition.family("kong_upstream_target_health", Kind::Gauge, help);
    let mut count = 0_usize;
    addresses(&mut |health| {
        count += 1;
        if count > MAX_ADDRESSES {
            return;
        }
        for (state, name) in [
            (HealthState::Unchecked, "healthchecks_off"),
            (HealthState::Healthy, "healthy"),
            (HealthState::Unhealthy, "unhealthy"),
            (HealthState::DnsError, "dns_error"),
        ] {
            let labels = [
                ("upstream", health.upstream.as_str()),
                ("target", &health.target),
                ("address", &health.address),
                ("state", name),
                ("subsystem", "http"),
            ];
            exposition.sample(&labels, u8::from(health.state == state));
        }
    });
    exposition.family(
        "silverback_upstream_addresses_left_out",
        Kind::Gauge,
        "Addresses of targets that kong_upstream_target_health has no room for",
    );
    exposition.sample(&[], count.saturating_sub(MAX_ADDRESSES));
}

/// Writes a family's samples of one plugin in one phase.
type EventSamples<'s> = &'s dyn Fn(&mut Exposition, silverback_admin::Labels<'_>, &EventMetrics);

/// Writes a family's samples of one server, whose label is given.
type ServerSamples<'s> = &'s dyn Fn(&mut Exposition, (&str, &str), &ServerStatus);

fn events(events: &[EventMetrics], exposition: &mut Exposition) {
    let each = |exposition: &mut Exposition, sample: EventSamples<'_>| {
        for event in events {
            let labels = [("server", event.server.as_str()), ("plugin", &event.plugin), ("phase", event.phase.name())];
            sample(exposition, &labels, event);
        }
    };
    exposition.family(
        "silverback_plugin_event_duration_ms",
        Kind::Histogram,
        "Time that events of plugins took, waiting for their server included",
    );
    each(exposition, &|exposition, labels, event| histogram(exposition, labels, &event.duration));
    exposition.family("silverback_plugin_events_total", Kind::Counter, "Events of plugins by how they ended");
    each(exposition, &|exposition, labels, event| {
        for (outcome, count) in &event.outcomes {
            exposition.sample(&[labels, &[("outcome", *outcome)]].concat(), count);
        }
    });
    exposition.family("silverback_plugin_pdk_calls_total", Kind::Counter, "Calls that plugins made");
    each(exposition, &|exposition, labels, event| exposition.sample(labels, event.calls));
    exposition.family("silverback_plugin_events_in_flight", Kind::Gauge, "Events that run or wait for their server");
    each(exposition, &|exposition, labels, event| exposition.sample(labels, event.in_flight));
}

fn servers(servers: &[ServerStatus], exposition: &mut Exposition) {
    let mut family = |name, kind, help: &str, sample: ServerSamples<'_>| {
        exposition.family(name, kind, help);
        for server in servers {
            sample(exposition, ("server", &server.name), server);
        }
    };
    let flag = |on: bool| u8::from(on);
    family(
        "silverback_plugin_server_state",
        Kind::Gauge,
        "1 for the state that a plugin server is in",
        &|out, label, server| {
            for state in STATES {
                out.sample(&[label, ("state", state_name(state))], flag(server.state == state));
            }
        },
    );
    family(
        "silverback_plugin_server_restarts_total",
        Kind::Counter,
        "Restarts of a plugin server's processes",
        &|out, label, server| {
            out.sample(&[label], server.restarts);
        },
    );
    family(
        "silverback_plugin_server_in_flight",
        Kind::Gauge,
        "Events that run in a plugin server",
        &|out, label, server| {
            out.sample(&[label], server.in_flight);
        },
    );
    family(
        "silverback_plugin_server_queue",
        Kind::Gauge,
        "Events that wait for others of their plugin server to end",
        &|out, label, server| {
            out.sample(&[label], server.queue);
        },
    );
    family(
        "silverback_plugin_server_breaker_state",
        Kind::Gauge,
        "1 for the state of a plugin server's circuit breaker",
        &|out, label, server| {
            for state in BREAKER_STATES {
                out.sample(&[label, ("state", breaker_name(state))], flag(server.breaker == state));
            }
        },
    );
    let mut each = |name, kind, help: &str, value: &dyn Fn(&ProcessStatus) -> Option<f64>| {
        family(name, kind, help, &|out, label, server| {
            for process in &server.processes {
                let Some(pid) = process.pid.map(|pid| pid.to_string()) else { continue };
                if let Some(value) = value(process) {
                    out.sample(&[label, ("pid", &pid)], value);
                }
            }
        });
    };
    each(
        "silverback_plugin_process_memory_bytes",
        Kind::Gauge,
        "Resident memory of a plugin server's process",
        &|process| process.usage.map(|usage| usage.memory as f64),
    );
    each(
        "silverback_plugin_process_cpu_seconds_total",
        Kind::Counter,
        "Processor time of a plugin server's process",
        &|process| process.usage.map(|usage| usage.cpu.as_secs_f64()),
    );
    each(
        "silverback_plugin_process_start_time_seconds",
        Kind::Gauge,
        "When a plugin server's process was started, since 1970",
        &|process| process.started.map(seconds),
    );
    each(
        "silverback_plugin_process_events_total",
        Kind::Counter,
        "Events that a plugin server's process was given",
        &|process| Some(process.events as f64),
    );
    each(
        "silverback_plugin_process_in_flight",
        Kind::Gauge,
        "Events that run in a plugin server's process",
        &|process| Some(process.in_flight as f64),
    );
    each(
        "silverback_plugin_process_instances",
        Kind::Gauge,
        "Instances that were started in a plugin server's process",
        &|process| Some(process.instances as f64),
    );
    each(
        "silverback_plugin_process_abandoned_handlers",
        Kind::Gauge,
        "Handlers that run on though their event was given up",
        &|process| Some(process.parked as f64),
    );
}

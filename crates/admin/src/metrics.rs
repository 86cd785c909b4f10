//! `GET /metrics`, for Prometheus. What Kong's prometheus plugin has under a name of its own is called the same here; what
//! other parts of the node know follows.

use std::time::Duration;

use http::StatusCode;

use crate::{Exposition, KONG_VERSION, Kind, Node, api::Answer, exposition, status};

pub(crate) fn expose(node: &Node) -> Answer {
    let mut exposition = Exposition::default();
    kong(node, &mut exposition);
    process(&mut exposition);
    node.reports().metrics(&mut exposition);
    Answer::text(StatusCode::OK, exposition.into_text(), exposition::CONTENT_TYPE)
}

/// The families of `kong/plugins/prometheus/exporter.lua` that concern the node as a whole.
fn kong(node: &Node, exposition: &mut Exposition) {
    let id = ("node_id", node.id.as_str());
    let subsystem = ("subsystem", "http");
    let statistics = node.statistics();
    exposition.family("kong_nginx_connections_total", Kind::Gauge, "Number of connections by subsystem");
    for (state, count) in [
        ("accepted", statistics.connections_accepted),
        ("handled", statistics.connections_handled),
        ("total", statistics.total_requests),
        ("active", statistics.connections_active),
        ("reading", statistics.connections_reading),
        ("writing", statistics.connections_writing),
        ("waiting", statistics.connections_waiting),
    ] {
        exposition.sample(&[id, subsystem, ("state", state)], count);
    }
    exposition.family("kong_nginx_requests_total", Kind::Gauge, "Number of requests total");
    exposition.sample(&[id, subsystem], statistics.total_requests);
    exposition.family("kong_node_info", Kind::Gauge, "Kong Node metadata information");
    exposition.sample(&[id, ("version", KONG_VERSION), ("silverback_version", env!("CARGO_PKG_VERSION"))], 1);
    exposition.family("kong_datastore_reachable", Kind::Gauge, "Datastore reachable from Kong, 0 is unreachable");
    exposition.sample(&[], 1);
    exposition.family("kong_memory_workers_lua_vms_bytes", Kind::Gauge, "Resident bytes of the gateway's process");
    let pid = std::process::id().to_string();
    exposition.sample(&[id, ("pid", &pid), ("kong_subsystem", "http")], status::resident_bytes());
}

/// What Prometheus's own libraries say of every process.
fn process(exposition: &mut Exposition) {
    exposition.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory of the gateway's process");
    exposition.sample(&[], status::resident_bytes());
    if let Some(time) = cpu_time() {
        exposition.family("process_cpu_seconds_total", Kind::Counter, "Processor time of the gateway's process");
        exposition.sample(&[], time.as_secs_f64());
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        exposition.family("process_open_fds", Kind::Gauge, "Open file descriptors of the gateway's process");
        exposition.sample(&[], descriptors.count());
    }
    exposition.family(
        "silverback_log_lines_dropped_total",
        Kind::Counter,
        "Lines of logs that could not be written fast enough",
    );
    exposition.sample(&[], silverback_log::dropped());
}

fn cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours, written to during the call only.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    (result == 0).then(|| Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}

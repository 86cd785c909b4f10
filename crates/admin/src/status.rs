//! `/status` and `/status/ready`.

use http::StatusCode;
use serde_json::{Value as Json, json};

use crate::{Node, Readiness, api::Answer};

/// `GET /status`: memory and connection counts. `?unit=` (b, k, m, g) and `?scale=` shape the memory figures.
pub(crate) fn describe(node: &Node, query: Option<&str>) -> Answer {
    let parameter =
        |name: &str| query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let unit = parameter("unit").unwrap_or("m");
    let scale = match parameter("scale").map(str::parse::<f64>) {
        None | Some(Err(_)) => 2.0,
        Some(Ok(scale)) => scale,
    };
    let memory = match amount(resident_bytes(), unit, scale) {
        Ok(amount) => amount,
        Err(message) => return Answer::message(StatusCode::BAD_REQUEST, &message),
    };
    let statistics = node.statistics();
    let mut body = json!({
        // One process serves: what it holds is what its workers hold together.
        "memory": {
            "workers_lua_vms": [{ "http_allocated_gc": memory, "pid": std::process::id() }],
            "lua_shared_dicts": {},
        },
        "server": {
            "connections_active": statistics.connections_active,
            "connections_reading": statistics.connections_reading,
            "connections_writing": statistics.connections_writing,
            "connections_waiting": statistics.connections_waiting,
            "connections_accepted": statistics.connections_accepted,
            "connections_handled": statistics.connections_handled,
            "total_requests": statistics.total_requests,
        },
    });
    if let Some(body) = body.as_object_mut() {
        if let Some(configured) = &node.loaded().configured {
            body.insert("configuration_hash".to_owned(), configured.hash.clone().into());
        }
        let servers = node.reports().plugin_servers();
        if !servers.is_empty() {
            let servers: Vec<Json> = servers.into_iter().map(|server| server.description).collect();
            body.insert("plugin_servers".to_owned(), servers.into());
        }
    }
    Answer::json(StatusCode::OK, body)
}

/// `GET /status/ready`, with Kong's texts. Plugin servers that are not ready are named; requests that need none of them are
/// served, so that they make the node unready only where `status_ready_plugin_servers` says so.
pub(crate) fn ready(node: &Node) -> Answer {
    let unavailable = |message: &str| Answer::message(StatusCode::SERVICE_UNAVAILABLE, message);
    match node.readiness() {
        Readiness::Ready => {
            let servers = node.reports().plugin_servers().into_iter();
            let waiting: Vec<String> = servers.filter(|server| !server.ready).map(|server| server.name).collect();
            if waiting.is_empty() {
                return Answer::message(StatusCode::OK, "ready");
            }
            if node.loaded().settings.ready_needs_plugin_servers {
                let message = format!("plugin servers not ready: {}", waiting.join(", "));
                return Answer::json(
                    StatusCode::SERVICE_UNAVAILABLE,
                    json!({ "message": message, "plugin_servers_not_ready": waiting }),
                );
            }
            Answer::json(StatusCode::OK, json!({ "message": "ready", "plugin_servers_not_ready": waiting }))
        }
        Readiness::Draining => unavailable("draining"),
        Readiness::Empty => unavailable("no configuration available (empty configuration present)"),
        Readiness::Building => {
            let workers = node.loaded().settings.workers;
            unavailable(&format!("router builds not yet complete, router ready in 0 of {workers} workers"))
        }
    }
}

/// An amount of memory as Kong prints it: a number of bytes, or a text with the unit.
fn amount(bytes: u64, unit: &str, scale: f64) -> Result<Json, String> {
    let divisor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => return Ok(bytes.into()),
        "k" => ("KiB", 10),
        "m" => ("MiB", 20),
        "g" => ("GiB", 30),
        _ => return Err(format!("invalid unit '{unit}' (expected 'k/K', 'm/M', or 'g/G')")),
    };
    if scale.is_nan() || scale < 0.0 {
        return Err("scale must be equal or greater than 0".to_owned());
    }
    let (name, shift) = divisor;
    let decimals = scale.min(20.0) as usize;
    Ok(format!("{:.decimals$} {name}", bytes as f64 / (1_u64 << shift) as f64).into())
}

/// The resident set of this process; 0 where `/proc` is not mounted.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page_size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_kong_s_form() {
        for (bytes, unit, scale, expect) in [
            (5_497_558, "b", 2.0, Ok(json!(5_497_558))),
            (5_497_558, "m", 2.0, Ok(json!("5.24 MiB"))),
            (5_497_558_138, "G", 3.0, Ok(json!("5.120 GiB"))),
            (2048, "k", 0.0, Ok(json!("2 KiB"))),
            (1, "x", 2.0, Err("invalid unit 'x' (expected 'k/K', 'm/M', or 'g/G')".to_owned())),
            (1, "m", -1.0, Err("scale must be equal or greater than 0".to_owned())),
        ] {
            assert_eq!(amount(bytes, unit, scale), expect);
        }
    }
}

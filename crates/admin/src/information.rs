//! `GET /` of the Admin API: node information in Kong's shape.

use serde_json::{Map, Value as Json, json};
use silverback_config::{Settings, conf::properties::SENSITIVE, settings::LogLevel};

use crate::{KONG_VERSION, Node};

/// What stands in the place of a secret, as in Kong.
const HIDDEN: &str = "******";

pub(crate) fn describe(node: &Node) -> Json {
    let loaded = node.loaded();
    let available: Map<String, Json> = loaded
        .catalogue
        .iter()
        .map(|plugin| (plugin.name.clone(), json!({ "version": plugin.version, "priority": plugin.priority })))
        .collect();
    let enabled = loaded.configured.as_ref().map(|configured| configured.plugins.clone()).unwrap_or_default();
    let pid = std::process::id();
    json!({
        "tagline": "Welcome to kong",
        "version": KONG_VERSION,
        "edition": "community",
        "silverback_version": env!("CARGO_PKG_VERSION"),
        "hostname": node.hostname,
        "node_id": node.id,
        "timers": { "running": 0, "pending": 0 },
        "plugins": { "available_on_server": available, "enabled_in_cluster": enabled },
        "configuration": configuration(&loaded.settings),
        "pids": { "master": pid, "workers": [pid] },
    })
}

/// The properties that were set, and those that tools look for even when they were not; secrets hidden.
fn configuration(settings: &Settings) -> Json {
    let mut properties: Map<String, Json> = Map::new();
    for (name, value) in &settings.raw {
        let shown = if is_secret(name) { HIDDEN.into() } else { typed(value) };
        properties.insert(name.clone(), shown);
    }
    let bundled = settings.plugins.bundled.then(|| "bundled".to_owned());
    let plugins: Vec<String> = bundled.into_iter().chain(settings.plugins.named.iter().cloned()).collect();
    properties.insert("plugins".to_owned(), plugins.into());
    properties.insert("prefix".to_owned(), settings.prefix.display().to_string().into());
    properties.insert("log_level".to_owned(), level_name(settings.log_level).into());
    properties.insert("database".to_owned(), "off".into());
    properties.insert("role".to_owned(), "traditional".into());
    properties.insert("router_flavor".to_owned(), "traditional_compatible".into());
    properties.into()
}

const fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Notice => "notice",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Crit => "crit",
        LogLevel::Alert => "alert",
        LogLevel::Emerg => "emerg",
    }
}

fn is_secret(name: &str) -> bool {
    SENSITIVE.contains(&name) || ["password", "secret", "token", "vault_"].iter().any(|part| name.contains(part))
}

/// A property's value as Kong's own loader would type it.
fn typed(value: &str) -> Json {
    match value {
        "on" | "true" => true.into(),
        "off" | "false" => false.into(),
        _ => value
            .parse::<i64>()
            .map(Json::from)
            .or_else(|_| value.parse::<f64>().ok().filter(|number| number.is_finite()).map(Json::from).ok_or(()))
            .unwrap_or_else(|()| value.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed() {
        for (value, expect) in [
            ("on", json!(true)),
            ("off", json!(false)),
            ("12", json!(12)),
            ("0.5", json!(0.5)),
            ("inf", json!("inf")),
            ("0.0.0.0:8000", json!("0.0.0.0:8000")),
        ] {
            assert_eq!(typed(value), expect, "{value}");
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for (name, expect) in [
            ("pg_password", true),
            ("ssl_cert_key", true),
            ("admin_ssl_cert_key", true),
            ("ssl_cert", false),
            ("declarative_config_string", true),
            ("proxy_listen", false),
        ] {
            assert_eq!(is_secret(name), expect, "{name}");
        }
    }
}

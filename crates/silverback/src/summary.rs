//! What a start tells of itself: which plugins were found, where, with which phases.

use std::collections::HashMap;

use silverback_config::{Settings, settings::Listen};
use silverback_model::{Catalogue, PluginDefinition, PluginSource};
use silverback_plugin_host::Offer;

/// A line each, plugins in the order in which they run.
pub(crate) fn lines(settings: &Settings, catalogue: &Catalogue, offers: &[Offer]) -> Vec<String> {
    let mut lines = vec![format!(
        "Silverback {} in {}: {} workers",
        env!("CARGO_PKG_VERSION"),
        settings.prefix.display(),
        settings.workers
    )];
    for (what, listeners) in [
        ("proxy", &settings.proxy_listen),
        ("stream", &settings.stream_listen),
        ("admin", &settings.admin_listen),
        ("status", &settings.status_listen),
    ] {
        if !listeners.is_empty() {
            let addresses: Vec<String> = listeners.iter().map(address).collect();
            lines.push(format!("{what} listens on {}", addresses.join(", ")));
        }
    }
    let protocols: HashMap<&str, &str> =
        offers.iter().map(|offer| (offer.server.as_str(), offer.protocol.name())).collect();
    let mut plugins: Vec<&PluginDefinition> = catalogue.iter().collect();
    plugins.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| b.name.cmp(&a.name)));
    lines.push(format!("plugins that can be configured: {}", plugins.len()));
    lines.extend(plugins.into_iter().map(|plugin| describe(plugin, &protocols)));
    lines
}

fn describe(plugin: &PluginDefinition, protocols: &HashMap<&str, &str>) -> String {
    let source = match &plugin.source {
        PluginSource::Bundled => "bundled".to_owned(),
        PluginSource::Server(server) => {
            let protocol = protocols.get(server.as_str()).map_or_else(String::new, |protocol| format!(", {protocol}"));
            format!("plugin server {server}{protocol}")
        }
    };
    let version = if plugin.version.is_empty() { "without version" } else { &plugin.version };
    format!("  {} {version} ({source}), priority {}, phases {}", plugin.name, plugin.priority, plugin.phases)
}

fn address(listen: &Listen) -> String {
    let mut text = listen.address.to_string();
    for (set, flag) in [(listen.ssl, " ssl"), (listen.http2, " http2"), (listen.udp, " udp")] {
        if set {
            text.push_str(flag);
        }
    }
    text
}

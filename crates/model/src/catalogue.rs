//! Which plugins there are: what their servers, or the gateway itself, say of them.

use std::collections::BTreeMap;

use crate::{PhaseSet, schema};

/// The plugins that come with Kong 3.9, sorted: what `bundled` in `plugins` stands for, whether they are built here or not.
/// Source: `kong/constants.lua`.
pub const BUNDLED_IN_KONG: &[&str] = &[
    "acl",
    "acme",
    "ai-prompt-decorator",
    "ai-prompt-guard",
    "ai-prompt-template",
    "ai-proxy",
    "ai-request-transformer",
    "ai-response-transformer",
    "aws-lambda",
    "azure-functions",
    "basic-auth",
    "bot-detection",
    "correlation-id",
    "cors",
    "datadog",
    "file-log",
    "grpc-gateway",
    "grpc-web",
    "hmac-auth",
    "http-log",
    "ip-restriction",
    "jwt",
    "key-auth",
    "ldap-auth",
    "loggly",
    "oauth2",
    "opentelemetry",
    "post-function",
    "pre-function",
    "prometheus",
    "proxy-cache",
    "rate-limiting",
    "redirect",
    "request-size-limiting",
    "request-termination",
    "request-transformer",
    "response-ratelimiting",
    "response-transformer",
    "session",
    "standard-webhooks",
    "statsd",
    "syslog",
    "tcp-log",
    "udp-log",
    "zipkin",
];

/// Where a plugin runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// In this process.
    Bundled,
    /// In the plugin server of this name (`pluginserver_names`).
    Server(String),
}

/// A plugin that may be configured.
#[derive(Clone, Debug)]
pub struct PluginDefinition {
    pub name: String,
    /// As the plugin states it; not always x.y.z, sometimes empty.
    pub version: String,
    /// Plugins with a higher one run first.
    pub priority: i64,
    pub phases: PhaseSet,
    /// The schema of the `config` record.
    pub schema: schema::Record,
    pub source: PluginSource,
}

/// Every plugin that may be configured, by name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    plugins: BTreeMap<String, PluginDefinition>,
}

impl Catalogue {
    pub fn insert(&mut self, plugin: PluginDefinition) -> Option<PluginDefinition> {
        self.plugins.insert(plugin.name.clone(), plugin)
    }

    pub fn get(&self, name: &str) -> Option<&PluginDefinition> {
        self.plugins.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &PluginDefinition> {
        self.plugins.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bundled_plugins_are_sorted() {
        assert!(BUNDLED_IN_KONG.is_sorted());
    }
}

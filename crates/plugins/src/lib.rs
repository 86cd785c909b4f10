//! Bundled plugins, in process. They see a request through the same PDK as external ones.

mod key_auth;

use serde_json::{Map, Value as Json};
use silverback_model::{BUNDLED_IN_KONG, Phase, PluginDefinition};
use silverback_pdk::{Caller, Exchange, Outcome};

/// A plugin that runs in this process.
struct Bundled {
    name: &'static str,
    definition: fn() -> PluginDefinition,
    run: fn(Phase, &mut Exchange, &Caller, &Map<String, Json>) -> Outcome,
}

const PLUGINS: &[Bundled] = &[Bundled { name: key_auth::NAME, definition: key_auth::definition, run: key_auth::run }];

/// Whether Kong bundles a plugin of this name.
pub fn is_bundled_name(name: &str) -> bool {
    BUNDLED_IN_KONG.binary_search(&name).is_ok()
}

/// The plugin of this name, if it is built.
pub fn definition(name: &str) -> Option<PluginDefinition> {
    PLUGINS.iter().find(|plugin| plugin.name == name).map(|plugin| (plugin.definition)())
}

/// Every plugin that is built.
pub fn all() -> impl Iterator<Item = PluginDefinition> {
    PLUGINS.iter().map(|plugin| (plugin.definition)())
}

/// Runs a plugin's handler for a phase, with a checked configuration. [`Outcome::Need`]: it is to be run again once
/// that is there; nothing has been changed until then.
pub fn run(name: &str, phase: Phase, exchange: &mut Exchange, caller: &Caller, config: &Map<String, Json>) -> Outcome {
    match PLUGINS.iter().find(|plugin| plugin.name == name) {
        Some(plugin) => (plugin.run)(phase, exchange, caller, config),
        None => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_bundled_name("cors") && !is_bundled_name("probe"));
        assert!(definition("key-auth").is_some() && definition("cors").is_none());
        assert!(all().all(|plugin| is_bundled_name(&plugin.name)));
    }
}

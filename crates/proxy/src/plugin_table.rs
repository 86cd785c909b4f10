//! Which plugins run for a request, in which order, and with which configuration.
//!
//! A plugin has one configuration per request: the one bound most closely to its route, service and consumer
//! ([`PluginTable::resolve`]; Kong's `plugins_iterator.lua`). Which that is may depend on the consumer, known only
//! after authentication; so a route keeps, for each plugin that may run, what applies without a consumer, and
//! whether a consumer could change it.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Map, Value as Json};
use silverback_model::{
    Catalogue, Directory, Id, OnError, Phase, PhaseSet, Plugin, PluginDefinition, PluginSource, Route, Service,
    Snapshot, schema::is_reference,
};
use silverback_pdk::{Caller, exchange::Subsystem};
use silverback_plugin_host::{Fleet, Instance, WireProtocol};

/// All plugins that have a configuration, in the order in which they run.
pub(crate) struct PluginTable {
    entries: Vec<Arc<PluginEntry>>,
    /// What runs in phases before the route is known, and for requests that match none.
    globals: RoutePlugins,
}

/// A plugin and its configurations.
pub(crate) struct PluginEntry {
    phases: PhaseSet,
    by_scope: HashMap<Scope, Arc<Configured>>,
    by_consumer: bool,
}

/// What a configuration is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Scope {
    route: Option<Id>,
    service: Option<Id>,
    consumer: Option<Id>,
}

/// A plugin with one configuration, ready to run.
pub(crate) struct Configured {
    pub(crate) caller: Caller,
    pub(crate) phases: PhaseSet,
    /// How long a handler may take, if it is not as long as its server's settings say.
    pub(crate) timeout: Option<Duration>,
    /// What its failure means.
    pub(crate) on_error: OnError,
    pub(crate) kind: Kind,
}

/// Where it runs.
pub(crate) enum Kind {
    /// In this process: a bundled plugin and its configuration.
    InProcess {
        name: String,
        config: Map<String, Json>,
    },
    External(Arc<Instance>),
}

/// The plugins that may run on a route, in order.
#[derive(Clone, Default)]
pub(crate) struct RoutePlugins(Vec<Candidate>);

#[derive(Clone)]
struct Candidate {
    entry: Arc<PluginEntry>,
    route: Option<Id>,
    service: Option<Id>,
    /// What applies while no consumer is known.
    without_consumer: Option<Arc<Configured>>,
}

/// A plugin cannot be put into the table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("plugin {0}: no such plugin is known")]
    Unknown(String),
    #[error("plugin {plugin}: there is no plugin server {server}")]
    NoServer { plugin: String, server: String },
}

impl PluginTable {
    /// The plugins of one subsystem: a configuration belongs to those that its `protocols` name.
    pub(crate) fn build(
        snapshot: &Snapshot,
        catalogue: &Catalogue,
        fleet: &Fleet,
        subsystem: Subsystem,
    ) -> Result<Self, TableError> {
        let mut by_name: HashMap<&str, (&PluginDefinition, PluginEntry)> = HashMap::new();
        let belongs = |plugin: &Plugin| {
            plugin.protocols.iter().any(|protocol| protocol.is_http() == (subsystem == Subsystem::Http))
        };
        for plugin in snapshot.plugins.iter().filter(|plugin| plugin.enabled && belongs(plugin)) {
            let definition = catalogue.get(&plugin.name).ok_or_else(|| TableError::Unknown(plugin.name.clone()))?;
            let plugin = with_secrets(plugin, &snapshot.directory);
            let configured = Arc::new(configure(&plugin, definition, fleet)?);
            let (_, entry) = by_name.entry(&definition.name).or_insert_with(|| {
                (definition, PluginEntry { phases: definition.phases, by_scope: HashMap::new(), by_consumer: false })
            });
            entry.by_consumer |= plugin.consumer.is_some();
            let scope = Scope { route: plugin.route, service: plugin.service, consumer: plugin.consumer };
            entry.by_scope.insert(scope, configured);
        }
        let mut ordered: Vec<_> = by_name.into_values().collect();
        ordered.sort_by(|(a, _), (b, _)| (Reverse(a.priority), &b.name).cmp(&(Reverse(b.priority), &a.name)));
        let entries = ordered.into_iter().map(|(_, entry)| Arc::new(entry)).collect();
        let mut table = Self { entries, globals: RoutePlugins::default() };
        table.globals = table.candidates(None, None);
        Ok(table)
    }

    /// The plugins that may run on a route.
    pub(crate) fn for_route(&self, route: &Route, service: Option<&Service>) -> RoutePlugins {
        self.candidates(Some(route.id), service.map(|service| service.id))
    }

    /// The global configurations: what runs before a route is found.
    pub(crate) fn globals(&self) -> &RoutePlugins {
        &self.globals
    }

    fn candidates(&self, route: Option<Id>, service: Option<Id>) -> RoutePlugins {
        let candidates = self.entries.iter().filter_map(|entry| {
            let without_consumer = entry.resolve(route, service, None).cloned();
            // A consumer's own configuration needs no other scope to apply.
            let possible = without_consumer.is_some() || (entry.by_consumer && (route.is_some() || service.is_some()));
            possible.then(|| Candidate { entry: Arc::clone(entry), route, service, without_consumer })
        });
        RoutePlugins(candidates.collect())
    }
}

impl PluginEntry {
    /// The configuration bound most closely (Kong's `lookup_cfg`).
    fn resolve(&self, route: Option<Id>, service: Option<Id>, consumer: Option<Id>) -> Option<&Arc<Configured>> {
        let scopes = [
            (route, service, consumer),
            (route, None, consumer),
            (None, service, consumer),
            (route, service, None),
            (None, None, consumer),
            (route, None, None),
            (None, service, None),
            (None, None, None),
        ];
        // A scope that names what the request does not have repeats a later one: the order of the rest holds.
        scopes.into_iter().find_map(|(route, service, consumer)| self.by_scope.get(&Scope { route, service, consumer }))
    }
}

impl RoutePlugins {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the plugin at `index` runs with for this consumer.
    pub(crate) fn resolve(&self, index: usize, consumer: Option<Id>) -> Option<&Arc<Configured>> {
        let candidate = self.0.get(index)?;
        match consumer {
            Some(_) if candidate.entry.by_consumer => {
                candidate.entry.resolve(candidate.route, candidate.service, consumer)
            }
            _ => candidate.without_consumer.as_ref(),
        }
    }

    /// What runs while no consumer is known, in order.
    pub(crate) fn without_consumer(&self) -> Vec<Arc<Configured>> {
        (0..self.len()).filter_map(|index| self.resolve(index, None).cloned()).collect()
    }

    /// Whether any plugin has a handler for this phase.
    pub(crate) fn any(&self, phase: Phase) -> bool {
        self.0.iter().any(|candidate| candidate.entry.phases.contains(phase))
    }
}

/// The plugin with secrets in the place of references (`{vault://env/...}`). Only what runs gets to see them: neither the
/// Admin API nor a log does.
fn with_secrets<'p>(plugin: &'p Plugin, directory: &Directory) -> Cow<'p, Plugin> {
    if !plugin.config.values().any(has_reference) {
        return Cow::Borrowed(plugin);
    }
    let mut plugin = plugin.clone();
    for value in plugin.config.values_mut() {
        resolve(value, directory, &plugin.name);
    }
    Cow::Owned(plugin)
}

fn has_reference(value: &Json) -> bool {
    match value {
        Json::String(text) => is_reference(text),
        Json::Array(items) => items.iter().any(has_reference),
        Json::Object(fields) => fields.values().any(has_reference),
        _ => false,
    }
}

fn resolve(value: &mut Json, directory: &Directory, plugin: &str) {
    match value {
        Json::String(text) if is_reference(text) => {
            let env = |name: &str| std::env::var(name).ok();
            let prefix = |vault: &str| directory.env_vault_prefix(vault).map(str::to_owned);
            *value = match silverback_pdk::resolve_reference(text, env, prefix) {
                Ok(secret) => Json::String(secret),
                Err(why) => {
                    // Kong leaves the field unset too.
                    silverback_log::write(silverback_log::Level::Warn, format_args!("plugin {plugin}: {why}"), None);
                    Json::Null
                }
            };
        }
        Json::Array(items) => items.iter_mut().for_each(|item| resolve(item, directory, plugin)),
        Json::Object(fields) => fields.values_mut().for_each(|field| resolve(field, directory, plugin)),
        _ => {}
    }
}

fn configure(plugin: &Plugin, definition: &PluginDefinition, fleet: &Fleet) -> Result<Configured, TableError> {
    let (kind, takes_body_files) = match &definition.source {
        PluginSource::Bundled => (Kind::InProcess { name: plugin.name.clone(), config: plugin.config.clone() }, false),
        PluginSource::Server(server) => {
            let instance = fleet
                .instance(server, &plugin.name, server_config(plugin))
                .ok_or_else(|| TableError::NoServer { plugin: plugin.name.clone(), server: server.clone() })?;
            // The result of get_raw_body has room for a path in this protocol only.
            let takes_body_files = instance.protocol() == WireProtocol::ProtoBuf;
            (Kind::External(instance), takes_body_files)
        }
    };
    let caller = Caller { plugin_name: plugin.name.clone(), plugin_id: plugin.id, takes_body_files };
    let on_error = match (&plugin.on_error, &kind) {
        (Some(of_its_own), _) => of_its_own.clone(),
        (None, Kind::External(instance)) => instance.on_error().clone(),
        (None, Kind::InProcess { .. }) => OnError::default(),
    };
    let timeout = plugin.timeout.map(|milliseconds| Duration::from_millis(milliseconds.into()));
    Ok(Configured { caller, phases: definition.phases, timeout, on_error, kind })
}

/// The configuration as a plugin server gets it: unset fields are absent, and the ids of what it is bound to are
/// beside it (Kong's `get_plugin_config`).
fn server_config(plugin: &Plugin) -> Map<String, Json> {
    let mut config: Map<String, Json> =
        plugin.config.iter().filter_map(|(name, value)| Some((name.clone(), without_nulls(value)?))).collect();
    let scopes = [("route_id", plugin.route), ("service_id", plugin.service), ("consumer_id", plugin.consumer)];
    for (name, id) in scopes {
        if let Some(id) = id {
            config.insert(name.to_owned(), Json::String(id.to_string()));
        }
    }
    if let Some(name) = &plugin.instance_name {
        config.insert("plugin_instance_name".to_owned(), Json::String(name.clone()));
    }
    config.insert("__plugin_id".to_owned(), Json::String(plugin.id.to_string()));
    let id = |id: Option<Id>| id.map(|id| id.to_string()).unwrap_or_default();
    let key = format!("plugins:{}:{}:{}:{}::", plugin.name, id(plugin.route), id(plugin.service), id(plugin.consumer));
    config.insert("__key__".to_owned(), Json::String(key));
    config
}

fn without_nulls(value: &Json) -> Option<Json> {
    match value {
        Json::Null => None,
        Json::Object(fields) => Some(Json::Object(
            fields.iter().filter_map(|(name, value)| Some((name.clone(), without_nulls(value)?))).collect(),
        )),
        Json::Array(items) => {
            // An item that is null keeps its place.
            Some(Json::Array(items.iter().map(|item| without_nulls(item).unwrap_or_default()).collect()))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Option<Id> = Some(Id::from_u128(1));
    const SERVICE: Option<Id> = Some(Id::from_u128(2));
    const CONSUMER: Option<Id> = Some(Id::from_u128(3));

    /// A plugin with a configuration for each of these scopes, named after them: `r`, `s` and `c`.
    fn entry(scopes: &[&str]) -> PluginEntry {
        let by_scope = scopes.iter().map(|name| {
            let bound = |letter, id: Option<Id>| id.filter(|_| name.contains(letter));
            let scope =
                Scope { route: bound('r', ROUTE), service: bound('s', SERVICE), consumer: bound('c', CONSUMER) };
            let caller =
                Caller { plugin_name: (*name).to_owned(), plugin_id: Id::from_u128(9), takes_body_files: false };
            let kind = Kind::InProcess { name: (*name).to_owned(), config: Map::new() };
            (
                scope,
                Arc::new(Configured {
                    caller,
                    phases: PhaseSet::EMPTY,
                    timeout: None,
                    on_error: OnError::default(),
                    kind,
                }),
            )
        });
        PluginEntry { phases: PhaseSet::EMPTY, by_scope: by_scope.collect(), by_consumer: true }
    }

    #[test]
    fn the_closest_scope_wins() {
        // From the closest to the loosest; "" is global.
        let mut scopes = vec!["rsc", "rc", "sc", "rs", "c", "r", "s", ""];
        while let Some(closest) = scopes.first().copied() {
            let found = entry(&scopes).resolve(ROUTE, SERVICE, CONSUMER).map(|c| c.caller.plugin_name.clone());
            assert_eq!(found.as_deref(), Some(closest));
            scopes.remove(0);
        }
        assert!(entry(&[]).resolve(ROUTE, SERVICE, CONSUMER).is_none());
    }

    #[test]
    fn what_a_request_has_not_is_not_matched() {
        let all = entry(&["rsc", "rc", "sc", "rs", "c", "r", "s", ""]);
        for (route, service, consumer, expect) in [
            (ROUTE, SERVICE, None, "rs"),
            (ROUTE, None, CONSUMER, "rc"),
            (ROUTE, None, None, "r"),
            (None, None, CONSUMER, "c"),
            (None, None, None, ""),
        ] {
            let found = all.resolve(route, service, consumer).map(|c| c.caller.plugin_name.clone());
            assert_eq!(found.as_deref(), Some(expect));
        }
        let other = Some(Id::from_u128(4));
        let found = entry(&["rc", "c", "r"]).resolve(ROUTE, SERVICE, other).map(|c| c.caller.plugin_name.clone());
        assert_eq!(found.as_deref(), Some("r"), "another consumer's configuration is not one's own");
    }

    #[test]
    fn references_are_resolved_wherever_they_stand() {
        let directory = Directory::default();
        let mut value =
            serde_json::json!({"a": ["{vault://env/path}", "plain"], "b": {"c": "{vault://env/no-such-thing}"}});
        assert!(has_reference(&value));
        resolve(&mut value, &directory, "probe");
        let path = std::env::var("PATH").unwrap();
        assert_eq!(value, serde_json::json!({"a": [path, "plain"], "b": {"c": null}}));
    }

    #[test]
    fn servers_get_no_unset_fields() {
        let value = serde_json::json!({"a": null, "b": {"c": null, "d": 1}, "e": [], "f": [{"g": null}, 1]});
        assert_eq!(without_nulls(&value), Some(serde_json::json!({"b": {"d": 1}, "e": [], "f": [{}, 1]})));
    }
}

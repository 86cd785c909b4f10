//! What is right and yet will not do what its author may think.

use silverback_model::{Catalogue, Endpoint, Id, Phase, Plugin, Protocol, Route, Snapshot};

/// Remarks on a configuration: plugins and handlers that never run where they are put, those that turn streaming off, and routes that take more than their author may think.
pub fn advice(snapshot: &Snapshot, catalogue: &Catalogue) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.extend(snapshot.routes.iter().filter_map(|route| on_server_names(route, snapshot)));
    for plugin in &snapshot.plugins {
        remarks.extend(on_subsystem(plugin, snapshot));
        let Some(definition) = catalogue.get(&plugin.name) else { continue };
        if plugin.route.is_some() || plugin.service.is_some() || plugin.consumer.is_some() {
            for phase in [Phase::Certificate, Phase::Rewrite] {
                if definition.phases.contains(phase) {
                    remarks.push(format!(
                        "plugin '{}' has a {phase} handler, which runs only if the plugin is global: this one is bound to {}",
                        plugin.name,
                        scope(plugin, snapshot)
                    ));
                }
            }
        }
        if definition.phases.contains(Phase::Response)
            && let Some(route) = plugin.route.and_then(|id| snapshot.routes.iter().find(|route| route.id == id))
            && route.protocols.iter().any(|protocol| protocol.name().starts_with("grpc"))
        {
            remarks.push(format!(
                "plugin '{}' has a response handler, which holds answers back until they are complete: on {} gRPC cannot stream",
                plugin.name,
                scope(plugin, snapshot)
            ));
        }
    }
    remarks
}

/// A plugin runs for HTTP or for streams as its `protocols` say; Kong takes one that its route can never run, and says
/// nothing.
fn on_subsystem(plugin: &Plugin, snapshot: &Snapshot) -> Option<String> {
    let route = snapshot.routes.iter().find(|route| Some(route.id) == plugin.route)?;
    let of_streams = |protocols: &[Protocol]| protocols.iter().any(|protocol| !protocol.is_http());
    let of_http = |protocols: &[Protocol]| protocols.iter().any(|protocol| protocol.is_http());
    let shared = (of_streams(&plugin.protocols) && of_streams(&route.protocols))
        || (of_http(&plugin.protocols) && of_http(&route.protocols));
    (!shared).then(|| {
        let names = |protocols: &[Protocol]| protocols.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
        format!(
            "plugin '{}' never runs on {}: its protocols ({}) and those of the route ({}) have nothing in common",
            plugin.name,
            scope(plugin, snapshot),
            names(&plugin.protocols),
            names(&route.protocols)
        )
    })
}

/// Kong asks streams without a server name for none: a route of nothing but names takes them all, before others.
fn on_server_names(route: &Route, snapshot: &Snapshot) -> Option<String> {
    let is_set = |endpoints: &Option<Vec<Endpoint>>| endpoints.as_ref().is_some_and(|list| !list.is_empty());
    let named = |route: &Route| route.snis.as_ref().is_some_and(|snis| !snis.is_empty());
    let of_stream = |route: &Route| route.protocols.iter().any(|protocol| !protocol.is_http());
    let open = of_stream(route) && named(route) && !is_set(&route.sources) && !is_set(&route.destinations);
    let shadowed = snapshot
        .routes
        .iter()
        .any(|other| of_stream(other) && !named(other) && !(is_set(&other.sources) && is_set(&other.destinations)));
    (open && shadowed).then(|| {
        let id = route.id.to_string();
        format!(
            "route '{}' asks for nothing but snis: streams without a server name (plain TCP, UDP) take it too, before \
             routes by address; give it destinations",
            route.name.as_ref().unwrap_or(&id)
        )
    })
}

/// What a plugin is bound to, by name where there is one.
fn scope(plugin: &Plugin, snapshot: &Snapshot) -> String {
    let named = |kind: &str, id: Id, name: Option<&String>| match name {
        Some(name) => format!("{kind} '{name}'"),
        None => format!("{kind} {id}"),
    };
    let mut parts = Vec::new();
    if let Some(id) = plugin.route {
        let name = snapshot.routes.iter().find(|route| route.id == id).and_then(|route| route.name.as_ref());
        parts.push(named("route", id, name));
    }
    if let Some(id) = plugin.service {
        let name = snapshot.services.iter().find(|service| service.id == id).and_then(|service| service.name.as_ref());
        parts.push(named("service", id, name));
    }
    if let Some(id) = plugin.consumer {
        let name = snapshot.directory.consumer(id).and_then(|consumer| consumer.username.as_ref());
        parts.push(named("consumer", id, name));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use silverback_model::{PhaseSet, PluginDefinition, PluginSource, schema::Record};

    use super::*;
    use crate::{parse_declarative, settings::EnabledPlugins};

    #[test]
    fn routes_and_plugins_of_streams_are_looked_at() {
        let mut catalogue = Catalogue::default();
        catalogue.insert(PluginDefinition {
            name: "p".to_owned(),
            version: String::new(),
            priority: 0,
            phases: PhaseSet::of(&[Phase::Preread]),
            schema: Record::default(),
            source: PluginSource::Bundled,
        });
        let enabled = EnabledPlugins { bundled: false, named: vec!["p".to_owned()] };
        let check = |routes: &str, expect: &[&str]| {
            let text = format!("_format_version: \"3.0\"\nroutes: {routes}");
            let snapshot = parse_declarative(&text, None, &catalogue, &enabled, 1).unwrap();
            let remarks = advice(&snapshot, &catalogue);
            assert_eq!(remarks.len(), expect.len(), "{remarks:?}");
            assert!(remarks.iter().zip(expect).all(|(remark, part)| remark.contains(part)), "{remarks:?}");
        };
        let by_port = "{name: t, protocols: [tcp], destinations: [{port: 1}]}";
        check(
            &format!("[{by_port}, {{name: s, protocols: [tls], snis: [a.test]}}]"),
            &["route 's' asks for nothing but"],
        );
        check("[{name: s, protocols: [tls], snis: [a.test]}]", &[]);
        check(&format!("[{by_port}, {{name: s, protocols: [tls], snis: [a.test], destinations: [{{port: 2}}]}}]"), &[]);
        let with = |protocols: &str| {
            format!("[{{protocols: [tcp], destinations: [{{port: 1}}], plugins: [{{name: p{protocols}}}]}}]")
        };
        check(&with(""), &["plugin 'p' never runs on route"]);
        check(&with(", protocols: [udp]"), &[]);
    }

    #[test]
    fn handlers_that_never_run_are_named() {
        let mut catalogue = Catalogue::default();
        catalogue.insert(PluginDefinition {
            name: "p".to_owned(),
            version: String::new(),
            priority: 0,
            phases: PhaseSet::of(&[Phase::Rewrite, Phase::Access, Phase::Response]),
            schema: Record::default(),
            source: PluginSource::Bundled,
        });
        let enabled = EnabledPlugins { bundled: false, named: vec!["p".to_owned()] };
        let text = "_format_version: \"3.0\"\nplugins: [{name: p}]\nroutes: [{name: r, protocols: [grpc], paths: [/], plugins: [{name: p}]}]";
        let snapshot = parse_declarative(text, None, &catalogue, &enabled, 1).unwrap();
        let remarks = advice(&snapshot, &catalogue);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks.iter().all(|remark| remark.contains("route 'r'")), "{remarks:?}");
    }
}

//! Routing of streams (TCP, TLS, UDP): by addresses, and by the server name of TLS.
//!
//! The rules are those of Kong's `router/transform.lua` for streams: every condition that a route names must hold, of
//! each list one entry; among the routes that match, the one of the highest priority is taken.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use silverback_model::{Endpoint, Id, Route, Service, Snapshot};

use crate::{
    pattern::NamePattern,
    router::{BuildError, Problem},
};

/// Finds the route of a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamRouter {
    /// In the order in which Kong would try them.
    rules: Vec<Rule>,
    /// Rules that ask for exact server names only, by name; positions in `rules`, ascending.
    by_name: HashMap<Box<[u8]>, Vec<usize>>,
    /// All other rules.
    others: Vec<usize>,
}

/// What is known of a stream when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct StreamQuery<'a> {
    /// The client's address (`$remote_addr`); `None` for a Unix socket.
    pub source: Option<SocketAddr>,
    /// The address that the client connected to, its port as clients see it (`port_maps`).
    pub destination: Option<SocketAddr>,
    /// The server name in the ClientHello. Without one, as in Kong, the `snis` of routes are not asked for.
    pub sni: Option<&'a str>,
}

/// The route that a stream takes.
#[derive(Clone, Copy, Debug)]
pub struct StreamMatch<'r> {
    pub route: &'r Arc<Route>,
    /// `None` also where the service does not speak a stream protocol.
    pub service: Option<&'r Arc<Service>>,
}

#[derive(Clone, Debug)]
struct Rule {
    route: Arc<Route>,
    service: Option<Arc<Service>>,
    snis: Box<[NamePattern]>,
    sources: Box<[AddressPattern]>,
    destinations: Box<[AddressPattern]>,
}

/// An entry of `sources` or `destinations`: what it names must hold.
#[derive(Clone, Copy, Debug)]
struct AddressPattern {
    net: Option<IpNet>,
    port: Option<u16>,
}

impl StreamRouter {
    /// The router for the snapshot's stream routes. Routes of disabled services are left out; routes without a service
    /// are not.
    ///
    /// # Errors
    /// Everything that is wrong with the routes: addresses that are none, services that do not exist.
    pub fn build(snapshot: &Snapshot) -> Result<Self, BuildError> {
        let services: HashMap<Id, &Arc<Service>> =
            snapshot.services.iter().map(|service| (service.id, service)).collect();
        let mut placed = Vec::new();
        let mut problems = Vec::new();
        for route in &snapshot.routes {
            if route.protocols.iter().all(|protocol| protocol.is_http()) {
                continue;
            }
            let mut report = |what: String| problems.push(Problem { route: route.id, name: route.name.clone(), what });
            let service = match route.service.map(|id| services.get(&id).copied().ok_or(id)) {
                None => None,
                Some(Ok(service)) if !service.enabled => continue,
                Some(Ok(service)) => (!service.protocol.is_http()).then(|| Arc::clone(service)),
                Some(Err(id)) => {
                    report(format!("service: there is none with the id {id}"));
                    continue;
                }
            };
            match Rule::new(route, service) {
                Ok(Some(rule)) => placed.push((Reverse(priority(route)), Reverse(route.id), rule)),
                Ok(None) => {}
                Err(what) => report(what),
            }
        }
        if !problems.is_empty() {
            return Err(BuildError { problems });
        }
        placed.sort_unstable_by_key(|(priority, id, _)| (*priority, *id));
        let mut router = Self::default();
        for (at, (_, _, rule)) in placed.into_iter().enumerate() {
            match rule.exact_names() {
                Some(names) => {
                    for name in names {
                        router.by_name.entry(name).or_default().push(at);
                    }
                }
                None => router.others.push(at),
            }
            router.rules.push(rule);
        }
        Ok(router)
    }

    /// Whether there is any route.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The route that the stream takes. Its protocols are not looked at, as Kong does not before it terminates TLS.
    pub fn find(&self, query: &StreamQuery<'_>) -> Option<StreamMatch<'_>> {
        let matches = |at: &usize| self.rules.get(*at).is_some_and(|rule| rule.matches(query));
        let at = match query.sni {
            None => (0..self.rules.len()).find(matches),
            Some(name) => {
                let named = self.by_name.get(name.as_bytes()).and_then(|rules| rules.iter().copied().find(matches));
                let other = self.others.iter().copied().find(matches);
                match (named, other) {
                    (Some(named), Some(other)) => Some(named.min(other)),
                    (named, other) => named.or(other),
                }
            }
        };
        let rule = self.rules.get(at?)?;
        Some(StreamMatch { route: &rule.route, service: rule.service.as_ref() })
    }
}

impl Rule {
    /// `None` if it would ask nothing, for such a route matches nothing.
    fn new(route: &Arc<Route>, service: Option<Arc<Service>>) -> Result<Option<Self>, String> {
        let patterns = |field: &str, endpoints: &Option<Vec<Endpoint>>| -> Result<Box<[AddressPattern]>, String> {
            endpoints.iter().flatten().map(|endpoint| AddressPattern::new(field, endpoint)).collect()
        };
        let rule = Self {
            route: Arc::clone(route),
            service,
            snis: route.snis.iter().flatten().map(|sni| NamePattern::of_sni(sni)).collect(),
            sources: patterns("sources", &route.sources)?,
            destinations: patterns("destinations", &route.destinations)?,
        };
        let asks_nothing = rule.snis.is_empty() && rule.sources.is_empty() && rule.destinations.is_empty();
        Ok((!asks_nothing).then_some(rule))
    }

    /// The names by which it can be looked up: `None` if others may match, too.
    fn exact_names(&self) -> Option<Vec<Box<[u8]>>> {
        let exact = |pattern: &NamePattern| match pattern {
            NamePattern::Exact(name) => Some(name.clone()),
            NamePattern::Suffix(_) | NamePattern::Prefix(_) => None,
        };
        if self.snis.is_empty() { None } else { self.snis.iter().map(exact).collect() }
    }

    fn matches(&self, query: &StreamQuery<'_>) -> bool {
        let one_of = |patterns: &[AddressPattern], address: Option<SocketAddr>| {
            patterns.is_empty()
                || address.is_some_and(|address| patterns.iter().any(|pattern| pattern.matches(address)))
        };
        let named =
            query.sni.is_none_or(|name| self.snis.is_empty() || self.snis.iter().any(|p| p.matches(name.as_bytes())));
        named && one_of(&self.sources, query.source) && one_of(&self.destinations, query.destination)
    }
}

impl AddressPattern {
    fn new(field: &str, endpoint: &Endpoint) -> Result<Self, String> {
        let net = match &endpoint.ip {
            None => None,
            Some(text) => {
                let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                Some(net.map_err(|_| format!("{field}: {text:?} is no address and no block of them"))?.trunc())
            }
        };
        Ok(Self { net, port: endpoint.port })
    }

    fn matches(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && self.net.is_none_or(|net| net.contains(&address.ip().to_canonical()))
    }
}

/// Kong's priority of a stream route (`stream_get_priority`): server names, or sources and destinations together, come
/// first; then the sources, then the destinations, of which an address counts more than a port, and that more than a
/// block.
fn priority(route: &Route) -> u64 {
    const NAMED: u64 = 1 << 61;
    let is_set = |endpoints: &Option<Vec<Endpoint>>| endpoints.as_ref().is_some_and(|list| !list.is_empty());
    let named = route.snis.as_ref().is_some_and(|snis| !snis.is_empty());
    let both = is_set(&route.sources) && is_set(&route.destinations);
    let weight = if named || both { NAMED } else { 0 };
    weight | weight_of(&route.sources) << 4 | weight_of(&route.destinations)
}

fn weight_of(endpoints: &Option<Vec<Endpoint>>) -> u64 {
    const ADDRESS: u64 = 1 << 3;
    const PORT: u64 = 1 << 2;
    const BLOCK: u64 = 1;
    endpoints.iter().flatten().fold(0, |weight, endpoint| {
        let ip = endpoint.ip.as_ref().map_or(0, |ip| if ip.contains('/') { BLOCK } else { ADDRESS });
        weight | ip | if endpoint.port.is_some() { PORT } else { 0 }
    })
}

#[cfg(test)]
mod tests;

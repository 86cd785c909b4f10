//! What the Admin API shows and sets: `kong/runloop/balancer/healthcheckers.lua` and `kong/db/dao/targets.lua`.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use serde_json::{Map, Value as Json, json};
use silverback_model::{Id, Target};

use super::{
    Balancer, Balancers,
    definition::Definition,
    peers::{Peers, Source, TargetState, weights},
};

/// The port of an address that names none, as that of a target.
const DEFAULT_PORT: u16 = 8000;

/// The health of upstreams, to be shown and set. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamHealth(Balancers);

/// How an address of a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressHealth {
    /// Name of the upstream.
    pub upstream: String,
    /// `host:port`.
    pub target: String,
    /// `ip:port`; empty where the target's name has no address.
    pub address: String,
    pub state: HealthState,
}

/// The states of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Its upstream has no health checks.
    Unchecked,
    Healthy,
    Unhealthy,
    /// There is no address.
    DnsError,
}

/// Why health was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetHealthError {
    /// There is no such upstream, or no such target of it.
    NotFound,
    /// Kong's text.
    Refused(String),
}

impl UpstreamHealth {
    pub(crate) fn new(balancers: &Balancers) -> Self {
        Self(balancers.clone())
    }

    fn find(&self, name_or_id: &str) -> Option<(Arc<Balancer>, Arc<Peers>, Arc<Definition>)> {
        let id = Id::try_parse(name_or_id).ok();
        self.0.all().into_iter().find_map(|(known, balancer)| {
            let peers = balancer.peers.load_full();
            let definition = Arc::clone(peers.definition()?);
            let found = id.map_or(definition.name == name_or_id, |id| id == known);
            found.then_some((balancer, peers, definition))
        })
    }

    /// The targets of an upstream with their health, the newest first, each `host:port` once; `None` if there is no
    /// such upstream (name or id).
    pub fn targets(&self, upstream: &str) -> Option<Vec<Json>> {
        let (_, peers, definition) = self.find(upstream)?;
        let mut seen = HashSet::new();
        let newest = peers.targets.iter().rev().filter(|target| seen.insert(target.target.target.as_str()));
        Some(newest.map(|target| target_health(target, &peers, &definition)).collect())
    }

    /// Tells of every address of every target, in the order of the upstreams' names; of a target without an address, once. As
    /// Kong's prometheus plugin asks it (`get_upstream_health`).
    pub fn addresses(&self, mut tell: impl FnMut(&AddressHealth)) {
        let balancers = self.0.all();
        let mut known: Vec<_> = balancers
            .iter()
            .filter_map(|(_, balancer)| {
                let peers = balancer.peers.load_full();
                let definition = Arc::clone(peers.definition()?);
                Some((definition, peers))
            })
            .collect();
        known.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        for (definition, peers) in known {
            let mut seen = HashSet::new();
            let newest = peers.targets.iter().rev().filter(|target| seen.insert(target.target.target.as_str()));
            for target in newest {
                let addresses = target.peers(&peers);
                let checked = definition.checks.are_used() && target.target.weight > 0;
                let health = |address, state| AddressHealth {
                    upstream: definition.name.clone(),
                    target: format!("{}:{}", bracketed(&target.target.host), target.target.port),
                    address,
                    state,
                };
                for peer in addresses {
                    let (_, host, port) = &peer.address.key;
                    let state = match (checked, peer.address.health.is_healthy()) {
                        (false, _) => HealthState::Unchecked,
                        (true, true) => HealthState::Healthy,
                        (true, false) => HealthState::Unhealthy,
                    };
                    tell(&health(format!("{}:{port}", bracketed(host)), state));
                }
                if addresses.is_empty() {
                    tell(&health(String::new(), HealthState::DnsError));
                }
            }
        }
    }

    /// The health of an upstream as a whole.
    pub fn balancer(&self, upstream: &str) -> Option<Json> {
        let (_, peers, definition) = self.find(upstream)?;
        let healthy = peers.is_healthy();
        let balancer_health = if healthy { "HEALTHY" } else { "UNHEALTHY" };
        let (total, unavailable) = peers.weights();
        let hosts: Vec<Json> = peers.targets.iter().map(|target| host(target, &peers, Health::Flag)).collect();
        Some(json!({
            "id": definition.id,
            "health": if definition.checks.are_used() { balancer_health } else { "HEALTHCHECKS_OFF" },
            "balancer_health": balancer_health,
            "details": { "healthy": healthy, "weight": weight(total, unavailable), "hosts": lua_list(hosts) },
        }))
    }

    /// Makes a target of an upstream healthy or unhealthy: all its addresses, or the one that is named.
    ///
    /// # Errors
    /// There is no such target, or its upstream has no health checks.
    pub fn set(
        &self,
        upstream: &str,
        target: &str,
        address: Option<&str>,
        healthy: bool,
    ) -> Result<(), SetHealthError> {
        let (balancer, peers, definition) = self.find(upstream).ok_or(SetHealthError::NotFound)?;
        let id = Id::try_parse(target).ok();
        let is_meant = |known: &Target| id.map_or(known.target == target, |id| known.id == id);
        let named = definition.targets.iter().rev().find(|known| is_meant(known)).ok_or(SetHealthError::NotFound)?;
        if !definition.checks.are_used() {
            return Err(SetHealthError::Refused(format!("no healthchecker found for {}", definition.name)));
        }
        let (ip, port) = match address {
            None => (None, named.port),
            Some(address) => place(address),
        };
        // As in Kong: an address that is not there is no error.
        for peer in peers.peers.iter().filter(|peer| peer.weight > 0) {
            let (hostname, host, known_port) = &peer.address.key;
            let known_ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
            let same = **hostname == *named.host && *known_port == port && ip.is_none_or(|ip| known_ip == Some(ip));
            if same && peer.address.health.set(healthy) {
                silverback_log::write(
                    silverback_log::Level::Notice,
                    format_args!(
                        "upstream {}: target {} was set {}",
                        definition.name,
                        peer.address,
                        if healthy { "healthy" } else { "unhealthy" }
                    ),
                    None,
                );
            }
        }
        balancer.recount();
        Ok(())
    }
}

/// Address and port of `1.2.3.4:80` and the like; no address where it is a name.
fn place(address: &str) -> (Option<IpAddr>, u16) {
    if let Ok(socket) = address.parse::<std::net::SocketAddr>() {
        return (Some(socket.ip()), socket.port());
    }
    if let Ok(ip) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
        return (Some(ip), DEFAULT_PORT);
    }
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    (None, port.unwrap_or(DEFAULT_PORT))
}

fn weight(total: u64, unavailable: u64) -> Json {
    json!({ "total": total, "unavailable": unavailable, "available": total - unavailable })
}

/// An empty Lua table is an object in JSON.
fn lua_list(list: Vec<Json>) -> Json {
    if list.is_empty() { Json::Object(Map::new()) } else { Json::Array(list) }
}

/// How the health of an address is shown.
#[derive(Clone, Copy)]
enum Health {
    Flag,
    /// In words; `HEALTHCHECKS_OFF` where nothing is checked.
    Words {
        checked: bool,
    },
}

/// A target in the balancer (`getTargetStatus`).
fn host(target: &TargetState, peers: &Peers, shown: Health) -> Json {
    let addresses = target.peers(peers).iter().map(|peer| {
        let healthy = peer.address.health.is_healthy();
        let (_, host, port) = &peer.address.key;
        let mut address = json!({ "ip": bracketed(host), "port": port, "weight": peer.weight });
        let (key, value) = match shown {
            Health::Flag => ("healthy", healthy.into()),
            Health::Words { checked: false } => ("health", "HEALTHCHECKS_OFF".into()),
            Health::Words { checked: true } => ("health", if healthy { "HEALTHY" } else { "UNHEALTHY" }.into()),
        };
        if let Some(address) = address.as_object_mut() {
            address.insert(key.to_owned(), value);
        }
        address
    });
    let (total, unavailable) = weights(target.peers(peers));
    json!({
        "host": bracketed(&target.target.host),
        "port": target.target.port,
        "dns": match &target.source {
            Source::Pending => "unknown",
            Source::Records(kind) => kind.name(),
            Source::Failed(error) => error.as_str(),
        },
        "nodeWeight": target.target.weight,
        "weight": weight(total, unavailable),
        "addresses": lua_list(addresses.collect()),
    })
}

/// As Kong writes an IPv6 address.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// A target entity with its health (`page_for_upstream_with_health`).
fn target_health(target: &TargetState, peers: &Peers, definition: &Definition) -> Json {
    let checked = definition.checks.are_used() && target.target.weight > 0;
    let addresses = target.peers(peers);
    let health = if addresses.is_empty() {
        "DNS_ERROR"
    } else if !checked {
        "HEALTHCHECKS_OFF"
    } else if addresses.iter().any(|peer| peer.address.health.is_healthy()) {
        "HEALTHY"
    } else {
        "UNHEALTHY"
    };
    let entity = &*target.target;
    json!({
        "id": entity.id,
        "created_at": entity.created_at,
        "updated_at": entity.updated_at,
        "upstream": { "id": entity.upstream },
        "target": entity.target,
        "weight": entity.weight,
        "tags": entity.tags,
        "health": health,
        "data": host(target, peers, Health::Words { checked }),
    })
}

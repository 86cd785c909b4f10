//! From the host that a request is for to the address that it goes to.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use silverback_model::{Id, Snapshot};

use super::dns::{ResolveError, Resolver};

/// Positions in a ring: more than any sensible sum of reduced weights, few enough to build quickly.
const MAX_RING: u64 = 10_000;

/// The upstream entities of a generation.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    by_name: HashMap<String, Arc<Upstream>>,
    pub(crate) names: Arc<HashSet<String>>,
}

/// An upstream entity: targets in the order in which round-robin visits them.
#[derive(Debug)]
pub(crate) struct Upstream {
    targets: Vec<Target>,
    /// Indices into `targets`, each as often as its weight says, evenly spread.
    ring: Vec<u16>,
    /// Where the next request goes; shared by all workers and kept over reloads.
    turn: Arc<AtomicUsize>,
    pub(crate) host_header: Option<String>,
}

#[derive(Clone, Debug)]
struct Target {
    host: String,
    port: u16,
}

/// What outlives a generation: whose turn it is, by the upstream's id, and by the name for hosts that resolve to
/// several addresses.
#[derive(Clone, Default)]
pub(crate) struct Balancers {
    turns: Arc<Mutex<HashMap<Id, Arc<AtomicUsize>>>>,
    /// One turn for all plain host names: fair enough, since their addresses have no weights.
    host_turn: Arc<AtomicUsize>,
}

/// Where one attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    /// The name that it was resolved from: the Host header, unless the client's is kept, and the TLS server name.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// No address can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BalanceError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Kong: "failure to get a peer from the ring-balancer".
    #[error("failure to get a peer from the ring-balancer")]
    NoTargets,
}

impl Upstreams {
    pub(crate) fn build(snapshot: &Snapshot, balancers: &Balancers) -> Self {
        let mut turns = balancers.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|id, _| snapshot.upstreams.iter().any(|upstream| upstream.id == *id));
        let mut by_name = HashMap::new();
        for upstream in &snapshot.upstreams {
            let members: Vec<_> =
                snapshot.targets.iter().filter(|target| target.upstream == upstream.id && target.weight > 0).collect();
            let weights: Vec<u64> = members.iter().map(|target| u64::from(target.weight)).collect();
            let targets =
                members.iter().map(|target| Target { host: target.host.clone(), port: target.port }).collect();
            let turn = Arc::clone(turns.entry(upstream.id).or_default());
            let host_header = upstream.host_header.clone();
            by_name
                .insert(upstream.name.clone(), Arc::new(Upstream { targets, ring: ring(&weights), turn, host_header }));
        }
        let names = Arc::new(by_name.keys().cloned().collect());
        Self { by_name, names }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name)
    }
}

/// A round in which each index comes as often as its weight says, spread as evenly as can be (smooth weighted
/// round-robin, as nginx does it).
fn ring(weights: &[u64]) -> Vec<u16> {
    let weights = &weights[..weights.len().min(usize::from(u16::MAX))];
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|weight| (weight / divisor) as i64).collect();
    let total: i64 = weights.iter().sum();
    if total as u64 > MAX_RING {
        // Too fine a ratio: every target keeps at least one place.
        for weight in &mut weights {
            *weight = (*weight * MAX_RING as i64 / total).max(1);
        }
    }
    let total: i64 = weights.iter().sum();
    let mut current = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            for (current, weight) in current.iter_mut().zip(&weights) {
                *current += weight;
            }
            let best = (0..current.len()).max_by_key(|index| (current[*index], std::cmp::Reverse(*index)))?;
            current[best] -= total;
            u16::try_from(best).ok()
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The attempts of one request: never the same address twice while another is left.
pub(crate) struct Attempts<'a> {
    upstream: Option<&'a Upstream>,
    host: &'a str,
    port: u16,
    balancers: &'a Balancers,
    resolver: &'a Resolver,
    tried: Vec<SocketAddr>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(
        upstream: Option<&'a Upstream>,
        host: &'a str,
        port: u16,
        balancers: &'a Balancers,
        resolver: &'a Resolver,
    ) -> Self {
        Self { upstream, host, port, balancers, resolver, tried: Vec::new() }
    }

    pub(crate) async fn next(&mut self) -> Result<Address, BalanceError> {
        let address = match self.upstream {
            Some(upstream) => self.next_target(upstream).await?,
            None => self.next_of(self.host, self.port).await?,
        };
        self.tried.push(address.socket);
        Ok(address)
    }

    async fn next_target(&self, upstream: &Upstream) -> Result<Address, BalanceError> {
        let mut failed = None;
        let mut repeated = None;
        // One round at most: every target has had its turn then.
        for _ in 0..upstream.ring.len() {
            let turn = upstream.turn.fetch_add(1, Ordering::Relaxed) % upstream.ring.len();
            let target = &upstream.targets[usize::from(upstream.ring[turn])];
            match self.next_of(&target.host, target.port).await {
                Ok(address) if self.tried.contains(&address.socket) => repeated = Some(address),
                Ok(address) => return Ok(address),
                Err(error) => failed = Some(error),
            }
        }
        repeated.ok_or_else(|| failed.unwrap_or(BalanceError::NoTargets))
    }

    async fn next_of(&self, host: &str, port: u16) -> Result<Address, BalanceError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // A plugin may name an address and a port in one; that port counts then.
        if let Ok(socket) = host.parse::<SocketAddr>() {
            return Ok(Address { socket, host: host.to_owned(), port: socket.port() });
        }
        let ip = match bare.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => {
                let addresses = self.resolver.resolve(host).await?;
                let first = self.balancers.host_turn.fetch_add(1, Ordering::Relaxed);
                let mut turns = (0..addresses.len()).map(|n| addresses[(first.wrapping_add(n)) % addresses.len()]);
                let untried = turns.find(|ip| !self.tried.contains(&SocketAddr::new(*ip, port)));
                untried.unwrap_or_else(|| addresses[first % addresses.len()])
            }
        };
        Ok(Address { socket: SocketAddr::new(ip, port), host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::ring;

    fn check(weights: &[u64], expect: &[u16]) {
        assert_eq!(ring(weights), expect, "{weights:?}");
    }

    #[test]
    fn a_ring_spreads_by_weight() {
        check(&[], &[]);
        check(&[100], &[0]);
        check(&[100, 100], &[0, 1]);
        check(&[200, 100], &[0, 1, 0]);
        check(&[50, 10, 10], &[0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_fine_ratio_keeps_every_target() {
        let ring = ring(&[65_535, 1, 1]);
        assert!(ring.len() <= 10_010);
        assert!(ring.contains(&1) && ring.contains(&2));
    }
}

//! The addresses of an upstream as they are at one time, and how one of them is picked.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use silverback_model::Target;

use super::{
    Balancer, Inner,
    address::{AddressKey, AddressState},
    attempts::Address,
    continuum::{Continuum, Share},
    definition::{Algorithm, Definition},
    ring::ring,
};
use crate::upstream::dns::{Answer, RecordKind, Resolver};

/// Addresses of one upstream; what is beyond takes no part.
const MAX_PEERS: usize = u16::MAX as usize;
/// How long after it began a circle may wait for all of its targets, so that the first requests find the places that
/// those after them find.
const CIRCLE_BEGINS: Duration = Duration::from_secs(1);

/// Never changed but for what is counted; another is put in its place.
#[derive(Default)]
pub(super) struct Peers {
    definition: Option<Arc<Definition>>,
    pub(super) targets: Vec<TargetState>,
    pub(super) peers: Vec<Peer>,
    picker: Picker,
    /// A target has not been looked up yet.
    pending: bool,
    /// Until then the first places on a circle are waited for.
    circle_until: Option<tokio::time::Instant>,
    /// Enough of the weight is available.
    healthy: AtomicBool,
}

/// A target, with its addresses.
pub(super) struct TargetState {
    pub(super) target: Arc<Target>,
    pub(super) source: Source,
    /// Where its addresses are among all.
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Where the addresses of a target come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It is being looked up for the first time.
    Pending,
    Records(RecordKind),
    Failed(String),
}

/// An address with the weight that it has at the moment.
pub(super) struct Peer {
    pub(super) address: Arc<AddressState>,
    pub(super) weight: u32,
    /// More than one only behind the name of an SRV record; none if that does not resolve.
    ips: Vec<IpAddr>,
    /// What the Host header and TLS call it.
    host: Arc<str>,
}

#[derive(Default)]
enum Picker {
    #[default]
    None,
    RoundRobin(Vec<u16>),
    ConsistentHashing(Continuum),
    LeastConnections,
    Latency,
}

impl Peers {
    /// Resolves the targets by what is known already.
    pub(super) fn build(definition: &Arc<Definition>, inner: &mut Inner, resolver: &Resolver) -> Self {
        let mut built = Self { definition: Some(Arc::clone(definition)), ..Self::default() };
        let mut addresses: HashMap<AddressKey, Arc<AddressState>> = HashMap::new();
        let mut answers: HashMap<Arc<str>, Arc<Answer>> = HashMap::new();
        for target in &definition.targets {
            let first = built.peers.len();
            let hostname: Arc<str> = target.host.as_str().into();
            let mut add =
                |built: &mut Self, host: Arc<str>, ips: Vec<IpAddr>, port: u16, weight: u32, name: Arc<str>| {
                    if built.peers.len() < MAX_PEERS {
                        let key = (Arc::clone(&hostname), host, port);
                        let known = addresses.get(&key).or_else(|| inner.addresses.get(&key)).cloned();
                        let address = known.unwrap_or_else(|| Arc::new(AddressState::new(key.clone())));
                        addresses.insert(key, Arc::clone(&address));
                        built.peers.push(Peer { address, weight, ips, host: name });
                    }
                };
            let source = if let Ok(ip) = target.host.parse::<IpAddr>() {
                add(&mut built, Arc::clone(&hostname), vec![ip], target.port, target.weight, Arc::clone(&hostname));
                Source::Records(if ip.is_ipv4() { RecordKind::A } else { RecordKind::Aaaa })
            } else {
                // While nothing new is known, what was known still counts.
                let outcome =
                    resolver.last_known(&target.host).or_else(|| inner.answers.get(&hostname).cloned().map(Ok));
                match outcome {
                    None => Source::Pending,
                    Some(Err(error)) => Source::Failed(error.to_string()),
                    Some(Ok(answer)) => {
                        for endpoint in &answer.endpoints {
                            let srv = endpoint.weight.filter(|_| target.weight > 0);
                            let weight = srv.map_or(target.weight, u32::from);
                            let port = endpoint.port.unwrap_or(target.port);
                            let by_srv = answer.kind == RecordKind::Srv && definition.use_srv_name;
                            let name = Arc::clone(if by_srv { &endpoint.host } else { &hostname });
                            add(&mut built, Arc::clone(&endpoint.host), endpoint.ips.clone(), port, weight, name);
                        }
                        answers.insert(Arc::clone(&hostname), Arc::clone(&answer));
                        Source::Records(answer.kind)
                    }
                }
            };
            let count = built.peers.len() - first;
            built.targets.push(TargetState { target: Arc::clone(target), source, first, count });
        }
        built.picker = built.picker(definition);
        built.pending = built.targets.iter().any(|target| target.source == Source::Pending);
        let begun = *inner.begun.get_or_insert_with(tokio::time::Instant::now);
        inner.was_settled |= !built.pending;
        built.circle_until = (built.pending && !inner.was_settled).then(|| begun + CIRCLE_BEGINS);
        inner.addresses = addresses;
        inner.answers = answers;
        built
    }

    fn picker(&self, definition: &Definition) -> Picker {
        match definition.algorithm {
            Algorithm::RoundRobin => {
                Picker::RoundRobin(ring(&self.peers.iter().map(|peer| peer.weight.into()).collect::<Vec<_>>()))
            }
            Algorithm::ConsistentHashing => {
                let shares: Vec<Share<'_>> = (0..)
                    .zip(&self.peers)
                    .map(|(index, peer)| {
                        let (_, host, port) = &peer.address.key;
                        Share { host, port: *port, weight: peer.weight.into(), index }
                    })
                    .collect();
                Picker::ConsistentHashing(Continuum::new(definition.slots, definition.targets.len(), &shares))
            }
            Algorithm::LeastConnections => Picker::LeastConnections,
            Algorithm::Latency => {
                let now = Instant::now();
                let known: Vec<f64> = self.peers.iter().filter_map(|peer| peer.address.latency(now)).collect();
                if !known.is_empty() {
                    let average = known.iter().sum::<f64>() / known.len() as f64;
                    self.peers.iter().for_each(|peer| peer.address.start_slowly(average, now));
                }
                Picker::Latency
            }
        }
    }

    pub(super) fn definition(&self) -> Option<&Arc<Definition>> {
        self.definition.as_ref()
    }

    /// Whether a target has not been looked up yet.
    pub(super) fn is_pending(&self) -> bool {
        self.definition.is_none() || self.pending
    }

    /// While a circle is new: until when its places are not yet to be relied on. One that was complete once is used
    /// as it is: a target that is added may be slow to resolve.
    pub(super) fn circle_begins_until(&self) -> Option<tokio::time::Instant> {
        self.circle_until.filter(|_| matches!(self.picker, Picker::ConsistentHashing(_)))
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// The weight in all, and that of what is unavailable.
    pub(super) fn weights(&self) -> (u64, u64) {
        weights(&self.peers)
    }

    pub(super) fn recount(&self) {
        let (total, unavailable) = self.weights();
        let threshold = self.definition.as_ref().map_or(0.0, |definition| definition.threshold);
        let healthy = total > 0 && (total - unavailable) as f64 / total as f64 * 100.0 > threshold;
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Picks an address: one that was not tried yet, if there is one.
    pub(super) fn pick(&self, balancer: &Balancer, hash: &str, tried: &[Arc<AddressState>]) -> Option<&Peer> {
        let was_tried = |peer: &Peer| tried.iter().any(|tried| Arc::ptr_eq(tried, &peer.address));
        match &self.picker {
            Picker::None => None,
            Picker::RoundRobin(ring) => {
                // Turns are shared by all workers: those between two of ours may have been taken by others, so that a
                // round of turns need not show every place.
                let turns = (0..ring.len()).filter_map(|_| ring.get(balancer.next_turn() % ring.len()));
                self.first(turns.chain(ring).copied(), was_tried)
            }
            Picker::ConsistentHashing(continuum) => self.first(continuum.from(hash), was_tried),
            Picker::LeastConnections => {
                let score = |peer: &Peer| (peer.address.connections() + 1) as f64 / f64::from(peer.weight);
                self.least(balancer, score, was_tried)
            }
            Picker::Latency => {
                let now = Instant::now();
                // One that nothing is known of is tried first.
                let score = |peer: &Peer| peer.address.latency(now).unwrap_or(0.0) / f64::from(peer.weight);
                self.least(balancer, score, was_tried)
            }
        }
    }

    /// The first in this order that is usable and was not tried, else the first that is usable.
    fn first(&self, order: impl Iterator<Item = u16>, was_tried: impl Fn(&Peer) -> bool) -> Option<&Peer> {
        let mut repeated = None;
        for peer in order.filter_map(|index| self.peers.get(usize::from(index))).filter(|peer| peer.is_usable()) {
            if !was_tried(peer) {
                return Some(peer);
            }
            repeated.get_or_insert(peer);
        }
        repeated
    }

    /// The usable one with the least score; among equals each in its turn.
    fn least(
        &self,
        balancer: &Balancer,
        score: impl Fn(&Peer) -> f64,
        was_tried: impl Fn(&Peer) -> bool,
    ) -> Option<&Peer> {
        let turn = balancer.next_turn() % self.peers.len().max(1);
        let (before, after) = self.peers.split_at_checked(turn)?;
        let usable = after.iter().chain(before).filter(|peer| peer.is_usable());
        usable
            .map(|peer| (was_tried(peer), score(peer), peer))
            .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
            .map(|(_, _, peer)| peer)
    }
}

/// The weight of addresses in all, and that of those that are unavailable.
pub(super) fn weights(peers: &[Peer]) -> (u64, u64) {
    peers.iter().fold((0, 0), |(total, unavailable), peer| {
        let weight = u64::from(peer.weight);
        (total + weight, if peer.address.health.is_healthy() { unavailable } else { unavailable + weight })
    })
}

impl TargetState {
    pub(super) fn peers<'a>(&self, peers: &'a Peers) -> &'a [Peer] {
        peers.peers.get(self.first..self.first + self.count).unwrap_or_default()
    }
}

impl Peer {
    fn is_usable(&self) -> bool {
        self.weight > 0 && self.address.health.is_healthy() && !self.ips.is_empty()
    }

    /// The next address of this one: it is one only, unless an SRV record names a host that has several.
    pub(super) fn socket(&self) -> Option<SocketAddr> {
        let turn = self.address.turn.fetch_add(1, Ordering::Relaxed);
        let ip = self.ips.get(turn % self.ips.len().max(1))?;
        Some(SocketAddr::new(*ip, self.address.key.2))
    }

    pub(super) fn place(&self) -> Option<Address> {
        Some(Address { socket: self.socket()?, host: (*self.host).to_owned(), port: self.address.key.2 })
    }
}

//! From the host that a request is for to the address that it goes to.
//!
//! The upstream entities of a configuration are [`Upstreams`]; a request holds those of the generation that it began
//! with. What outlives a configuration is a [`Balancer`], one for each upstream's id: which addresses there are
//! ([`peers`]), whose turn it is, how they are ([`health`](super::health)), how busy. Requests only read it; it is
//! rebuilt when a configuration is put in force and when DNS has another answer, by the control thread.
//!
//! [`Attempts`] knows nothing of HTTP: streams use it as well.

mod address;
mod attempts;
mod continuum;
mod definition;
mod keeper;
mod peers;
mod report;
pub(super) mod ring;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use silverback_log::Level;
use silverback_model::{Id, Snapshot};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use self::report::{AddressHealth, HealthState, SetHealthError, UpstreamHealth};
use self::{
    address::{AddressKey, AddressState},
    definition::Definition,
    peers::Peers,
};
pub(crate) use self::{
    attempts::{Address, Attempts, BalanceError, InUse},
    definition::HashOn,
};
use super::{
    dns::{Answer, Resolver},
    health::{Limits, Outcome},
    tls::ClientTls,
};

/// The upstream entities of a generation.
#[derive(Default)]
pub(crate) struct Upstreams {
    by_name: HashMap<String, Arc<Upstream>>,
    pub(crate) names: Arc<HashSet<String>>,
}

/// An upstream entity.
pub(crate) struct Upstream {
    definition: Arc<Definition>,
    balancer: Arc<Balancer>,
}

/// What outlives a generation: a balancer for each upstream. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Balancers(Arc<Registry>);

struct Registry {
    by_id: Mutex<HashMap<Id, Arc<Balancer>>>,
    resolver: Resolver,
    /// Upstreams have other definitions: probes may have to start or end.
    redefined: Notify,
    probe_tls: ArcSwap<Option<ClientTls>>,
}

/// The addresses of an upstream, and how they are.
pub(crate) struct Balancer {
    peers: ArcSwap<Peers>,
    /// Whose turn it is.
    turn: AtomicUsize,
    /// Tells those who wait that the addresses are other ones.
    rebuilt: watch::Sender<()>,
    /// Held while it is added up what is available: never for long.
    counting: Mutex<()>,
    /// Held while addresses are put together.
    inner: Mutex<Inner>,
}

/// What only those who rebuild need.
#[derive(Default)]
struct Inner {
    /// `None` until a configuration with this upstream is in force.
    definition: Option<Arc<Definition>>,
    addresses: HashMap<AddressKey, Arc<AddressState>>,
    /// What the names of targets last stood for.
    answers: HashMap<Arc<str>, Arc<Answer>>,
    /// When there were targets for the first time.
    begun: Option<Instant>,
    /// Once all targets had been looked up.
    was_settled: bool,
}

impl Upstreams {
    /// Changes nothing that is in force: see [`Upstreams::put_in_force`].
    pub(crate) fn build(snapshot: &Snapshot, balancers: &Balancers) -> Self {
        let mut targets: HashMap<Id, Vec<_>> = HashMap::new();
        for target in &snapshot.targets {
            targets.entry(target.upstream).or_default().push(Arc::clone(target));
        }
        let mut known = balancers.by_id();
        let by_name: HashMap<String, Arc<Upstream>> = snapshot
            .upstreams
            .iter()
            .map(|upstream| {
                let targets = targets.remove(&upstream.id).unwrap_or_default();
                let definition = Arc::new(Definition::new(upstream, targets));
                let balancer = Arc::clone(known.entry(upstream.id).or_default());
                (upstream.name.clone(), Arc::new(Upstream { definition, balancer }))
            })
            .collect();
        drop(known);
        let names = Arc::new(by_name.keys().cloned().collect());
        Self { by_name, names }
    }

    /// Gives the balancers these definitions, and drops those of upstreams that are no more. Requests that began with
    /// another configuration go to these targets from now on, too.
    pub(crate) fn put_in_force(&self, balancers: &Balancers, tls: ClientTls) {
        let mut watched: HashSet<Arc<str>> = HashSet::new();
        for upstream in self.by_name.values() {
            watched.extend(upstream.definition.names());
        }
        // Before the balancers look: what they find missing is on its way then.
        balancers.0.resolver.watch(watched);
        for upstream in self.by_name.values() {
            upstream.balancer.define(&upstream.definition, &balancers.0.resolver);
        }
        let ids: HashSet<Id> = self.by_name.values().map(|upstream| upstream.definition.id).collect();
        balancers.by_id().retain(|id, _| ids.contains(id));
        balancers.0.probe_tls.store(Arc::new(Some(tls)));
        balancers.0.redefined.notify_one();
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name)
    }
}

impl Upstream {
    pub(crate) fn host_header(&self) -> Option<&String> {
        self.definition.host_header.as_ref()
    }

    /// What a request is hashed by: the first of `hash_on` and `hash_fallback` that it has. Kong hashes nothing at all
    /// as an empty text.
    pub(crate) fn hash_value(&self, part: impl FnMut(&HashOn) -> Option<String>) -> Option<String> {
        let definition = &*self.definition;
        definition.hash_on.iter().chain(&definition.hash_fallback).find_map(part)
    }
}

impl Balancers {
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self(Arc::new(Registry {
            by_id: Mutex::default(),
            resolver,
            redefined: Notify::new(),
            probe_tls: ArcSwap::default(),
        }))
    }

    /// Starts the task that follows DNS and probes targets. It belongs to the runtime that this is called in.
    pub(crate) fn spawn(&self) {
        tokio::spawn(keeper::run(self.clone()));
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.0.resolver
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<Id, Arc<Balancer>>> {
        self.0.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are in force.
    fn all(&self) -> Vec<(Id, Arc<Balancer>)> {
        self.by_id().iter().map(|(id, balancer)| (*id, Arc::clone(balancer))).collect()
    }
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            peers: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            rebuilt: watch::channel(()).0,
            counting: Mutex::default(),
            inner: Mutex::default(),
        }
    }
}

impl Balancer {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn define(&self, definition: &Arc<Definition>, resolver: &Resolver) {
        let mut inner = self.inner();
        if !definition.checks.are_used() {
            // Nobody would ever find them healthy again.
            for address in inner.addresses.values() {
                address.health.set(true);
            }
        }
        inner.definition = Some(Arc::clone(definition));
        self.rebuild(&mut inner, resolver);
    }

    /// Looks at DNS again, if one of these names is that of a target.
    fn follow_dns(&self, changed: &HashSet<Arc<str>>, resolver: &Resolver) {
        let mut inner = self.inner();
        let concerned = inner.definition.as_ref().is_some_and(|definition| {
            definition.targets.iter().any(|target| changed.contains(target.host.to_ascii_lowercase().as_str()))
        });
        if concerned {
            self.rebuild(&mut inner, resolver);
        }
    }

    fn rebuild(&self, inner: &mut Inner, resolver: &Resolver) {
        let Some(definition) = inner.definition.clone() else { return };
        let peers = Peers::build(&definition, inner, resolver);
        let counting = self.counting();
        peers.recount();
        let before = self.peers.load();
        let turned = !before.is_pending() && before.is_healthy() != peers.is_healthy();
        let healthy = peers.is_healthy();
        drop(before);
        self.peers.store(Arc::new(peers));
        drop(counting);
        self.rebuilt.send_replace(());
        if definition.checks.are_used() && turned {
            log_balancer(&definition, healthy);
        }
    }

    fn counting(&self) -> MutexGuard<'_, ()> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an outcome, and takes the address out or back if that was the last that it needed.
    fn report(&self, address: &AddressState, outcome: Outcome, limits: impl FnOnce(&Definition) -> &Limits) {
        let peers = self.peers.load();
        let Some(definition) = peers.definition() else { return };
        if !definition.checks.are_used() {
            return;
        }
        let Some(turned) = address.health.report(outcome, limits(definition)) else { return };
        silverback_log::write(
            if turned.healthy { Level::Notice } else { Level::Warn },
            format_args!(
                "upstream {}: target {address} is {} ({} {})",
                definition.name,
                if turned.healthy { "healthy" } else { "unhealthy" },
                turned.counted,
                turned.what,
            ),
            None,
        );
        self.recount();
    }

    /// Adds up again what is available.
    fn recount(&self) {
        // One at a time: the last to write must be the last to have looked.
        let _counting = self.counting();
        let peers = self.peers.load();
        let was_healthy = peers.is_healthy();
        peers.recount();
        if let Some(definition) = peers.definition()
            && was_healthy != peers.is_healthy()
        {
            log_balancer(definition, peers.is_healthy());
        }
    }

    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits as long as the addresses, or what is known of them, say that it must be waited.
    async fn wait_while(&self, must_wait: impl Fn(&Peers) -> bool) {
        let mut rebuilt = self.rebuilt.subscribe();
        // The other end is this balancer's own.
        while must_wait(&self.peers.load()) && rebuilt.changed().await.is_ok() {}
    }
}

fn log_balancer(definition: &Definition, healthy: bool) {
    silverback_log::write(
        Level::Warn,
        format_args!(
            "balancer {} reported health status changed to {}",
            definition.name,
            if healthy { "HEALTHY" } else { "UNHEALTHY" }
        ),
        None,
    );
}

#[cfg(test)]
mod tests;

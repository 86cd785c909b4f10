//! The task that keeps balancers in step with DNS, and probes their targets.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use silverback_model::Id;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};

use super::{Balancer, Balancers, address::AddressKey};
use crate::upstream::{
    ClientTls,
    health::{
        ActiveCheck,
        probe::{self, ProbeTls},
    },
};

/// Probes at the same time, of all upstreams together.
const PROBES: usize = 256;

/// The probes of one upstream.
struct Probing {
    check: ActiveCheck,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub(super) async fn run(balancers: Balancers) {
    let turns = Arc::new(Semaphore::new(PROBES));
    let mut probing: HashMap<Id, Probing> = HashMap::new();
    loop {
        let redefined = balancers.0.redefined.notified();
        reconcile(&balancers, &mut probing, &turns);
        let mut redefined = std::pin::pin!(redefined);
        loop {
            tokio::select! {
                () = redefined.as_mut() => break,
                names = balancers.0.resolver.changed() => {
                    // Thousands of targets take their time, and this thread has others to serve.
                    let balancers = balancers.clone();
                    let following = tokio::task::spawn_blocking(move || {
                        for (_, balancer) in balancers.all() {
                            balancer.follow_dns(&names, &balancers.0.resolver);
                        }
                    });
                    // It fails only when the runtime ends.
                    let _ = following.await;
                }
            }
        }
    }
}

/// Starts the probes that are wanted and ends the others. Those whose check is as it was go on in their rhythm.
fn reconcile(balancers: &Balancers, probing: &mut HashMap<Id, Probing>, turns: &Arc<Semaphore>) {
    let all = balancers.all();
    let known: HashSet<&Id> = all.iter().map(|(id, _)| id).collect();
    probing.retain(|id, _| known.contains(id));
    for (id, balancer) in &all {
        let peers = balancer.peers.load();
        let Some(definition) = peers.definition() else { continue };
        let check = &definition.checks.active;
        if probing.get(id).is_some_and(|probing| probing.check == *check) {
            continue;
        }
        let rounds = [(check.healthy_interval, true), (check.unhealthy_interval, false)];
        let tasks = rounds.into_iter().filter(|(interval, _)| !interval.is_zero()).map(|(interval, of_healthy)| {
            let (balancers, turns) = (Arc::downgrade(&balancers.0), Arc::clone(turns));
            tokio::spawn(probe_on(Arc::downgrade(balancer), balancers, turns, interval, of_healthy))
        });
        let tasks: Vec<_> = tasks.collect();
        // The tasks of the check before end here.
        probing.remove(id);
        if !tasks.is_empty() {
            probing.insert(*id, Probing { check: check.clone(), tasks });
        }
    }
}

/// Probes the healthy, or the unhealthy, addresses of an upstream, round after round.
async fn probe_on(
    balancer: Weak<Balancer>,
    balancers: Weak<super::Registry>,
    turns: Arc<Semaphore>,
    interval: Duration,
    of_healthy: bool,
) {
    let mut rounds = tokio::time::interval_at(Instant::now(), interval.max(Duration::from_millis(10)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let (Some(balancer), Some(registry)) = (balancer.upgrade(), balancers.upgrade()) else { return };
        let tls = registry.probe_tls.load_full();
        drop(registry);
        let Some(tls) = Option::as_ref(&tls) else { continue };
        round(&balancer, tls, &turns, of_healthy).await;
    }
}

async fn round(balancer: &Arc<Balancer>, tls: &ClientTls, turns: &Arc<Semaphore>, of_healthy: bool) {
    let peers = balancer.peers.load_full();
    let Some(definition) = peers.definition() else { return };
    let check = Arc::new(definition.checks.active.clone());
    let upstream: Arc<str> = definition.name.as_str().into();
    let host_header: Option<Arc<str>> = definition.host_header.as_deref().map(Into::into);
    let mut probes: JoinSet<()> = JoinSet::new();
    let mut seen: HashSet<&AddressKey> = HashSet::new();
    let due = peers.peers.iter().filter(|peer| peer.weight > 0 && peer.address.health.is_healthy() == of_healthy);
    for peer in due {
        // The same address under two targets of the same name is one.
        if !seen.insert(&peer.address.key) {
            continue;
        }
        if probes.len() >= check.concurrency.max(1) {
            probes.join_next().await;
        }
        let Some(socket) = peer.socket() else { continue };
        // Only fails when it is closed, which it never is.
        let Ok(turn) = Arc::clone(turns).acquire_owned().await else { return };
        let (balancer, address) = (Arc::clone(balancer), Arc::clone(&peer.address));
        let (check, tls, host_header) = (Arc::clone(&check), tls.clone(), host_header.clone());
        let upstream = Arc::clone(&upstream);
        probes.spawn(async move {
            let hostname = host_header.as_deref().unwrap_or(&address.key.0);
            let tls = ProbeTls { tls: &tls, upstream: &upstream };
            let outcome = probe::probe(&check, &tls, socket, hostname).await;
            drop(turn);
            balancer.report(&address, outcome, |definition| &definition.checks.active.limits);
        });
    }
    while probes.join_next().await.is_some() {}
}

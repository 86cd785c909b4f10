//! What the control thread and the workers share of a plugin server: the lives that it has, and its instances.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value as Json};
use silverback_config::settings::PluginServer;
use silverback_model::Phase;
use silverback_protocol::dump::WireProtocol;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    Deadlines, Instance, Offer, ProcessStatus, ServerStatus, Usage,
    admission::Admission,
    breaker::Breaker,
    instance::integral_numbers,
    life::{Lease, Life},
    metrics::Registry,
    output::Process,
};

/// Where a server, or one of its processes, is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Its process runs (or it is managed elsewhere), its socket does not answer yet.
    Starting,
    /// Events can run.
    Ready,
    /// Its process ended; it is started again after a while.
    Backoff,
    /// It gets no new events, and ends.
    Draining,
    /// Ended, and not started again.
    Dead,
}

/// A plugin server, with one set of settings and one offer. When one of them changes, another server takes its place.
pub(crate) struct Server {
    pub(crate) settings: PluginServer,
    pub(crate) protocol: WireProtocol,
    /// Names of the plugins that it serves.
    pub(crate) plugins: Vec<String>,
    /// Whether its processes are ours.
    pub(crate) managed: bool,
    pub(crate) deadlines: Deadlines,
    /// The way in for events that requests wait for.
    admission: Admission,
    /// The same for those of `log`, which nobody waits for: a slow logger keeps no request waiting.
    log_admission: Admission,
    /// Opens when the server is not ready in time, again and again.
    pub(crate) unready: Breaker,
    pub(crate) restarts: AtomicU64,
    /// Connections that wait for a handler to end whose event was given up.
    pub(crate) parked: AtomicUsize,
    /// As long as it is on trial, a process that does not come up is not started again: something else serves.
    pub(crate) on_trial: AtomicBool,
    /// How long the last process that came up took to, in milliseconds; 0: none has.
    start_time: AtomicU64,
    /// Those that are not over.
    lives: ArcSwap<Vec<Arc<Life>>>,
    seats: Mutex<Vec<Seat>>,
    /// Told when a life or a seat changes.
    changes: watch::Sender<()>,
    stop: watch::Sender<Option<Stop>>,
    /// By plugin and configuration.
    instances: Mutex<HashMap<(String, String), Weak<Instance>>>,
    /// The process that was started last and the one before it, for the report of a failure when none runs.
    last_processes: Mutex<[Option<Arc<Process>>; 2]>,
    metrics: Arc<Registry>,
    /// What took its place.
    successor: OnceLock<Option<Arc<Self>>>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// When its events have ended, or this time has passed.
    Drained(Duration),
    /// The gateway stops: a process has this time to end.
    Now(Duration),
}

/// One of the places for a process that a server has.
#[derive(Clone, Default)]
struct Seat {
    state: Option<ServerState>,
    /// The process that was started last.
    process: Option<Arc<Process>>,
    /// Why it is empty.
    reason: Option<String>,
    /// So many processes have ended in it before they could serve that nobody is to wait for the next one.
    hopeless: bool,
}

/// Why no process takes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unready {
    /// None was ready in time; or this is what the server does instead.
    Not(ServerState),
    /// They end before they can serve, one after another: why the last one did.
    Crashing(String),
}

/// Handlers given up that may run on in a process. Where there are more, it counts as hung.
pub(crate) const MAX_PARKED: usize = 1024;

impl Server {
    pub(crate) fn new(settings: PluginServer, offer: &Offer, deadlines: Deadlines, on_trial: bool) -> Self {
        let managed = settings.start_cmd.is_some();
        let seats = if managed { settings.process.workers.max(1) } else { 1 };
        Self {
            admission: Admission::new(&settings.events),
            log_admission: Admission::new(&settings.events),
            unready: Breaker::new(settings.events.breaker),
            settings,
            protocol: offer.protocol,
            plugins: offer.plugins.iter().map(|plugin| plugin.name.clone()).collect(),
            managed,
            deadlines,
            restarts: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            on_trial: AtomicBool::new(on_trial),
            start_time: AtomicU64::new(0),
            lives: ArcSwap::default(),
            seats: Mutex::new(vec![Seat::default(); seats]),
            changes: watch::Sender::new(()),
            stop: watch::Sender::new(None),
            instances: Mutex::default(),
            last_processes: Mutex::default(),
            successor: OnceLock::new(),
            metrics: Arc::default(),
        }
    }

    /// What its events come to is counted there, with those of the servers of its name before and after it.
    pub(crate) fn counted_in(mut self, metrics: &Arc<Registry>) -> Self {
        self.metrics = Arc::clone(metrics);
        self
    }

    /// The way in for events of a phase.
    pub(crate) fn admission_of(&self, phase: Phase) -> &Admission {
        if phase == Phase::Log { &self.log_admission } else { &self.admission }
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// How many processes it has beside each other.
    pub(crate) fn seats(&self) -> usize {
        self.lock_seats().len()
    }

    /// The process that is least busy; `None` if none is ready.
    pub(crate) fn lease_now(&self) -> Option<Lease> {
        loop {
            let lives = self.lives.load();
            let ready = lives.iter().filter(|life| life.is_ready());
            let life = ready.min_by_key(|life| (life.in_flight(), fastrand::u32(..)))?;
            // it may have changed since
            if let Some(lease) = life.lease() {
                return Some(lease);
            }
        }
    }

    /// Waits until a process is ready, if one can be expected to be.
    pub(crate) async fn lease(&self, deadline: Instant) -> Result<Lease, Unready> {
        let mut changes: Option<watch::Receiver<()>> = None;
        loop {
            if let Some(receiver) = &mut changes {
                receiver.mark_unchanged();
            }
            if let Some(lease) = self.lease_now() {
                return Ok(lease);
            }
            let state = self.state();
            if matches!(state, ServerState::Draining | ServerState::Dead) {
                return Err(Unready::Not(state));
            }
            if let Some(reason) = self.crashing() {
                return Err(Unready::Crashing(reason));
            }
            // what changed before it was listened for would be missed
            let Some(receiver) = &mut changes else {
                changes = Some(self.changes.subscribe());
                continue;
            };
            match timeout_at(deadline, receiver.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Unready::Not(ServerState::Dead)),
                Err(_) => return Err(Unready::Not(self.state())),
            }
        }
    }

    /// Why its processes end before they can serve, if all of them do so again and again.
    pub(crate) fn crashing(&self) -> Option<String> {
        let seats = self.lock_seats();
        seats.iter().all(|seat| seat.hopeless).then(|| seats.iter().find_map(|seat| seat.reason.clone()))?
    }

    /// Whether events can run.
    pub(crate) fn is_ready(&self) -> bool {
        self.lives.load().iter().any(|life| life.is_ready())
    }

    /// Where it is: as far as the best of its processes.
    pub(crate) fn state(&self) -> ServerState {
        if self.is_ready() {
            return ServerState::Ready;
        }
        let seats = self.lock_seats();
        let any = |state| seats.iter().any(|seat| seat.state == Some(state));
        if seats.iter().all(|seat| seat.state == Some(ServerState::Dead)) {
            ServerState::Dead
        } else if self.stop.borrow().is_some() {
            ServerState::Draining
        } else if any(ServerState::Backoff) && !any(ServerState::Starting) && !any(ServerState::Ready) {
            ServerState::Backoff
        } else {
            ServerState::Starting
        }
    }

    fn lock_seats(&self) -> std::sync::MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told by the supervisor of a seat. `reason`: why nothing runs there.
    pub(crate) fn set_seat(&self, index: usize, state: ServerState, reason: Option<String>) {
        if let Some(seat) = self.lock_seats().get_mut(index) {
            seat.state = Some(state);
            if reason.is_some() {
                seat.reason = reason;
            }
        }
        self.changes.send_replace(());
    }

    /// Told by the supervisor of a seat, before it says where the seat is: whether the next process is to be waited for.
    pub(crate) fn set_hopeless(&self, index: usize, hopeless: bool) {
        if let Some(seat) = self.lock_seats().get_mut(index) {
            seat.hopeless = hopeless;
        }
    }

    pub(crate) fn set_process(&self, index: usize, process: &Arc<Process>) {
        if let Some(seat) = self.lock_seats().get_mut(index) {
            seat.process = Some(Arc::clone(process));
        }
        let mut processes = self.last_processes.lock().unwrap_or_else(PoisonError::into_inner);
        let [last, before] = &mut *processes;
        *before = last.replace(Arc::clone(process));
    }

    /// A process came up within this time.
    pub(crate) fn set_start_time(&self, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.start_time.store(milliseconds.max(1), Ordering::Relaxed);
    }

    /// How long the last process that came up took to.
    pub(crate) fn start_time(&self) -> Option<Duration> {
        let milliseconds = self.start_time.load(Ordering::Relaxed);
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }

    /// The process that was started last; where they crash one after another, the last that did.
    pub(crate) fn last_process(&self) -> Option<Arc<Process>> {
        let [last, before] = self.last_processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let runs = last.as_ref().is_some_and(|last| last.end().is_none());
        if runs && before.is_some() && self.crashing().is_some() { before } else { last }
    }

    /// A life begins: it gets events from now on.
    pub(crate) fn admit(&self, life: &Arc<Life>) {
        life.set_ready();
        self.lives.rcu(|lives| {
            let mut lives = Vec::clone(lives);
            lives.push(Arc::clone(life));
            lives
        });
        self.changes.send_replace(());
    }

    /// A life has changed otherwise.
    pub(crate) fn changed(&self) {
        self.changes.send_replace(());
    }

    /// A life has ended.
    pub(crate) fn dismiss(&self, life: &Arc<Life>) {
        life.set_over();
        self.lives.rcu(|lives| lives.iter().filter(|other| !Arc::ptr_eq(other, life)).cloned().collect::<Vec<_>>());
        self.changes.send_replace(());
    }

    pub(crate) fn lives(&self) -> Arc<Vec<Arc<Life>>> {
        self.lives.load_full()
    }

    /// Waits until every seat is taken; `Err` with the reason if that will not be, or a process that took one has ended.
    pub(crate) async fn came_up(&self) -> Result<(), String> {
        let mut changes = self.changes.subscribe();
        loop {
            if self.is_up()? {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err("it was stopped".to_owned());
            }
        }
    }

    /// Whether every seat is taken, each by its first process; `Err` with the reason if that will not be.
    pub(crate) fn is_up(&self) -> Result<bool, String> {
        let seats = self.lock_seats();
        let lost = self.restarts.load(Ordering::Relaxed) > 0;
        let failed = seats.iter().find(|seat| seat.state == Some(ServerState::Dead) || (lost && seat.reason.is_some()));
        if let Some(seat) = failed {
            return Err(seat.reason.clone().unwrap_or_else(|| "it was stopped".to_owned()));
        }
        if lost {
            return Err("its process had to be replaced".to_owned());
        }
        Ok(seats.iter().all(|seat| seat.state == Some(ServerState::Ready)))
    }

    /// Whether a seat is empty for good.
    pub(crate) fn has_dead_seat(&self) -> bool {
        self.lock_seats().iter().any(|seat| seat.state == Some(ServerState::Dead))
    }

    /// Ends it.
    pub(crate) fn stop(&self, how: Stop) {
        self.stop.send_replace(Some(how));
        self.changes.send_replace(());
    }

    /// Waits until it is to end.
    pub(crate) fn stops(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Says what takes its place; `None`: nothing does.
    pub(crate) fn set_successor(&self, successor: Option<Arc<Self>>) {
        let _ = self.successor.set(successor); // it is replaced once
    }

    /// What took its place, if anything did.
    pub(crate) fn successor(&self) -> Option<&Arc<Self>> {
        self.successor.get()?.as_ref()
    }

    /// The instance of a plugin with a configuration: the same one for the same configuration, whoever asks.
    pub(crate) fn instance(self: &Arc<Self>, plugin: &str, config: Map<String, Json>) -> Arc<Instance> {
        let mut config = Json::Object(config);
        integral_numbers(&mut config);
        let key = (plugin.to_owned(), config.to_string());
        let config = match config {
            Json::Object(config) => config,
            _ => Map::new(), // it is an object
        };
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instance) = instances.get(&key).and_then(Weak::upgrade) {
            return instance;
        }
        if instances.len() == instances.capacity() {
            instances.retain(|_, instance| instance.strong_count() > 0);
        }
        let metrics = self.metrics.counters(self.name(), plugin);
        let instance = Arc::new(Instance::new(Arc::clone(self), plugin.to_owned(), config).counted_in(metrics));
        instances.insert(key, Arc::downgrade(&instance));
        instance
    }

    /// The instances that requests can still ask for.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.values().filter_map(Weak::upgrade).collect()
    }

    /// Whether a request can still ask for one of its instances.
    pub(crate) fn has_instances(&self) -> bool {
        let instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.values().any(|instance| instance.strong_count() > 0)
    }

    /// Whether so many handlers were given up that no more events are to be sent. A process of ours is replaced then,
    /// one that is managed elsewhere can only be spared.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.managed && self.parked.load(Ordering::Relaxed) > MAX_PARKED
    }

    /// What an operator wants to know.
    pub(crate) fn status(&self) -> ServerStatus {
        let lives = self.lives();
        let mut processes: Vec<ProcessStatus> = lives.iter().map(|life| life.status()).collect();
        for seat in self.lock_seats().iter() {
            let has_life = seat.process.as_ref().is_some_and(|process| {
                lives.iter().any(|life| life.process.as_ref().is_some_and(|other| other.pid == process.pid))
            });
            // a server that is managed elsewhere has nothing but its life
            if has_life || (!self.managed && !lives.is_empty()) {
                continue;
            }
            let runs = seat.process.as_ref().filter(|process| process.end().is_none());
            processes.push(ProcessStatus {
                pid: runs.map(|process| process.pid),
                state: seat.state.unwrap_or(ServerState::Starting),
                epoch: 0,
                started: runs.map(|process| process.started),
                usage: runs.and_then(|process| Usage::of(process.pid)),
                in_flight: 0,
                events: 0,
                instances: 0,
                parked: 0,
            });
        }
        let instances = self.instances();
        let breakers = instances.iter().map(|instance| instance.breaker_state());
        let breaker = breakers.chain([self.unready.state()]).max();
        let best = processes.iter().find(|process| process.state == ServerState::Ready).or_else(|| processes.first());
        ServerStatus {
            name: self.name().to_owned(),
            protocol: self.protocol,
            socket: self.settings.socket.clone(),
            managed: self.managed,
            state: self.state(),
            pid: best.and_then(|process| process.pid),
            restarts: self.restarts.load(Ordering::Relaxed),
            plugins: self.plugins.clone(),
            in_flight: self.admission.in_flight() + self.log_admission.in_flight(),
            queue: self.admission.queue() + self.log_admission.queue(),
            breaker: breaker.unwrap_or_default(),
            processes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_waited_for_as_long_as_one_of_its_seats_is() {
        let mut settings = PluginServer::new("s", "", "");
        settings.start_cmd = Some("false".to_owned());
        settings.process.workers = 2;
        let deadlines = Deadlines::of(&settings);
        let offer = Offer {
            server: "s".to_owned(),
            protocol: WireProtocol::MsgPack,
            socket: None,
            plugins: Vec::new(),
            complaints: Vec::new(),
        };
        let server = Server::new(settings, &offer, deadlines, false);
        let crash = |index| {
            server.set_hopeless(index, true);
            server.set_seat(index, ServerState::Backoff, Some(format!("ended {index}")));
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let lease = || server.lease(Instant::now() + deadlines.ready);
            crash(0);
            assert_eq!(lease().await.err(), Some(Unready::Not(ServerState::Backoff)));
            crash(1);
            assert_eq!(lease().await.err(), Some(Unready::Crashing("ended 0".to_owned())));
            // those who wait already get to know
            server.set_hopeless(1, false);
            let waits = async {
                tokio::task::yield_now().await;
                crash(1);
            };
            let begun = Instant::now();
            let (lease, ()) = tokio::join!(lease(), waits);
            assert_eq!(lease.err(), Some(Unready::Crashing("ended 0".to_owned())));
            assert_eq!(begun.elapsed(), Duration::ZERO);
            server.set_hopeless(0, false);
            assert_eq!(server.crashing(), None);
        });
    }
}

//! What the control thread and the workers share of a plugin server: its state, and the epoch that it is in.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use silverback_config::settings::EventPolicy;
use silverback_log::Level;
use silverback_protocol::dump::WireProtocol;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use crate::{Deadlines, ProcessStatus, ServerStatus, Usage, admission::Admission, breaker::Breaker, output::Process};

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Its process runs (or it is managed elsewhere), its socket does not answer yet.
    Starting,
    /// Events can run.
    Ready,
    /// Its process ended; it is started again after a while.
    Backoff,
    /// The host is stopping: the server was asked to end.
    Draining,
    /// Ended, and not started again.
    Dead,
}

/// Which process answers at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The process that listens; 0 if it is in another pid namespace.
    pub(crate) pid: i32,
    device: u64,
    inode: u64,
    /// When the socket's inode last changed; only where the pid says nothing, as inode numbers are used again.
    changed: Option<(i64, i64)>,
}

impl Identity {
    pub(crate) fn new(pid: i32, file: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            pid,
            device: file.dev(),
            inode: file.ino(),
            changed: (pid == 0).then(|| (file.ctime(), file.ctime_nsec())),
        }
    }

    /// Whether the socket file is still the one that this process made.
    pub(crate) fn same_file(&self, file: &std::fs::Metadata) -> bool {
        *self == Self::new(self.pid, file)
    }

    /// Whether a process that answers with this identity again must be the same one.
    pub(crate) const fn is_certain(self) -> bool {
        self.pid != 0
    }
}

/// What a worker needs to know to wait for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    pub(crate) state: ServerState,
    /// The epoch that is ready, or was last.
    pub(crate) epoch: u64,
    pub(crate) identity: Option<Identity>,
}

/// What the supervisor is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// The server's socket did not answer as it should: find out whether the epoch still holds.
    Look { epoch: u64 },
    /// The server is hung: end its process and start another.
    Replace { epoch: u64 },
    /// The gateway stops: end the process, within this time.
    Stop(Duration),
}

/// A plugin server.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) protocol: WireProtocol,
    pub(crate) socket: PathBuf,
    /// Names of the plugins that it serves.
    pub(crate) plugins: Vec<String>,
    /// Whether its process is ours.
    pub(crate) managed: bool,
    pub(crate) deadlines: Deadlines,
    pub(crate) policy: EventPolicy,
    pub(crate) admission: Admission,
    /// Opens when the server is not ready in time, again and again.
    pub(crate) unready: Breaker,
    pub(crate) restarts: AtomicU64,
    /// Connections that wait for a handler to end whose event was given up.
    pub(crate) parked: AtomicUsize,
    /// Somebody is finding out whether the server is hung.
    pub(crate) probing: AtomicBool,
    /// The epoch in which events can run; 0 while there is none.
    ready: AtomicU64,
    condition: watch::Sender<Condition>,
    process: Mutex<Option<Arc<Process>>>,
    orders: mpsc::UnboundedSender<Order>,
    numbers: Mutex<Numbers>,
}

/// The numbers (`__seq__`) that instances have, and the epoch in which they have them. Those of instances that are
/// no more stay: the server may still hold them.
#[derive(Default)]
struct Numbers {
    epoch: u64,
    taken: HashSet<i32>,
}

/// Handlers given up that may run on in a server. Where there are more, the server counts as hung.
pub(crate) const MAX_PARKED: usize = 1024;

impl Server {
    pub(crate) fn new(
        name: String,
        protocol: WireProtocol,
        socket: PathBuf,
        plugins: Vec<String>,
        managed: bool,
        deadlines: Deadlines,
        policy: EventPolicy,
    ) -> (Self, mpsc::UnboundedReceiver<Order>) {
        // one order per epoch at most, so the channel is as good as bounded
        let (orders, receiver) = mpsc::unbounded_channel();
        let condition = Condition { state: ServerState::Starting, epoch: 0, identity: None };
        let server = Self {
            name,
            protocol,
            socket,
            plugins,
            managed,
            deadlines,
            admission: Admission::new(&policy),
            unready: Breaker::new(policy.breaker),
            policy,
            restarts: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            probing: AtomicBool::new(false),
            ready: AtomicU64::new(0),
            condition: watch::Sender::new(condition),
            process: Mutex::new(None),
            orders,
            numbers: Mutex::default(),
        };
        (server, receiver)
    }

    /// The epoch in which events can run; 0 while there is none.
    pub(crate) fn ready_epoch(&self) -> u64 {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Told by the supervisor only.
    pub(crate) fn set_state(&self, state: ServerState) {
        self.ready.store(0, Ordering::Release);
        self.condition.send_modify(|condition| condition.state = state);
    }

    /// Told by the supervisor only. If the process is ours and still the same one, the same identity as before
    /// continues the epoch; all else starts the next. A server that is managed elsewhere may be another one behind the
    /// same identity: whoever holds the socket for it (a service manager, a bridge) stays.
    pub(crate) fn set_ready(&self, identity: Identity, same_process: bool) {
        self.condition.send_modify(|condition| {
            if !(same_process && self.managed && identity.is_certain() && condition.identity == Some(identity)) {
                condition.epoch += 1;
                condition.identity = Some(identity);
            }
            condition.state = ServerState::Ready;
            self.ready.store(condition.epoch, Ordering::Release);
        });
    }

    /// Waits until events can run; `Err` with what the server does instead.
    pub(crate) async fn wait_ready(&self, deadline: Instant) -> Result<Condition, ServerState> {
        let mut receiver = self.condition.subscribe();
        loop {
            let condition = *receiver.borrow_and_update();
            match condition.state {
                // somebody may have doubts that the supervisor has not heard of yet
                ServerState::Ready if self.ready_epoch() == condition.epoch => return Ok(condition),
                ServerState::Draining | ServerState::Dead => return Err(condition.state),
                _ => {}
            }
            match timeout_at(deadline, receiver.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ServerState::Dead),
                Err(_) => return Err(receiver.borrow().state),
            }
        }
    }

    /// Waits until an epoch is over.
    pub(crate) async fn epoch_over(&self, epoch: u64) {
        let mut receiver = self.condition.subscribe();
        let over = |condition: &Condition| {
            condition.epoch != epoch || matches!(condition.state, ServerState::Backoff | ServerState::Dead)
        };
        // an error means that the server is gone altogether
        let _ = receiver.wait_for(over).await;
    }

    /// The socket did not answer as the process of this epoch would.
    pub(crate) fn doubt(&self, epoch: u64) {
        self.order(epoch, Order::Look { epoch });
    }

    /// The process of this epoch is hung.
    pub(crate) fn replace(&self, epoch: u64, why: &str) {
        if self.order(epoch, Order::Replace { epoch }) {
            let cure = if self.managed {
                "it is killed and started again"
            } else {
                "it is managed elsewhere and should be restarted"
            };
            silverback_log::write(Level::Error, format_args!("plugin server {}: {why}; {cure}", self.name), None);
        }
    }

    /// The first who asks something of an epoch ends it for all, so one order is sent.
    fn order(&self, epoch: u64, order: Order) -> bool {
        let first = epoch != 0 && self.ready.compare_exchange(epoch, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            // the supervisor ends only with the host
            let _ = self.orders.send(order);
        }
        first
    }

    /// A number for an instance that no other instance has in this epoch, out of those that `draw` gives. go-pdk
    /// overwrites an instance by a later one of the same number.
    pub(crate) fn reserve_number(&self, epoch: u64, mut draw: impl FnMut() -> i32) -> i32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch > numbers.epoch {
            *numbers = Numbers { epoch, taken: HashSet::new() };
        }
        loop {
            let number = draw();
            if numbers.taken.insert(number) {
                return number;
            }
        }
    }

    /// Whether an instance was given this number.
    pub(crate) fn is_reserved(&self, number: i64) -> bool {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        i32::try_from(number).is_ok_and(|number| numbers.taken.contains(&number))
    }

    /// Whether so many handlers were given up that no more events are to be sent. A server of ours is replaced then,
    /// one that is managed elsewhere can only be spared.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.managed && self.parked.load(Ordering::Relaxed) > MAX_PARKED
    }

    pub(crate) fn stop(&self, grace: Duration) {
        let _ = self.orders.send(Order::Stop(grace));
    }

    /// What an operator wants to know.
    pub(crate) fn status(&self) -> ServerStatus {
        let condition = self.condition();
        let process = self.process();
        let process = ProcessStatus {
            pid: process.as_ref().map(|process| process.pid),
            state: condition.state,
            epoch: condition.epoch,
            started: process.as_ref().map(|process| process.started),
            usage: process.and_then(|process| Usage::of(process.pid)),
            in_flight: 0,
            events: 0,
            instances: 0,
            parked: self.parked.load(Ordering::Relaxed),
        };
        ServerStatus {
            name: self.name.clone(),
            protocol: self.protocol,
            socket: self.socket.clone(),
            managed: self.managed,
            state: condition.state,
            pid: process.pid,
            restarts: self.restarts.load(Ordering::Relaxed),
            plugins: self.plugins.clone(),
            in_flight: self.admission.in_flight(),
            queue: self.admission.queue(),
            breaker: self.unready.state(),
            processes: vec![process],
        }
    }

    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_process(&self, process: Option<Arc<Process>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Deadlines = Deadlines { event: MINUTE, ready: MINUTE, probe: MINUTE };
    const MINUTE: Duration = Duration::from_secs(60);

    fn server(managed: bool) -> Server {
        let protocol = WireProtocol::ProtoBuf;
        Server::new("s".to_owned(), protocol, PathBuf::new(), Vec::new(), managed, LONG, EventPolicy::default()).0
    }

    #[test]
    fn no_two_instances_have_one_number_in_an_epoch() {
        let server = server(true);
        let mut drawn = [5, 5, 5, 7, 5].into_iter();
        let mut draw = || drawn.next().unwrap();
        assert_eq!(server.reserve_number(1, &mut draw), 5);
        assert_eq!(server.reserve_number(1, &mut draw), 7);
        assert!(server.is_reserved(7) && !server.is_reserved(8) && !server.is_reserved(i64::MAX));
        assert_eq!(server.reserve_number(2, &mut draw), 5);
    }

    #[test]
    fn only_a_process_of_ours_continues_its_epoch() {
        let check = |managed, same_process, expect| {
            let server = server(managed);
            let identity = Identity { pid: 7, device: 1, inode: 2, changed: None };
            server.set_ready(identity, false);
            server.set_ready(identity, same_process);
            assert_eq!(server.ready_epoch(), expect, "managed {managed}, same process {same_process}");
        };
        check(true, true, 1);
        check(true, false, 2);
        check(false, true, 2);
    }

    #[test]
    fn a_server_managed_elsewhere_can_be_crowded() {
        let check = |managed, parked, expect| {
            let server = server(managed);
            server.parked.store(parked, Ordering::Relaxed);
            assert_eq!(server.is_crowded(), expect, "managed {managed}, {parked} parked");
        };
        check(false, MAX_PARKED, false);
        check(false, MAX_PARKED + 1, true);
        check(true, MAX_PARKED + 1, false);
    }
}

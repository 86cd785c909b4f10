//! What the control thread and the workers share of a plugin server: its state, and the epoch that it is in.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use silverback_log::Level;
use silverback_protocol::dump::WireProtocol;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use crate::{Deadlines, output::Process};

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
}

impl Server {
    pub(crate) fn new(
        name: String,
        protocol: WireProtocol,
        socket: PathBuf,
        plugins: Vec<String>,
        managed: bool,
        deadlines: Deadlines,
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
            restarts: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            probing: AtomicBool::new(false),
            ready: AtomicU64::new(0),
            condition: watch::Sender::new(condition),
            process: Mutex::new(None),
            orders,
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

    /// Told by the supervisor only. The same identity as before continues the epoch, another one starts the next.
    pub(crate) fn set_ready(&self, identity: Identity, same_process: bool) {
        self.condition.send_modify(|condition| {
            if !(same_process && identity.is_certain() && condition.identity == Some(identity)) {
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

    pub(crate) fn stop(&self, grace: Duration) {
        let _ = self.orders.send(Order::Stop(grace));
    }

    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_process(&self, process: Option<Arc<Process>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }
}

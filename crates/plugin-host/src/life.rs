//! One life of a server: a process of ours from when its socket first answers until it ends, or what answers at the
//! socket of a server that is managed elsewhere, until something else does.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use silverback_log::Level;
use tokio::sync::{mpsc, watch};

use crate::{ProcessStatus, ServerState, Usage, output::Process};

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

/// What a supervisor is asked to do about a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The socket did not answer as it should: find out whether the life goes on.
    Look { epoch: u64 },
    /// The process is hung: end it and start another.
    Replace { epoch: u64 },
    /// The process has done its share: start another beside it, then end it.
    Renew { epoch: u64 },
}

/// Where a life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Condition {
    /// It answers, and gets no events yet.
    Warming,
    Ready,
    /// Somebody has doubts; the supervisor looks.
    Doubted,
    /// It gets no new events.
    Draining,
    Over,
}

/// Epochs are unique over all servers, so that nothing of one life can be taken for that of another.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// One life of a server.
pub(crate) struct Life {
    pub(crate) epoch: u64,
    /// Where it is connected to.
    pub(crate) socket: PathBuf,
    pub(crate) identity: Identity,
    /// `None`: managed elsewhere.
    pub(crate) process: Option<Arc<Process>>,
    /// Name of the server.
    server: String,
    /// A [`Condition`].
    condition: AtomicU8,
    /// Events that run, or are about to.
    in_flight: AtomicUsize,
    /// Events that it was given.
    events: AtomicU64,
    /// After so many events it is renewed; 0: never.
    max_events: u64,
    /// Connections that wait for a handler to end whose event was given up.
    pub(crate) parked: AtomicUsize,
    /// Somebody is finding out whether it is hung.
    pub(crate) probing: AtomicBool,
    /// Instances that were started in it.
    pub(crate) instances: AtomicUsize,
    /// Numbers (`__seq__`) that instances have. Those of instances that are no more stay: the server may still hold them.
    numbers: Mutex<HashSet<i32>>,
    orders: mpsc::UnboundedSender<Order>,
    /// Told when events end while it is draining, and when it is over.
    changes: watch::Sender<()>,
}

impl Life {
    /// A life that answers and gets no events yet. `orders` go to its supervisor: few of them, as each kind is
    /// given once, and the first doubt ends it for all.
    pub(crate) fn new(
        server: String,
        socket: PathBuf,
        identity: Identity,
        process: Option<Arc<Process>>,
        max_events: u64,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self {
            epoch: EPOCHS.fetch_add(1, Ordering::Relaxed),
            socket,
            identity,
            process,
            server,
            condition: AtomicU8::new(Condition::Warming as u8),
            in_flight: AtomicUsize::new(0),
            events: AtomicU64::new(0),
            max_events,
            parked: AtomicUsize::new(0),
            probing: AtomicBool::new(false),
            instances: AtomicUsize::new(0),
            numbers: Mutex::default(),
            orders,
            changes: watch::Sender::new(()),
        }
    }

    /// Whether its process is ours.
    pub(crate) const fn is_ours(&self) -> bool {
        self.process.is_some()
    }

    fn is(&self, condition: Condition) -> bool {
        self.condition.load(Ordering::SeqCst) == condition as u8
    }

    fn change(&self, from: Condition, to: Condition) -> bool {
        self.condition.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn set(&self, condition: Condition) {
        self.condition.store(condition as u8, Ordering::SeqCst);
        self.changes.send_replace(());
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is(Condition::Ready)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is(Condition::Over)
    }

    /// Told by the supervisor: events may come.
    pub(crate) fn set_ready(&self) {
        if !self.change(Condition::Warming, Condition::Ready) {
            self.change(Condition::Doubted, Condition::Ready);
        }
    }

    /// Told by the supervisor: no new events.
    pub(crate) fn set_draining(&self) {
        if !self.is_over() {
            self.set(Condition::Draining);
        }
    }

    /// Told by the supervisor: the process has ended, or something else answers.
    pub(crate) fn set_over(&self) {
        self.set(Condition::Over);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Makes it busy with one more event; `None` if it takes none.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let lease = Lease { life: Arc::clone(self) };
        // After the count, so that who drains it either sees the event, or the event sees that it drains.
        if !self.is_ready() {
            return None;
        }
        let events = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        if events == self.max_events {
            self.order(Order::Renew { epoch: self.epoch });
        }
        Some(lease)
    }

    /// Waits until no event runs.
    pub(crate) async fn idle(&self) {
        let mut changes = self.changes.subscribe();
        while self.in_flight() > 0 && !self.is_over() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) {
        let mut changes = self.changes.subscribe();
        while !self.is_over() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Its socket did not answer as it should.
    pub(crate) fn doubt(&self) {
        if self.change(Condition::Ready, Condition::Doubted) {
            self.order(Order::Look { epoch: self.epoch });
        }
    }

    /// It is hung.
    pub(crate) fn replace(&self, why: &str) {
        if self.change(Condition::Ready, Condition::Doubted) {
            let cure = if self.is_ours() {
                "it is killed and started again"
            } else {
                "it is managed elsewhere and should be restarted"
            };
            let who = self.process.as_ref().map(|process| format!(" (pid {})", process.pid)).unwrap_or_default();
            silverback_log::write(
                Level::Error,
                format_args!("plugin server {}{who}: {why}; {cure}", self.server),
                None,
            );
            self.order(Order::Replace { epoch: self.epoch });
        }
    }

    fn order(&self, order: Order) {
        // without a supervisor it is over, or about to be
        let _ = self.orders.send(order);
    }

    /// A number for an instance that no other instance has in it, out of those that `draw` gives. go-pdk overwrites an
    /// instance by a later one of the same number.
    pub(crate) fn reserve_number(&self, mut draw: impl FnMut() -> i32) -> i32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let number = draw();
            if numbers.insert(number) {
                return number;
            }
        }
    }

    /// Whether an instance was given this number.
    pub(crate) fn is_reserved(&self, number: i64) -> bool {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        i32::try_from(number).is_ok_and(|number| numbers.contains(&number))
    }

    pub(crate) fn status(&self) -> ProcessStatus {
        let state = match self.condition.load(Ordering::SeqCst) {
            c if c == Condition::Ready as u8 => ServerState::Ready,
            c if c == Condition::Draining as u8 => ServerState::Draining,
            c if c == Condition::Over as u8 => ServerState::Dead,
            _ => ServerState::Starting,
        };
        let pid = match &self.process {
            Some(process) => Some(process.pid),
            None => u32::try_from(self.identity.pid).ok().filter(|pid| *pid != 0),
        };
        ProcessStatus {
            pid,
            state,
            epoch: self.epoch,
            started: self.process.as_ref().map(|process| process.started),
            usage: pid.and_then(Usage::of),
            in_flight: self.in_flight(),
            events: self.events.load(Ordering::Relaxed),
            instances: self.instances.load(Ordering::Relaxed),
            parked: self.parked.load(Ordering::Relaxed),
        }
    }
}

/// An event's claim to a process: as long as it is held, the process is not ended on purpose.
pub(crate) struct Lease {
    pub(crate) life: Arc<Life>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let last = self.life.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.life.is(Condition::Draining) {
            self.life.changes.send_replace(());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A life with nothing behind it, and the orders that it gives.
    pub(crate) fn life(max_events: u64) -> (Arc<Life>, mpsc::UnboundedReceiver<Order>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let identity = Identity { pid: 7, device: 1, inode: 2, changed: None };
        let process = Some(Arc::new(Process::new(7)));
        (Arc::new(Life::new("s".to_owned(), PathBuf::new(), identity, process, max_events, orders)), receiver)
    }

    #[test]
    fn no_two_instances_have_one_number() {
        let (life, _orders) = life(0);
        let mut drawn = [5, 5, 5, 7, 5].into_iter();
        let mut draw = || drawn.next().unwrap();
        assert_eq!(life.reserve_number(&mut draw), 5);
        assert_eq!(life.reserve_number(&mut draw), 7);
        assert!(life.is_reserved(7) && !life.is_reserved(8) && !life.is_reserved(i64::MAX));
    }

    #[test]
    fn only_what_is_ready_gets_events() {
        let (life, _orders) = life(0);
        assert!(life.lease().is_none());
        life.set_ready();
        let lease = life.lease().unwrap();
        assert_eq!(life.in_flight(), 1);
        life.doubt();
        assert!(life.lease().is_none());
        life.set_ready();
        assert!(life.lease().is_some());
        life.set_draining();
        life.set_ready();
        assert!(life.lease().is_none());
        drop(lease);
        assert_eq!(life.in_flight(), 0);
    }

    #[test]
    fn each_order_is_given_once() {
        let (life, mut orders) = life(2);
        life.set_ready();
        let epoch = life.epoch;
        let leases: Vec<_> = (0..4).map(|_| life.lease().unwrap()).collect();
        drop(leases);
        life.doubt();
        life.doubt();
        life.replace("it is hung");
        assert_eq!(orders.try_recv().ok(), Some(Order::Renew { epoch }));
        assert_eq!(orders.try_recv().ok(), Some(Order::Look { epoch }));
        assert!(orders.try_recv().is_err());
    }

    #[test]
    fn draining_ends_with_the_last_event() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (life, _orders) = life(0);
            life.set_ready();
            let lease = life.lease().unwrap();
            life.set_draining();
            let waiting = tokio::spawn({
                let life = Arc::clone(&life);
                async move { life.idle().await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(lease);
            waiting.await.unwrap();
        });
    }
}

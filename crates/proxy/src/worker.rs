//! A worker: one thread, one runtime, its own listeners, upstream connections and plugin connections.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use silverback_pdk::exchange::Subsystem;
use silverback_plugin_host::{Connections, Host};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::Runtime,
    sync::{Notify, watch},
    task::LocalSet,
};

use crate::{
    connection,
    generation::{Generation, Registries},
    listener::{Bound, Listener},
    metrics::{Recorder, Recorders},
    stream,
    surroundings::AtomicCounters,
    tls::handshake::Waiting,
    upstream::{Balancers, Pool},
};

/// What all workers share: immutable, or atomics.
pub(crate) struct Shared {
    pub(crate) host: Arc<Host>,
    pub(crate) generation: ArcSwap<Generation>,
    pub(crate) balancers: Balancers,
    pub(crate) counters: Arc<AtomicCounters>,
    pub(crate) metrics: Arc<Recorders>,
    pub(crate) connection_serial: AtomicU64,
    /// Bytes of upstreams' answers that are held for the response phase, and of spooled bodies that plugins read.
    pub(crate) held: Arc<AtomicU64>,
    /// Bytes of answers that were held, and have gone, and that log handlers may still ask for.
    pub(crate) held_for_log: Arc<AtomicU64>,
}

impl Shared {
    pub(crate) fn new(generation: Generation, registries: &Registries) -> Self {
        Self {
            host: Arc::clone(&registries.host),
            generation: ArcSwap::from_pointee(generation),
            balancers: registries.balancers.clone(),
            counters: Arc::clone(&registries.counters),
            metrics: Arc::default(),
            connection_serial: AtomicU64::new(1),
            held: Arc::default(),
            held_for_log: Arc::default(),
        }
    }
}

/// What the workers are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Serving,
    /// Accept no more, finish what there is.
    Draining,
}

/// A worker's own state.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) plugins: Connections,
    pub(crate) metrics: Arc<Recorder>,
    pub(crate) mode: watch::Receiver<Mode>,
    /// Those that wait for plugins.
    pub(crate) handshakes: Waiting,
    tasks: Rc<Tasks>,
}

/// How many connections and requests are under way.
#[derive(Default)]
struct Tasks {
    running: Cell<usize>,
    none_left: Notify,
}

/// Counts one task for as long as it lives.
pub(crate) struct Running(Rc<Tasks>);

impl Drop for Running {
    fn drop(&mut self) {
        let left = self.0.running.get() - 1;
        self.0.running.set(left);
        if left == 0 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Worker {
    /// Spawns a task that a drain waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let running = self.running();
        tokio::task::spawn_local(async move {
            let _running = running;
            task.await;
        });
    }

    pub(crate) fn running(&self) -> Running {
        self.tasks.running.set(self.tasks.running.get() + 1);
        Running(Rc::clone(&self.tasks))
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.mode.borrow() == Mode::Draining
    }
}

/// Runs a worker until a drain is done.
pub(crate) fn run(runtime: &Runtime, shared: Arc<Shared>, listeners: Vec<Listener>, mode: watch::Receiver<Mode>) {
    let local = LocalSet::new();
    local.block_on(runtime, async move {
        let limits = shared.generation.load().profile.settings.upstream;
        let worker = Rc::new(Worker {
            pool: Pool::new(limits),
            plugins: Connections::new(Arc::clone(&shared.host)),
            metrics: shared.metrics.join(),
            handshakes: Waiting::default(),
            tasks: Rc::default(),
            shared,
            mode: mode.clone(),
        });
        tokio::task::spawn_local(sweep(worker.pool.clone(), Arc::clone(&worker.shared)));
        for listener in listeners {
            let worker_of_loop = Rc::clone(&worker);
            worker.spawn(accept_loop(worker_of_loop, listener));
        }
        let mut mode = mode;
        // Only ever changes to Draining; a closed channel means that the proxy is gone.
        let _ = mode.wait_for(|mode| *mode == Mode::Draining).await;
        loop {
            let none_left = worker.tasks.none_left.notified();
            if worker.tasks.running.get() == 0 {
                break;
            }
            none_left.await;
        }
    });
}

async fn sweep(pool: Pool, shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    loop {
        interval.tick().await;
        let limits = shared.generation.load().profile.settings.upstream;
        pool.under(limits).sweep();
    }
}

async fn accept_loop(worker: Rc<Worker>, listener: Listener) {
    let Listener { socket, ssl, http2, proxy_protocol, subsystem } = listener;
    let kind = connection::Kind { ssl, http2, proxy_protocol };
    let result = match socket {
        Bound::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(socket) => accept_tcp(&worker, socket, kind, subsystem).await,
            Err(error) => Err(error),
        },
        Bound::Unix(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => accept_unix(&worker, socket, kind, subsystem).await,
            Err(error) => Err(error),
        },
        Bound::Udp(socket) => stream::listen_udp(Rc::clone(&worker), socket).await,
    };
    if let Err(error) = result {
        silverback_log::write(silverback_log::Level::Crit, format_args!("a listener failed: {error}"), None);
    }
}

/// Connections that a drain still takes from the kernel's queue: those clients were told that they are connected.
const MAX_QUEUED: usize = 4096;

async fn accept_tcp(
    worker: &Rc<Worker>,
    listener: TcpListener,
    kind: connection::Kind,
    subsystem: Subsystem,
) -> io::Result<()> {
    let mut mode = worker.mode.clone();
    let local = listener.local_addr()?;
    let serve = |socket: TcpStream, peer| {
        // Nagle's algorithm would hold back the end of an answer.
        let _ = socket.set_nodelay(true);
        let from = connection::From::Tcp { peer, local };
        match subsystem {
            Subsystem::Http => worker.spawn(connection::serve(Rc::clone(worker), socket, from, kind)),
            Subsystem::Stream => worker.spawn(stream::serve(Rc::clone(worker), socket, from, kind)),
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => serve(socket, peer),
            Err(error) => refused(&error).await,
        }
    }
    // tokio would only look again after the next turn of its reactor.
    let listener = listener.into_std()?;
    for _ in 0..MAX_QUEUED {
        let Ok((socket, peer)) = listener.accept() else { break };
        socket.set_nonblocking(true)?;
        serve(TcpStream::from_std(socket)?, peer);
    }
    Ok(())
}

async fn accept_unix(
    worker: &Rc<Worker>,
    listener: UnixListener,
    kind: connection::Kind,
    subsystem: Subsystem,
) -> io::Result<()> {
    let mut mode = worker.mode.clone();
    let serve = |socket: UnixStream| {
        let from = connection::From::Unix;
        match subsystem {
            Subsystem::Http => worker.spawn(connection::serve(Rc::clone(worker), socket, from, kind)),
            Subsystem::Stream => worker.spawn(stream::serve(Rc::clone(worker), socket, from, kind)),
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => serve(socket),
            Err(error) => refused(&error).await,
        }
    }
    let listener = listener.into_std()?;
    for _ in 0..MAX_QUEUED {
        let Ok((socket, _)) = listener.accept() else { break };
        socket.set_nonblocking(true)?;
        serve(UnixStream::from_std(socket)?);
    }
    Ok(())
}

/// A connection that could not be accepted: out of descriptors, most often. Others are about to end.
async fn refused(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        return;
    }
    silverback_log::write(silverback_log::Level::Crit, format_args!("accept() failed ({error})"), None);
    tokio::time::sleep(Duration::from_millis(50)).await;
}

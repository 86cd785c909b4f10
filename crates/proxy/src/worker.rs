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
    runtime::{self, LocalOptions, LocalRuntime},
    sync::{Notify, mpsc, watch},
};

use crate::{
    connection,
    generation::{Generation, Registries},
    handover::{Accepted, Socket, Workers},
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
    pub(crate) workers: Arc<Workers>,
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
    pub(crate) fn new(generation: Generation, registries: &Registries, workers: Arc<Workers>) -> Self {
        Self {
            host: Arc::clone(&registries.host),
            generation: ArcSwap::from_pointee(generation),
            workers,
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
    /// Its place among them.
    index: usize,
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
    /// Serves a connection here.
    fn serve(self: &Rc<Self>, Accepted { socket, kind, subsystem }: Accepted) {
        let served = match socket {
            Socket::Tcp { socket, peer, local } => TcpStream::from_std(socket)
                .map(|socket| self.serve_tcp(socket, connection::From::Tcp { peer, local }, kind, subsystem)),
            Socket::Unix(socket) => UnixStream::from_std(socket).map(|socket| self.serve_unix(socket, kind, subsystem)),
        };
        if let Err(error) = served {
            let message = format_args!("a connection cannot be served ({error})");
            silverback_log::write(silverback_log::Level::Crit, message, None);
        }
    }

    /// Gives a connection to another worker, or serves it here if that one takes no more.
    fn hand_on(self: &Rc<Self>, other: usize, accepted: Accepted) {
        if let Err(accepted) = self.shared.workers.hand_on(other, accepted) {
            self.serve(accepted);
        }
    }

    fn serve_tcp(self: &Rc<Self>, socket: TcpStream, from: connection::From, kind: connection::Kind, on: Subsystem) {
        // Nagle's algorithm would hold back the end of an answer.
        let _ = socket.set_nodelay(true);
        match on {
            Subsystem::Http => self.spawn_connection(connection::serve(Rc::clone(self), socket, from, kind)),
            Subsystem::Stream => self.spawn_connection(stream::serve(Rc::clone(self), socket, from, kind)),
        }
    }

    fn serve_unix(self: &Rc<Self>, socket: UnixStream, kind: connection::Kind, on: Subsystem) {
        let from = connection::From::Unix;
        match on {
            Subsystem::Http => self.spawn_connection(connection::serve(Rc::clone(self), socket, from, kind)),
            Subsystem::Stream => self.spawn_connection(stream::serve(Rc::clone(self), socket, from, kind)),
        }
    }

    fn spawn_connection(&self, serving: impl Future<Output = ()> + 'static) {
        let present = self.shared.workers.enter(self.index);
        self.spawn(async move {
            let _present = present;
            serving.await;
        });
    }

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
        // It never goes back: one that has not changed is the first. To look at it takes a lock that all workers share.
        !matches!(self.mode.has_changed(), Ok(false)) && *self.mode.borrow() == Mode::Draining
    }
}

/// The runtime of a worker, which stays on the thread that asks for it.
pub(crate) fn runtime() -> io::Result<LocalRuntime> {
    // Files only block: spooled bodies.
    runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build_local(LocalOptions::default())
}

/// Runs a worker until a drain is done.
pub(crate) fn run(
    runtime: &LocalRuntime,
    index: usize,
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    handed: mpsc::Receiver<Accepted>,
    mode: watch::Receiver<Mode>,
) {
    runtime.block_on(async move {
        let limits = shared.generation.load().profile.settings.upstream;
        let worker = Rc::new(Worker {
            index,
            pool: Pool::new(limits),
            plugins: Connections::new(Arc::clone(&shared.host)),
            metrics: shared.metrics.join(),
            handshakes: Waiting::default(),
            tasks: Rc::default(),
            shared,
            mode: mode.clone(),
        });
        tokio::task::spawn_local(sweep(worker.pool.clone(), Arc::clone(&worker.shared)));
        worker.spawn(take_handed(Rc::clone(&worker), handed));
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

/// Serves what other workers hand on.
async fn take_handed(worker: Rc<Worker>, mut handed: mpsc::Receiver<Accepted>) {
    let mut mode = worker.mode.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining) => {
                // What is on its way is served, and the others keep what comes after it.
                handed.close();
                handed.recv().await
            }
            accepted = handed.recv() => accepted,
        };
        let Some(accepted) = accepted else { return };
        worker.serve(accepted);
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
    let serve = |socket, peer| worker.serve_tcp(socket, connection::From::Tcp { peer, local }, kind, subsystem);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => match worker.shared.workers.better_than(worker.index) {
                None => serve(socket, peer),
                Some(other) => match socket.into_std() {
                    Ok(socket) => {
                        let socket = Socket::Tcp { socket, peer, local };
                        worker.hand_on(other, Accepted { socket, kind, subsystem });
                    }
                    Err(error) => refused(&error).await,
                },
            },
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
    let serve = |socket| worker.serve_unix(socket, kind, subsystem);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => match worker.shared.workers.better_than(worker.index) {
                None => serve(socket),
                Some(other) => match socket.into_std() {
                    Ok(socket) => worker.hand_on(other, Accepted { socket: Socket::Unix(socket), kind, subsystem }),
                    Err(error) => refused(&error).await,
                },
            },
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

//! The proxy: listeners, connections, the phases of a request, upstreams.
//!
//! A [`Proxy`] owns one thread per core. What they share is immutable (a [`Generation`]) or an atomic; what is
//! changed is changed by publishing another generation.

mod access_log;
mod answer;
mod body;
mod buffered;
mod connection;
mod error;
mod flight;
mod forwarded;
mod generation;
mod handover;
pub mod http1;
mod linger;
mod listener;
mod metrics;
mod plugin_run;
mod plugin_table;
mod prefixed;
mod profile;
pub mod proxy_protocol;
mod real_ip;
mod request;
mod request_body;
mod request_debug;
pub mod sanitiser;
mod send_timeout;
mod stream;
mod surroundings;
mod timer;
mod tls;
mod tunnel;
mod upstream;
mod worker;

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use silverback_config::Settings;
use tokio::sync::{mpsc, watch};

pub use crate::{
    generation::{BuildError, Generation, Registries},
    listener::BindError,
    metrics::HttpMetrics,
    surroundings::Counters,
    tls::{CertificateError, ServerTlsError},
    upstream::{AddressHealth, HealthState, SetHealthError, UpstreamHealth},
};
use crate::{
    handover::{Accepted, Workers},
    listener::Listener,
    worker::{Mode, Shared},
};

/// `Server` and `Via` name the gateway by this, as the gateway whose plugins run here does: programs look for it.
pub const SERVER_TOKEN: &str = "kong/3.9.3";

/// The listeners and the threads that serve them.
pub struct Proxy {
    shared: Arc<Shared>,
    /// One list of listeners for each worker; taken by [`Proxy::run`].
    listeners: Vec<Vec<Listener>>,
    /// For each worker, the connections that others hand to it; taken by [`Proxy::run`].
    handed: Vec<mpsc::Receiver<Accepted>>,
    mode: watch::Sender<Mode>,
    workers: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Binds every listener of the settings; nothing is accepted yet.
    ///
    /// # Errors
    /// An address that cannot be bound.
    pub fn bind(settings: &Settings, generation: Generation, registries: &Registries) -> Result<Self, BindError> {
        let listeners = listener::bind_all(settings)?;
        let (mode, _) = watch::channel(Mode::Serving);
        generation.put_in_force(&registries.balancers);
        let (workers, handed) = Workers::new(listeners.len());
        let shared = Arc::new(Shared::new(generation, registries, workers));
        Ok(Self { shared, listeners, handed, mode, workers: Vec::new() })
    }

    /// Starts the workers, and in the runtime that this is called in the tasks that they rely on: DNS, health checks.
    ///
    /// # Errors
    /// A thread or its runtime cannot be had.
    pub fn run(&mut self) -> io::Result<()> {
        self.shared.balancers.resolver().spawn();
        self.shared.balancers.spawn();
        for (index, (listeners, handed)) in self.listeners.drain(..).zip(self.handed.drain(..)).enumerate() {
            let shared = Arc::clone(&self.shared);
            let mode = self.mode.subscribe();
            // A runtime belongs to the thread that built it.
            let (tell, built) = std::sync::mpsc::channel();
            let run = move || match worker::runtime() {
                Ok(runtime) => {
                    let _ = tell.send(Ok(()));
                    worker::run(&runtime, index, shared, listeners, handed, mode);
                }
                Err(error) => drop(tell.send(Err(error))),
            };
            self.workers.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
            built.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
        }
        Ok(())
    }

    /// Puts a generation in force: requests that begin when this has ended use it.
    pub async fn publish(&self, generation: Generation) {
        let generation = Arc::new(generation);
        let (published, balancers) = (Arc::clone(&generation), self.shared.balancers.clone());
        // Thousands of targets take their time, and this thread has others to serve.
        let putting = tokio::task::spawn_blocking(move || published.put_in_force(&balancers));
        // It fails only when the runtime ends.
        let _ = putting.await;
        self.shared.generation.store(generation);
    }

    /// The generation in force.
    pub fn generation(&self) -> Arc<Generation> {
        self.shared.generation.load_full()
    }

    /// Stops accepting, answers what was accepted, and returns when all is done or `limit` has passed (`None`: no
    /// limit). True when nothing was cut off.
    pub async fn drain(&mut self, limit: Option<Duration>) -> bool {
        self.mode.send_replace(Mode::Draining);
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                // A worker that panicked has nothing left to wait for.
                let _ = worker.join();
            }
        });
        match limit {
            None => joined.await.is_ok(),
            Some(limit) => tokio::time::timeout(limit, joined).await.is_ok(),
        }
    }

    /// Whether the proxy is on its way out: `/status/ready` says so.
    pub fn is_draining(&self) -> bool {
        *self.mode.borrow() == Mode::Draining
    }

    /// The health of upstreams, for the Admin API.
    pub fn upstream_health(&self) -> UpstreamHealth {
        UpstreamHealth::new(&self.shared.balancers)
    }

    /// Counters since the start, as nginx's stub status has them.
    pub fn counters(&self) -> Counters {
        self.shared.counters.clone_values(Ordering::Relaxed)
    }

    /// What reads what requests have come to.
    pub fn metrics_source(&self) -> impl Fn() -> HttpMetrics + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared.metrics);
        move || shared.read()
    }

    /// What reads the counters, for whoever outlives a borrow of the proxy.
    pub fn counter_source(&self) -> impl Fn() -> Counters + Send + Sync + 'static {
        let counters = Arc::clone(&self.shared.counters);
        move || counters.clone_values(Ordering::Relaxed)
    }
}

//! What is known of one address: kept over reloads and changes of DNS, shared by all workers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::upstream::health::Health;

/// How fast older times lose their weight.
const DECAY: f64 = 10.0;

/// Which address: the target's host, the address (or the name that an SRV record gives), the port.
pub(super) type AddressKey = (Arc<str>, Arc<str>, u16);

pub(super) struct AddressState {
    pub(super) key: AddressKey,
    pub(super) health: Health,
    /// Requests that are on it.
    connections: AtomicUsize,
    latency: Mutex<Option<Latency>>,
    /// Whose turn it is among the addresses of an SRV record's name.
    pub(super) turn: AtomicUsize,
}

/// An average of the time that requests took, in which older ones count less and less.
#[derive(Clone, Copy)]
struct Latency {
    seconds: f64,
    at: Instant,
}

impl AddressState {
    pub(super) fn new(key: AddressKey) -> Self {
        Self {
            key,
            health: Health::default(),
            connections: AtomicUsize::new(0),
            latency: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The average as it is now: it sinks as long as nothing comes (`kong/runloop/balancer/latency.lua`). `None` if
    /// there was no request yet.
    pub(super) fn latency(&self, now: Instant) -> Option<f64> {
        let latency = *self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.map(|latency| latency.decayed(0.0, now))
    }

    /// Adds the time that a request took.
    pub(super) fn took(&self, time: Duration, now: Instant) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let time = time.as_secs_f64();
        let seconds = latency.map_or(time, |latency| latency.decayed(time, now));
        *latency = Some(Latency { seconds, at: now });
    }

    /// Gives an address without a time of its own one to begin with, so that it is not overrun.
    pub(super) fn start_slowly(&self, seconds: f64, now: Instant) {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Latency { seconds, at: now });
    }
}

impl Latency {
    fn decayed(self, time: f64, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        let weight = (-age / DECAY).exp();
        self.seconds * weight + time * (1.0 - weight)
    }
}

impl fmt::Display for AddressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hostname, host, port) = &self.key;
        if hostname == host { write!(f, "{host}:{port}") } else { write!(f, "{hostname} ({host}:{port})") }
    }
}

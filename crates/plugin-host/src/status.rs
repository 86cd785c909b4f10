//! What an operator wants to know of plugin servers.

use std::{path::PathBuf, time::SystemTime};

use crate::{ServerState, Usage, WireProtocol};

/// A server.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub name: String,
    pub protocol: WireProtocol,
    /// The configured one.
    pub socket: PathBuf,
    /// Whether the gateway runs its processes.
    pub managed: bool,
    /// That of the process that is best off: `Ready` if events can run.
    pub state: ServerState,
    /// A process that is best off.
    pub pid: Option<u32>,
    /// How often a process was started again after it had ended by itself, or was killed because it was of no use.
    pub restarts: u64,
    /// Names of the plugins that it serves.
    pub plugins: Vec<String>,
    /// Events that run.
    pub in_flight: usize,
    /// Events that wait for others to end.
    pub queue: usize,
    pub breaker: BreakerState,
    /// Those that run, and those that wait to be started again.
    pub processes: Vec<ProcessStatus>,
}

/// A process of a server, or what answers at the socket of one that is managed elsewhere.
#[derive(Clone, Debug)]
pub struct ProcessStatus {
    /// `None`: none runs, or it is not known.
    pub pid: Option<u32>,
    pub state: ServerState,
    /// A number for this life of a process, unique within the server; 0 before it was ready.
    pub epoch: u64,
    pub started: Option<SystemTime>,
    pub usage: Option<Usage>,
    /// Events that run.
    pub in_flight: usize,
    /// Events that it was given.
    pub events: u64,
    /// Instances that were started in it.
    pub instances: usize,
    /// Handlers whose event was given up, and that run on.
    pub parked: usize,
}

/// Whether events are tried. Each instance has a breaker of its own, a server that of the instance that is worst off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// They run.
    #[default]
    Closed,
    /// They fail at once, and one is being tried.
    HalfOpen,
    /// They fail at once.
    Open,
}

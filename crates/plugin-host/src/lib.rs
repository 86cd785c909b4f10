//! Plugin servers: their processes, the instances of plugins that run in them, and the exchange that an event is.
//!
//! One [`Host`] lives on the control thread. It starts the servers' processes, watches them, and starts a plugin's
//! instance when a request first needs it. Every worker thread has its own [`Connections`], through which it runs
//! events: [`Connections::handle_event`] sends the event, answers the PDK calls that the plugin makes by asking a
//! [`Pdk`], and tells how it ended.
//!
//! The rule that governs all of it: an event that could not run to its end is an [`EventFailure`], never a success.
//!
//! A server has one process or several. What makes stale instances impossible is the *epoch*: a number for one life of a
//! process ([`life::Life`]). An instance is started in each, a connection belongs to one, and it is only used if the
//! process behind the socket is the one that the epoch was declared for ([`life::Identity`]).

mod admission;
mod breaker;
mod command;
mod connection;
mod elsewhere;
mod event;
mod failure;
mod fleet;
mod host;
mod instance;
mod life;
mod metrics;
mod output;
mod process;
mod query;
mod repair;
mod said;
mod seat;
mod server;
mod size;
mod socket;
mod sources;
mod start;
mod status;
mod stream;
mod supervisor;
mod usage;
mod words;

pub use event::{Connections, EventEnd, Pdk, Reply};
pub use failure::{EventFailure, FailureKind};
pub use fleet::{Change, ChangeError, Fleet};
pub use host::Host;
pub use instance::Instance;
pub use metrics::{EventMetrics, Histogram, HistogramValues, add_alone};
pub use query::{Offer, QueryError, query};
pub use server::ServerState;
pub use silverback_protocol::dump::{Error as DumpError, PluginInfo, WireProtocol};
pub use sources::Sources;
pub use status::{BreakerState, ProcessStatus, ServerStatus};
pub use usage::Usage;
pub use words::Words;

use std::time::Duration;

use silverback_config::settings::PluginServer;

/// How long servers may take for what they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For an event, the time that it waits for the gateway not counted; and for the start of an instance.
    pub event: Duration,
    /// For a server that is starting, until a request that waits for it fails.
    pub ready: Duration,
    /// For a sign of life after an event met its deadline; without one the server counts as hung.
    pub probe: Duration,
}

/// How long a request waits for a server that is starting, at most.
const READY: Duration = Duration::from_secs(10);

/// How long a server has for a sign of life.
const PROBE: Duration = Duration::from_secs(2);

impl Deadlines {
    /// Those that the settings of a server ask for.
    pub fn of(server: &PluginServer) -> Self {
        Self { event: server.events.timeout, ready: server.process.start_timeout.min(READY), probe: PROBE }
    }
}

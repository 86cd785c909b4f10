//! Why an event failed.

use silverback_model::Phase;

/// An event that did not run to its end. The request that it belongs to must not go on as if it had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("plugin {plugin} failed in {phase}: {message} (server {server}{})", .pid.map(|pid| format!(", pid {pid}")).unwrap_or_default())]
pub struct EventFailure {
    pub kind: FailureKind,
    /// What happened, in one line.
    pub message: String,
    pub plugin: String,
    pub phase: Phase,
    /// Name of the plugin server.
    pub server: String,
    /// The server's process, if it is known.
    pub pid: Option<u32>,
    /// The last lines that the process wrote, oldest first.
    pub lines: Vec<String>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The server was not ready in time.
    Unavailable,
    /// The server refused the plugin's configuration, or has no such plugin.
    Start,
    /// The handler did not end in time.
    Deadline,
    /// The server closed the connection in the middle of the event.
    Closed,
    /// The server sent something that the protocol does not allow.
    Protocol,
    /// The plugin called a PDK function wrongly.
    Raised,
    /// The server answered with an error.
    Server,
    /// As many events run and wait as the server's settings allow: the request was not given to the plugin.
    Busy,
    /// It failed again and again: the request was not given to the plugin.
    BreakerOpen,
}

/// What a failure says of the plugin's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It gave none of life.
    Dead,
    /// It works, though it made a mistake.
    Alive,
    /// Nothing was asked of it.
    Unasked,
}

impl FailureKind {
    /// The status with which a request is denied for it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Busy => 503,
            _ => 500,
        }
    }

    pub(crate) const fn sign(self) -> Sign {
        match self {
            Self::Unavailable | Self::Start | Self::Deadline | Self::Closed | Self::Protocol => Sign::Dead,
            Self::Raised | Self::Server => Sign::Alive,
            Self::Busy | Self::BreakerOpen => Sign::Unasked,
        }
    }
}

//! The faults, and how each is brought about.

use nix::sys::signal::Signal;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed,
    Stopped,
    ExitAtStart,
    SlowStart,
    SocketRemoved,
    WrongPermissions,
    TruncatedFrame,
    OversizedFrame,
    GarbageBytes,
    WrongSequence,
    ClosedMidCall,
    RaisesFirst,
    Raises,
    Exits,
    Hangs,
    Spins,
    Floods,
    EndlessCalls,
    HugeAnswer,
    StartInstanceError,
    Grandchildren,
}

/// How a fault is brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Injection {
    /// A request asks for it by its `X-Fault` header: after the handler's first PDK call.
    Header(&'static str),
    /// A request to a route whose plugin does it before its first PDK call.
    First,
    /// A request to a route whose plugin's configuration is refused by its server.
    Refused,
    /// A signal to the server's process.
    Signal(Signal),
    /// The process is killed, and what is started in its place ends at once for a while.
    EndsAtStart,
    /// The process is killed, and what is started in its place takes its time.
    StartsSlowly,
    RemoveSocket,
    ForbidSocket,
}

impl Fault {
    pub const ALL: [Self; 21] = [
        Self::Killed,
        Self::Stopped,
        Self::ExitAtStart,
        Self::SlowStart,
        Self::SocketRemoved,
        Self::WrongPermissions,
        Self::TruncatedFrame,
        Self::OversizedFrame,
        Self::GarbageBytes,
        Self::WrongSequence,
        Self::ClosedMidCall,
        Self::RaisesFirst,
        Self::Raises,
        Self::Exits,
        Self::Hangs,
        Self::Spins,
        Self::Floods,
        Self::EndlessCalls,
        Self::HugeAnswer,
        Self::StartInstanceError,
        Self::Grandchildren,
    ];

    /// Its name in the table, and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Killed => "SIGKILL",
            Self::Stopped => "SIGSTOP",
            Self::ExitAtStart => "exit-at-start",
            Self::SlowStart => "slow-start",
            Self::SocketRemoved => "socket-removed",
            Self::WrongPermissions => "wrong-permissions",
            Self::TruncatedFrame => "truncated-frame",
            Self::OversizedFrame => "oversized-frame",
            Self::GarbageBytes => "garbage-bytes",
            Self::WrongSequence => "wrong-sequence",
            Self::ClosedMidCall => "closed-mid-call",
            Self::RaisesFirst => "raises-first",
            Self::Raises => "raises",
            Self::Exits => "exits",
            Self::Hangs => "hangs",
            Self::Spins => "spins",
            Self::Floods => "floods-output",
            Self::EndlessCalls => "endless-calls",
            Self::HugeAnswer => "256-mb-answer",
            Self::StartInstanceError => "start-instance-error",
            Self::Grandchildren => "grandchildren",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    pub(crate) const fn injection(self) -> Injection {
        match self {
            Self::Killed => Injection::Signal(Signal::SIGKILL),
            Self::Stopped => Injection::Signal(Signal::SIGSTOP),
            Self::ExitAtStart => Injection::EndsAtStart,
            Self::SlowStart => Injection::StartsSlowly,
            Self::SocketRemoved => Injection::RemoveSocket,
            Self::WrongPermissions => Injection::ForbidSocket,
            Self::TruncatedFrame => Injection::Header("truncated"),
            Self::OversizedFrame => Injection::Header("oversized"),
            Self::GarbageBytes => Injection::Header("garbage"),
            Self::WrongSequence => Injection::Header("sequence"),
            Self::ClosedMidCall => Injection::Header("closed"),
            Self::RaisesFirst => Injection::First,
            Self::Raises => Injection::Header("raise"),
            Self::Exits => Injection::Header("exit"),
            Self::Hangs => Injection::Header("hang"),
            Self::Spins => Injection::Header("spin"),
            Self::Floods => Injection::Header("flood"),
            Self::EndlessCalls => Injection::Header("loop"),
            Self::HugeAnswer => Injection::Header("big"),
            Self::StartInstanceError => Injection::Refused,
            Self::Grandchildren => Injection::Header("children"),
        }
    }
}

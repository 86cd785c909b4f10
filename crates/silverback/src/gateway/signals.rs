//! The signals that a gateway obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Order {
    Stop(&'static str),
    Quit,
    Reload,
    /// Files of these plugin servers have changed.
    Renew(Vec<String>),
    ReopenLogs,
    Ignore(&'static str),
}

/// The signals nginx's master process knows.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
    winch: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            winch: signal(SignalKind::window_change())?,
        })
    }

    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            biased;
            _ = self.term.recv() => Order::Stop("SIGTERM"),
            _ = self.int.recv() => Order::Stop("SIGINT"),
            _ = self.quit.recv() => Order::Quit,
            _ = self.usr1.recv() => Order::ReopenLogs,
            _ = self.hup.recv() => Order::Reload,
            _ = self.usr2.recv() => Order::Ignore("SIGUSR2"),
            _ = self.winch.recv() => Order::Ignore("SIGWINCH"),
        }
    }

    /// The name of the signal that asks to stop at once.
    pub(super) async fn stopped(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

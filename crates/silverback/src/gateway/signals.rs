//! The signals that a gateway obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Order {
    End(Ending),
    Reload,
    /// Files of these plugin servers have changed.
    Renew(Vec<String>),
    ReopenLogs,
    Ignore(&'static str),
}

/// How the gateway is to end.
pub(super) enum Ending {
    /// At once; the signal's name.
    Stop(&'static str),
    /// When the requests under way have.
    Quit,
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

impl Ending {
    async fn of(term: &mut Signal, int: &mut Signal, quit: &mut Signal) -> Self {
        tokio::select! {
            biased;
            _ = term.recv() => Self::Stop("SIGTERM"),
            _ = int.recv() => Self::Stop("SIGINT"),
            _ = quit.recv() => Self::Quit,
        }
    }
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
            ending = Ending::of(&mut self.term, &mut self.int, &mut self.quit) => Order::End(ending),
            _ = self.usr1.recv() => Order::ReopenLogs,
            _ = self.hup.recv() => Order::Reload,
            _ = self.usr2.recv() => Order::Ignore("SIGUSR2"),
            _ = self.winch.recv() => Order::Ignore("SIGWINCH"),
        }
    }

    /// Waits for a signal that ends the gateway.
    pub(super) async fn ending(&mut self) -> Ending {
        Ending::of(&mut self.term, &mut self.int, &mut self.quit).await
    }

    /// The name of the signal that asks to stop at once.
    pub(super) async fn stopped(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

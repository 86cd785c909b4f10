//! The start of a process: from its command until its socket answers and its instances run, or until it is given up.

use std::{sync::Arc, time::Duration};

use silverback_log::Level;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{Launch, Running, log, stopping};
use crate::{
    life::{Life, Order},
    process::{Body, StartError},
    server::{Server, Stop},
    socket::{Claim, Need},
    start::warm,
};

/// A process gives way to others that takes longer than this beyond twice the time of the one before it.
const LATE: Duration = Duration::from_secs(1);

/// How often a process is begun that gave way to others.
const TRIES: u32 = 3;

/// Why a process that was begun does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stillborn {
    #[error("cannot be started: {0}")]
    NotStarted(#[from] StartError),
    #[error("ended ({0}) before anything answered at its socket")]
    Ended(String),
    #[error("ended (exit status 127), command not found: is {0}start_cmd right? {1}")]
    NotFound(String, String),
    #[error("runs, but nothing has answered at {0} for {1} s; it is killed")]
    Silent(String, f32),
    #[error("was ended before anything answered at its socket: another process of that socket was needed")]
    GaveWay,
    #[error("its socket cannot be set up: {0}")]
    Socket(std::io::Error),
    #[error("was stopped before anything answered at its socket")]
    Stopped,
}

impl Stillborn {
    /// Whether it went down by itself, rather than took too long, or was ended.
    pub(super) const fn is_crash(&self) -> bool {
        match self {
            Self::NotStarted(_) | Self::Ended(_) | Self::NotFound(..) | Self::Socket(_) => true,
            Self::Silent(..) | Self::GaveWay | Self::Stopped => false,
        }
    }
}

/// The start of a process.
pub(super) struct Start {
    pub(super) server: Arc<Server>,
    pub(super) index: usize,
    pub(super) launch: Arc<Launch>,
    pub(super) desk: mpsc::UnboundedSender<Order>,
    /// The factor on `start_timeout`.
    pub(super) patience: u32,
}

impl Start {
    /// Starts a process, waits until its socket answers, and starts in it the instances that are in use. Another one is
    /// started in the place of one that gave way.
    pub(super) async fn come_up(self, mut need: watch::Receiver<Need>) -> Result<Running, Stillborn> {
        for _ in 1..TRIES {
            match self.attempt(&mut need).await {
                Err(why @ Stillborn::GaveWay) => {
                    log(&self.server, Level::Notice, format_args!("{why}; it is started again after that one"));
                }
                result => return result,
            }
        }
        self.attempt(&mut need).await
    }

    async fn attempt(&self, need: &mut watch::Receiver<Need>) -> Result<Running, Stillborn> {
        let Self { server, launch, .. } = self;
        let mut stop = server.stops();
        let claim = tokio::select! {
            biased;
            _ = stopping(&mut stop) => return Err(Stillborn::Stopped),
            claim = launch.address.claim(need, |warning| log(server, Level::Warn, format_args!("{warning}"))) => claim,
        };
        let begun = Instant::now();
        let mut body = Body::start(server, launch).await?;
        let process = Arc::clone(&body.process);
        server.set_process(self.index, &process);
        log(server, Level::Notice, format_args!("started, pid {}: {}", process.pid, launch.line));
        let listener = tokio::select! {
            biased;
            how = body.exited() => return Err(not_up(server, &launch.line, how)),
            how = stopping(&mut stop) => return Err(stopped(server, body, how).await),
            listener = claim.answering() => listener,
            why = self.given_up(&claim, need, begun) => {
                body.kill().await;
                return Err(why);
            }
        };
        server.set_start_time(begun.elapsed());
        let mode = server.settings.process.socket_mode;
        let (socket, identity) = claim.settle(process.pid, listener, mode).map_err(Stillborn::Socket)?;
        let max_events = server.settings.process.max_requests;
        let name = server.name().to_owned();
        let desk = self.desk.clone();
        let life = Arc::new(Life::new(name, socket, identity, Some(Arc::clone(&process)), max_events, desk));
        let lives = server.lives();
        let in_use = |instance: &crate::Instance| lives.iter().any(|life| instance.running(life.epoch).is_some());
        tokio::select! {
            biased;
            how = body.exited() => return Err(not_up(server, &launch.line, how)),
            how = stopping(&mut stop) => return Err(stopped(server, body, how).await),
            // an event starts what is missing
            result = warm(server, &life, in_use) => if let Err(why) = result {
                log(server, Level::Warn, format_args!("pid {}: {why}", process.pid));
            }
        }
        Ok(Running { body, life, since: Instant::now(), memory: None })
    }

    /// Waits until a process that does not answer is not to be waited for any longer.
    async fn given_up(&self, claim: &Claim<'_>, need: &mut watch::Receiver<Need>, begun: Instant) -> Stillborn {
        let server = &self.server;
        let timeout = server.settings.process.start_timeout;
        let late = server.start_time().map_or(timeout, |time| timeout.min(time * 2 + LATE));
        let mut was_spare = false;
        loop {
            let needed = *need.borrow_and_update();
            was_spare |= needed == Need::Spare;
            let (longest, leaves) = match needed {
                // another one serves
                Need::Spare => (timeout, Duration::ZERO),
                // the other one is gone: a new process may do better
                _ if was_spare => (late, late),
                _ => (timeout * self.patience, late),
            };
            let gives_way = async {
                sleep_until(begun + leaves).await;
                claim.wanted_urgently().await;
            };
            let gives_place = async {
                sleep_until(begun + timeout).await;
                claim.wanted().await;
            };
            tokio::select! {
                biased;
                Ok(()) = need.changed() => continue,
                () = gives_way => return Stillborn::GaveWay,
                () = gives_place => {}
                () = sleep_until(begun + longest) => {}
            }
            let socket = server.settings.socket.display().to_string();
            return Stillborn::Silent(socket, begun.elapsed().as_secs_f32());
        }
    }
}

/// Ends a process that is not wanted any more.
async fn stopped(server: &Server, body: Body, how: Stop) -> Stillborn {
    let grace = match how {
        Stop::Now(grace) => grace,
        Stop::Drained(_) => server.settings.process.shutdown_grace,
    };
    body.end(grace).await;
    Stillborn::Stopped
}

fn not_up(server: &Server, line: &str, how: String) -> Stillborn {
    if how == "exit status 127" {
        let base = format!("pluginserver_{}_", server.name().replace(['-', '.'], "_"));
        return Stillborn::NotFound(base, line.to_owned());
    }
    Stillborn::Ended(how)
}

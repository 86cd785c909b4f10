//! Events: one run of a plugin's handler.
//!
//! What each outcome of an exchange leads to:
//!
//! | what happened                                        | what is done                                         |
//! |------------------------------------------------------|------------------------------------------------------|
//! | the server went away before it read the event        | connect again, until it is given up                  |
//! | the server does not know the instance                | start it again, run the event again, once            |
//! | ProtoBuf: closed before any frame of the event came  | the same: an unknown instance looks like this        |
//! | closed later, an error, bytes that make no sense     | fail                                                 |
//! | the deadline passes                                  | fail; the handler is released, the server is probed  |
//! | a PDK call is wrong                                  | fail; the handler is released                        |
//!
//! Before that: an event waits for its turn ([`crate::admission`]), and is not run at all if its instance fails again and
//! again ([`crate::breaker`]).

use std::{cell::RefCell, marker::PhantomData, sync::Arc, time::Duration};

use silverback_log::Level;
use silverback_model::Phase;
use silverback_protocol::{Call, Return, dump::WireProtocol};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    EventFailure, FailureKind, Host, Instance, ServerState,
    admission::Refused,
    breaker::{Open, Pass},
    connection::{Broken, Connection, connect},
    failure::Sign,
    instance::NotStarted,
    life::Life,
    metrics::Counted,
    server::{MAX_PARKED, Server, Unready},
    start,
};

use clock::Clock;
use idle::Idle;
use turn::Turn;

mod clock;
mod idle;
pub(crate) mod msgpack;
mod protobuf;
pub(crate) mod release;
mod turn;

/// Pause between looks at whether a process has ended.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// Answers the PDK calls of one event.
#[expect(async_fn_in_trait, reason = "used on one thread only: no bound on the future is wanted")]
pub trait Pdk {
    /// Runs one call. Time in which it waits does not count against the event's deadline.
    async fn call(&mut self, call: &Call) -> Reply;
}

/// What a PDK call comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The function's results go back to the plugin.
    Return(Return),
    /// The call ended the request's phase (`kong.response.exit`): the handler is left to itself.
    Exit,
    /// The call is an error in the plugin: the event is ended, and has failed.
    Raise(String),
}

/// How an event ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventEnd {
    /// The handler returned.
    Returned,
    /// The handler made a terminal call; nothing that it does afterwards counts.
    Exited,
}

/// One worker thread's connections to plugin servers.
pub struct Connections {
    host: Arc<Host>,
    /// One for each life that is not over, and those that were over when it was last looked.
    pools: RefCell<Vec<Pool>>,
    not_send: PhantomData<*const ()>,
}

/// Idle connections to one life of a server.
struct Pool {
    life: Arc<Life>,
    idle: Idle<Connection>,
}

/// Why an exchange stopped before its end.
enum Stop {
    /// The server went away before it read the event.
    Unsent(String),
    /// The server does not know the instance, or so it seems; what it said.
    Unknown(String),
    Failed(FailureKind, String),
    /// With what the handler does, if it is to be released.
    Abandoned(FailureKind, String, Option<Handler>),
}

/// How an exchange ended, and what becomes of its connection.
enum Done {
    Reusable(EventEnd),
    Gone(EventEnd),
    /// The handler is to be released.
    Release(EventEnd, Handler),
}

/// What an abandoned handler does.
pub(crate) enum Handler {
    /// It runs; the answer to the request with this number is outstanding.
    Running { request: u32 },
    /// It waits for the result of a PDK call.
    Waiting { event: i64 },
    /// It is sending what is too large to be read.
    Talking,
}

/// An event that failed.
struct Failed {
    failure: EventFailure,
    /// The life of the process that ended, if that is why.
    ended: Option<u64>,
}

impl Connections {
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, pools: RefCell::default(), not_send: PhantomData }
    }

    /// Runs one event: the handler of `instance` for `phase`. A server that is starting is waited for. The handler may
    /// take as long as `limit` says, else as long as its server's settings say.
    ///
    /// The future must not be dropped before it ends: that would close a connection in the middle of an exchange,
    /// which kills a Node server.
    ///
    /// # Errors
    /// The handler did not run to its end.
    pub async fn handle_event<P: Pdk>(
        &self,
        instance: &Arc<Instance>,
        phase: Phase,
        limit: Option<Duration>,
        pdk: &mut P,
    ) -> Result<EventEnd, EventFailure> {
        let observed = instance.metrics.begin(phase);
        let mut counted = Counted { pdk, calls: 0 };
        let result = self.run_admitted(instance, phase, limit, &mut counted).await;
        observed.end(counted.calls, &result);
        result
    }

    async fn run_admitted<P: Pdk>(
        &self,
        instance: &Arc<Instance>,
        phase: Phase,
        limit: Option<Duration>,
        pdk: &mut P,
    ) -> Result<EventEnd, EventFailure> {
        let successor = instance.successor();
        let instance = successor.as_ref().unwrap_or(instance);
        let server = &instance.server;
        let limit = limit.unwrap_or(server.deadlines.event);
        let not_run = |kind, message| Err(not_run(instance, phase, kind, message));
        let admission = server.admission_of(phase);
        let slot = match admission.enter(limit).await {
            Ok(slot) => slot,
            Err(Refused::QueueFull) => {
                let (running, waiting) = (admission.in_flight(), admission.queue());
                let message =
                    format!("{running} events run in its server and {waiting} wait: there is no room for more");
                return not_run(FailureKind::Busy, message);
            }
            Err(Refused::Waited) => return not_run(FailureKind::Busy, waited(limit)),
        };
        let open = |what: &str, Open { failures }| format!("{what} {failures} times in a row: it is not tried now");
        let unready = match server.unready.pass() {
            // why it is not ready says more than that it was not
            Err(broken) if !server.is_ready() && server.crashing().is_none() => {
                return not_run(FailureKind::BreakerOpen, open("its server was not ready in time", broken));
            }
            pass => pass.ok(),
        };
        let pass = match instance.breaker(phase).pass() {
            Ok(pass) => pass,
            Err(broken) => return not_run(FailureKind::BreakerOpen, open("it failed", broken)),
        };
        let mut turn = Turn { admission, slot: Some(slot), limit, pass, unready };
        let result = self.run(instance, phase, limit, &mut turn, pdk).await;
        if let Err(Failed { failure: EventFailure { kind: FailureKind::Unavailable, .. }, .. }) = &result
            && instance.successor().is_some()
        {
            // its server was replaced while it was waited for
            drop(turn);
            return Box::pin(self.run_admitted(instance, phase, Some(limit), pdk)).await;
        }
        tell(instance, &result, turn.pass, turn.unready);
        result.map_err(|failed| failed.failure)
    }

    async fn run<P: Pdk>(
        &self,
        instance: &Arc<Instance>,
        phase: Phase,
        limit: Duration,
        turn: &mut Turn<'_>,
        pdk: &mut P,
    ) -> Result<EventEnd, Failed> {
        let server = &instance.server;
        let give_up = Instant::now() + server.deadlines.ready;
        let mut again = false;
        let mut lost = false;
        if server.is_crowded() {
            let message = format!("more than {MAX_PARKED} of its handlers have not ended; it should be restarted");
            return Err(self.failure(instance, None, phase, FailureKind::Unavailable, message).await);
        }
        loop {
            let lease = match server.lease(give_up).await {
                Ok(lease) => lease,
                Err(why) => {
                    let message = unavailable(server, &why);
                    return Err(self.failure(instance, None, phase, FailureKind::Unavailable, message).await);
                }
            };
            let life = &lease.life;
            let started = match self.host.running(instance, life).await {
                Ok(started) => started,
                Err(NotStarted::Refused(kind, message)) => {
                    return Err(self.failure(instance, Some(life), phase, kind, message).await);
                }
                Err(NotStarted::Gone(Some(message))) if lost => {
                    let message = start::no_answer(&message);
                    return Err(self.failure(instance, Some(life), phase, FailureKind::Start, message).await);
                }
                Err(NotStarted::Gone(asked)) if Instant::now() < give_up => {
                    lost |= asked.is_some();
                    continue;
                }
                Err(NotStarted::Gone(_)) => {
                    let message = unavailable(server, &Unready::Not(server.state()));
                    return Err(self.failure(instance, Some(life), phase, FailureKind::Unavailable, message).await);
                }
            };
            let (mut connection, pooled) = match self.connection(server, life, give_up).await {
                Ok(Some(connection)) => connection,
                Ok(None) => continue, // this life is over
                Err(message) => {
                    return Err(self.failure(instance, Some(life), phase, FailureKind::Unavailable, message).await);
                }
            };
            let deadline = sleep(limit);
            tokio::pin!(deadline);
            let clock = Clock::new(deadline, limit, turn);
            let done = match server.protocol {
                WireProtocol::ProtoBuf => protobuf::run(&mut connection, clock, started.id, phase, pdk).await,
                WireProtocol::MsgPack => msgpack::run(&mut connection, clock, started.id, phase, pdk).await,
            };
            let stop = match done {
                Ok(Done::Reusable(end)) => {
                    self.keep(life, connection);
                    return Ok(end);
                }
                Ok(Done::Gone(end)) => return Ok(end),
                Ok(Done::Release(end, handler)) => {
                    release::spawn(connection, handler, Arc::clone(server), Arc::clone(life), "the request has ended");
                    return Ok(end);
                }
                Err(stop) => stop,
            };
            // A process that is not ours may have been replaced unseen, and MessagePack servers count their instances
            // from 0: the numbers of the old process would be those of other instances in the new one.
            let elsewhere = !server.managed && server.protocol == WireProtocol::MsgPack;
            let (kind, message) = match stop {
                // it was closed while it was idle; the pool may hold more of them, but not for ever
                Stop::Unsent(_) if pooled => {
                    if elsewhere {
                        life.doubt();
                    }
                    continue;
                }
                // its process is ending: what counts is that it has seen nothing of the event
                Stop::Unsent(_) if Instant::now() < give_up => {
                    life.doubt();
                    continue;
                }
                Stop::Unknown(_) if !again => {
                    again = true;
                    instance.forget(started);
                    continue;
                }
                Stop::Unsent(message) | Stop::Unknown(message) => (FailureKind::Closed, message),
                Stop::Failed(kind, message) => {
                    if kind == FailureKind::Closed && elsewhere {
                        life.doubt();
                    }
                    (kind, message)
                }
                Stop::Abandoned(kind, message, handler) => {
                    if let Some(handler) = handler {
                        release::spawn(connection, handler, Arc::clone(server), Arc::clone(life), &message);
                    }
                    if kind == FailureKind::Deadline {
                        release::spawn_probe(Arc::clone(server), Arc::clone(life), started.id);
                    }
                    (kind, message)
                }
            };
            return Err(self.failure(instance, Some(life), phase, kind, message).await);
        }
    }

    /// An idle connection (`true`), or a new one. `None`: the life is over, or in doubt.
    async fn connection(
        &self,
        server: &Server,
        life: &Arc<Life>,
        give_up: Instant,
    ) -> Result<Option<(Connection, bool)>, String> {
        if let Some(pool) = pool_of(life, &mut self.pools.borrow_mut()) {
            while let Some(mut connection) = pool.idle.take() {
                if connection.is_quiet() {
                    return Ok(Some((connection, true)));
                }
            }
        }
        match timeout(server.deadlines.ready, connect(life)).await {
            Ok(Ok((connection, identity))) if life.identity == identity => return Ok(Some((connection, false))),
            Ok(_) => {}
            Err(_) => {
                return Err(format!(
                    "no connection to {} within {} s: its queue is full",
                    life.socket.display(),
                    server.deadlines.ready.as_secs()
                ));
            }
        }
        life.doubt();
        if Instant::now() >= give_up {
            return Err(format!("no connection to {}", life.socket.display()));
        }
        Ok(None)
    }

    fn keep(&self, life: &Arc<Life>, connection: Connection) {
        if life.is_over() || !connection.is_in_step() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pool_of(life, &mut pools) {
            pool.idle.keep(connection);
            return;
        }
        pools.retain(|pool| !pool.life.is_over());
        let mut idle = Idle::new();
        idle.keep(connection);
        pools.push(Pool { life: Arc::clone(life), idle });
    }

    /// `life`: the one that it failed in, if it got that far.
    async fn failure(
        &self,
        instance: &Instance,
        life: Option<&Arc<Life>>,
        phase: Phase,
        kind: FailureKind,
        mut message: String,
    ) -> Failed {
        let process = match life {
            Some(life) => life.process.clone(),
            None => instance.server.last_process(),
        };
        let mut ended = None;
        if let Some(process) = &process {
            // why it ended, and its last words, come by other ways than the end of the connection
            let give_up = Instant::now() + instance.server.deadlines.probe / 20;
            if kind == FailureKind::Closed {
                while process.end().is_none() && Instant::now() < give_up {
                    sleep(LAST_WORDS).await;
                }
                if let Some(end) = process.end() {
                    ended = life.map(|life| life.epoch);
                    message = format!("{message}: its process ended ({end})");
                }
            }
            // a child of its own may hold its pipes open
            while process.end().is_some() && !process.is_silent() && Instant::now() < give_up {
                sleep(LAST_WORDS).await;
            }
        }
        let failure = EventFailure {
            kind,
            message,
            plugin: instance.plugin.clone(),
            phase,
            server: instance.server.name().to_owned(),
            pid: process.as_ref().map(|process| process.pid),
            lines: process.map(|process| process.last_lines()).unwrap_or_default(),
        };
        Failed { failure, ended }
    }
}

/// There are few: a process of a server has one.
fn pool_of<'p>(life: &Life, pools: &'p mut [Pool]) -> Option<&'p mut Pool> {
    pools.iter_mut().find(|pool| pool.life.epoch == life.epoch)
}

fn unavailable(server: &Server, why: &Unready) -> String {
    match why {
        Unready::Crashing(reason) => {
            format!("the server does not come up, again and again; its last process: {reason}")
        }
        Unready::Not(ServerState::Draining) => "the server is being stopped".to_owned(),
        Unready::Not(ServerState::Dead) => "the server is stopped".to_owned(),
        Unready::Not(_) => format!(
            "the server was not ready within {} s: nothing answers at {}",
            server.deadlines.ready.as_secs(),
            server.settings.socket.display()
        ),
    }
}

fn waited(limit: Duration) -> String {
    format!("it waited for other events for {} s", limit.as_secs_f32())
}

/// The failure of an event that was not run: its server has had nothing to do with it.
fn not_run(instance: &Instance, phase: Phase, kind: FailureKind, message: String) -> EventFailure {
    let (plugin, server) = (instance.plugin.clone(), instance.server.name().to_owned());
    EventFailure { kind, message, plugin, phase, server, pid: None, lines: Vec::new() }
}

/// Tells the breakers of the instance and of its server how an event ended.
fn tell(instance: &Instance, result: &Result<EventEnd, Failed>, pass: Pass<'_>, unready: Option<Pass<'_>>) {
    let server = &instance.server;
    let (plugin, name) = (&instance.plugin, server.name());
    let log = |level, message: std::fmt::Arguments<'_>| silverback_log::write(level, message, None);
    let dead = match result {
        Ok(_) => None,
        Err(Failed { failure, ended }) => match failure.kind.sign() {
            Sign::Unasked => return,
            Sign::Alive => None,
            Sign::Dead => Some((failure, *ended)),
        },
    };
    if let Some((failure, _)) = dead
        && failure.kind == FailureKind::Unavailable
        && !server.is_ready()
    {
        if unready.is_some_and(|unready| unready.failed(None)) {
            let message = format_args!("plugin server {name} is not ready, again and again: its events fail at once");
            log(Level::Error, message);
        }
        return;
    }
    if unready.is_some_and(Pass::succeeded) {
        log(Level::Notice, format_args!("plugin server {name} is ready again"));
    }
    match dead {
        Some((failure, ended)) => {
            if pass.failed(ended) {
                log(
                    Level::Error,
                    format_args!(
                        "plugin {plugin} fails again and again: its events fail at once, and one is tried now and then; the \
                         last failure: {}",
                        failure.message
                    ),
                );
            }
        }
        None => {
            if pass.succeeded() {
                log(Level::Notice, format_args!("plugin {plugin} works again (server {name})"));
            }
        }
    }
}

fn broken(broken: &Broken) -> Stop {
    Stop::Failed(broken.kind(), broken.to_string())
}

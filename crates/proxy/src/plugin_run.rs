//! Runs a plugin's handler: in its server, or in this process. Every PDK call ends up in the same functions.

use std::{cell::RefCell, rc::Rc};

use silverback_model::{Fails, Phase};
use silverback_pdk::{Caller, Exchange, Need, Outcome, exchange::RequestBody};
use silverback_plugin_host::{Connections, EventEnd, EventFailure, Pdk, Reply};
use silverback_protocol::{Call, Return};

use crate::{
    flight::Flight,
    plugin_table::{Configured, Kind},
    request_body,
    worker::Worker,
};

/// What a handler came to.
pub(crate) enum Ran {
    /// It returned.
    Done,
    /// It ended the request: the answer is in the exchange.
    Exit,
    /// It did not run to its end, and what it works on may not go on.
    Failed(Failed),
}

/// Why a request, or a connection, may not go on.
pub(crate) struct Failed {
    pub(crate) why: String,
    /// What a client is told: 500, or 503 if there are too many requests for the plugin.
    pub(crate) status: u16,
}

/// What a handler works on: one request's or connection's state, and a way to get what a PDK call waits for.
pub(crate) trait Subject {
    fn exchange(&mut self) -> &mut Exchange;

    /// Gets what a call waits for. What cannot be had is marked as such in the exchange, and the call says so.
    async fn provide(&mut self, need: Need);

    /// Takes note of an event that failed, for those who may ask.
    fn failed(&mut self, _failure: &EventFailure) {}
}

impl Subject for Flight {
    fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    async fn provide(&mut self, need: Need) {
        if let Err(error) = self.read_body().await {
            self.body_error = Some(error);
        }
        if need == Need::RequestBodyInMemory {
            load(&mut self.exchange).await;
        }
    }

    fn failed(&mut self, failure: &EventFailure) {
        if let Some(debug) = &mut self.debug {
            debug.failed(failure);
        }
    }
}

/// An exchange by itself: a connection that has made no request (certificate, preread), so that there is no body.
impl Subject for Exchange {
    fn exchange(&mut self) -> &mut Exchange {
        self
    }

    async fn provide(&mut self, _: Need) {
        self.request.body = RequestBody::None;
    }
}

/// Runs a plugin's handler for a phase. The future must not be dropped before it ends
/// ([`Connections::handle_event`]).
pub(crate) async fn run<S: Subject>(
    plugins: &Connections,
    subject: &mut S,
    configured: &Configured,
    phase: Phase,
) -> Ran {
    let failed = match &configured.kind {
        Kind::External(instance) => {
            let mut calls = Calls { subject, caller: &configured.caller };
            match plugins.handle_event(instance, phase, configured.timeout, &mut calls).await {
                Ok(EventEnd::Returned) => return Ran::Done,
                Ok(EventEnd::Exited) => return Ran::Exit,
                Err(failure) => {
                    calls.subject.failed(&failure);
                    Failed { why: describe(&failure), status: failure.kind.status() }
                }
            }
        }
        Kind::InProcess { name, config } => loop {
            let why = match silverback_plugins::run(name, phase, subject.exchange(), &configured.caller, config) {
                Outcome::Done(_) => return Ran::Done,
                Outcome::Unknown => format!("plugin {name} is not built in"),
                Outcome::Exit => return Ran::Exit,
                Outcome::Raise(why) => format!("plugin {name} failed in {phase}: {why}"),
                Outcome::Need(need) => {
                    subject.provide(need).await;
                    continue;
                }
            };
            break Failed { why, status: 500 };
        },
    };
    match configured.on_error.of(phase) {
        Fails::Closed => Ran::Failed(failed),
        Fails::Open => {
            silverback_log::write(
                silverback_log::Level::Error,
                format_args!("{}; the request goes on (on_error)", failed.why),
                Some(&crate::surroundings::context(subject.exchange())),
            );
            Ran::Done
        }
    }
}

/// Puts a spooled body into memory.
async fn load(exchange: &mut Exchange) {
    if let RequestBody::File(path, _) = &exchange.request.body {
        exchange.request.body = match request_body::load(path).await {
            Ok(bytes) => RequestBody::Memory(bytes),
            Err(error) => RequestBody::Failed(error.to_string()),
        };
    }
}

/// One line for the log: what failed, where, why, and what the process said last.
fn describe(failure: &EventFailure) -> String {
    let mut text = failure.to_string();
    if !failure.lines.is_empty() {
        text.push_str("; its last output: ");
        text.push_str(&failure.lines.join(" | "));
    }
    text
}

struct Calls<'s, S> {
    subject: &'s mut S,
    caller: &'s Caller,
}

impl<S: Subject> Pdk for Calls<'_, S> {
    async fn call(&mut self, call: &Call) -> Reply {
        loop {
            match silverback_pdk::call(self.subject.exchange(), self.caller, call) {
                Outcome::Need(need) => self.subject.provide(need).await,
                outcome => return reply(outcome),
            }
        }
    }
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Done(done) => Reply::Return(done),
        Outcome::Exit => Reply::Exit,
        Outcome::Raise(why) => Reply::Raise(why),
        // What is not there answers nil, as in Kong; a Go plugin's call of it has no message to answer with, and
        // fails in its codec. A need left over is one that cannot be met.
        Outcome::Unknown | Outcome::Need(_) => Reply::Return(Return::default()),
    }
}

/// Runs a log handler on what is left of a request. Log handlers of one request run side by side and share its state.
pub(crate) async fn log(worker: &Worker, exchange: &Rc<RefCell<Exchange>>, configured: &Configured) {
    let failed = match &configured.kind {
        Kind::External(instance) => {
            let mut calls = LogCalls { exchange: Rc::clone(exchange), caller: &configured.caller };
            worker
                .plugins
                .handle_event(instance, Phase::Log, configured.timeout, &mut calls)
                .await
                .err()
                .map(|failure| describe(&failure))
        }
        Kind::InProcess { name, config } => {
            let outcome =
                silverback_plugins::run(name, Phase::Log, &mut exchange.borrow_mut(), &configured.caller, config);
            match outcome {
                Outcome::Done(_) | Outcome::Exit => None,
                Outcome::Raise(why) => Some(format!("plugin {name} failed in log: {why}")),
                Outcome::Unknown => Some(format!("plugin {name} is not built in")),
                Outcome::Need(_) => Some(format!("plugin {name} asked in log for what is no longer there")),
            }
        }
    };
    if let Some(why) = failed {
        silverback_log::write(
            silverback_log::Level::Error,
            format_args!("{why}"),
            Some(&crate::surroundings::context(&exchange.borrow())),
        );
    }
}

struct LogCalls<'c> {
    exchange: Rc<RefCell<Exchange>>,
    caller: &'c Caller,
}

impl Pdk for LogCalls<'_> {
    async fn call(&mut self, call: &Call) -> Reply {
        loop {
            let outcome = silverback_pdk::call(&mut self.exchange.borrow_mut(), self.caller, call);
            match outcome {
                // The connection is done with: a body that was never read is no longer there.
                Outcome::Need(Need::RequestBody) => {
                    self.exchange.borrow_mut().request.body = RequestBody::None;
                }
                Outcome::Need(Need::RequestBodyInMemory) => {
                    let path = match &self.exchange.borrow().request.body {
                        RequestBody::File(path, _) => Some(path.clone()),
                        _ => None,
                    };
                    let body = match path {
                        None => RequestBody::None,
                        Some(path) => match request_body::load(&path).await {
                            Ok(bytes) => RequestBody::Memory(bytes),
                            Err(error) => RequestBody::Failed(error.to_string()),
                        },
                    };
                    self.exchange.borrow_mut().request.body = body;
                }
                outcome => return reply(outcome),
            }
        }
    }
}

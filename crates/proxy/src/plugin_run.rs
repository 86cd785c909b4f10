//! Runs a plugin's handler: in its server, or in this process. Every PDK call ends up in the same functions.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use silverback_model::{Fails, Phase};
use silverback_pdk::{Caller, Exchange, Need, Outcome, exchange::RequestBody};
use silverback_plugin_host::{Connections, EventEnd, EventFailure, Pdk, Reply};
use silverback_protocol::{Call, Return};

use crate::{
    buffered::Held,
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
    async fn provide(&mut self, need: Need) -> Option<Loaded>;

    /// Takes note of an event that failed, for those who may ask.
    fn failed(&mut self, _failure: &EventFailure) {}
}

impl Subject for Flight {
    fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    async fn provide(&mut self, need: Need) -> Option<Loaded> {
        if let Err(error) = self.read_body().await {
            self.body_error = Some(error);
        }
        let RequestBody::File(path, length) = &self.exchange.request.body else { return None };
        if need != Need::RequestBodyInMemory {
            return None;
        }
        let total = self.profile.settings.buffering.total_size;
        match request_body::load(path, *length, &self.worker.shared.held, total).await {
            Ok((bytes, held)) => Some(Loaded::put(&mut self.exchange, bytes, held)),
            Err(error) => {
                self.exchange.request.body = RequestBody::Failed(error.to_string());
                self.body_error = Some(error);
                None
            }
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

    async fn provide(&mut self, _: Need) -> Option<Loaded> {
        self.request.body = RequestBody::None;
        None
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
            let mut calls = Calls { subject, caller: &configured.caller, held: None };
            match plugins.handle_event(instance, phase, configured.timeout, &mut calls).await {
                Ok(EventEnd::Returned) => return Ran::Done,
                Ok(EventEnd::Exited) => return Ran::Exit,
                Err(failure) => {
                    calls.subject.failed(&failure);
                    Failed { why: describe(&failure), status: failure.kind.status() }
                }
            }
        }
        Kind::InProcess { name, config } => {
            let mut loaded: Option<Loaded> = None;
            let outcome = loop {
                match silverback_plugins::run(name, phase, subject.exchange(), &configured.caller, config) {
                    Outcome::Need(need) => loaded = subject.provide(need).await,
                    outcome => break outcome,
                }
            };
            if let Some(loaded) = loaded {
                drop(loaded.put_back(subject.exchange()));
            }
            let why = match outcome {
                Outcome::Done(_) => return Ran::Done,
                Outcome::Exit => return Ran::Exit,
                Outcome::Raise(why) => format!("plugin {name} failed in {phase}: {why}"),
                Outcome::Unknown | Outcome::Need(_) => format!("plugin {name} is not built in"),
            };
            Failed { why, status: 500 }
        }
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

/// A spooled body that is in memory while a call reads it.
pub(crate) struct Loaded {
    /// What it is otherwise.
    file: RequestBody,
    held: Held,
}

impl Loaded {
    fn put(exchange: &mut Exchange, bytes: Bytes, held: Held) -> Self {
        Self { file: std::mem::replace(&mut exchange.request.body, RequestBody::Memory(bytes)), held }
    }

    /// The call has what it wanted: only its result keeps the bytes, for as long as the event runs.
    fn put_back(self, exchange: &mut Exchange) -> Held {
        exchange.request.body = self.file;
        self.held
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
    /// What the last body that was read takes of the room for all.
    held: Option<Held>,
}

impl<S: Subject> Pdk for Calls<'_, S> {
    async fn call(&mut self, call: &Call) -> Reply {
        self.held = None;
        let mut loaded: Option<Loaded> = None;
        loop {
            match silverback_pdk::call(self.subject.exchange(), self.caller, call) {
                Outcome::Need(need) => loaded = self.subject.provide(need).await,
                outcome => {
                    self.held = loaded.map(|loaded| loaded.put_back(self.subject.exchange()));
                    return reply(outcome);
                }
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
            let mut calls = LogCalls { worker, exchange: Rc::clone(exchange), caller: &configured.caller, held: None };
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
    worker: &'c Worker,
    exchange: Rc<RefCell<Exchange>>,
    caller: &'c Caller,
    /// What the last body that was read takes of the room for all.
    held: Option<Held>,
}

impl Pdk for LogCalls<'_> {
    async fn call(&mut self, call: &Call) -> Reply {
        self.held = None;
        let outcome = silverback_pdk::call(&mut self.exchange.borrow_mut(), self.caller, call);
        let Outcome::Need(need) = outcome else { return reply(outcome) };
        // The body is there for this call alone: other handlers share the exchange.
        let body = self.body(need).await;
        let mut exchange = self.exchange.borrow_mut();
        let kept = std::mem::replace(&mut exchange.request.body, body);
        let outcome = silverback_pdk::call(&mut exchange, self.caller, call);
        exchange.request.body = kept;
        reply(outcome)
    }
}

impl LogCalls<'_> {
    /// The request's body, as far as it is still there: the connection is done with, and a body that was never read
    /// with it.
    async fn body(&mut self, need: Need) -> RequestBody {
        let (path, length) = match (need, &self.exchange.borrow().request.body) {
            (Need::RequestBodyInMemory, RequestBody::File(path, length)) => (path.clone(), *length),
            _ => return RequestBody::None,
        };
        let shared = &self.worker.shared;
        let total = shared.generation.load().profile.settings.buffering.total_size;
        match request_body::load(&path, length, &shared.held, total).await {
            Ok((bytes, held)) => {
                self.held = Some(held);
                RequestBody::Memory(bytes)
            }
            Err(error) => RequestBody::Failed(error.to_string()),
        }
    }
}

//! What is left to do when a request's answer has gone out, or cannot.

use std::{cell::RefCell, fmt, rc::Rc, time::Instant};

use http::Method;
use silverback_log::Level;
use silverback_model::Phase;

use super::Flight;
use crate::{buffered::Held, plugin_run, surroundings, tunnel::TunnelError};

/// The part (one of so many) of `buffered_proxying_total_size` that answers take, beside it, which log handlers may
/// still ask for.
const SHARE_FOR_LOG: u64 = 8;

/// What is left to do when a request's answer has gone out, or cannot.
pub(crate) struct Finish {
    flight: Box<Flight>,
    /// Bytes were handed over, and more were not asked for yet.
    held_back: bool,
}

impl Finish {
    pub(crate) fn new(mut flight: Box<Flight>) -> Self {
        // Nobody reads what is left of the request: its connection can see to that.
        flight.incoming = None;
        Self { flight, held_back: false }
    }

    /// Bytes of the body have been handed to the client's connection.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let response = &mut self.flight.exchange.response;
        response.body_bytes += bytes as u64;
        response.bytes_sent += bytes as u64;
    }

    /// Tells the connection whether its client has to take what was handed over before the answer goes on.
    pub(crate) fn hold_back(&mut self, held_back: bool) {
        match (self.held_back, held_back) {
            (false, true) => self.flight.connection.held_back(),
            (true, false) => self.flight.connection.taken(),
            _ => {}
        }
        self.held_back = held_back;
    }

    /// Nothing of the answer went out after all.
    pub(crate) fn unsend(&mut self) {
        let response = &mut self.flight.exchange.response;
        response.sent = false;
        response.bytes_sent = 0;
    }

    /// Whether the answer has no body to send whatever its headers say.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.flight.exchange.request.method == Method::HEAD
            || matches!(self.flight.exchange.response.status, Some(204 | 304 | 101))
    }

    /// All of it is out.
    pub(crate) fn complete(self) {
        self.end();
    }

    /// The client left, before or in the middle of its answer.
    pub(crate) fn client_left(mut self) {
        self.flight.connection.closing.set(true);
        if !self.flight.exchange.response.sent {
            // nginx's status for it; nobody sees it but the logs.
            self.flight.exchange.response.status = Some(499);
        }
        self.end();
    }

    /// The upstream broke off in the middle of its body: the client sees its connection end early.
    pub(crate) fn upstream_broke(self, why: &dyn fmt::Display) {
        self.flight.connection.closing.set(true);
        self.flight.log(Level::Error, format_args!("{why} while reading upstream"));
        self.end();
    }

    /// A tunnel ended before both sides had said their last.
    pub(crate) fn tunnel_broke(self, why: &TunnelError) {
        // One of them left; that nobody says anything any more is what nginx calls an error.
        let level = if matches!(why, TunnelError::Idle) { Level::Error } else { Level::Info };
        self.flight.log(level, format_args!("{why}"));
        self.end();
    }

    fn end(mut self) {
        self.hold_back(false);
        let Flight {
            worker, connection, profile, mut exchange, collected, spool, held, proxied, in_use, debug, ..
        } = *self.flight;
        // The log handlers do not keep the target busy.
        drop(in_use);
        connection.ended();
        let now = exchange.node.surroundings.now();
        exchange.timings.response_end = Some(now);
        if proxied {
            exchange.timings.upstream_end.get_or_insert(now);
        }
        exchange.phase = Phase::Log;
        worker.metrics.record(&exchange);
        profile.access_log.write(&exchange);
        let loggers: Vec<_> =
            collected.into_iter().filter(|configured| configured.phases.contains(Phase::Log)).collect();
        if loggers.is_empty() {
            if let Some(debug) = debug {
                debug.log(&exchange);
            }
            return;
        }
        let debug = debug.map(|debug| Rc::new(RefCell::new(debug)));
        // Bodies may still be asked for; what they take goes with the last logger. Slow loggers must not take the room
        // of the answers to come: an answer that was held moves to a place of its own, if that has room for it.
        let kept = held.and_then(|held| {
            let total = profile.settings.buffering.total_size / SHARE_FOR_LOG;
            let kept = Held::of(&worker.shared.held_for_log, held.bytes(), total);
            if kept.is_none() {
                let message = format_args!("log handlers get no body of this answer: those of others take all room");
                silverback_log::write(Level::Notice, message, Some(&surroundings::context(&exchange)));
                exchange.response.body = None;
                if let Some(response) = &mut exchange.service_response {
                    response.body = None;
                }
            }
            kept
        });
        let exchange = Rc::new(RefCell::new(*exchange));
        let spool = Rc::new((spool, kept));
        for configured in loggers {
            // Each on its own: a slow one delays no other.
            let (exchange, spool, debug) = (Rc::clone(&exchange), Rc::clone(&spool), debug.clone());
            let running = Rc::clone(&worker);
            worker.spawn(async move {
                let begun = debug.as_ref().map(|_| Instant::now());
                plugin_run::log(&running, &exchange, &configured).await;
                drop(spool);
                if let (Some(debug), Some(begun)) = (debug, begun) {
                    debug.borrow_mut().logged(&configured.caller, begun);
                    // The last one tells of all.
                    if let Some(debug) = Rc::into_inner(debug) {
                        debug.into_inner().log(&exchange.borrow());
                    }
                }
            });
        }
    }
}

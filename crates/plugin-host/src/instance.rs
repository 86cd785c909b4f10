//! Instances: a plugin with one configuration.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value as Json};
use silverback_model::{OnError, Phase};
use tokio::sync::oneshot;

use crate::{BreakerState, FailureKind, WireProtocol, breaker::Breaker, server::Server};

/// A plugin with one configuration, in one server. Shared by all workers, and over reloads.
pub struct Instance {
    pub(crate) server: Arc<Server>,
    pub(crate) plugin: String,
    /// As the plugin gets it, without `__seq__`.
    config: Map<String, Json>,
    /// The instance in the server's process; of an epoch that may be over.
    started: ArcSwapOption<Started>,
    /// The number that it has in an epoch, the same however often it is started.
    number: Mutex<Option<(u64, i32)>>,
    /// Who waits for a start that is under way; `None` if none is.
    waiting: Mutex<Option<Vec<oneshot::Sender<StartResult>>>>,
    /// One for each phase: a handler for `log` that works says nothing of the one for `access`.
    breakers: [Breaker; Phase::ALL.len()],
}

/// An instance in a server's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) epoch: u64,
    pub(crate) id: i64,
}

/// Why there is no instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

pub(crate) type StartResult = Result<Started, StartFailure>;

impl Instance {
    pub(crate) fn new(server: Arc<Server>, plugin: String, config: Map<String, Json>) -> Self {
        Self {
            breakers: Phase::ALL.map(|_| Breaker::new(server.policy.breaker)),
            server,
            plugin,
            config,
            started: ArcSwapOption::empty(),
            number: Mutex::new(None),
            waiting: Mutex::new(None),
        }
    }

    /// The plugin's name.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The name of the server that it runs in.
    pub fn server(&self) -> &str {
        &self.server.name
    }

    /// What its server speaks.
    pub fn protocol(&self) -> WireProtocol {
        self.server.protocol
    }

    /// What the failure of one of its events means, as its server's settings have it.
    pub fn on_error(&self) -> &OnError {
        &self.server.policy.on_error
    }

    /// The breaker of its handler for a phase.
    pub(crate) fn breaker(&self, phase: Phase) -> &Breaker {
        let [certificate, rewrite, access, response, preread, log] = &self.breakers;
        match phase {
            Phase::Certificate => certificate,
            Phase::Rewrite => rewrite,
            Phase::Access => access,
            Phase::Response => response,
            Phase::Preread => preread,
            Phase::Log => log,
        }
    }

    /// The state of the breaker that is worst off.
    pub(crate) fn breaker_state(&self) -> BreakerState {
        self.breakers.iter().map(Breaker::state).max().unwrap_or_default()
    }

    /// The running instance, if there is one in the epoch that is ready.
    pub(crate) fn running(&self) -> Option<Started> {
        let epoch = self.server.ready_epoch();
        let started = self.started.load();
        started.as_deref().copied().filter(|started| epoch != 0 && started.epoch == epoch)
    }

    /// The server does not know this instance (any more).
    pub(crate) fn forget(&self, lost: Started) {
        let current = self.started.load();
        if current.as_deref() == Some(&lost) {
            // if somebody else was faster, theirs stays
            self.started.compare_and_swap(&current, None);
        }
    }

    /// Joins those who wait for a start. `true`: nobody else did, a start is to be made.
    pub(crate) fn join(&self) -> (oneshot::Receiver<StartResult>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.is_none();
        waiting.get_or_insert_default().push(sender);
        (receiver, first)
    }

    /// Ends a start: everybody who waits gets its result.
    pub(crate) fn finish(&self, result: &StartResult) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(started) = result {
            self.started.store(Some(Arc::new(*started)));
        }
        let senders = waiting.take();
        drop(waiting);
        for sender in senders.into_iter().flatten() {
            let _ = sender.send(result.clone()); // one that does not wait any more has met its deadline
        }
    }

    /// Its number in an epoch. go-pdk (from 0.10 on) takes it for the instance's id if it is not 0, and two gateways may
    /// share a server: it is random.
    pub(crate) fn number(&self, epoch: u64) -> i32 {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        match *number {
            Some((of, number)) if of == epoch => number,
            _ => {
                let reserved = self.server.reserve_number(epoch, || fastrand::i32(1..));
                *number = Some((epoch, reserved));
                reserved
            }
        }
    }

    /// The configuration as JSON, with the instance's number.
    pub(crate) fn config_json(&self, number: i32) -> String {
        let mut config = self.config.clone();
        config.insert("__seq__".to_owned(), number.into());
        Json::Object(config).to_string()
    }
}

/// Writes a number without fraction as an integer, as Kong does: a Go plugin's `int` takes no `1.0`.
pub(crate) fn integral_numbers(json: &mut Json) {
    match json {
        Json::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 9_007_199_254_740_992.0
            {
                #[expect(clippy::cast_possible_truncation, reason = "in the range in which integers are exact")]
                let int = float as i64;
                *number = int.into();
            }
        }
        Json::Array(items) => items.iter_mut().for_each(integral_numbers),
        Json::Object(fields) => fields.values_mut().for_each(integral_numbers),
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_without_fraction_lose_the_point() {
        let mut config = json!({"a": 1.0, "b": [2.5, -3.0], "c": {"d": 1e300}});
        integral_numbers(&mut config);
        assert_eq!(config.to_string(), r#"{"a":1,"b":[2.5,-3],"c":{"d":1e+300}}"#);
    }
}

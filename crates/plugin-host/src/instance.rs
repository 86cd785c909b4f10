//! Instances: a plugin with one configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value as Json};
use silverback_model::{OnError, Phase};
use tokio::sync::oneshot;

use crate::{
    BreakerState, FailureKind, ServerState, WireProtocol, breaker::Breaker, life::Life, metrics::PluginCounters,
    server::Server,
};

/// A plugin with one configuration, in one server. Shared by all workers, and over reloads.
pub struct Instance {
    pub(crate) server: Arc<Server>,
    pub(crate) plugin: String,
    /// As the plugin gets it, without `__seq__`.
    config: Map<String, Json>,
    /// What it is in the server's processes. The lives that some of them belong to may be over.
    started: ArcSwap<Vec<Started>>,
    /// The numbers that it has, by epoch; the same however often it is started in one.
    numbers: Mutex<HashMap<u64, i32>>,
    pub(crate) metrics: Arc<PluginCounters>,
    /// Who waits for a start that is under way, by epoch.
    waiting: Mutex<HashMap<u64, Vec<oneshot::Sender<StartResult>>>>,
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
pub(crate) enum NotStarted {
    /// The server said no, or nothing in time.
    Refused(FailureKind, String),
    /// The process went away. What it did when it was asked, if it was: another one may do otherwise.
    Gone(Option<String>),
}

pub(crate) type StartResult = Result<Started, NotStarted>;

impl Instance {
    pub(crate) fn new(server: Arc<Server>, plugin: String, config: Map<String, Json>) -> Self {
        Self {
            breakers: Phase::ALL.map(|_| Breaker::new(server.settings.events.breaker)),
            server,
            plugin,
            config,
            started: ArcSwap::default(),
            numbers: Mutex::default(),
            metrics: Arc::default(),
            waiting: Mutex::default(),
        }
    }

    /// What its events come to is counted there, with those of the plugin's other instances.
    pub(crate) fn counted_in(mut self, metrics: Arc<PluginCounters>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The plugin's name.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The name of the server that it runs in.
    pub fn server(&self) -> &str {
        self.server.name()
    }

    /// What its server speaks.
    pub fn protocol(&self) -> WireProtocol {
        self.server.protocol
    }

    /// What the failure of one of its events means, as its server's settings have it.
    pub fn on_error(&self) -> &OnError {
        &self.server.settings.events.on_error
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

    /// What it is in this epoch, if it was started.
    pub(crate) fn running(&self, epoch: u64) -> Option<Started> {
        self.started.load().iter().copied().find(|started| started.epoch == epoch)
    }

    /// The same in the server that took the place of its own, if that serves no more.
    pub(crate) fn successor(&self) -> Option<Arc<Self>> {
        let server = self.server.successor().filter(|_| self.server.state() != ServerState::Ready)?;
        server.plugins.contains(&self.plugin).then(|| server.instance(&self.plugin, self.config.clone()))
    }

    /// Whether it stands for the same plugin of the configuration as another one.
    pub(crate) fn is_same_entity(&self, other: &Self) -> bool {
        let id = |instance: &Self| instance.config.get("__plugin_id").cloned();
        self.plugin == other.plugin && (self.config == other.config || (id(self).is_some() && id(self) == id(other)))
    }

    /// The server does not know this instance (any more).
    pub(crate) fn forget(&self, lost: Started) {
        self.started.rcu(|started| started.iter().copied().filter(|other| *other != lost).collect::<Vec<_>>());
    }

    /// Joins those who wait for a start. `true`: nobody else did, a start is to be made.
    pub(crate) fn join(&self, epoch: u64) -> (oneshot::Receiver<StartResult>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = waiting.entry(epoch).or_default();
        senders.push(sender);
        (receiver, senders.len() == 1)
    }

    /// Ends a start: everybody who waits gets its result.
    pub(crate) fn finish(&self, epoch: u64, result: &StartResult) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(new) = result {
            let lives = self.server.lives();
            let lasts = |epoch: u64| epoch == new.epoch || lives.iter().any(|life| life.epoch == epoch);
            self.started.rcu(|started| {
                let others = started.iter().copied().filter(|other| other.epoch != new.epoch && lasts(other.epoch));
                others.chain([*new]).collect::<Vec<_>>()
            });
            self.numbers.lock().unwrap_or_else(PoisonError::into_inner).retain(|epoch, _| lasts(*epoch));
        }
        let senders = waiting.remove(&epoch);
        drop(waiting);
        for sender in senders.into_iter().flatten() {
            let _ = sender.send(result.clone()); // one that does not wait any more has met its deadline
        }
    }

    /// Its number in an epoch. go-pdk (from 0.10 on) takes it for the instance's id if it is not 0, and two gateways may
    /// share a server: it is random.
    pub(crate) fn number(&self, life: &Life) -> i32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.entry(life.epoch).or_insert_with(|| life.reserve_number(|| fastrand::i32(1..)))
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

//! What events have come to, for those who watch: counters that workers add to and a scrape reads.
//!
//! Recording costs a few relaxed atomics. There is one set of counters for each plugin of each server, and it lives as
//! long as the host: a configuration that comes and goes neither resets nor adds to what there is to read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use silverback_model::Phase;
use silverback_protocol::Call;

use crate::{EventEnd, EventFailure, FailureKind, Pdk, Reply};

/// How often something took up to so long. The bounds are in the unit of what is observed.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    /// In thousandths of the unit.
    sum: AtomicU64,
}

/// What a histogram says.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValues {
    pub bounds: &'static [f64],
    /// How many were within each bound, those of the bounds before it counted too.
    pub within: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    /// `bounds` ascend.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: f64) {
        self.note(value, |counter, more| {
            counter.fetch_add(more, Ordering::Relaxed);
        });
    }

    /// The same where nobody but the caller's thread ever observes: it need not lock what others only read.
    pub fn observe_alone(&self, value: f64) {
        self.note(value, add_alone);
    }

    fn note(&self, value: f64, add: impl Fn(&AtomicU64, u64)) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            add(count, 1);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        add(&self.sum, (value * 1000.0) as u64);
    }

    pub fn values(&self) -> HistogramValues {
        let mut values = HistogramValues { bounds: self.bounds, within: Vec::new(), count: 0, sum: 0.0 };
        self.add_to(&mut values);
        values
    }

    /// Adds what this one says to what others with the same bounds said.
    pub fn add_to(&self, values: &mut HistogramValues) {
        let mut so_far = 0;
        values.within.resize(self.bounds.len(), 0);
        for (index, count) in self.counts.iter().enumerate() {
            so_far += count.load(Ordering::Relaxed);
            if let Some(within) = values.within.get_mut(index) {
                *within += so_far;
            }
        }
        values.count += so_far;
        values.sum += self.sum.load(Ordering::Relaxed) as f64 / 1000.0;
    }
}

/// Adds to a counter that only this thread writes to.
pub fn add_alone(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Milliseconds in which events are counted.
const EVENT_BOUNDS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];

/// How an event ended, as metrics call it. The first ones did not fail.
const OUTCOMES: [&str; 11] = [
    "returned",
    "exited",
    "unavailable",
    "start",
    "deadline",
    "closed",
    "protocol",
    "wrong_call",
    "raised",
    "busy",
    "breaker_open",
];

const fn outcome(result: &Result<EventEnd, FailureKind>) -> usize {
    match result {
        Ok(EventEnd::Returned) => 0,
        Ok(EventEnd::Exited) => 1,
        Err(FailureKind::Unavailable) => 2,
        Err(FailureKind::Start) => 3,
        Err(FailureKind::Deadline) => 4,
        Err(FailureKind::Closed) => 5,
        Err(FailureKind::Protocol) => 6,
        Err(FailureKind::Raised) => 7,
        Err(FailureKind::Server) => 8,
        Err(FailureKind::Busy) => 9,
        Err(FailureKind::BreakerOpen) => 10,
    }
}

/// What the events of a plugin in one phase have come to.
#[derive(Debug)]
struct PhaseCounters {
    duration: Histogram,
    outcomes: [AtomicU64; OUTCOMES.len()],
    calls: AtomicU64,
    in_flight: AtomicI64,
}

impl Default for PhaseCounters {
    fn default() -> Self {
        Self {
            duration: Histogram::new(EVENT_BOUNDS),
            outcomes: Default::default(),
            calls: AtomicU64::default(),
            in_flight: AtomicI64::default(),
        }
    }
}

/// The counters of a plugin of one server.
#[derive(Debug, Default)]
pub(crate) struct PluginCounters {
    phases: [PhaseCounters; Phase::ALL.len()],
}

impl PluginCounters {
    fn phase(&self, phase: Phase) -> Option<&PhaseCounters> {
        self.phases.get(phase as usize)
    }

    /// An event begins.
    pub(crate) fn begin(&self, phase: Phase) -> Observed<'_> {
        let counters = self.phase(phase);
        if let Some(counters) = counters {
            counters.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Observed { counters, begun: Instant::now() }
    }
}

/// An event that is under way.
pub(crate) struct Observed<'c> {
    counters: Option<&'c PhaseCounters>,
    begun: Instant,
}

impl Observed<'_> {
    pub(crate) fn end(self, calls: u64, result: &Result<EventEnd, EventFailure>) {
        let Some(counters) = self.counters else { return };
        counters.duration.observe(milliseconds(self.begun.elapsed()));
        counters.calls.fetch_add(calls, Ordering::Relaxed);
        let place = outcome(&result.as_ref().copied().map_err(|failure| failure.kind));
        if let Some(count) = counters.outcomes.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event whose task was dropped has ended too.
impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.counters {
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Counts the calls that a plugin makes.
pub(crate) struct Counted<'p, P> {
    pub(crate) pdk: &'p mut P,
    pub(crate) calls: u64,
}

impl<P: Pdk> Pdk for Counted<'_, P> {
    async fn call(&mut self, call: &Call) -> Reply {
        self.calls += 1;
        self.pdk.call(call).await
    }
}

/// What the events of a plugin in one phase have come to.
#[derive(Clone, Debug, PartialEq)]
pub struct EventMetrics {
    pub server: String,
    pub plugin: String,
    pub phase: Phase,
    /// In milliseconds.
    pub duration: HistogramValues,
    /// How many events ended in each way.
    pub outcomes: Vec<(&'static str, u64)>,
    pub calls: u64,
    pub in_flight: u64,
}

/// All counters of a host, by server and plugin. Both are names of the configuration, so there is an end to them.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<(String, String), Arc<PluginCounters>>>);

impl Registry {
    pub(crate) fn counters(&self, server: &str, plugin: &str) -> Arc<PluginCounters> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((server.to_owned(), plugin.to_owned())).or_default())
    }

    /// Phases without an event are left out.
    pub(crate) fn read(&self) -> Vec<EventMetrics> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut read = Vec::new();
        for ((server, plugin), counters) in &all {
            for phase in Phase::ALL {
                let Some(counters) = counters.phase(phase) else { continue };
                let in_flight = u64::try_from(counters.in_flight.load(Ordering::Relaxed)).unwrap_or(0);
                let duration = counters.duration.values();
                if duration.count + in_flight == 0 {
                    continue;
                }
                let counts = counters.outcomes.iter().map(|count| count.load(Ordering::Relaxed));
                read.push(EventMetrics {
                    server: server.clone(),
                    plugin: plugin.clone(),
                    phase,
                    duration,
                    outcomes: OUTCOMES.into_iter().zip(counts).collect(),
                    calls: counters.calls.load(Ordering::Relaxed),
                    in_flight,
                });
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_within_its_bound() {
        let histogram = Histogram::new(&[1.0, 5.0]);
        for value in [0.5, 1.0, 1.5, 5.0, 7.25] {
            histogram.observe(value);
        }
        let values = histogram.values();
        assert_eq!((values.within, values.count, values.sum), (vec![2, 4], 5, 15.25));
    }

    #[test]
    fn events_are_read_by_plugin_and_phase() {
        let registry = Registry::default();
        let counters = registry.counters("go", "tenant");
        counters.begin(Phase::Access).end(3, &Ok(EventEnd::Returned));
        counters.begin(Phase::Access).end(1, &Ok(EventEnd::Exited));
        let under_way = counters.begin(Phase::Log);
        let read = registry.read();
        let [access, log] = &read[..] else { panic!("{read:?}") };
        assert_eq!((access.plugin.as_str(), access.phase, access.calls), ("tenant", Phase::Access, 4));
        assert_eq!(access.outcomes[..3], [("returned", 1), ("exited", 1), ("unavailable", 0)]);
        assert_eq!((access.in_flight, log.in_flight, log.duration.count), (0, 1, 0));
        drop(under_way);
        assert_eq!(registry.read().len(), 1);
        assert!(Arc::ptr_eq(&counters, &registry.counters("go", "tenant")));
    }

    #[test]
    fn every_outcome_has_its_name() {
        for (kind, expect) in [
            (FailureKind::Unavailable, "unavailable"),
            (FailureKind::Start, "start"),
            (FailureKind::Deadline, "deadline"),
            (FailureKind::Closed, "closed"),
            (FailureKind::Protocol, "protocol"),
            (FailureKind::Raised, "wrong_call"),
            (FailureKind::Server, "raised"),
            (FailureKind::Busy, "busy"),
            (FailureKind::BreakerOpen, "breaker_open"),
        ] {
            assert_eq!(OUTCOMES.get(outcome(&Err(kind))), Some(&expect), "{kind:?}");
        }
    }
}

//! What requests have come to. Every worker has counters of its own; who asks gets their sum.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use silverback_pdk::{Exchange, exchange::Source};
use silverback_plugin_host::{Histogram, HistogramValues, add_alone};

/// The bounds of Kong's histograms, in milliseconds (`kong/plugins/prometheus/exporter.lua`).
const KONG_BOUNDS: &[f64] =
    &[1.0, 2.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 750.0, 1000.0, 3000.0, 6000.0];
const UPSTREAM_BOUNDS: &[f64] =
    &[25.0, 50.0, 80.0, 100.0, 250.0, 400.0, 700.0, 1000.0, 2000.0, 5000.0, 10000.0, 30000.0, 60000.0];

/// Statuses from 100 to 599.
const STATUSES: usize = 500;

/// What the requests of one worker, or of all of them, have come to.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpMetrics {
    /// Status, whether it was the service's own, and how many answers had it; those with none are left out.
    pub answers: Vec<(u16, bool, u64)>,
    /// All of a request, in milliseconds.
    pub request: HistogramValues,
    /// What the gateway and its plugins took of it.
    pub gateway: HistogramValues,
    /// Until the upstream's head came.
    pub upstream: HistogramValues,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Bytes of bodies that are held in memory.
    pub buffered: u64,
}

/// The counters of one worker, which nobody else adds to.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// By status; answers of services, then the gateway's own.
    answers: Box<[[AtomicU64; 2]]>,
    request: Histogram,
    gateway: Histogram,
    upstream: Histogram,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    buffered: AtomicU64,
}

impl Recorder {
    fn new() -> Self {
        Self {
            answers: (0..STATUSES).map(|_| <[AtomicU64; 2]>::default()).collect(),
            request: Histogram::new(UPSTREAM_BOUNDS),
            gateway: Histogram::new(KONG_BOUNDS),
            upstream: Histogram::new(UPSTREAM_BOUNDS),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
        }
    }

    /// Takes note of a request whose answer is out.
    pub(crate) fn record(&self, exchange: &Exchange) {
        let timings = &exchange.timings;
        let between = |from: f64, to: f64| ((to - from) * 1000.0).max(0.0);
        let end = timings.response_end.unwrap_or(exchange.started);
        let status = usize::from(exchange.response.status.unwrap_or_default()).checked_sub(100);
        if let Some([service, own]) = status.and_then(|status| self.answers.get(status)) {
            let count = if exchange.response.source == Some(Source::Service) { service } else { own };
            add_alone(count, 1);
        }
        self.request.observe_alone(between(exchange.started, end));
        self.gateway.observe_alone(between(exchange.started, timings.balancer_start.unwrap_or(end)));
        if let (Some(start), Some(header)) = (timings.balancer_start, timings.upstream_header) {
            self.upstream.observe_alone(between(start, header));
        }
        add_alone(&self.bytes_received, exchange.request.length);
        add_alone(&self.bytes_sent, exchange.response.bytes_sent);
    }
}

/// Bytes of bodies that a request holds in memory; they count for as long as this value lives.
#[derive(Debug)]
pub(crate) struct InMemory {
    recorder: Arc<Recorder>,
    bytes: u64,
}

impl InMemory {
    pub(crate) fn none(recorder: &Arc<Recorder>) -> Self {
        Self { recorder: Arc::clone(recorder), bytes: 0 }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.recorder.buffered.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.recorder.buffered.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// The counters of all workers.
#[derive(Debug, Default)]
pub(crate) struct Recorders(Mutex<Vec<Arc<Recorder>>>);

impl Recorders {
    /// The counters of a worker that starts.
    pub(crate) fn join(&self) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder::new());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&recorder));
        recorder
    }

    pub(crate) fn read(&self) -> HttpMetrics {
        let recorders = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nothing = |bounds| HistogramValues { bounds, within: vec![0; <[f64]>::len(bounds)], count: 0, sum: 0.0 };
        let mut sum = HttpMetrics {
            answers: Vec::new(),
            request: nothing(UPSTREAM_BOUNDS),
            gateway: nothing(KONG_BOUNDS),
            upstream: nothing(UPSTREAM_BOUNDS),
            bytes_received: 0,
            bytes_sent: 0,
            buffered: 0,
        };
        let mut answers = vec![[0_u64; 2]; STATUSES];
        for recorder in &recorders {
            for (sums, counts) in answers.iter_mut().zip(&recorder.answers) {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count.load(Ordering::Relaxed);
                }
            }
            recorder.request.add_to(&mut sum.request);
            recorder.gateway.add_to(&mut sum.gateway);
            recorder.upstream.add_to(&mut sum.upstream);
            sum.bytes_received += recorder.bytes_received.load(Ordering::Relaxed);
            sum.bytes_sent += recorder.bytes_sent.load(Ordering::Relaxed);
            sum.buffered += recorder.buffered.load(Ordering::Relaxed);
        }
        for (status, counts) in (100..).zip(answers) {
            for (count, of_service) in counts.into_iter().zip([true, false]) {
                if count > 0 {
                    sum.answers.push((status, of_service, count));
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let recorders = Recorders::default();
        let (one, two) = (recorders.join(), recorders.join());
        for recorder in [&one, &two] {
            recorder.answers[100][0].fetch_add(2, Ordering::Relaxed);
            recorder.request.observe(30.0);
        }
        two.answers[400][1].fetch_add(1, Ordering::Relaxed);
        let mut in_memory = InMemory::none(&one);
        in_memory.add(10);
        in_memory.add(5);
        let read = recorders.read();
        assert_eq!(read.answers, [(200, true, 4), (500, false, 1)]);
        assert_eq!((read.request.count, read.request.within[0], read.request.within[1]), (2, 0, 2));
        assert_eq!(read.buffered, 15);
        drop(in_memory);
        assert_eq!(recorders.read().buffered, 0);
    }
}

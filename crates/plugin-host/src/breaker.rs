//! The circuit breaker: what fails again and again is not tried by every request, each of which would wait for its
//! deadline, but by one now and then.
//!
//! Each instance (a plugin with one configuration) has breakers of its own, one for each phase, so that what is broken
//! denies no neighbour: neither another plugin of the server, nor the same plugin on another route. What counts is that the
//! instance gave no sign of life: a deadline, a connection that closed, an answer that makes no sense. An error that
//! it answered with is a sign of life. Events that were at work in a process that ended are one failure together,
//! since they may have had nothing to do with it.
//!
//! A server that is not ready in time has a breaker too, for all of its instances; it counts only as long as the
//! server is not ready.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use silverback_config::settings;
use tokio::time::Instant;

use crate::BreakerState;

pub(crate) struct Breaker {
    /// `None`: it never opens.
    policy: Option<settings::Breaker>,
    born: Instant,
    /// Failures in a row.
    failures: AtomicU32,
    /// When one event is tried, in milliseconds since `born`; 0: it is closed.
    try_at: AtomicU64,
    /// One is being tried.
    trying: AtomicBool,
    /// The life of a process whose end was counted last.
    epoch: AtomicU64,
}

/// Leave to run an event. Its outcome is to be told.
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

/// The breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Failures that opened it.
    pub(crate) failures: u32,
}

impl Breaker {
    pub(crate) fn new(policy: Option<settings::Breaker>) -> Self {
        Self {
            policy,
            born: Instant::now(),
            failures: AtomicU32::new(0),
            try_at: AtomicU64::new(0),
            trying: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        }
    }

    /// Whether an event may run.
    pub(crate) fn pass(&self) -> Result<Pass<'_>, Open> {
        let try_at = self.try_at.load(Ordering::Acquire);
        if try_at == 0 {
            return Ok(Pass { breaker: self, is_trial: false });
        }
        if self.now() >= try_at && !self.trying.swap(true, Ordering::AcqRel) {
            return Ok(Pass { breaker: self, is_trial: true });
        }
        Err(Open { failures: self.failures.load(Ordering::Relaxed) })
    }

    pub(crate) fn state(&self) -> BreakerState {
        if self.try_at.load(Ordering::Acquire) == 0 {
            BreakerState::Closed
        } else if self.trying.load(Ordering::Acquire) {
            BreakerState::HalfOpen
        } else {
            BreakerState::Open
        }
    }

    /// Milliseconds since it was made; never 0.
    fn now(&self) -> u64 {
        millis(self.born.elapsed()).saturating_add(1)
    }
}

impl Pass<'_> {
    /// There was a sign of life. Whether the breaker was open until now.
    pub(crate) fn succeeded(self) -> bool {
        let breaker = self.breaker;
        if breaker.failures.load(Ordering::Relaxed) != 0 {
            breaker.failures.store(0, Ordering::Relaxed);
        }
        // events that began before it opened may end well after it did: they close it too
        breaker.try_at.load(Ordering::Relaxed) != 0 && breaker.try_at.swap(0, Ordering::AcqRel) != 0
    }

    /// It waits for what its server has no part in: another event may be tried meanwhile. Its outcome counts like that
    /// of any other.
    pub(crate) fn let_others_try(&mut self) {
        if std::mem::take(&mut self.is_trial) {
            self.breaker.trying.store(false, Ordering::Release);
        }
    }

    /// There was none; `ended`: the life of the process that ended, if that is why. Whether the breaker has opened.
    pub(crate) fn failed(self, ended: Option<u64>) -> bool {
        let breaker = self.breaker;
        let Some(policy) = breaker.policy else { return false };
        if let Some(epoch) = ended
            && breaker.epoch.swap(epoch, Ordering::AcqRel) == epoch
            && !self.is_trial
        {
            return false;
        }
        let failures = breaker.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if failures < policy.failures && !self.is_trial {
            return false;
        }
        let try_at = breaker.now().saturating_add(millis(policy.pause));
        breaker.try_at.swap(try_at, Ordering::AcqRel) == 0
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.trying.store(false, Ordering::Release);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(Some(settings::Breaker { failures, pause: PAUSE }))
    }

    /// Runs a test with a clock that moves only when it is told to.
    fn paused(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test());
    }

    async fn advance(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_trial_closes_it() {
        paused(async || {
            let breaker = breaker(2);
            assert!(!breaker.pass().unwrap().failed(None));
            assert!(!breaker.pass().unwrap().succeeded());
            assert!(!breaker.pass().unwrap().failed(None));
            assert!(breaker.pass().unwrap().failed(None));
            assert_eq!(breaker.pass().err(), Some(Open { failures: 2 }));
            assert_eq!(breaker.state(), BreakerState::Open);

            advance(PAUSE).await;
            let trial = breaker.pass().unwrap();
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            assert!(breaker.pass().is_err(), "one at a time");
            assert!(!trial.failed(None), "it was open before");
            assert!(breaker.pass().is_err(), "the pause begins anew");

            advance(PAUSE).await;
            assert!(breaker.pass().unwrap().succeeded());
            assert_eq!(breaker.state(), BreakerState::Closed);
            assert!(!breaker.pass().unwrap().failed(None), "the count begins anew");
        });
    }

    #[test]
    fn the_end_of_a_process_counts_once() {
        paused(async || {
            let breaker = breaker(2);
            let passes: Vec<_> = (0..9).map(|_| breaker.pass().unwrap()).collect();
            for pass in passes {
                assert!(!pass.failed(Some(7)));
            }
            assert!(breaker.pass().unwrap().failed(Some(8)));
        });
    }

    #[test]
    fn a_trial_that_is_given_up_makes_room_for_another() {
        paused(async || {
            let breaker = breaker(1);
            assert!(breaker.pass().unwrap().failed(None));
            advance(PAUSE).await;
            drop(breaker.pass().unwrap());
            assert!(breaker.pass().is_ok());
        });
    }

    #[test]
    fn a_trial_that_waits_for_its_client_makes_room_for_another() {
        paused(async || {
            let breaker = breaker(2);
            breaker.pass().unwrap().failed(None);
            assert!(breaker.pass().unwrap().failed(None));
            advance(PAUSE).await;
            let mut waits = breaker.pass().unwrap();
            assert!(breaker.pass().is_err());
            waits.let_others_try();
            assert!(breaker.pass().unwrap().succeeded(), "the other shows that it works again");
            assert!(!waits.failed(None), "it counts like any other");
            assert_eq!(breaker.state(), BreakerState::Closed);
        });
    }

    #[test]
    fn off_is_off() {
        paused(async || {
            let breaker = Breaker::new(None);
            for _ in 0..1000 {
                assert!(!breaker.pass().unwrap().failed(None));
            }
            assert_eq!(breaker.state(), BreakerState::Closed);
        });
    }
}

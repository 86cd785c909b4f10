//! The health of addresses: what is counted, and when it tips. The rules are those of lua-resty-healthcheck, which Kong
//! uses: four counters for each address, of which a success resets those of failures and the other way round; a
//! counter at its limit makes the address healthy or unhealthy.
//!
//! Probes come from [`probe`]; the outcomes of requests are reported by whoever sends them
//! ([`InUse::report`](super::balancer::InUse::report)).

pub(crate) mod probe;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Status codes from 0 to 999, as a set.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Statuses([u64; 16]);

impl Statuses {
    pub(crate) fn contains(&self, status: u16) -> bool {
        self.0.get(usize::from(status / 64)).is_some_and(|word| word & (1 << (status % 64)) != 0)
    }
}

impl FromIterator<u16> for Statuses {
    fn from_iter<T: IntoIterator<Item = u16>>(statuses: T) -> Self {
        let mut words = [0; 16];
        for status in statuses {
            if let Some(word) = words.get_mut(usize::from(status / 64)) {
                *word |= 1 << (status % 64);
            }
        }
        Self(words)
    }
}

impl std::fmt::Debug for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..1000_u16).filter(|status| self.contains(*status))).finish()
    }
}

/// `healthchecks` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checks {
    pub(crate) active: ActiveCheck,
    pub(crate) passive: PassiveCheck,
}

/// `type` of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckKind {
    Tcp,
    Http,
    Https,
    Grpc,
    Grpcs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveCheck {
    pub(crate) kind: CheckKind,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) http_path: String,
    pub(crate) https_sni: Option<String>,
    pub(crate) https_verify_certificate: bool,
    pub(crate) headers: Vec<(String, String)>,
    /// Between two probes of a healthy address; zero: none.
    pub(crate) healthy_interval: Duration,
    /// Between two probes of an unhealthy address; zero: none.
    pub(crate) unhealthy_interval: Duration,
    pub(crate) limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassiveCheck {
    pub(crate) kind: CheckKind,
    pub(crate) limits: Limits,
}

/// How often what must happen; 0: it does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) healthy_statuses: Statuses,
    pub(crate) unhealthy_statuses: Statuses,
    pub(crate) successes: u8,
    pub(crate) http_failures: u8,
    pub(crate) tcp_failures: u8,
    pub(crate) timeouts: u8,
}

impl Checks {
    /// Whether the health of addresses means anything (Kong's `is_upstream_using_healthcheck`).
    pub(crate) fn are_used(&self) -> bool {
        let passive = &self.passive.limits;
        !self.active.healthy_interval.is_zero()
            || !self.active.unhealthy_interval.is_zero()
            || passive.tcp_failures != 0
            || passive.timeouts != 0
            || passive.http_failures != 0
    }
}

/// What became of a request or a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered with this status.
    Status(u16),
    /// A connection, where more than that is not asked for.
    Success,
    /// No connection, or one that broke off.
    TcpFailure,
    Timeout,
}

/// The counters, by what they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    Success,
    Http,
    Tcp,
    Timeout,
}

impl Counter {
    const fn shift(self) -> u32 {
        match self {
            Self::Success => 0,
            Self::Http => 8,
            Self::Tcp => 16,
            Self::Timeout => 24,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Success => "successes",
            Self::Http => "HTTP failures",
            Self::Tcp => "TCP failures",
            Self::Timeout => "timeouts",
        }
    }
}

/// Above the four counters: healthy is 0.
const UNHEALTHY: u64 = 1 << 32;
const SUCCESSES: u64 = 0xff;
const FAILURES: u64 = 0xffff_ff00;

/// The health of one address, shared by all who use it. Healthy at first.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicU64);

/// An address has become healthy or unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turned {
    pub(crate) healthy: bool,
    pub(crate) counted: u8,
    pub(crate) what: &'static str,
}

impl Health {
    pub(crate) fn is_healthy(&self) -> bool {
        self.0.load(Ordering::Relaxed) & UNHEALTHY == 0
    }

    /// Says how it is, whatever was counted; true if that is new.
    pub(crate) fn set(&self, healthy: bool) -> bool {
        let new = if healthy { 0 } else { UNHEALTHY };
        (self.0.swap(new, Ordering::Relaxed) ^ new) & UNHEALTHY != 0
    }

    /// Counts an outcome.
    pub(crate) fn report(&self, outcome: Outcome, limits: &Limits) -> Option<Turned> {
        let (counter, limit) = match outcome {
            Outcome::Success => (Counter::Success, limits.successes),
            Outcome::TcpFailure => (Counter::Tcp, limits.tcp_failures),
            Outcome::Timeout => (Counter::Timeout, limits.timeouts),
            Outcome::Status(status) if limits.healthy_statuses.contains(status) => (Counter::Success, limits.successes),
            Outcome::Status(status) if limits.unhealthy_statuses.contains(status) || status == 0 => {
                (Counter::Http, limits.http_failures)
            }
            Outcome::Status(_) => return None,
        };
        if limit == 0 {
            return None;
        }
        let success = counter == Counter::Success;
        let count = |word: u64| ((word >> counter.shift()) & 0xff).min(0xfe) + 1;
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let healthy = word & UNHEALTHY == 0;
            let opposite = if success { FAILURES } else { SUCCESSES };
            // More of what it is already is not counted; what spoke against it is forgotten all the same.
            let settled = word & opposite == 0;
            if healthy == success && settled {
                return None;
            }
            let mut new = word & !opposite & !(0xff << counter.shift());
            if healthy == success {
                return Some(new);
            }
            let counted = count(word);
            if counted >= u64::from(limit) {
                return Some(if success { 0 } else { UNHEALTHY });
            }
            new |= counted << counter.shift();
            Some(new)
        });
        let before = before.ok()?;
        let turned = (before & UNHEALTHY == 0) != success && count(before) >= u64::from(limit);
        turned.then(|| Turned {
            healthy: success,
            counted: u8::try_from(count(before)).unwrap_or(u8::MAX),
            what: counter.name(),
        })
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Status, Success, TcpFailure, Timeout};

    use super::*;

    fn limits() -> Limits {
        Limits {
            healthy_statuses: [200].into_iter().collect(),
            unhealthy_statuses: [500].into_iter().collect(),
            successes: 2,
            http_failures: 3,
            tcp_failures: 2,
            timeouts: 1,
        }
    }

    /// Reports outcomes one after another, and tells the health after each.
    fn check(outcomes: &[Outcome], expect: &[bool]) {
        let health = Health::default();
        let found: Vec<bool> = outcomes
            .iter()
            .map(|outcome| {
                let was = health.is_healthy();
                let turned = health.report(*outcome, &limits());
                assert_eq!(turned.is_some(), was != health.is_healthy(), "{outcomes:?}");
                health.is_healthy()
            })
            .collect();
        assert_eq!(found, expect, "{outcomes:?}");
    }

    #[test]
    fn a_counter_at_its_limit_tips() {
        check(&[Status(500); 3], &[true, true, false]);
        check(&[TcpFailure; 2], &[true, false]);
        check(&[Timeout], &[false]);
        check(&[Status(404); 4], &[true; 4]);
        check(&[Timeout, Status(200), Status(200)], &[false, false, true]);
        check(&[Timeout, Success, Success], &[false, false, true]);
        check(&[Status(0); 3], &[true, true, false]);
    }

    #[test]
    fn kinds_of_failures_are_counted_apart_and_forgotten_together() {
        check(&[Status(500), Status(500), TcpFailure, Status(500)], &[true, true, true, false]);
        check(&[Status(500), Status(500), Status(200), Status(500)], &[true; 4]);
        check(&[Timeout, Status(200), Status(500), Status(200), Status(200)], &[false, false, false, false, true]);
    }

    #[test]
    fn what_has_no_limit_does_not_count() {
        let health = Health::default();
        let limits = Limits { timeouts: 0, ..limits() };
        assert!((0..1000).all(|_| health.report(Timeout, &limits).is_none()));
        assert!(health.is_healthy());
    }

    #[test]
    fn health_can_be_set() {
        let health = Health::default();
        assert!(!health.set(true));
        assert!(health.set(false) && !health.is_healthy());
        assert!(health.set(true) && health.is_healthy());
    }
}

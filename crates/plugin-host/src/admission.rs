//! How many events run in a server at a time, and how many wait: a server that is slow must cost no memory without
//! bound, and whoever cannot be served in time is told at once. Shared by all worker threads.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use silverback_config::settings::EventPolicy;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// The way into a server.
pub(crate) struct Admission {
    /// `None`: as many as come.
    slots: Option<Semaphore>,
    max_queue: usize,
    in_flight: AtomicUsize,
    queue: AtomicUsize,
}

/// An event may run as long as it has one.
pub(crate) struct Slot<'a> {
    in_flight: &'a AtomicUsize,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Why an event may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many wait as may.
    QueueFull,
    /// It has waited as long as it may.
    Waited,
}

impl Admission {
    pub(crate) fn new(policy: &EventPolicy) -> Self {
        let slots = (policy.max_inflight > 0).then(|| Semaphore::new(policy.max_inflight.min(Semaphore::MAX_PERMITS)));
        Self { slots, max_queue: policy.max_queue, in_flight: AtomicUsize::new(0), queue: AtomicUsize::new(0) }
    }

    /// Waits until an event may run: first come, first served.
    pub(crate) async fn enter(&self, patience: Duration) -> Result<Slot<'_>, Refused> {
        let permit = match &self.slots {
            None => None,
            Some(slots) => Some(match slots.try_acquire() {
                Ok(permit) => permit,
                Err(_) => self.wait(slots, patience).await?,
            }),
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Slot { in_flight: &self.in_flight, _permit: permit })
    }

    /// Waits until an event may go on that gave its slot back: among those that wait to begin, but for it the queue
    /// cannot be full.
    pub(crate) async fn enter_again(&self, patience: Duration) -> Result<Slot<'_>, Refused> {
        let permit = match &self.slots {
            None => None,
            Some(slots) => {
                // it is never closed
                Some(timeout(patience, slots.acquire()).await.ok().and_then(Result::ok).ok_or(Refused::Waited)?)
            }
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Slot { in_flight: &self.in_flight, _permit: permit })
    }

    async fn wait<'a>(&'a self, slots: &'a Semaphore, patience: Duration) -> Result<SemaphorePermit<'a>, Refused> {
        let place = self.queue.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(&self.queue);
        if place >= self.max_queue {
            return Err(Refused::QueueFull);
        }
        // it is never closed
        timeout(patience, slots.acquire()).await.ok().and_then(Result::ok).ok_or(Refused::Waited)
    }

    /// Events that run.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Events that wait.
    pub(crate) fn queue(&self) -> usize {
        self.queue.load(Ordering::Relaxed)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn admission(max_inflight: usize, max_queue: usize) -> Admission {
        Admission::new(&EventPolicy { max_inflight, max_queue, ..EventPolicy::default() })
    }

    fn block_on(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn those_beyond_the_limit_wait_and_those_beyond_the_queue_do_not() {
        block_on(async {
            let admission = admission(1, 1);
            let first = admission.enter(LONG).await.unwrap();
            let second = admission.enter(LONG);
            tokio::pin!(second);
            assert!(futures_pending(second.as_mut()).await, "it waits");
            assert_eq!((admission.in_flight(), admission.queue()), (1, 1));
            assert_eq!(admission.enter(LONG).await.err(), Some(Refused::QueueFull));
            drop(first);
            let second = second.await.unwrap();
            assert_eq!((admission.in_flight(), admission.queue()), (1, 0));
            drop(second);
            assert_eq!((admission.in_flight(), admission.queue()), (0, 0));
        });
    }

    #[test]
    fn waiting_has_an_end() {
        block_on(async {
            let admission = admission(1, 9);
            let _first = admission.enter(LONG).await.unwrap();
            assert_eq!(admission.enter(Duration::from_millis(1)).await.err(), Some(Refused::Waited));
            assert_eq!(admission.queue(), 0);
        });
    }

    #[test]
    fn one_that_goes_on_waits_its_turn_whatever_the_queue() {
        block_on(async {
            let admission = admission(1, 1);
            let first = admission.enter(LONG).await.unwrap();
            let second = admission.enter(LONG);
            tokio::pin!(second);
            assert!(futures_pending(second.as_mut()).await, "it waits");
            let again = admission.enter_again(LONG);
            tokio::pin!(again);
            assert!(futures_pending(again.as_mut()).await, "it waits though the queue is full");
            drop(first);
            assert!(futures_pending(again.as_mut()).await, "it is not its turn");
            drop(second.await.unwrap());
            drop(again.await.unwrap());
            assert_eq!((admission.in_flight(), admission.queue()), (0, 0));
        });
    }

    #[test]
    fn no_limit_is_no_limit() {
        block_on(async {
            let admission = admission(0, 0);
            let mut slots = Vec::new();
            for _ in 0..5000 {
                slots.push(admission.enter(LONG).await.unwrap());
            }
            assert_eq!(admission.in_flight(), 5000);
        });
    }

    /// Whether a future is pending when it is looked at once.
    async fn futures_pending(mut future: std::pin::Pin<&mut impl Future>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}

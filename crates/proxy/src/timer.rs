//! A deadline that is moved often and seldom met.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Moving its deadline costs nothing: the runtime's timer is only touched when it fires.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// From now on; zero for never.
    pub(crate) fn set(&mut self, after: Duration) {
        self.deadline = (!after.is_zero()).then(|| Instant::now() + after);
    }

    pub(crate) fn clear(&mut self) {
        self.deadline = None;
    }

    pub(crate) fn is_set(&self) -> bool {
        self.deadline.is_some()
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                // A timer that fires early finds the deadline moved and is set again; one set too late (a shorter
                // deadline than the last) is corrected here.
                if sleep.deadline() > deadline {
                    sleep.as_mut().reset(deadline);
                    continue;
                }
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

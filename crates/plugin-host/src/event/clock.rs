//! The deadline of an event.

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep};

/// The deadline of an event. It does not run while the plugin waits for what the gateway waits for: a body that is
/// still arriving. All other time counts, that of the gateway's work too: so a handler that calls the PDK for ever
/// meets its deadline.
pub(super) struct Clock<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// All of it, for the message.
    whole: Duration,
}

impl<'a> Clock<'a> {
    pub(super) const fn new(sleep: Pin<&'a mut Sleep>, whole: Duration) -> Self {
        Self { sleep, whole }
    }

    /// Waits for something that the server must do; `None` when the deadline comes first.
    pub(super) async fn limit<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // the deadline first: a server that sends without end must not keep it from being looked at
            biased;
            () = self.sleep.as_mut() => None,
            result = work => Some(result),
        }
    }

    pub(super) fn too_slow(&self) -> String {
        format!("its handler did not end within {} s", self.whole.as_secs_f32())
    }

    /// Lets the gateway do something. If it has to wait for that, the deadline moves on by the time that it takes.
    pub(super) async fn pause<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut waited = false;
        let mut work = std::pin::pin!(work);
        let result = std::future::poll_fn(|context| {
            let poll = work.as_mut().poll(context);
            waited |= poll.is_pending();
            poll
        })
        .await;
        if waited {
            let deadline = self.sleep.deadline() + begun.elapsed();
            self.sleep.as_mut().reset(deadline);
        }
        result
    }
}

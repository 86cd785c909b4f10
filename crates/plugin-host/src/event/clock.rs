//! The deadline of an event.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::turn::Turn;
use crate::admission::Refused;

/// The deadline of an event. It does not run while the plugin waits for what the gateway waits for: a body that is
/// still arriving. All other time counts, that of the gateway's work too: so a handler that calls the PDK for ever
/// meets its deadline.
pub(super) struct Clock<'a, 's> {
    sleep: Pin<&'a mut Sleep>,
    /// All of it, for the message.
    whole: Duration,
    /// What was added for a large result.
    added: Duration,
    /// How often something was done since the deadline was looked at.
    unseen: u8,
    turn: &'a mut Turn<'s>,
}

impl<'a, 's> Clock<'a, 's> {
    pub(super) const fn new(sleep: Pin<&'a mut Sleep>, whole: Duration, turn: &'a mut Turn<'s>) -> Self {
        Self { sleep, whole, added: Duration::ZERO, unseen: 0, turn }
    }

    /// Waits for something that the server must do; `None` when the deadline comes first.
    pub(super) async fn limit<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        /// How often what is done at once may be done without a look at the deadline: a server that sends without end must
        /// not keep it from being looked at.
        const UNSEEN: u8 = 8;
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.unseen < UNSEEN
                && let Poll::Ready(done) = work.as_mut().poll(context)
            {
                self.unseen += 1;
                return Poll::Ready(Some(done));
            }
            let looked_at_work = self.unseen < UNSEEN;
            self.unseen = 0;
            if self.sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            if looked_at_work { Poll::Pending } else { work.as_mut().poll(context).map(Some) }
        })
        .await
    }

    /// Moves the deadline on by the time that a server may need to read a result of so many bytes, the largest of an
    /// event counting once. kong-js-pdk puts a large message together anew for each piece of it, which takes 10 s for
    /// 30 MB on a busy machine. There is an end to that too.
    pub(super) fn allow_for(&mut self, bytes: usize) {
        const LARGE: usize = 4 << 20;
        const BYTES_PER_MILLISECOND: usize = 1000;
        const MOST: Duration = Duration::from_secs(60);
        let wanted = Duration::from_millis(u64::try_from(bytes / BYTES_PER_MILLISECOND).unwrap_or(u64::MAX)).min(MOST);
        let more = wanted.saturating_sub(self.added);
        if bytes > LARGE && !more.is_zero() {
            self.added = wanted;
            let deadline = self.sleep.deadline() + more;
            self.sleep.as_mut().reset(deadline);
        }
    }

    pub(super) fn too_slow(&self) -> String {
        format!("its handler did not end within {} s", self.whole.as_secs_f32())
    }

    /// Why an event that waited for its client may not go on.
    pub(super) fn no_turn(&self) -> String {
        super::waited(self.whole)
    }

    /// Lets the gateway do something. If it has to wait for that, the event's slot is given back for as long, and the
    /// deadline moves on by the time that this takes.
    ///
    /// # Errors
    /// Afterwards there was no slot in time.
    pub(super) async fn pause<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Refused> {
        let mut begun = None;
        let mut work = pin!(work);
        let result = poll_fn(|context| {
            let poll = work.as_mut().poll(context);
            if poll.is_pending() && begun.is_none() {
                begun = Some(Instant::now());
                self.turn.give_back();
            }
            poll
        })
        .await;
        if let Some(begun) = begun {
            let taken = self.turn.take_again().await;
            let deadline = self.sleep.deadline() + begun.elapsed();
            self.sleep.as_mut().reset(deadline);
            taken?;
        }
        Ok(result)
    }
}

//! The leave of an event to run: its slot among those of its server, and its pass through the breakers.

use std::time::Duration;

use crate::{
    admission::{Admission, Refused, Slot},
    breaker::Pass,
};

/// Held while an event runs. It is given back while the plugin waits for what a client has yet to send: a client that
/// takes its time must keep no other request from the plugin, nor a plugin that works again from being found so.
pub(super) struct Turn<'s> {
    pub(super) admission: &'s Admission,
    /// `None` while it is given back.
    pub(super) slot: Option<Slot<'s>>,
    /// How long to wait to go on.
    pub(super) limit: Duration,
    pub(super) pass: Pass<'s>,
    pub(super) unready: Option<Pass<'s>>,
}

impl Turn<'_> {
    pub(super) fn give_back(&mut self) {
        self.slot = None;
        self.pass.let_others_try();
        if let Some(unready) = &mut self.unready {
            unready.let_others_try();
        }
    }

    /// Waits until the event may go on, if its slot was given back: first come, first served.
    pub(super) async fn take_again(&mut self) -> Result<(), Refused> {
        if self.slot.is_none() {
            self.slot = Some(self.admission.enter_again(self.limit).await?);
        }
        Ok(())
    }
}

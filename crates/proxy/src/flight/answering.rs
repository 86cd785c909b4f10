//! A request while its answer is made: a part of its client's connection as long as the client is there, a task of its own
//! from the moment it leaves.

use std::{
    cell::Cell,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::Response;

use crate::{
    body::ClientBody,
    worker::{Running, Worker},
};

/// Whether the client of a request is there.
#[derive(Debug, Default)]
pub(super) struct Presence {
    left: Cell<bool>,
}

impl Presence {
    /// Waits until the client has left. Nobody is woken for it: a request whose client leaves is taken up by another task,
    /// which polls it.
    pub(super) async fn left(&self) {
        poll_fn(|_| if self.left.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

type Making = Pin<Box<dyn Future<Output = Option<Response<ClientBody>>>>>;

/// Gives a request's answer; `None` when the request ended without one. Dropping it (the client left) does not end the
/// request.
///
/// It runs where it is awaited: a task of its own for each request costs more than routing it.
pub(crate) struct Answering {
    /// `None` once it is over.
    making: Option<Making>,
    client: Rc<Presence>,
    worker: Rc<Worker>,
    running: Option<Running>,
}

impl Answering {
    pub(super) fn new<F>(worker: &Rc<Worker>, make: impl FnOnce(Rc<Presence>) -> F) -> Self
    where
        F: Future<Output = Option<Response<ClientBody>>> + 'static,
    {
        let client = Rc::<Presence>::default();
        // Made where it stays: it is large.
        let making: Box<F> = Box::write(Box::new_uninit(), make(Rc::clone(&client)));
        Self { making: Some(Box::into_pin(making)), client, worker: Rc::clone(worker), running: Some(worker.running()) }
    }
}

impl Future for Answering {
    type Output = Option<Response<ClientBody>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(making) = &mut self.making else { return Poll::Ready(None) };
        // What goes wrong in one request is none of the others' on its connection. The answer, which is large, is written to
        // its place instead of being handed on.
        let mut polled = Poll::Ready(None);
        let _ = catch_unwind(AssertUnwindSafe(|| polled = making.as_mut().poll(cx)));
        if polled.is_ready() {
            self.making = None;
            self.running = None;
        }
        polled
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(making) = self.making.take() else { return };
        self.client.left.set(true);
        let running = self.running.take();
        self.worker.spawn(async move {
            let _running = running;
            if let Some(answer) = making.await {
                answer.into_body().abandon();
            }
        });
    }
}

//! A request on its way to an upstream: its head, and its body as it comes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::Body;
use tokio::io::AsyncWrite;

use super::Question;
use crate::{
    body::UpstreamRequestBody,
    http1::{encoder::Encoder, outgoing::Outgoing},
};

/// What is left to be sent.
pub(super) struct Sending {
    out: Outgoing,
    encoder: Encoder,
    /// `None` once it has been taken to its end.
    body: Option<UpstreamRequestBody>,
    /// Something of the body was taken.
    has_taken: bool,
    /// Bytes that were written.
    written: u64,
    /// What there is of it is out, and more of the body has to come.
    waits_for_body: bool,
    /// All of it is out.
    over: bool,
}

/// Why it cannot be sent.
pub(super) enum SendError {
    Io(io::Error),
    Body,
}

impl Sending {
    pub(super) fn new(Question { head, encoder, body, .. }: Question) -> Self {
        Self {
            out: head.into(),
            encoder,
            body: Some(body),
            has_taken: false,
            written: 0,
            waits_for_body: false,
            over: false,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Bytes that the upstream took.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether it is not for the upstream that this does not go on.
    pub(super) const fn waits_for_body(&self) -> bool {
        self.waits_for_body
    }

    /// The body, if nothing was taken of it.
    pub(super) fn into_untouched(self) -> Option<UpstreamRequestBody> {
        self.body.filter(|_| !self.has_taken)
    }

    /// Ready when all of it is out.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        self.waits_for_body = false;
        loop {
            let mut waits = false;
            while !self.out.is_full() && !waits && self.body.is_some() {
                waits = self.poll_body(cx)?.is_pending();
            }
            if self.out.is_empty() {
                // What TLS holds back goes too.
                ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(SendError::Io)?;
                self.over = self.body.is_none();
                self.waits_for_body = !self.over;
                return if self.over { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let before = self.out.len();
            let polled = self.out.poll_write(socket, cx);
            self.written += (before - self.out.len()) as u64;
            ready!(polled).map_err(SendError::Io)?;
        }
    }

    /// Takes a piece of the body, or its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, SendError> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.has_taken = true;
                self.encoder.put(frame, &mut self.out);
            }
            Poll::Ready(Some(Err(_))) => return Err(SendError::Body),
            Poll::Ready(None) => {
                self.encoder.end(&mut self.out).map_err(|_| SendError::Body)?;
                self.body = None;
            }
            Poll::Pending => return Ok(Poll::Pending),
        }
        Ok(Poll::Ready(()))
    }
}

//! An upstream's answer, over whichever protocol it comes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    http1::{AnswerBody, Socket},
    http2::Stream,
    pool::{Key, Pool},
};
use crate::{body::BoxError, http1::spelling::Spelling, prefixed::Prefixed, timer::Timer};

/// An upstream's answer, its body still to come.
pub(crate) struct Upstreamed {
    pub(crate) status: StatusCode,
    /// The reason phrase, where it is not the status's own.
    pub(crate) reason: Option<Bytes>,
    pub(crate) headers: HeaderMap,
    /// How its header names are written.
    pub(crate) spelling: Spelling,
    pub(crate) body: UpstreamResponseBody,
}

/// What the upstream sends, under the service's read timeout; gives its connection back at its end.
pub(crate) struct UpstreamResponseBody {
    coming: Coming,
    /// For each read.
    timeout: Duration,
    timer: Timer,
}

enum Coming {
    Http1 {
        body: Box<AnswerBody>,
        pool: Pool,
        key: Key,
    },
    Http2 {
        incoming: Incoming,
        _place: Stream,
    },
    /// All of it has come. Its last piece, if nobody has it yet.
    Whole(Option<Bytes>),
    /// It does not come to its end.
    Broken,
}

impl UpstreamResponseBody {
    /// Of an answer over HTTP/1.1, whose connection goes back to the pool.
    pub(super) fn http1(mut body: AnswerBody, pool: Pool, key: Key, timeout: Duration) -> Self {
        let coming = match body.take_all() {
            Some(bytes) => {
                pool.give_back(key, body);
                Coming::Whole((!bytes.is_empty()).then_some(bytes))
            }
            None => Coming::Http1 { body: Box::new(body), pool, key },
        };
        Self { coming, timeout, timer: Timer::default() }
    }

    /// Of an answer over HTTP/2, with its place on the connection.
    pub(super) fn http2(incoming: Incoming, place: Stream, timeout: Duration) -> Self {
        let mut this = Self { coming: Coming::Http2 { incoming, _place: place }, timeout, timer: Timer::default() };
        this.release_at_end();
        this
    }

    /// After a switch of protocols (HTTP/1.1): the connection, what has come on it, and how long it may be silent.
    pub(crate) fn into_tunnel(self) -> Option<(Prefixed<Socket>, Duration)> {
        match self.coming {
            Coming::Http1 { body, .. } => Some((body.into_tunnel(), self.timeout)),
            _ => None,
        }
    }

    fn release_at_end(&mut self) {
        let ended = match &self.coming {
            Coming::Http1 { body, .. } => body.is_complete(),
            Coming::Http2 { incoming, .. } => incoming.is_end_stream(),
            Coming::Whole(_) | Coming::Broken => false,
        };
        if ended && let Coming::Http1 { body, pool, key } = std::mem::replace(&mut self.coming, Coming::Whole(None)) {
            pool.give_back(key, *body);
        }
    }

    fn poll_coming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.coming {
            Coming::Http1 { body, .. } => body.poll_frame(cx).map_err(Into::into),
            Coming::Http2 { incoming, .. } => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Coming::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Coming::Broken => Poll::Ready(None),
        }
    }
}

impl Body for UpstreamResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = this.poll_coming(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => {
                this.timer.clear();
                this.release_at_end();
            }
            Poll::Ready(Some(Err(_))) => this.coming = Coming::Broken,
            Poll::Ready(None) => this.release_at_end(),
            // Its time runs while somebody waits for it.
            Poll::Pending => {
                if !this.timer.is_set() {
                    this.timer.set(this.timeout);
                }
                if this.timer.poll(cx).is_ready() {
                    this.coming = Coming::Broken;
                    let error = io::Error::new(io::ErrorKind::TimedOut, "upstream timed out while sending its body");
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.coming, Coming::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.coming {
            Coming::Http1 { body, .. } => body.length().map(SizeHint::with_exact).unwrap_or_default(),
            Coming::Http2 { incoming, .. } => incoming.size_hint(),
            Coming::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Coming::Broken => SizeHint::default(),
        }
    }
}

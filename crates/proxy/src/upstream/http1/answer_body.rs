//! The body of an upstream's answer.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::task::JoinHandle;
use tokio_util::io::poll_read_buf;

use super::{
    Connection, Socket,
    sending::{SendError, Sending},
};
use crate::{
    http1::{
        decoder::{Decoder, Framing, FramingError},
        incoming::{LONG_READ_SIZE, READ_SIZE, poll_fill},
    },
    prefixed::Prefixed,
    timer::Timer,
};

/// A body as it comes, and the connection that it comes on.
pub(crate) struct AnswerBody {
    connection: Connection,
    decoder: Decoder,
    /// The connection can carry another request after it.
    reusable: bool,
    /// The last read took all that a small buffer holds.
    has_much: bool,
    ended: bool,
    upload: Option<Upload>,
}

/// Why a body does not come to its end, in nginx's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerBodyError {
    #[error("upstream prematurely closed connection")]
    Closed,
    #[error("recv() failed ({0})")]
    Read(#[source] io::Error),
    #[error("upstream sent {0}")]
    Framing(#[from] FramingError),
    /// The client left its own body unfinished: the upstream cannot answer that.
    #[error("the request's body failed")]
    RequestBody,
}

impl AnswerBody {
    pub(super) fn new(connection: Connection, framing: Framing, reusable: bool, upload: Option<Upload>) -> Self {
        Self { connection, decoder: Decoder::new(framing), reusable, has_much: false, ended: false, upload }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.ended || self.decoder.is_complete()
    }

    /// How many bytes are to come, if the head told.
    pub(crate) fn length(&self) -> Option<u64> {
        self.decoder.length()
    }

    /// The whole body, if it has come with its head, as most do that are small.
    pub(crate) fn take_all(&mut self) -> Option<Bytes> {
        let Decoder::Length(length) = self.decoder else { return None };
        if length > self.connection.read.len() as u64 {
            return None;
        }
        let frame = self.decoder.decode(&mut self.connection.read).ok()?;
        Some(frame.and_then(|frame| frame.into_data().ok()).unwrap_or_default())
    }

    /// The connection, if it can carry another request: after the end of a body that was the last thing on it.
    pub(crate) fn into_reusable(self) -> Option<Connection> {
        let reusable = self.reusable && self.upload.is_none() && self.decoder.is_complete();
        let mut connection = Some(self.connection).filter(|connection| reusable && connection.read.is_empty())?;
        // What is left of its buffer holds the whole answer.
        connection.read = BytesMut::new();
        Some(connection)
    }

    /// What follows a switch of protocols.
    pub(crate) fn into_tunnel(self) -> Prefixed<Socket> {
        Prefixed::new(self.connection.read, self.connection.socket)
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerBodyError>>> {
        if self.upload.as_mut().is_some_and(|upload| upload.has_failed(cx)) {
            return Poll::Ready(Some(Err(AnswerBodyError::RequestBody)));
        }
        loop {
            match self.decoder.decode(&mut self.connection.read) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
                Ok(None) if self.is_complete() => return Poll::Ready(None),
                Ok(None) => {}
            }
            match ready!(self.poll_more(cx)) {
                Ok(0) if self.decoder.may_end() => self.ended = true,
                Ok(0) => return Poll::Ready(Some(Err(AnswerBodyError::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(AnswerBodyError::Read(error)))),
            }
        }
    }

    /// Reads a little, into what all share, and much where there is much: into a buffer of its own, which goes on as it
    /// is. Nothing is held for an upstream that takes its time.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Connection { socket, read, .. } = &mut self.connection;
        if !self.has_much {
            let n = ready!(poll_fill(socket, read, cx))?;
            self.has_much = n == READ_SIZE;
            return Poll::Ready(Ok(n));
        }
        let left = self.decoder.plain_bytes_left().and_then(|left| usize::try_from(left).ok());
        read.reserve(left.unwrap_or(LONG_READ_SIZE).clamp(READ_SIZE, LONG_READ_SIZE));
        let polled = poll_read_buf(Pin::new(socket), cx, read);
        if polled.is_pending() {
            self.has_much = false;
            if read.is_empty() {
                *read = BytesMut::new();
            }
        }
        polled
    }
}

/// A request that is still being sent while its answer comes. Dropped, it ends.
pub(crate) struct Upload {
    /// Tells whether the request's body failed; `None` once it has.
    task: Option<JoinHandle<bool>>,
}

impl Upload {
    /// `limit`: for each piece that the upstream takes.
    pub(super) fn start(socket: &mut Socket, mut sending: Sending, limit: Duration) -> Self {
        let mut writing = socket.take_writing();
        let task = tokio::task::spawn_local(async move {
            let mut timer = Timer::default();
            poll_fn(|cx| {
                let before = sending.written();
                if let Poll::Ready(sent) = sending.poll(&mut writing, cx) {
                    // What the upstream does not take is its own affair.
                    return Poll::Ready(matches!(sent, Err(SendError::Body)));
                }
                if sending.waits_for_body() {
                    timer.clear();
                } else if sending.written() != before || !timer.is_set() {
                    timer.set(limit);
                }
                timer.poll(cx).map(|()| false)
            })
            .await
        });
        Self { task: Some(task) }
    }

    /// Whether the request's body failed.
    fn has_failed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(task) = &mut self.task else { return false };
        match pin!(task).poll(cx) {
            Poll::Ready(ended) => {
                self.task = None;
                // One that did not end by itself did not send all either.
                ended.unwrap_or(true)
            }
            Poll::Pending => false,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

//! A client's socket with what has come by it, shared between the connection's task and whoever reads the body of the
//! request that it is at.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    http1::{
        incoming::{LONG_READ_SIZE, READ_SIZE, poll_fill_up_to},
        outgoing::Outgoing,
    },
    request_body::BodyError,
    sanitiser::{Head, Limits, Reader, Refused},
};

/// Bytes that may wait behind a request that is being answered.
const READ_AHEAD: usize = 4 * 1024;

/// Bytes of a body that nobody wants which are read all the same, so that the connection can go on.
const DISCARD: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The connection's side of it.
pub(super) struct Wire<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    /// `None` once the connection is over, or speaks another protocol.
    socket: Option<S>,
    reader: Reader,
    /// Nothing more will come.
    ended: bool,
    /// Nothing can be told either.
    reset: bool,
    /// Which request is being read; the bodies of others have nothing to say.
    request: u64,
    body: BodyState,
    /// What is to be written of `100 Continue`, and whether it is due when the body is asked for.
    interim: &'static [u8],
    expects_continue: bool,
    /// The connection's task, which waits for the end of the body.
    task: Option<Waker>,
}

/// What becomes of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// Somebody reads it, or will.
    Wanted,
    /// Nobody will read what is left of it.
    Unwanted,
    /// It cannot be read to its end.
    Broken,
}

/// Where the body of the present request has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyProgress {
    Complete,
    /// Somebody reads it.
    UnderWay,
    /// It will not be read to its end: nothing can come behind it.
    Abandoned,
}

/// What waiting for bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Bytes,
    /// The client has said all, or is gone.
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Wire<S> {
    /// `read`: what has come already.
    pub(super) fn new(socket: S, limits: Limits, read: BytesMut) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            socket: Some(socket),
            reader: Reader::new(limits, read),
            ended: false,
            reset: false,
            request: 0,
            body: BodyState::Wanted,
            interim: &[],
            expects_continue: false,
            task: None,
        })))
    }

    /// The next request, if its head has come.
    pub(super) fn head(&self) -> Result<Option<Head>, Refused> {
        let mut inner = self.0.borrow_mut();
        let head = inner.reader.head()?;
        if let Some(head) = &head {
            inner.request += 1;
            inner.body = BodyState::Wanted;
            inner.expects_continue = head.expects_continue;
        }
        Ok(head)
    }

    /// The body of the request whose head was read last.
    pub(super) fn body(&self) -> Option<Body> {
        let inner = self.0.borrow();
        (!inner.reader.is_body_complete()).then(|| {
            let source = Rc::<RefCell<Inner<S>>>::clone(&self.0);
            Body { source, request: inner.request }
        })
    }

    /// Bytes that have come and are not read.
    pub(super) fn waiting(&self) -> usize {
        self.0.borrow().reader.waiting()
    }

    pub(super) fn take_waiting(&self) -> BytesMut {
        self.0.borrow_mut().reader.take_waiting()
    }

    /// Waits for more bytes.
    pub(super) fn poll_bytes(&self, cx: &mut Context<'_>) -> Poll<Came> {
        self.0.borrow_mut().poll_bytes(cx)
    }

    /// Ready when the client leaves whose request is being answered. What comes meanwhile waits, as far as there is room.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.0.borrow_mut();
        if !inner.reader.is_body_complete() {
            // Whoever reads the body sees it.
            inner.wake_at_end_of_body(cx);
            return Poll::Pending;
        }
        while inner.reader.waiting() < READ_AHEAD {
            match inner.poll_bytes(cx) {
                Poll::Ready(Came::Bytes) => {}
                // It may have left its last requests behind, and wait for their answers.
                Poll::Ready(Came::End) if !inner.reset && inner.reader.holds_head() => break,
                Poll::Ready(Came::End) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// An answer begins: nothing else is said before it, but for what is left of an interim one.
    pub(super) fn begin_answer(&self, out: &mut Outgoing) {
        let mut inner = self.0.borrow_mut();
        inner.expects_continue = false;
        out.bytes().extend_from_slice(std::mem::take(&mut inner.interim));
    }

    /// Where the body has come to. What is left of one that nobody wants is read, if it is little and there.
    pub(super) fn body_progress(&self, cx: &mut Context<'_>) -> BodyProgress {
        let mut inner = self.0.borrow_mut();
        let mut read = 0;
        loop {
            if inner.reader.is_body_complete() {
                return BodyProgress::Complete;
            }
            match inner.body {
                BodyState::Wanted => {
                    inner.wake_at_end_of_body(cx);
                    return BodyProgress::UnderWay;
                }
                BodyState::Broken => return BodyProgress::Abandoned,
                BodyState::Unwanted => {}
            }
            match inner.reader.body() {
                Ok(Some(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Ok(None) if inner.reader.is_body_complete() => {}
                Ok(None) => {
                    if read > DISCARD || inner.poll_bytes(cx) != Poll::Ready(Came::Bytes) {
                        inner.body = BodyState::Broken;
                    }
                }
                Err(_) => inner.body = BodyState::Broken,
            }
        }
    }

    /// Writes all that is to go out.
    pub(super) fn poll_write(&self, out: &mut Outgoing, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.borrow_mut().socket {
            Some(socket) => out.poll_write(socket, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Sees to it that what was written leaves the layers below.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.borrow_mut().socket {
            Some(socket) => Pin::new(socket).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Takes the socket: bodies that are still read have come to their end.
    pub(super) fn take_socket(&self) -> Option<S> {
        self.0.borrow_mut().socket.take()
    }
}

impl<S> Inner<S> {
    fn wake_at_end_of_body(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
    }

    /// The connection's task has something to do: the body is over.
    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// Reads from the socket once.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        if self.ended {
            return Poll::Ready(Came::End);
        }
        let Some(socket) = &mut self.socket else { return Poll::Ready(Came::End) };
        // Of a long body no more is read than it has.
        let plain = usize::try_from(self.reader.plain_bytes_left()).unwrap_or(usize::MAX);
        let limit = if plain < READ_SIZE { READ_SIZE } else { plain.min(LONG_READ_SIZE) };
        poll_fill_up_to(limit, socket, self.reader.buffer(), cx).map(|read| {
            if matches!(read, Ok(1..)) {
                return Came::Bytes;
            }
            self.ended = true;
            self.reset = read.is_err();
            Came::End
        })
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.reader.body() {
                Ok(Some(frame)) => {
                    self.expects_continue = false;
                    if self.reader.is_body_complete() {
                        self.wake();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if self.reader.is_body_complete() => {
                    self.wake();
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(error) => return self.broken(error.to_string()),
            }
            if std::mem::take(&mut self.expects_continue) && self.reader.waiting() == 0 {
                self.interim = CONTINUE;
            }
            self.poll_interim(cx);
            match self.poll_bytes(cx) {
                Poll::Ready(Came::Bytes) => {}
                Poll::Ready(Came::End) => return self.broken("its connection ended before its body".to_owned()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn broken(&mut self, why: String) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.body = BodyState::Broken;
        self.wake();
        Poll::Ready(Some(Err(BodyError::Client(why))))
    }

    /// Writes what there is of an interim answer. What cannot be written now goes with the answer itself, or when the
    /// body is asked for again; an error shows where the body is read.
    fn poll_interim(&mut self, cx: &mut Context<'_>) {
        while !self.interim.is_empty()
            && let Some(socket) = &mut self.socket
            && let Poll::Ready(Ok(n @ 1..)) = Pin::new(&mut *socket).poll_write(cx, self.interim)
        {
            self.interim = self.interim.get(n..).unwrap_or_default();
            let _ = Pin::new(socket).poll_flush(cx);
        }
    }
}

/// The body of a request, read as it is asked for.
pub(crate) struct Body {
    source: Rc<dyn Source>,
    request: u64,
}

impl Body {
    /// The next piece.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.source.poll_frame(self.request, cx)
    }

    /// Whether all of it has been read.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.source.is_complete(self.request)
    }

    /// How much of it is to come, where the client said so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.source.length(self.request)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.source.release(self.request);
    }
}

/// What a body is read from, whatever the socket.
trait Source {
    fn poll_frame(&self, request: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;
    fn is_complete(&self, request: u64) -> bool;
    fn length(&self, request: u64) -> Option<u64>;
    fn release(&self, request: u64);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for RefCell<Inner<S>> {
    fn poll_frame(&self, request: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inner = self.borrow_mut();
        if inner.request == request {
            return inner.poll_body(cx);
        }
        // The connection went on when this was at its end.
        Poll::Ready(None)
    }

    fn is_complete(&self, request: u64) -> bool {
        let inner = self.borrow();
        inner.request != request || inner.reader.is_body_complete()
    }

    fn length(&self, request: u64) -> Option<u64> {
        let inner = self.borrow();
        if inner.request == request { inner.reader.body_length() } else { Some(0) }
    }

    fn release(&self, request: u64) {
        let mut inner = self.borrow_mut();
        if inner.request == request && !inner.reader.is_body_complete() && inner.body == BodyState::Wanted {
            inner.body = BodyState::Unwanted;
            inner.wake();
        }
    }
}

#[cfg(test)]
mod tests;

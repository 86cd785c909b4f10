//! The layer between a client's socket and hyper: it sees every byte of an HTTP/1 connection first.
//!
//! Two parsers that disagree about where a request ends are what request smuggling lives on. This layer lets only
//! those requests through which can be read in one way: it checks each head ([`head`]), follows the body to its end
//! ([`framing`]), and stops the connection at the first byte that is ambiguous. What it refuses it does not answer;
//! it tells why ([`Refusal`]), and the connection's task answers with the gateway's own error page, once the
//! answers before it are out.

mod framing;
mod head;

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use head::Refusal;
pub(crate) use head::{Kept, RAW_TARGET, is_host, is_kept};

use self::framing::{Body, BodyError};
use crate::{
    http1::{
        incoming::{READ_SIZE, poll_fill},
        spelling::Spelling,
    },
    timer::Timer,
};

/// Empty lines that a client may send before a head.
const MAX_EMPTY_LINES: usize = 16;

/// What bounds a connection's heads, in bytes and time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest line of a head: one of nginx's `large_client_header_buffers`.
    pub line: usize,
    /// Longest head: all of them.
    pub head: usize,
    /// Most header lines in a head.
    pub lines: usize,
    /// Whether header names may hold underscores; such a header is dropped otherwise.
    pub underscores: bool,
    /// For a whole head, from its first byte.
    pub head_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// Between two reads of a body.
    pub body_timeout: Duration,
}

/// A client's socket that hands on only what can be read in one way. Shared between hyper, which reads and writes
/// it, and the connection's task, which answers what was refused; all on one thread, so that the lock is never waited
/// for (hyper asks for `Send` where a protocol may be switched).
pub struct Sanitised<S>(Arc<Mutex<Inner<S>>>);

impl<S> Sanitised<S> {
    /// A request's answer has been handed to hyper whole.
    pub fn answered(&self) {
        let mut inner = self.inner();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.unflushed = true;
        if inner.in_flight == 0 {
            if matches!(inner.expect, Expect::Head) && inner.buffer.is_empty() {
                let idle = inner.limits.idle_timeout;
                inner.timer.set(idle);
            }
            inner.wake();
        }
    }

    /// How the names in the head of the next request that is begun are written: hyper hands requests on in the order in
    /// which they came.
    pub(crate) fn spelling(&self) -> Spelling {
        self.inner().spellings.pop_front().unwrap_or_default()
    }

    /// How often all that hyper had to write has been written.
    pub fn flushes(&self) -> u64 {
        self.inner().flushes
    }

    /// Wakes a task when it is so again.
    pub fn wake_at_flush(&self, waker: &Waker) {
        self.inner().at_flush = Some(waker.clone());
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Sanitised<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S> {
    socket: S,
    limits: Limits,
    /// Bytes from the socket; the first `vetted` of them may be handed on.
    buffer: BytesMut,
    vetted: usize,
    /// How much of the head at `vetted` has been searched for its end.
    searched: usize,
    /// Empty lines before it, and whether its time is running.
    empty_lines: usize,
    head_begun: bool,
    expect: Expect,
    end_of_input: bool,
    refused: Option<Refused>,
    /// Requests handed on and not yet answered.
    in_flight: usize,
    /// How the names in those heads are written that were handed on and have not begun.
    spellings: VecDeque<Spelling>,
    /// Whether an answer may still lie in hyper's buffer.
    unflushed: bool,
    /// How often hyper's buffer has been written out whole, and who waits for the next time.
    flushes: u64,
    at_flush: Option<Waker>,
    /// Woken when `in_flight` falls to zero or the mode changes.
    reader: Option<Waker>,
    timer: Timer,
}

enum Expect {
    Head,
    Body(Body),
    /// After a switch of protocol: anything.
    Anything,
}

/// A request that was refused, and its bytes as far as they are known.
#[derive(Debug)]
pub struct Refused {
    pub why: Refusal,
    /// The head's bytes; empty when it never began.
    pub head: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sanitised<S> {
    /// `read` are bytes that were already taken from the socket.
    pub fn new(socket: S, limits: Limits, read: BytesMut) -> Self {
        let mut timer = Timer::default();
        timer.set(limits.head_timeout);
        let mut inner = Inner {
            socket,
            limits,
            buffer: read,
            vetted: 0,
            searched: 0,
            empty_lines: 0,
            head_begun: false,
            expect: Expect::Head,
            end_of_input: false,
            refused: None,
            in_flight: 0,
            spellings: VecDeque::new(),
            unflushed: false,
            flushes: 0,
            at_flush: None,
            reader: None,
            timer,
        };
        inner.vet();
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Whether bytes of another protocol go by, under somebody else's care.
    pub fn is_switched(&self) -> bool {
        matches!(self.inner().expect, Expect::Anything)
    }

    /// Whether the client was still sending a body when its connection ended.
    pub fn is_mid_body(&self) -> bool {
        matches!(self.inner().expect, Expect::Body(_))
    }

    /// The protocol is switched (101): from now on bytes are handed on as they come.
    pub fn switch_protocol(&self) {
        let mut inner = self.inner();
        inner.expect = Expect::Anything;
        // What came early was no head after all.
        inner.refused = None;
        inner.vetted = inner.buffer.len();
        inner.timer.clear();
        inner.wake();
    }

    /// Closes the socket's writing end, after hyper is done with it.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shutdown_socket(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.inner().socket).poll_shutdown(cx)).await
    }

    /// Reads past the checks, after hyper is done with it.
    ///
    /// # Errors
    /// The socket's.
    pub async fn read_socket(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let mut scratch = ReadBuf::new(scratch);
        poll_fn(|cx| Pin::new(&mut self.inner().socket).poll_read(cx, &mut scratch)).await?;
        Ok(scratch.filled().len())
    }

    /// Takes what was refused, if anything was. Empty once taken.
    pub fn take_refused(&self) -> Option<Refused> {
        self.inner().refused.take()
    }

    /// Waits for the next request, as long as clients are waited for. False: there is none, but perhaps one that was refused.
    ///
    /// Meanwhile nothing is held but the socket and what has come of a head.
    pub async fn arrival(&self) -> bool {
        poll_fn(|cx| self.inner().poll_arrival(cx)).await
    }

    /// Whether a request has begun to arrive, or one was refused; what lies in the socket counts.
    pub async fn has_arrived(&self) -> bool {
        // The runtime looks at its sockets before this goes on: otherwise it would not know of what has just come.
        tokio::task::yield_now().await;
        match poll_fn(|cx| Poll::Ready(self.inner().poll_arrival(cx))).await {
            Poll::Ready(arrived) => arrived,
            Poll::Pending => self.is_arriving(),
        }
    }

    /// Whether nothing has come since the last answer, which is out.
    pub fn is_resting(&self) -> bool {
        let inner = self.inner();
        inner.in_flight == 0
            && !inner.unflushed
            && !inner.end_of_input
            && inner.refused.is_none()
            && inner.buffer.is_empty()
            && matches!(inner.expect, Expect::Head)
    }

    /// Whether a request has begun to arrive of which nothing has been handed on yet.
    pub fn is_arriving(&self) -> bool {
        let inner = self.inner();
        inner.in_flight == 0 && matches!(inner.expect, Expect::Head) && !inner.buffer.is_empty()
    }
}

impl<S> Inner<S> {
    fn wake(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

impl<S: AsyncRead + Unpin> Inner<S> {
    /// Looks at what has not been vetted yet.
    fn vet(&mut self) {
        while self.vetted < self.buffer.len() && self.refused.is_none() {
            match &mut self.expect {
                Expect::Anything => self.vetted = self.buffer.len(),
                Expect::Body(body) => match body.advance(&self.buffer[self.vetted..]) {
                    Ok(taken) => {
                        self.vetted += taken;
                        if body.is_complete() {
                            self.expect_head();
                        }
                    }
                    Err(BodyError) => {
                        // The request is already on its way; its body ends here, unfinished, and hyper fails it.
                        // Nothing after it can be trusted, so nothing of it goes on.
                        self.buffer.truncate(self.vetted);
                        self.end_of_input = true;
                        return;
                    }
                },
                Expect::Head => {
                    if !self.vet_head() {
                        return;
                    }
                }
            }
        }
    }

    fn expect_head(&mut self) {
        self.expect = Expect::Head;
        self.searched = 0;
        self.empty_lines = 0;
        self.head_begun = self.vetted < self.buffer.len();
        self.timer.set(if self.head_begun { self.limits.head_timeout } else { self.limits.idle_timeout });
    }

    /// Checks the head at `vetted` if it is whole. False when more bytes are wanted.
    fn vet_head(&mut self) -> bool {
        let start = self.vetted;
        // A client may send empty lines between requests (RFC 9112, 2.2); they are not handed on.
        let empty = self.buffer[start..].chunks_exact(2).take_while(|line| line == b"\r\n").count();
        if empty > 0 {
            replace(&mut self.buffer, start, empty * 2, &[]);
            self.searched = 0;
            self.empty_lines += empty;
            if self.empty_lines > MAX_EMPTY_LINES {
                self.refuse(Refusal::BadRequestLine, Vec::new());
                return true;
            }
        }
        let unread = &self.buffer[start..];
        if unread.is_empty() {
            return false;
        }
        match head::find_end(unread, self.searched, &self.limits) {
            Err(why) => {
                let head = unread[..unread.len().min(self.limits.head)].to_vec();
                self.refuse(why, head);
                true
            }
            Ok(None) => {
                self.searched = unread.len();
                false
            }
            Ok(Some(end)) => {
                let head = &unread[..end];
                match head::check(head, &self.limits) {
                    Err(why) => {
                        let head = head.to_vec();
                        self.refuse(why, head);
                    }
                    Ok(checked) => {
                        let length = match &checked.rewritten {
                            None => end,
                            Some(head) => {
                                replace(&mut self.buffer, start, end, head);
                                head.len()
                            }
                        };
                        self.vetted = start + length;
                        self.in_flight += 1;
                        self.spellings.push_back(checked.spelling);
                        let body = Body::new(checked.framing);
                        if body.is_complete() {
                            self.expect_head();
                        } else {
                            self.expect = Expect::Body(body);
                            // Its time runs only while somebody waits for it.
                            self.timer.clear();
                        }
                    }
                }
                true
            }
        }
    }

    fn refuse(&mut self, why: Refusal, head: Vec<u8>) {
        self.refused = Some(Refused { why, head });
        self.timer.clear();
    }

    /// The deadline of what is being waited for has passed.
    fn timed_out(&mut self) -> Poll<io::Result<()>> {
        self.timer.clear();
        self.end_of_input = true;
        if matches!(self.expect, Expect::Head) && self.vetted < self.buffer.len() {
            let head = self.buffer[self.vetted..].to_vec();
            self.refuse(Refusal::HeadTimeout, head);
            if self.in_flight > 0 || self.unflushed {
                // The answers before it come first: this is seen again when they are out.
                return Poll::Pending;
            }
        } else if matches!(self.expect, Expect::Body(_)) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client body timed out")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.vetted > 0 {
                let n = self.vetted.min(out.remaining());
                out.put_slice(&self.buffer[..n]);
                self.buffer.advance(n);
                self.vetted -= n;
                return Poll::Ready(Ok(()));
            }
            if self.refused.is_some() {
                if self.in_flight > 0 || self.unflushed {
                    // The answers before it come first, all of them.
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
            if self.end_of_input {
                return Poll::Ready(Ok(()));
            }
            // A long body goes straight to the reader.
            if self.buffer.is_empty()
                && let Expect::Body(body) = &mut self.expect
                && let Some(left) = body.plain_bytes_left()
            {
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(out.remaining()).min(READ_SIZE * 4);
                let mut limited = ReadBuf::new(out.initialize_unfilled_to(want));
                let polled = Pin::new(&mut self.socket).poll_read(cx, &mut limited);
                let n = limited.filled().len();
                match polled {
                    Poll::Pending => return self.wait(cx),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) => {
                        out.advance(n);
                        if n == 0 {
                            self.end_of_input = true;
                        } else {
                            body.took(n);
                            if body.is_complete() {
                                self.expect_head();
                            } else {
                                self.timer.clear();
                            }
                        }
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Reads from the socket once and looks at what has come, or times what does not come.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match poll_fill(&mut self.socket, &mut self.buffer, cx) {
            Poll::Pending => return self.wait(cx),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(0)) => {
                self.end_of_input = true;
                if matches!(self.expect, Expect::Head) && !self.buffer.is_empty() {
                    // Gone in the middle of a head: there is nobody to answer.
                    self.buffer.clear();
                }
            }
            Poll::Ready(Ok(_)) => {
                match self.expect {
                    Expect::Head if !self.head_begun => {
                        self.head_begun = true;
                        self.timer.set(self.limits.head_timeout);
                    }
                    Expect::Body(_) => self.timer.clear(),
                    _ => {}
                }
                self.vet();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is something to hand on (true), or there will be nothing more.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.vetted > 0 {
                return Poll::Ready(true);
            }
            if self.end_of_input || self.refused.is_some() {
                return Poll::Ready(false);
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.end_of_input = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader = Some(cx.waker().clone());
        // An answer that takes its time is no fault of the client: only an idle connection, a head or a body that
        // does not arrive are timed.
        if self.in_flight > 0 && matches!(self.expect, Expect::Head) && self.buffer.is_empty() {
            return Poll::Pending;
        }
        if matches!(self.expect, Expect::Body(_)) && !self.timer.is_set() {
            self.timer.set(self.limits.body_timeout);
        }
        match self.timer.poll(cx) {
            Poll::Ready(()) => self.timed_out(),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Puts other bytes in the place of `length` bytes in the middle.
fn replace(buffer: &mut BytesMut, at: usize, length: usize, with: &[u8]) {
    let tail = buffer.split_off(at + length);
    buffer.truncate(at);
    buffer.extend_from_slice(with);
    buffer.extend_from_slice(&tail);
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sanitised<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, out)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sanitised<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner().socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner().socket).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner().socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        let polled = Pin::new(&mut inner.socket).poll_flush(cx);
        if polled.is_ready() {
            inner.flushes += 1;
            if let Some(waker) = inner.at_flush.take() {
                waker.wake();
            }
        }
        if polled.is_ready() && inner.in_flight == 0 && std::mem::take(&mut inner.unflushed) && inner.refused.is_some()
        {
            inner.wake();
        }
        polled
    }

    /// hyper closes its end when the input ends; the connection's task closes the socket, after what it still has to
    /// say ([`crate::connection`]).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests;

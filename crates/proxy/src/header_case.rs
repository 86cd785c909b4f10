//! Writes header names as Kong writes them.
//!
//! hyper keeps the case of names that came from the client and writes all others in Title-Case. Of those that the
//! gateway adds, a few are spelt otherwise (`X-Real-IP`); this layer under hyper spells them right as a head goes
//! out. Names keep their length, so nothing moves.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Names that are not in Title-Case, as Kong writes them.
const SPELLINGS: &[&str] = &["X-Real-IP", "X-Consumer-ID", "X-Consumer-Custom-ID", "TE", "DNT"];

/// A head of this size is corrected; the rest of a longer one goes out as hyper wrote it.
const MAX_HEAD: usize = 64 * 1024;

/// Told before each request that the next bytes are a head.
#[derive(Clone, Default)]
pub(crate) struct NextIsHead(Arc<AtomicBool>);

impl NextIsHead {
    pub(crate) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection whose heads are corrected as they are written.
pub(crate) struct HeaderCase<S> {
    socket: S,
    next_is_head: NextIsHead,
    /// A corrected head of which `written` bytes are out.
    head: Vec<u8>,
    written: usize,
}

impl<S> HeaderCase<S> {
    pub(crate) fn new(socket: S) -> (Self, NextIsHead) {
        let next_is_head = NextIsHead::default();
        (Self { socket, next_is_head: next_is_head.clone(), head: Vec::new(), written: 0 }, next_is_head)
    }
}

/// Corrects the names in a head, in place.
fn correct(head: &mut [u8]) {
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', &head[at..]) {
        at += end + 1;
        let line = &mut head[at..];
        for spelling in SPELLINGS {
            let name = spelling.as_bytes();
            if line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name) {
                line[..name.len()].copy_from_slice(name);
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> HeaderCase<S> {
    /// Writes what is left of a corrected head; ready when all of it is out.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.head.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.head[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.head.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderCase<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.written < this.head.len() {
            match this.poll_head(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if this.next_is_head.0.swap(false, Ordering::Relaxed) {
            let end = memchr::memmem::find(data, b"\r\n\r\n").map_or(data.len(), |at| at + 4).min(MAX_HEAD);
            // What follows the head, a small body, goes out in the same write.
            this.head.extend_from_slice(data);
            correct(&mut this.head[..end]);
            // Taken over whole: what the socket does not take now is written before anything else.
            return match this.poll_head(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(data.len())),
            };
        }
        Pin::new(&mut this.socket).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_head(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.socket).poll_flush(cx),
            other => other,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_head(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.socket).poll_shutdown(cx),
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderCase<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, out)
    }
}

#[cfg(test)]
mod tests {
    use super::correct;

    fn check(head: &str, expect: &str) {
        let mut bytes = head.as_bytes().to_vec();
        correct(&mut bytes);
        assert_eq!(String::from_utf8_lossy(&bytes), expect);
    }

    #[test]
    fn names_are_spelt_as_kong_spells_them() {
        check(
            "GET / HTTP/1.1\r\nX-Real-Ip: 1\r\nX-Consumer-Id: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nX-Real-IP: 1\r\nX-Consumer-ID: 2\r\n\r\n",
        );
    }

    #[test]
    fn values_and_other_names_stay() {
        check(
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
        );
    }
}

//! What waits to be written to a socket: heads and small pieces together, in one write; a large piece as it is, never
//! copied.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// A piece that is no longer than this is copied.
const SMALL: usize = 4 * 1024;

/// Bytes on their way to a socket, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    small: Vec<u8>,
    /// How many of these are out.
    written: usize,
    large: Bytes,
    after: &'static [u8],
}

impl From<Vec<u8>> for Outgoing {
    fn from(head: Vec<u8>) -> Self {
        Self { small: head, ..Self::default() }
    }
}

impl Outgoing {
    /// So many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.small.len() - self.written + self.large.len() + self.after.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.after.is_empty()
    }

    /// Whether there is a large piece: what comes after it would have to be copied behind it.
    pub(crate) fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.after.is_empty() || self.small.len() > SMALL
    }

    /// Where heads and what frames bodies are written to.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        if !self.large.is_empty() || !self.after.is_empty() {
            // Seldom: those who write ask whether it is full.
            self.small.extend_from_slice(&std::mem::take(&mut self.large));
            self.small.extend_from_slice(std::mem::take(&mut self.after));
        }
        &mut self.small
    }

    /// Adds a piece of a body.
    pub(crate) fn put(&mut self, data: Bytes) {
        let small = self.bytes();
        if data.len() <= SMALL {
            small.extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Adds what ends a piece, or the body.
    pub(crate) fn put_end(&mut self, end: &'static [u8]) {
        if self.large.is_empty() || !self.after.is_empty() {
            self.bytes().extend_from_slice(end);
        } else {
            self.after = end;
        }
    }

    /// Writes all of it.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let small = &self.small[self.written..];
            let n = if self.large.is_empty() && self.after.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(cx, small))?
            } else {
                let slices = [IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.after)];
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(n);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut n: usize) {
        let small = n.min(self.small.len() - self.written);
        self.written += small;
        n -= small;
        if self.written == self.small.len() {
            self.small.clear();
            self.written = 0;
        }
        let large = n.min(self.large.len());
        self.large.advance(large);
        self.after = &self.after[(n - large).min(self.after.len())..];
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        [&self.small[self.written..], &self.large, self.after].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    proptest! {
        /// All that is put comes out, in its order, however little the socket takes at a time.
        #[test]
        fn what_is_put_is_written(
            pieces in proptest::collection::vec((0..3_u8, 0..2 * SMALL), 0..8), room in 1..SMALL, eager in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (expect, got) = runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(room);
                let reading = async {
                    let mut got = Vec::new();
                    far.read_to_end(&mut got).await.unwrap();
                    got
                };
                let writing = async {
                    let (mut out, mut expect) = (Outgoing::default(), Vec::new());
                    for (kind, length) in pieces {
                        match kind {
                            0 => out.bytes().extend(std::iter::repeat_n(b'a', length)),
                            1 => out.put(vec![b'b'; length].into()),
                            _ => out.put_end(b"end"),
                        }
                        expect.extend(match kind {
                            0 => vec![b'a'; length],
                            1 => vec![b'b'; length],
                            _ => b"end".to_vec(),
                        });
                        if eager || out.is_full() {
                            poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap();
                        }
                    }
                    poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap();
                    assert!(out.is_empty() && out.to_vec().is_empty());
                    drop(near);
                    expect
                };
                tokio::join!(writing, reading)
            });
            prop_assert!(expect == got);
        }
    }
}

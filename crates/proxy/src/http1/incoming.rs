//! Reading from sockets, most of which wait.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes asked from a socket at a time.
pub(crate) const READ_SIZE: usize = 16 * 1024;

/// And where it is certain that many more come.
pub(crate) const LONG_READ_SIZE: usize = 4 * READ_SIZE;

thread_local! {
    /// What all connections of a thread read into first: one that waits holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONG_READ_SIZE].into());
}

/// Adds to the buffer what has come, up to [`READ_SIZE`], and gives its length; 0 at the end.
pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
    socket: &mut S,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    poll_fill_up_to(READ_SIZE, socket, buffer, cx)
}

/// The same with another limit, at most [`LONG_READ_SIZE`].
pub(crate) fn poll_fill_up_to<S: AsyncRead + Unpin>(
    limit: usize,
    socket: &mut S,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let limit = limit.min(scratch.len());
        let mut scratch = ReadBuf::new(&mut scratch[..limit]);
        let polled = Pin::new(socket).poll_read(cx, &mut scratch);
        if polled.is_pending() && buffer.is_empty() {
            *buffer = BytesMut::new();
        }
        buffer.extend_from_slice(scratch.filled());
        polled.map_ok(|()| scratch.filled().len())
    })
}

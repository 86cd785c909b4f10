//! What a connection to an upstream goes over.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// A socket to an upstream.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Duplex(tokio::io::DuplexStream),
    /// One that is written to elsewhere.
    Reading(ReadHalf<Box<Self>>),
    Gone,
}

impl Socket {
    /// Takes the right to write away from it.
    pub(super) fn take_writing(&mut self) -> WriteHalf<Box<Self>> {
        let (reading, writing) = tokio::io::split(Box::new(std::mem::replace(self, Self::Gone)));
        *self = Self::Reading(reading);
        writing
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Tls(socket) => match Pin::new(socket).poll_read(cx, out) {
                // Many close without a goodbye (close_notify). nginx, too, takes that for the end of a body that has no
                // length; one that has is known to be incomplete.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                polled => polled,
            },
            #[cfg(test)]
            Self::Duplex(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Reading(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Gone => gone(),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, data),
            #[cfg(test)]
            Self::Duplex(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Reading(_) | Self::Gone => gone(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Self::Tls(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            #[cfg(test)]
            Self::Duplex(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Self::Reading(_) | Self::Gone => gone(),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(test)]
            Self::Duplex(socket) => Pin::new(socket).poll_flush(cx),
            Self::Reading(_) | Self::Gone => gone(),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(test)]
            Self::Duplex(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Reading(_) | Self::Gone => gone(),
        }
    }
}

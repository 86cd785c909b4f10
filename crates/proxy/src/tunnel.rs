//! A connection after its protocol was switched: bytes pass both ways, unread.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

/// Why a tunnel ended before both sides had said their last.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// Nothing came from either side for the service's read timeout (nginx's `proxy_read_timeout`).
    #[error("upstream timed out (110: Connection timed out) while proxying upgraded connection")]
    Idle,
    #[error("{0} while proxying upgraded connection")]
    Broken(#[source] io::Error),
}

/// What has passed.
pub(crate) struct Traffic {
    /// When something last did.
    last: Cell<Instant>,
    /// Bytes from the upstream.
    down: Cell<u64>,
    /// The upstream has said its last, and the client has been told.
    over: Cell<bool>,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self { last: Cell::new(Instant::now()), down: Cell::new(0), over: Cell::new(false) }
    }

    /// Bytes that came from the upstream.
    pub(crate) fn down(&self) -> u64 {
        self.down.get()
    }
}

/// Passes bytes on until the upstream has ended, one of them breaks, or nothing has come for `idle`. A client that sends
/// no more may still be answered; an upstream that does so is gone, as nginx has it.
pub(crate) async fn run<C, U>(client: C, upstream: U, idle: Duration, traffic: &Traffic) -> Result<(), TunnelError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Watched { socket: client, traffic, side: Side::Client };
    let mut upstream = Watched { socket: upstream, traffic, side: Side::Upstream };
    let mut copying = pin!(tokio::io::copy_bidirectional(&mut client, &mut upstream));
    let mut passing = pin!(poll_fn(|cx| match copying.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.map(|_| ())),
        Poll::Pending if traffic.over.get() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    }));
    loop {
        let last = traffic.last.get();
        match timeout_at(last + idle, passing.as_mut()).await {
            Ok(ended) => return ended.map_err(TunnelError::Broken),
            Err(_) if traffic.last.get() == last => return Err(TunnelError::Idle),
            // Something passed meanwhile.
            Err(_) => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// One side, of which is noted what it does.
struct Watched<'a, S> {
    socket: S,
    traffic: &'a Traffic,
    side: Side,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, out);
        if polled.is_ready() {
            self.traffic.last.set(Instant::now());
            if self.side == Side::Upstream {
                let down = &self.traffic.down;
                down.set(down.get() + (out.filled().len() - before) as u64);
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_shutdown(cx);
        if polled.is_ready() && self.side == Side::Client {
            // All that the upstream said went before.
            self.traffic.over.set(true);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Traffic, TunnelError, run};

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn either_side_keeps_a_tunnel_open() {
        let (mut client, client_side) = tokio::io::duplex(64);
        let (mut upstream, upstream_side) = tokio::io::duplex(64);
        let traffic = Traffic::new();
        let talking = async {
            for turn in 0..6 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                let (from, to) =
                    if turn % 2 == 0 { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
                from.write_all(b"hello").await.unwrap();
                let mut bytes = [0; 5];
                to.read_exact(&mut bytes).await.unwrap();
                assert_eq!(&bytes, b"hello");
            }
            tokio::time::Instant::now()
        };
        let (ended, last) = tokio::join!(run(client_side, upstream_side, IDLE, &traffic), talking);
        assert!(matches!(ended, Err(TunnelError::Idle)), "{ended:?}");
        assert_eq!(last.elapsed(), IDLE);
        assert_eq!(traffic.down(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_upstream_is_the_end() {
        let (mut client, client_side) = tokio::io::duplex(64);
        let (mut upstream, upstream_side) = tokio::io::duplex(64);
        let traffic = Traffic::new();
        let talking = async {
            upstream.write_all(b"the last").await.unwrap();
            drop(upstream);
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"the last");
        };
        let began = tokio::time::Instant::now();
        let (ended, ()) = tokio::join!(run(client_side, upstream_side, IDLE, &traffic), talking);
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_end_before_the_upstream() {
        let (mut client, client_side) = tokio::io::duplex(64);
        let (mut upstream, upstream_side) = tokio::io::duplex(64);
        let traffic = Traffic::new();
        let talking = async {
            client.shutdown().await.unwrap();
            let mut all = Vec::new();
            upstream.read_to_end(&mut all).await.unwrap();
            upstream.write_all(b"the rest").await.unwrap();
            drop(upstream);
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"the rest");
        };
        let (ended, ()) = tokio::join!(run(client_side, upstream_side, IDLE, &traffic), talking);
        assert!(ended.is_ok(), "{ended:?}");
    }
}

//! Copies bytes between a client and an upstream, both ways at once, until both have said all.
//!
//! An idle stream costs no buffer: bytes are read into the thread's own and written at once; only what the other side
//! does not take yet is kept, and nothing more is read from this side before that has gone (back-pressure). One side that
//! closes its half is told to the other, whose half stays open; a side that fails ends both.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// Reads in one direction before others get their turn.
const ROUNDS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// How long nothing may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Neither side says anything.
    pub(super) idle: Duration,
    /// A side does not take what it is sent.
    pub(super) write: Duration,
}

/// What went where, in bytes; of TLS, what is inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) from_client: u64,
    pub(super) to_client: u64,
    pub(super) from_upstream: u64,
    pub(super) to_upstream: u64,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides closed, and all that they sent has gone.
    Complete,
    /// Nothing happened for too long.
    TimedOut,
    ClientFailed(io::Error),
    UpstreamFailed(io::Error),
}

/// Copies until the end. `first_byte` is called once, when the upstream has said something.
pub(super) async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    patience: Patience,
    counts: &mut Counts,
    mut first_byte: impl FnMut(),
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut last = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(last + patience.idle));
    let mut upstream_first = false;
    poll_fn(|cx| {
        let before = *counts;
        // In turn, so that a fast side does not take all of the task's time.
        upstream_first = !upstream_first;
        for downwards in [upstream_first, !upstream_first] {
            let failed = if downwards {
                let polled = down.poll(cx, upstream, client, &mut counts.from_upstream, &mut counts.to_client);
                polled.map_err(|failed| match failed {
                    Failed::Reading(error) => Ended::UpstreamFailed(error),
                    Failed::Writing(error) => Ended::ClientFailed(error),
                })
            } else {
                let polled = up.poll(cx, client, upstream, &mut counts.from_client, &mut counts.to_upstream);
                polled.map_err(|failed| match failed {
                    Failed::Reading(error) => Ended::ClientFailed(error),
                    Failed::Writing(error) => Ended::UpstreamFailed(error),
                })
            };
            if let Poll::Ready(Err(ended)) = failed {
                return Poll::Ready(ended);
            }
        }
        if before.from_upstream == 0 && counts.from_upstream > 0 {
            first_byte();
        }
        if up.is_done() && down.is_done() {
            return Poll::Ready(Ended::Complete);
        }
        if *counts != before {
            last = Instant::now();
        }
        let stuck = up.is_stuck() || down.is_stuck();
        let deadline = last + if stuck { patience.write } else { patience.idle };
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(Ended::TimedOut);
            }
            // Something happened since it was set.
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

/// One of the two ways.
#[derive(Default)]
struct Direction {
    /// What was read and not taken yet, from `taken` on.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    read_all: bool,
    closed: bool,
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Direction {
    /// All was read and written, and the other side knows that nothing follows.
    const fn is_done(&self) -> bool {
        self.closed
    }

    fn is_stuck(&self) -> bool {
        !self.kept.is_empty() || (self.read_all && !self.closed)
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        read: &mut u64,
        written: &mut u64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            if !self.kept.is_empty() {
                ready!(self.poll_write_kept(cx, to, written)).map_err(Failed::Writing)?;
            }
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if self.read_all {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failed::Writing)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let polled = SCRATCH.with_borrow_mut(|scratch| self.poll_copy(cx, from, to, scratch, read, written));
            match polled {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed
                        && let Poll::Ready(flushed) = Pin::new(&mut *to).poll_flush(cx)
                    {
                        flushed.map_err(Failed::Writing)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and writes what the other side takes of it.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
        read: &mut u64,
        written: &mut u64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
            // A TLS peer that closes without a goodbye: the end, as nginx takes it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            result => result.map_err(Failed::Reading)?,
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.read_all = true;
            return Poll::Ready(Ok(()));
        }
        *read += bytes.len() as u64;
        let taken = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(result) => some(result).map_err(Failed::Writing)?,
        };
        *written += taken as u64;
        self.unflushed |= taken > 0;
        self.kept.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }

    fn poll_write_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let taken = some(ready!(Pin::new(&mut *to).poll_write(cx, rest)))?;
            self.taken += taken;
            *written += taken as u64;
            self.unflushed = true;
        }
        // Not kept for the next time: most streams are idle most of the time.
        self.kept = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }
}

fn some(written: io::Result<usize>) -> io::Result<usize> {
    match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Patience = Patience { idle: Duration::from_secs(60), write: Duration::from_secs(10) };

    #[tokio::test]
    async fn each_half_closes_on_its_own() {
        let (mut client, mut client_side) = duplex(1024);
        let (mut upstream, mut upstream_side) = duplex(1024);
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            upstream.read_to_string(&mut asked).await.unwrap();
            // The client has closed its half; the answer still gets there.
            upstream.write_all(b"answer to ").await.unwrap();
            upstream.write_all(asked.as_bytes()).await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut answered = String::new();
            client.read_to_string(&mut answered).await.unwrap();
            assert_eq!(answered, "answer to question");
        };
        let mut counts = Counts::default();
        let mut firsts = 0;
        let relaying = relay(&mut client_side, &mut upstream_side, PATIENCE, &mut counts, || firsts += 1);
        let (ended, ()) = tokio::join!(relaying, talk);
        assert!(matches!(ended, Ended::Complete), "{ended:?}");
        assert_eq!(counts, Counts { from_client: 8, to_upstream: 8, from_upstream: 18, to_client: 18 });
        assert_eq!(firsts, 1);
    }

    #[tokio::test]
    async fn much_goes_both_ways_through_small_buffers() {
        const MUCH: usize = 3_000_000;
        let (client, mut client_side) = duplex(1000);
        let (upstream, mut upstream_side) = duplex(700);
        let side = async |end: tokio::io::DuplexStream, seed: u8| {
            let (mut reading, mut writing) = tokio::io::split(end);
            let sent: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8 ^ seed).collect();
            let write = async {
                writing.write_all(&sent).await.unwrap();
                writing.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(reading.read_to_end(&mut got), write);
            read.unwrap();
            got
        };
        let mut counts = Counts::default();
        let relaying = relay(&mut client_side, &mut upstream_side, PATIENCE, &mut counts, || ());
        let (ended, to_client, to_upstream) = tokio::join!(relaying, side(client, 1), side(upstream, 2));
        assert!(matches!(ended, Ended::Complete), "{ended:?}");
        assert!(to_client.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8 ^ 2));
        assert!(to_upstream.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8 ^ 1));
        assert_eq!((to_client.len(), to_upstream.len()), (MUCH, MUCH));
        let much = MUCH as u64;
        assert_eq!(counts, Counts { from_client: much, to_upstream: much, from_upstream: much, to_client: much });
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_stream_and_so_does_a_side_that_takes_nothing() {
        let start = Instant::now();
        let (mut client, mut client_side) = duplex(10);
        let (_upstream, mut upstream_side) = duplex(10);
        let talk = async {
            // Words now and then keep it.
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.write_all(b"x").await.unwrap();
            }
        };
        let mut counts = Counts::default();
        let (ended, ()) = tokio::join!(relay(&mut client_side, &mut upstream_side, PATIENCE, &mut counts, || ()), talk);
        assert!(matches!(ended, Ended::TimedOut), "{ended:?}");
        assert_eq!(start.elapsed().as_secs(), 150 + 60);

        let start = Instant::now();
        let (mut client, mut client_side) = duplex(100);
        client.write_all(&[0; 100]).await.unwrap();
        let ended = relay(&mut client_side, &mut upstream_side, PATIENCE, &mut Counts::default(), || ()).await;
        assert!(matches!(ended, Ended::TimedOut), "{ended:?}");
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test]
    async fn who_failed_is_known() {
        let (_open, mut good) = duplex(10);
        let ended = relay(&mut good, &mut Broken, PATIENCE, &mut Counts::default(), || ()).await;
        assert!(matches!(ended, Ended::UpstreamFailed(_)), "{ended:?}");
        let ended = relay(&mut Broken, &mut good, PATIENCE, &mut Counts::default(), || ()).await;
        assert!(matches!(ended, Ended::ClientFailed(_)), "{ended:?}");
    }

    /// A connection that was reset.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

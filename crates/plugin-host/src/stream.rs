//! The Unix stream socket of a connection to a plugin server.
//!
//! It is watched for what can be read, and for nothing else. Linux tells those who watch a Unix socket for room to
//! write whenever its peer has read: a server that reads the answer to a PDK call would wake the thread that sent it,
//! which has nothing to do yet. Room is seldom wanting, and is waited for by other means when it is.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    task::ready,
};

use bytes::{Buf as _, BytesMut};
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{Interest, unix::AsyncFd};

pub(crate) struct Stream(AsyncFd<UnixStream>);

impl Stream {
    /// # Errors
    /// Those of connect(2); a full backlog is `WouldBlock`.
    pub(crate) async fn connect(path: &Path) -> io::Result<Self> {
        // std's connect would wait for room in the backlog
        let socket = tokio::net::UnixStream::connect(path).await?.into_std()?;
        watch(socket, Interest::READABLE).map(Self)
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        self.0.get_ref()
    }

    /// Waits until something can be read, and appends as much of it as the buffer has room for. 0: the server has closed
    /// the connection.
    pub(crate) async fn receive(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|context| {
            loop {
                let mut ready = ready!(self.0.poll_read_ready(context))?;
                match ready.try_io(|socket| receive(socket.get_ref(), buffer)) {
                    Ok(Ok(count)) => {
                        if count > 0 && buffer.len() < buffer.capacity() {
                            ready.clear_ready(); // that was all; what comes next makes it ready again
                        }
                        return Ok(count).into();
                    }
                    Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return Err(error).into(),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        })
        .await
    }

    /// The same for what is there already. `WouldBlock`: nothing is.
    ///
    /// The socket itself is asked. The runtime knows only of what had come when it last looked, which is before the event
    /// that is about to begin, and what has come since might be taken for a part of it.
    pub(crate) fn receive_now(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        receive(self.socket(), buffer)
    }

    /// Sends as many of the bytes as there is room for now, and takes them away. Whether those were all.
    pub(crate) fn send_now(&self, bytes: &mut BytesMut) -> io::Result<bool> {
        while bytes.has_remaining() {
            match send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map_err(io::Error::from) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes.advance(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// Sends the bytes, and takes away those that are sent: when it is dropped on the way, the others are left.
    pub(crate) async fn send(&self, bytes: &mut BytesMut) -> io::Result<()> {
        if self.send_now(bytes)? {
            return Ok(());
        }
        let room = watch(self.socket().try_clone()?, Interest::WRITABLE)?;
        loop {
            let mut ready = room.writable().await?;
            if self.send_now(bytes)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a `UnixStream` owns its descriptor, which stays open and the same as long as the socket lives
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

fn receive(socket: &UnixStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(1); // without room, 0 bytes would not mean the end
    let room: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    // SAFETY: the pointer and the length are those of memory that is `buffer`'s alone; recv only writes to it
    let received = unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) };
    let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written as many bytes as it says behind the buffer's end, within its capacity
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        thread,
    };

    use super::*;

    fn block_on(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    /// A stream, and its peer, which blocks.
    fn pair() -> (Stream, UnixStream) {
        let (socket, peer) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        (Stream(watch(socket, Interest::READABLE).unwrap()), peer)
    }

    #[test]
    fn what_comes_is_received_until_the_end() {
        block_on(async {
            let (stream, mut peer) = pair();
            let mut buffer = BytesMut::new();
            let nothing = stream.receive_now(&mut buffer).map_err(|error| error.kind());
            assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
            peer.write_all(b"one").unwrap();
            assert_eq!(stream.receive(&mut buffer).await.unwrap(), 3);
            peer.write_all(b"two").unwrap();
            drop(peer);
            assert_eq!(stream.receive(&mut buffer).await.unwrap(), 3);
            assert_eq!(&buffer[..], b"onetwo");
            assert_eq!(stream.receive(&mut buffer).await.unwrap(), 0);
        });
    }

    #[test]
    fn what_has_come_is_there_before_the_runtime_has_looked() {
        block_on(async {
            let (stream, mut peer) = pair();
            let mut buffer = BytesMut::with_capacity(100);
            peer.write_all(b"one").unwrap();
            assert_eq!(stream.receive(&mut buffer).await.unwrap(), 3);
            peer.write_all(b"two").unwrap();
            assert_eq!(stream.receive_now(&mut buffer).unwrap(), 3);
            drop(peer);
            assert_eq!(stream.receive_now(&mut buffer).unwrap(), 0);
        });
    }

    #[test]
    fn what_is_more_than_there_is_room_for_is_received_piece_by_piece() {
        block_on(async {
            let (stream, mut peer) = pair();
            peer.write_all(&[7; 1000]).unwrap();
            let mut received = 0;
            while received < 1000 {
                let mut buffer = BytesMut::with_capacity(300);
                received += stream.receive(&mut buffer).await.unwrap();
            }
            peer.write_all(&[7]).unwrap();
            assert_eq!(stream.receive(&mut BytesMut::with_capacity(1)).await.unwrap(), 1);
        });
    }

    #[test]
    fn what_there_is_no_room_for_is_sent_when_there_is() {
        const LARGE: usize = 4 << 20;
        block_on(async {
            let (stream, mut peer) = pair();
            let mut bytes = BytesMut::from(&[7; LARGE][..]);
            assert!(!stream.send_now(&mut bytes).unwrap());
            let reader = thread::spawn(move || {
                let mut all = Vec::new();
                peer.read_to_end(&mut all).map(|_| all)
            });
            stream.send(&mut bytes).await.unwrap();
            drop(stream);
            assert!(reader.join().unwrap().unwrap() == [7; LARGE]);
        });
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error() {
        block_on(async {
            let (stream, peer) = pair();
            drop(peer);
            let error = stream.send(&mut BytesMut::from(&b"x"[..])).await.map_err(|error| error.kind());
            assert_eq!(error, Err(io::ErrorKind::BrokenPipe));
        });
    }
}

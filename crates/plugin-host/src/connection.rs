//! A connection to a plugin server: a Unix stream socket, the bytes read ahead and those to be written.

use std::{io, path::Path, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use nix::sys::socket::{getsockopt, sockopt};
use silverback_protocol::{
    msgpack::{Scanner, ServerMessage},
    protobuf::{self, Step},
};
use tokio::time::{sleep, timeout};

use crate::{
    FailureKind,
    life::{Identity, Life},
    size::{self, Held},
    stream::Stream,
};

/// Bytes that are made room for at least, when reading.
const READ_AHEAD: usize = 4 * 1024;

/// A buffer larger than this is given back after the message that needed it.
const KEPT_BUFFER: usize = 64 * 1024;

/// Pauses between attempts to connect to a socket whose backlog is full.
const QUEUE_PAUSES: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(5), Duration::from_millis(10)];

/// A connection to a plugin server.
pub(crate) struct Connection {
    stream: Stream,
    input: BytesMut,
    pub(crate) output: BytesMut,
    scanner: Scanner,
    /// The last number given to a request or command.
    sequence: u32,
    /// ProtoBuf: the event that ended last; its `RpcReturn` is still to come.
    pub(crate) owed: Option<i64>,
    /// What `input` takes of the memory that all connections share.
    held: Held,
}

/// Why a connection ended, or what came over it is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The server closed the connection after it had read all that was sent.
    #[error("the server closed the connection")]
    Closed,
    /// The server closed the connection, or died, before it had read what was sent.
    #[error("the server went away before it read the message")]
    Unread,
    /// More came than was asked for.
    #[error("the server's answers are out of step")]
    OutOfStep,
    /// A PDK call that carries no body has arguments of this size.
    #[error("{method} was called with more than {} MB", size::CALL >> 20)]
    LargeCall { method: String },
    #[error("its message has no room: too many large ones are under way")]
    NoRoom,
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Protobuf(protobuf::Error),
    #[error("{0}")]
    MsgPack(#[from] silverback_protocol::msgpack::Error),
}

impl Broken {
    /// What kind of failure it makes an event.
    pub(crate) const fn kind(&self) -> FailureKind {
        match self {
            Self::Closed | Self::Unread | Self::Io(_) => FailureKind::Closed,
            Self::OutOfStep | Self::Protobuf(_) | Self::MsgPack(_) => FailureKind::Protocol,
            Self::LargeCall { .. } => FailureKind::Raised,
            Self::NoRoom => FailureKind::Busy,
        }
    }

    /// Whether the rest of a message is still to come.
    pub(crate) const fn is_oversized(&self) -> bool {
        use silverback_protocol::msgpack::Error::{TooLarge, TooManyItems};
        matches!(self, Self::LargeCall { .. } | Self::NoRoom | Self::MsgPack(TooLarge { .. } | TooManyItems))
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            // A Unix socket whose peer closes with bytes unread is reset, one that is closed refuses what is written:
            // either way the server has not seen the whole message.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => Self::Unread,
            _ => Self::Io(error),
        }
    }
}

impl From<protobuf::Error> for Broken {
    fn from(error: protobuf::Error) -> Self {
        match error {
            protobuf::Error::CallTooLarge { method, max: size::CALL, .. } => Self::LargeCall { method },
            error => Self::Protobuf(error),
        }
    }
}

/// Connects, and tells who answers. A full backlog is a queue to wait in; bound this by a timeout.
pub(crate) async fn connect(life: &Life) -> io::Result<(Connection, Identity)> {
    connect_to(&life.socket).await
}

/// The same for a socket of which it is not known yet whose it is.
pub(crate) async fn connect_to(socket: &Path) -> io::Result<(Connection, Identity)> {
    let mut pauses = QUEUE_PAUSES.into_iter();
    let mut pause = Duration::ZERO;
    let stream = loop {
        match Stream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pause = pauses.next().unwrap_or(pause);
                sleep(pause).await;
            }
            other => break other?,
        }
    };
    let peer = getsockopt(stream.socket(), sockopt::PeerCredentials)?;
    let identity = Identity::new(peer.pid(), &std::fs::metadata(socket)?);
    Ok((Connection::new(stream), identity))
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(READ_AHEAD),
            output: BytesMut::with_capacity(READ_AHEAD),
            scanner: Scanner::new(size::MESSAGE),
            sequence: 0,
            owed: None,
            held: Held::default(),
        }
    }

    /// A number for the next request: never 0, and not the one before.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    /// The number given last.
    pub(crate) const fn last_sequence(&self) -> u32 {
        self.sequence
    }

    /// Sends what is in `output`, as far as the server takes it now; whether that was all.
    pub(crate) fn flush_now(&mut self) -> Result<bool, Broken> {
        let sent = self.stream.send_now(&mut self.output)?;
        if sent {
            self.spare_output();
        }
        Ok(sent)
    }

    /// Sends what is in `output`. If it is dropped on the way, what was not sent stays there, so that it can be gone on
    /// with.
    pub(crate) async fn flush(&mut self) -> Result<(), Broken> {
        self.stream.send(&mut self.output).await?;
        self.spare_output();
        Ok(())
    }

    /// Gives the buffer back if it had to be large. It is empty.
    fn spare_output(&mut self) {
        if self.output.capacity() > KEPT_BUFFER {
            self.output = BytesMut::with_capacity(READ_AHEAD);
        }
    }

    /// Sends a last word before closing, as far as the server takes it now.
    pub(crate) fn say_goodbye(&mut self) {
        let _ = self.stream.send_now(&mut self.output); // the server is left to itself, it may be gone
        self.output.clear();
    }

    /// The next frame of a ProtoBuf server.
    pub(crate) async fn frame(&mut self) -> Result<Bytes, Broken> {
        loop {
            if let Some(frame) = protobuf::take_frame(&mut self.input, size::MESSAGE)? {
                self.held.release();
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// What the handler that runs in a ProtoBuf server does next.
    pub(crate) async fn step(&mut self) -> Result<Step, Broken> {
        loop {
            if let Some(step) = protobuf::take_step(&mut self.input, size::NAME, size::of_call)? {
                self.held.release();
                return Ok(step);
            }
            if !self.input.is_empty() {
                // go-pdk writes a call in four pieces, and is about to write the next: meanwhile others run
                tokio::task::yield_now().await;
            }
            self.fill().await?;
        }
    }

    /// Whether a whole frame has come that was not taken yet.
    pub(crate) fn has_frame(&self) -> bool {
        protobuf::has_frame(&self.input)
    }

    /// The next response or notification of a MessagePack server.
    pub(crate) async fn message(&mut self) -> Result<ServerMessage, Broken> {
        loop {
            let scanned = self.scanner.scan(&self.input);
            if let Ok(Some(length)) = scanned {
                let message = self.input.split_to(length).freeze();
                self.held.release();
                return Ok(ServerMessage::decode(&message)?);
            }
            if self.scanner.seen() > size::CALL
                && let Some(method) = size::called(&self.input)
                && size::of_call(method) == size::CALL
            {
                return Err(Broken::LargeCall { method: String::from_utf8_lossy(method).into_owned() });
            }
            scanned?;
            self.fill().await?;
        }
    }

    /// Reads what still comes, and forgets it, until there is silence for a while: a server whose message is too large
    /// gets rid of it before the connection is closed.
    pub(crate) async fn drain(&mut self, silence: Duration) {
        self.held.release();
        self.input = BytesMut::with_capacity(KEPT_BUFFER);
        while let Ok(Ok(1..)) = timeout(silence, self.stream.receive(&mut self.input)).await {
            self.input.clear();
        }
    }

    /// Whether another event can run on it: what was read ahead must be what is still owed, or nothing.
    pub(crate) fn is_in_step(&self) -> bool {
        self.input.is_empty() || (self.owed.is_some() && protobuf::is_one_frame(&self.input))
    }

    /// Makes a connection to a ProtoBuf server ready for another event: takes the `RpcReturn` of the one before. Nothing
    /// else may have come. A PDK call in there would be that of a handler which is over (a goroutine that it left
    /// behind), and would run on the exchange of another request.
    pub(crate) async fn settle(&mut self) -> Result<(), Broken> {
        let Some(owed) = self.owed.take() else { return Ok(()) };
        if protobuf::Answer::decode(self.frame().await?)?.sequence != owed {
            return Err(Broken::OutOfStep);
        }
        match self.stream.receive_now(&mut self.input) {
            Ok(0) => Err(Broken::Closed),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            _ if self.input.is_empty() => Ok(()),
            _ => Err(Broken::OutOfStep),
        }
    }

    /// Takes the `RpcReturn` that is owed, if it is there already. One to another command shows that the event did not end.
    pub(crate) fn settle_early(&mut self) -> Result<(), Broken> {
        let Some(owed) = self.owed else { return Ok(()) };
        let Some(frame) = protobuf::take_frame(&mut self.input, size::MESSAGE)? else { return Ok(()) };
        self.owed = None;
        if protobuf::Answer::decode(frame)?.sequence == owed { Ok(()) } else { Err(Broken::OutOfStep) }
    }

    /// Whether nothing has come since the last event on it, or but its end. What a server sends unasked would be taken
    /// for an answer.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.owed.is_some() || matches!(self.stream.receive_now(&mut self.input), Ok(0) | Err(_))
    }

    /// Reads what is there. The buffer grows with what has come, not with what a header promises.
    async fn fill(&mut self) -> Result<(), Broken> {
        if !self.input.has_remaining() && self.input.capacity() > KEPT_BUFFER {
            self.input = BytesMut::with_capacity(READ_AHEAD);
        }
        self.input.reserve(READ_AHEAD.max(self.input.len().min(1 << 20)));
        if self.stream.receive(&mut self.input).await? == 0 {
            return Err(Broken::Closed);
        }
        if self.held.grow_to(self.input.len()) { Ok(()) } else { Err(Broken::NoRoom) }
    }
}

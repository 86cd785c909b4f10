//! Connections to upstreams that speak HTTP/2, shared by the requests of a worker.
//!
//! What one request does must not hold up another on the same connection. Each stream may therefore fill its own
//! window and the connection's is as large as all of them: a client that does not read its answer leaves the window of
//! the others alone. A connection that a request timed out on gets no new ones, since it may be dead as a whole; those
//! that are on it go on.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use foldhash::HashMap;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::Instant,
};

use super::pool::{Key, make_room};
use crate::{body::UpstreamRequestBody, connection::OnThisThread};

/// Streams on one connection, where the upstream allows more.
const MAX_STREAMS: usize = 100;

/// Bytes that an upstream may send on a stream before they are read.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Bytes of a request body that wait for the upstream's window, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection and what is known of it.
pub(crate) struct Connection {
    sender: SendRequest<UpstreamRequestBody>,
    state: Rc<State>,
}

struct State {
    /// Streams that are on it.
    live: Cell<usize>,
    /// How many may be: `SETTINGS_MAX_CONCURRENT_STREAMS`.
    limit: Cell<usize>,
    /// Requests that it has carried.
    served: Cell<u64>,
    /// It takes no more.
    retired: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// A request's place on a connection.
pub(crate) struct Stream {
    pub(crate) sender: SendRequest<UpstreamRequestBody>,
    state: Rc<State>,
}

impl Connection {
    /// Speaks HTTP/2 over a socket from the start.
    pub(super) async fn open<S>(socket: S, max_head: usize) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = Builder::new(OnThisThread)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS as u32)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(socket))
            .await?;
        let state = Rc::new(State {
            live: Cell::new(0),
            limit: Cell::new(MAX_STREAMS),
            served: Cell::new(0),
            retired: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        });
        let watched = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            // Ends when the upstream closes it or says GOAWAY, or when nobody can send on it any more and the streams
            // on it are over. What goes wrong is told to those streams.
            let _ = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                watched.limit.set(connection.current_max_send_streams().min(MAX_STREAMS));
                polled
            })
            .await;
            watched.retired.set(true);
        });
        Ok(Self { sender, state })
    }

    /// Whether it can carry another request at all.
    fn is_usable(&self) -> bool {
        !self.state.retired.get() && !self.sender.is_closed()
    }

    fn place(&self) -> Stream {
        self.state.live.set(self.state.live.get() + 1);
        self.state.served.set(self.state.served.get() + 1);
        Stream { sender: self.sender.clone(), state: Rc::clone(&self.state) }
    }
}

impl Stream {
    /// The connection gets no further requests.
    pub(crate) fn retire(&self) {
        self.state.retired.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.state.live.set(self.state.live.get().saturating_sub(1));
        self.state.idle_since.set(Instant::now());
    }
}

/// A worker's shared connections.
#[derive(Default)]
pub(super) struct Connections {
    open: RefCell<HashMap<Key, Vec<Connection>>>,
    opening: RefCell<HashMap<Key, Rc<Notify>>>,
}

/// Who opens the next connection.
pub(crate) enum Turn<'a> {
    /// The asker; others wait until this is dropped.
    Ours(Opening<'a>),
    /// Another request, at this moment.
    Others(Rc<Notify>),
}

/// The right to open a connection. Dropped with it opened, failed, or given up.
pub(crate) struct Opening<'a> {
    connections: &'a Connections,
    key: Key,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.connections.opening.borrow_mut().remove(&self.key) {
            waiting.notify_waiters();
        }
    }
}

impl Connections {
    /// A place on a connection that is there, if one has room.
    pub(super) fn share(&self, key: &Key, max_requests: u64) -> Option<Stream> {
        let mut open = self.open.borrow_mut();
        let connections = open.get_mut(key)?;
        // Those that are worn out close when the last of their streams is over.
        connections.retain(|connection| {
            connection.is_usable() && (max_requests == 0 || connection.state.served.get() < max_requests)
        });
        let free = connections.iter().find(|connection| connection.state.live.get() < connection.state.limit.get());
        let place = free.map(Connection::place);
        if connections.is_empty() {
            open.remove(key);
        }
        place
    }

    pub(super) fn turn(&self, key: &Key) -> Turn<'_> {
        let mut opening = self.opening.borrow_mut();
        if let Some(waiting) = opening.get(key) {
            return Turn::Others(Rc::clone(waiting));
        }
        opening.insert(key.clone(), Rc::default());
        Turn::Ours(Opening { connections: self, key: key.clone() })
    }

    /// Takes a place on a new connection, and shares it if it is to be kept.
    pub(super) fn add(&self, key: &Key, connection: Connection, kept: bool) -> Stream {
        let place = connection.place();
        if kept {
            let mut open = self.open.borrow_mut();
            make_room(&mut open, key);
            open.entry(key.clone()).or_default().push(connection);
        }
        place
    }

    /// Closes what has been idle for too long, and of the idle ones those that are too many.
    pub(super) fn sweep(&self, idle_timeout: Duration, max_idle: usize) {
        self.open.borrow_mut().retain(|_, connections| {
            let mut idle = 0;
            connections.retain(|connection| {
                let is_idle = connection.state.live.get() == 0;
                idle += usize::from(is_idle);
                let expired = is_idle
                    && (idle > max_idle
                        || (!idle_timeout.is_zero() && connection.state.idle_since.get().elapsed() >= idle_timeout));
                connection.is_usable() && !expired
            });
            !connections.is_empty()
        });
    }
}

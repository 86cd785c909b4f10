//! One client connection: TLS, and the choice between HTTP/1 ([`http1`]) and HTTP/2.

pub(crate) mod http1;

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use silverback_log::Level;
use silverback_pdk::exchange::{Proxied, Subsystem, TlsInfo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::Instant,
};

use crate::{
    flight,
    prefixed::Prefixed,
    proxy_protocol,
    request_body::Incoming,
    send_timeout::SendTimeout,
    surroundings::{self, AtomicCounters},
    tls::{
        Alpn,
        handshake::{self, Secured},
    },
    worker::{Mode, Worker},
};

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) ssl: bool,
    pub(crate) http2: bool,
    /// Each connection begins with a PROXY protocol header.
    pub(crate) proxy_protocol: bool,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Tcp { peer: SocketAddr, local: SocketAddr },
    Unix,
}

/// What is known of a connection before anything is said on it, but for the PROXY protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) from: From,
    /// The connection that it stands for, if a proxy in front said so.
    pub(crate) proxied: Option<Proxied>,
    /// `$connection`.
    pub(crate) serial: u64,
}

/// A client connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) origin: Origin,
    pub(crate) requests: Cell<u64>,
    /// Requests that are not over, and when the last one was.
    live: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Requests that the client gave up before their answer was made.
    given_up: Cell<u64>,
    /// Answers that wait for the client to take more, and when it last took some of any.
    held_back: Cell<usize>,
    taken_at: Cell<Instant>,
    /// An answer said that it was the last, or broke off.
    pub(crate) closing: Cell<bool>,
    pub(crate) tls: Option<Arc<TlsInfo>>,
    pub(crate) http2: bool,
    /// The client speaks clear text on a listener for TLS: it is told so, and nothing else.
    pub(crate) misses_tls: bool,
}

impl Connection {
    fn new(origin: Origin, tls: Option<Arc<TlsInfo>>, http2: bool) -> Self {
        Self {
            origin,
            requests: Cell::new(0),
            live: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            given_up: Cell::new(0),
            held_back: Cell::new(0),
            taken_at: Cell::new(Instant::now()),
            closing: Cell::new(false),
            tls,
            http2,
            misses_tls: false,
        }
    }

    /// A request begins.
    pub(crate) fn began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.live.set(self.live.get() + 1);
    }

    /// Whether the client gives up most of what it asks for: that is no client, but a load (CVE-2023-44487).
    fn is_wasteful(&self) -> bool {
        let given_up = self.given_up.get();
        given_up > MAX_GIVEN_UP && given_up > self.requests.get() / 2
    }

    /// A piece of an answer was handed over for the client to take.
    pub(crate) fn held_back(&self) {
        self.held_back.set(self.held_back.get() + 1);
        self.taken_at.set(Instant::now());
    }

    /// The client took it, or the answer is over.
    pub(crate) fn taken(&self) {
        self.held_back.set(self.held_back.get().saturating_sub(1));
        self.taken_at.set(Instant::now());
    }

    /// A request is over.
    pub(crate) fn ended(&self) {
        self.live.set(self.live.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }
}

/// What HTTP/2 connections begin with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// As nginx: `http2_max_concurrent_streams`.
const MAX_STREAMS: u32 = 128;

/// Requests under way on one connection. A client may reset a stream and open another; what the first set off goes on.
const MAX_LIVE: usize = 2 * MAX_STREAMS as usize;

/// Requests that a client may give up before more is asked of it than that.
const MAX_GIVEN_UP: u64 = 2 * MAX_STREAMS as u64;

/// How often an HTTP/2 connection is looked after.
const HTTP2_CHECK: Duration = Duration::from_secs(1);

/// How long a client that was told to leave may stay when nothing is under way.
const GOODBYE: Duration = Duration::from_secs(5);

/// A connection among those that are counted, however it ends.
struct Active(Arc<AtomicCounters>);

impl Active {
    fn count(counters: &Arc<AtomicCounters>) -> Self {
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection to its end. Each step is boxed: a connection that waits, as most do, holds what its own step needs
/// and not what the largest would.
pub(crate) async fn serve<S>(worker: Rc<Worker>, socket: S, from: From, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _active = Active::count(&worker.shared.counters);
    let serial = worker.shared.connection_serial.fetch_add(1, Ordering::Relaxed);
    let http = worker.shared.generation.load().profile.settings.http;
    let socket = SendTimeout::new(socket, http.send_timeout);
    let mut origin = Origin { from, proxied: None, serial };
    if !kind.proxy_protocol {
        Box::pin(serve_socket(&worker, socket, origin, kind)).await;
    } else {
        match proxy_protocol::accept(socket, http.header_timeout).await {
            Ok((socket, proxied)) => {
                origin.proxied = proxied;
                Box::pin(serve_socket(&worker, socket, origin, kind)).await;
            }
            Err(error) => log(Level::Error, format_args!("{error}"), &origin),
        }
    }
}

async fn serve_socket<S>(worker: &Rc<Worker>, mut socket: S, origin: Origin, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if kind.ssl {
        // As nginx: it holds for the handshake too.
        let limit = worker.shared.generation.load().profile.settings.http.header_timeout;
        let mut read = BytesMut::with_capacity(2048);
        if !matches!(tokio::time::timeout(limit, socket.read_buf(&mut read)).await, Ok(Ok(n)) if n > 0) {
            return;
        }
        if read.first().is_some_and(u8::is_ascii_uppercase) {
            let mut connection = Connection::new(origin, None, false);
            connection.misses_tls = true;
            return Box::pin(http1::serve(worker, socket, connection, read)).await;
        }
        let socket = Prefixed::new(read, socket);
        let alpn = if kind.http2 { Alpn::Http2 } else { Alpn::Http1 };
        match Box::pin(handshake::accept(worker, socket, &origin, Subsystem::Http, alpn, limit)).await {
            Ok(Secured { stream, info, http2 }) => {
                let connection = Connection::new(origin, Some(info), http2);
                if http2 {
                    Box::pin(serve_http2(worker, stream, connection, BytesMut::new())).await;
                } else {
                    Box::pin(http1::serve(worker, stream, connection, BytesMut::new())).await;
                }
            }
            Err(error) => log(error.level(), format_args!("SSL handshake failed ({error})"), &origin),
        }
        return;
    }
    let connection = |http2| Connection::new(origin, None, http2);
    match sniff(worker, &mut socket, kind).await {
        Some((read, true)) => Box::pin(serve_http2(worker, socket, connection(true), read)).await,
        Some((read, false)) => Box::pin(http1::serve(worker, socket, connection(false), read)).await,
        None => {}
    }
}

fn log(level: Level, message: fmt::Arguments<'_>, origin: &Origin) {
    silverback_log::write(level, message, Some(&surroundings::connection_context(origin)));
}

/// Reads the first bytes to tell HTTP/2 with prior knowledge from HTTP/1. `None`: the client left, or said nothing.
async fn sniff<S: AsyncRead + Unpin>(worker: &Worker, socket: &mut S, kind: Kind) -> Option<(BytesMut, bool)> {
    let mut read = BytesMut::new();
    if !kind.http2 {
        return Some((read, false));
    }
    let timeout = worker.shared.generation.load().profile.settings.http.header_timeout;
    let sniffing = async {
        loop {
            let seen = read.len().min(PREFACE.len());
            if read[..seen] != PREFACE[..seen] {
                return Some(false);
            }
            if seen == PREFACE.len() {
                return Some(true);
            }
            read.reserve(4096);
            if !matches!(socket.read_buf(&mut read).await, Ok(n) if n > 0) {
                // Half a preface is half a request line: HTTP/1 says what is wrong with it.
                return (!read.is_empty()).then_some(false);
            }
        }
    };
    let http2 = tokio::time::timeout(timeout, sniffing).await.ok()??;
    Some((read, http2))
}

/// The client left before its answer was made; there is nobody to send it to.
#[derive(Debug, thiserror::Error)]
#[error("the client left")]
pub(crate) struct ClientLeft;

/// Counts a request whose stream is reset while its answer is awaited.
struct Wait {
    connection: Rc<Connection>,
    answered: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.given_up.set(self.connection.given_up.get() + 1);
        }
    }
}

/// Spawns hyper's tasks where the connection is.
#[derive(Clone, Copy)]
pub(crate) struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

async fn serve_http2<S>(worker: &Rc<Worker>, socket: S, connection: Connection, read: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let http = worker.shared.generation.load().profile.settings.http;
    let (buffers, size) = http.header_buffers;
    let max_head = u32::try_from(buffers.saturating_mul(size)).unwrap_or(u32::MAX);
    let connection = Rc::new(connection);
    let service = {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(&connection));
        service_fn(move |request: http::Request<hyper::body::Incoming>| {
            // Beyond that the stream is reset, and sets nothing off.
            let accepted = connection.live.get() < MAX_LIVE && !connection.is_wasteful();
            let begun = accepted.then(|| flight::begin(&worker, &connection, request.map(Incoming::Http2)));
            let wait = Wait { connection: Rc::clone(&connection), answered: !accepted };
            async move {
                let mut wait = wait;
                let answer = match begun {
                    Some(answer) => answer.await.ok_or(ClientLeft),
                    None => Err(ClientLeft),
                };
                wait.answered = true;
                answer
            }
        })
    };
    let serving = hyper::server::conn::http2::Builder::new(OnThisThread)
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(max_head)
        // What is read ahead of a slow client, for each stream: as HTTP/1.
        .max_send_buf_size(http.proxy_buffers.0.saturating_mul(http.proxy_buffers.1).max(16 * 1024))
        .keep_alive_interval((!http.keepalive_timeout.is_zero()).then_some(http.keepalive_timeout))
        .serve_connection(TokioIo::new(Prefixed::new(read, socket)), service);
    let mut serving = pin!(serving);
    let mut mode = worker.mode.clone();
    let mut closing = false;
    loop {
        // Checked now and then: HTTP/2 has no timer of its own but for its pings.
        let check = tokio::time::sleep(HTTP2_CHECK);
        tokio::select! {
            biased;
            _ = serving.as_mut() => return,
            _ = mode.wait_for(|mode| *mode == Mode::Draining), if !closing => closing = true,
            () = check => {}
        }
        let idle = connection.idle_since.get().elapsed();
        let live = connection.live.get();
        let begun = connection.requests.get() > 0;
        // nginx's send_timeout: a client that takes nothing of what waits for it.
        let stuck = connection.held_back.get() > 0
            && !http.send_timeout.is_zero()
            && connection.taken_at.get().elapsed() >= http.send_timeout;
        if stuck
            || live > MAX_LIVE
            || connection.is_wasteful()
            || (!begun && idle >= http.header_timeout)
            || (closing && live == 0 && idle >= GOODBYE)
        {
            return;
        }
        closing |= connection.requests.get() >= http.keepalive_requests
            || (live == 0 && begun && !http.keepalive_timeout.is_zero() && idle >= http.keepalive_timeout);
        if closing {
            serving.as_mut().graceful_shutdown();
        }
    }
}

//! One client connection: TLS, the choice between HTTP/1 and HTTP/2, the answer to what the sanitiser refused, and
//! an end that lets the client read the last answer.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use bytes::BytesMut;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use silverback_config::settings::Http;
use silverback_log::Level;
use silverback_pdk::exchange::{Proxied, Subsystem, TlsInfo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use crate::{
    flight,
    header_case::{Announced, HeaderCase},
    http1::spelling::Spelling,
    linger::{SILENCE, linger},
    prefixed::Prefixed,
    proxy_protocol,
    sanitiser::{self, Sanitised},
    send_timeout::SendTimeout,
    surroundings,
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
    /// Tells the sanitiser, where there is one.
    pub(crate) wire: Option<Rc<dyn Wire>>,
    /// Told of answers whose heads hyper would not write as they are; HTTP/1 only.
    pub(crate) corrected: Option<Announced>,
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
            wire: None,
            corrected: None,
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
        if let Some(wire) = &self.wire {
            wire.answered();
        }
    }
}

/// What a request tells the socket that it came by.
pub(crate) trait Wire {
    fn answered(&self);
    fn switch_protocol(&self);
    /// How the names in the head of the next request that is begun are written.
    fn spelling(&self) -> Spelling;
    /// How often all that was to be written has been.
    fn flushes(&self) -> u64;
    /// Wakes a task when it is so again.
    fn wake_at_flush(&self, waker: &Waker);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for Sanitised<S> {
    fn answered(&self) {
        Self::answered(self);
    }

    fn switch_protocol(&self) {
        Self::switch_protocol(self);
    }

    fn spelling(&self) -> Spelling {
        Self::spelling(self)
    }

    fn flushes(&self) -> u64 {
        Self::flushes(self)
    }

    fn wake_at_flush(&self, waker: &Waker) {
        Self::wake_at_flush(self, waker);
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

/// How long after its last request an HTTP/1 connection gives up what it holds.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How often it is looked at whether an HTTP/1 connection rests that is to end then.
const DRAIN_CHECK: Duration = Duration::from_millis(100);

/// How long a client that was told to leave may stay when nothing is under way.
const GOODBYE: Duration = Duration::from_secs(5);

/// Header lines in one request. nginx has no such limit but the head's size; this is far above what it lets through
/// in practice.
const MAX_HEADERS: usize = 512;

/// Serves a connection to its end. Each step is boxed: a connection that waits, as most do, holds what its own step needs
/// and not what the largest would.
pub(crate) async fn serve<S>(worker: Rc<Worker>, socket: S, from: From, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let counters = &worker.shared.counters;
    counters.accepted.fetch_add(1, Ordering::Relaxed);
    counters.active.fetch_add(1, Ordering::Relaxed);
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
    worker.shared.counters.active.fetch_sub(1, Ordering::Relaxed);
}

async fn serve_socket<S>(worker: &Rc<Worker>, mut socket: S, origin: Origin, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
            return Box::pin(serve_http1(worker, socket, connection, read)).await;
        }
        let socket = Prefixed::new(read, socket);
        let alpn = if kind.http2 { Alpn::Http2 } else { Alpn::Http1 };
        match Box::pin(handshake::accept(worker, socket, &origin, Subsystem::Http, alpn, limit)).await {
            Ok(Secured { stream, info, http2 }) => {
                let connection = Connection::new(origin, Some(info), http2);
                if http2 {
                    Box::pin(serve_http2(worker, stream, connection, BytesMut::new())).await;
                } else {
                    Box::pin(serve_http1(worker, stream, connection, BytesMut::new())).await;
                }
            }
            Err(error) => log(error.level(), format_args!("SSL handshake failed ({error})"), &origin),
        }
        return;
    }
    let connection = |http2| Connection::new(origin, None, http2);
    match sniff(worker, &mut socket, kind).await {
        Some((read, true)) => Box::pin(serve_http2(worker, socket, connection(true), read)).await,
        Some((read, false)) => Box::pin(serve_http1(worker, socket, connection(false), read)).await,
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

async fn serve_http1<S>(worker: &Rc<Worker>, socket: S, mut connection: Connection, read: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = worker.shared.generation.load().profile.settings.http;
    let (buffers, size) = http.header_buffers;
    let wire = Sanitised::new(
        socket,
        sanitiser::Limits {
            line: size,
            head: buffers.saturating_mul(size),
            lines: MAX_HEADERS,
            underscores: http.underscores_in_headers,
            head_timeout: http.header_timeout,
            idle_timeout: http.keepalive_timeout,
            body_timeout: http.body_timeout,
        },
        read,
    );
    connection.wire = Some(Rc::new(wire.clone()));
    connection.corrected = Some(Announced::default());
    let connection = Rc::new(connection);
    while rest(worker, &wire, &connection).await && Box::pin(serve_requests(worker, &wire, &connection, &http)).await {}
    if wire.is_switched() {
        // The tunnel has the socket, and closes it.
        return;
    }
    let unfinished = wire.is_mid_body();
    if let Some(refused) = wire.take_refused() {
        // Behind an answer that broke off, or that ends with the connection, it would be read as a part of it.
        let heard = !connection.closing.get();
        let answer = flight::refuse(worker, &connection, &refused);
        let mut wire = wire;
        if heard && wire.write_all(&answer).await.is_ok() {
            close_gently(&mut wire).await;
        }
    } else if unfinished {
        let mut wire = wire;
        close_gently(&mut wire).await;
    } else {
        close(wire).await;
    }
}

/// Waits for a request, while nothing is held for the connection but its socket. False: there will be none.
async fn rest<S>(worker: &Worker, wire: &Sanitised<S>, connection: &Connection) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut mode = worker.mode.clone();
    tokio::select! {
        biased;
        arrived = wire.arrival() => arrived,
        // A client that was just let in, or whose request has begun to arrive, is answered; an idle one is told that
        // this was all.
        _ = mode.wait_for(|mode| *mode == Mode::Draining), if connection.requests.get() > 0 => {
            wire.has_arrived().await && wire.arrival().await
        }
    }
}

/// Serves requests as long as they come. True when the connection rests: hyper's buffers, the largest part of what an
/// idle connection would hold, are gone then.
async fn serve_requests<S>(worker: &Rc<Worker>, wire: &Sanitised<S>, connection: &Rc<Connection>, http: &Http) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
        service_fn(move |request| {
            let answer = flight::begin(&worker, &connection, request);
            async move { answer.await.ok_or(ClientLeft) }
        })
    };
    let (buffers, size) = http.header_buffers;
    let corrected = connection.corrected.clone().unwrap_or_default();
    let mut serving = hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .auto_date_header(false)
        // And one of the sanitiser's.
        .max_headers(MAX_HEADERS + 1)
        // With room for what the sanitiser writes longer than it came: a target that is percent-encoded, and the raw
        // one beside it. Also what is read ahead of a slow client: nginx's proxy_buffers.
        .max_buf_size(
            buffers
                .saturating_add(4)
                .saturating_mul(size)
                .max(http.proxy_buffers.0.saturating_mul(http.proxy_buffers.1))
                .max(8192),
        )
        .serve_connection(TokioIo::new(HeaderCase::answers(wire.clone(), corrected)), service)
        .with_upgrades();
    let mut mode = worker.mode.clone();
    let mut draining = false;
    let mut check = pin!(tokio::time::sleep(REST_AFTER));
    loop {
        tokio::select! {
            biased;
            _ = &mut serving => return false,
            // Answers say from now on that they are the last. A client that was not told so may send its next request any
            // moment, and the connection ends only when it has rested.
            _ = mode.wait_for(|mode| *mode == Mode::Draining), if !draining => draining = true,
            () = &mut check => {}
        }
        let rested = connection.idle_since.get() + REST_AFTER;
        let now = Instant::now();
        if connection.live.get() == 0 && now >= rested && wire.is_resting() {
            // Bytes that hyper still holds belong to no request.
            return serving.into_parts().is_some_and(|parts| parts.read_buf.is_empty());
        }
        check.as_mut().reset(if draining { rested.max(now + DRAIN_CHECK) } else { now + REST_AFTER });
    }
}

/// The client left before its answer was made; there is nobody to send it to.
#[derive(Debug, thiserror::Error)]
#[error("the client left")]
pub(crate) struct ClientLeft;

/// Closes its own end and reads on for a while, so that what the client still sends does not make the kernel
/// throw away the answer that it has not read (nginx's `lingering_close`).
async fn close_gently<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Sanitised<S>) {
    if wire.shutdown_socket().await.is_err() {
        return;
    }
    linger(async |scratch: &mut [u8]| wire.read_socket(scratch).await).await;
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Sanitised<S>) {
    // TLS says goodbye; a client that does not listen is not waited for.
    let _ = tokio::time::timeout(SILENCE, wire.shutdown_socket()).await;
}

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
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = worker.shared.generation.load().profile.settings.http;
    let (buffers, size) = http.header_buffers;
    let max_head = u32::try_from(buffers.saturating_mul(size)).unwrap_or(u32::MAX);
    let connection = Rc::new(connection);
    let service = {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(&connection));
        service_fn(move |request| {
            // Beyond that the stream is reset, and sets nothing off.
            let accepted = connection.live.get() < MAX_LIVE && !connection.is_wasteful();
            let begun = accepted.then(|| flight::begin(&worker, &connection, request));
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

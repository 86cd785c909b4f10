//! HTTP/1 towards clients: requests are read one after another, and answered.

mod answer_head;
mod wire;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use http::{Request, Response};
use http_body::Body as _;
use silverback_config::settings::Http;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep_until,
};

pub(crate) use self::wire::Body;
use self::{
    answer_head::{Asked, Known},
    wire::{BodyProgress, Came, Wire},
};
use super::Connection;
use crate::{
    body::ClientBody,
    flight,
    http1::{
        encoder::{Encoder, TooShort},
        outgoing::Outgoing,
        spelling::Spelling,
    },
    linger::{SILENCE, linger},
    prefixed::Prefixed,
    request_body::Incoming,
    sanitiser::{Head, Limits, Refusal, Refused},
    timer::Timer,
    worker::{Mode, Worker},
};

/// How long after its last request a connection ends at a graceful stop: a client that was not told so may send its next
/// request any moment.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Header lines in one request. nginx has no such limit but the head's size; this is far above what it lets through
/// in practice.
const MAX_HEADERS: usize = 512;

thread_local! {
    /// What the answers of a thread are put together in: a connection that has nothing to say holds no buffer.
    static OUTGOING: RefCell<Outgoing> = RefCell::default();
}

/// Serves a connection to its end. `read`: what has come already.
pub(super) async fn serve<S>(worker: &Rc<Worker>, socket: S, connection: Connection, read: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let http = worker.shared.generation.load().profile.settings.http;
    let (buffers, size) = http.header_buffers;
    let limits = Limits {
        line: size,
        head: buffers.saturating_mul(size),
        lines: MAX_HEADERS,
        underscores: http.underscores_in_headers,
    };
    let mut server = Server {
        wire: Wire::new(socket, limits, read),
        worker: Rc::clone(worker),
        connection: Rc::new(connection),
        timer: Timer::default(),
        drain: None,
        http,
    };
    let end = server.run().await;
    let Some(mut socket) = server.wire.take_socket() else { return };
    let waiting = server.wire.take_waiting();
    drop(server.timer);
    match end {
        End::Closed if waiting.is_empty() => close(&mut socket).await,
        // The client is still sending what nobody will read.
        End::Closed | End::Unfinished => close_gently(&mut socket).await,
        End::Refused(refused) => {
            let answer = flight::refuse(worker, &server.connection, &refused);
            if socket.write_all(&answer).await.is_ok() && socket.flush().await.is_ok() {
                close_gently(&mut socket).await;
            }
        }
        End::Left => {}
        End::Switched(body) => {
            if let Some((tunnel, finish)) = body.into_tunnel() {
                tunnel.run(Prefixed::new(waiting, socket), finish).await;
            }
        }
    }
}

/// How a connection ends.
enum End {
    /// There is nothing more to say.
    Closed,
    /// In the middle of a request's body.
    Unfinished,
    Refused(Refused),
    /// The client is gone.
    Left,
    /// It speaks another protocol from now on.
    Switched(ClientBody),
}

/// What comes of waiting for a request.
enum Next {
    Request(Head),
    End(End),
}

struct Server<S> {
    wire: Wire<S>,
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    /// For a head from its first byte on, else for the next request.
    timer: Timer,
    /// Wakes the connection when the worker drains. Kept: it is the connection's task that is told, whatever it waits for.
    drain: Option<Pin<Box<dyn Future<Output = ()>>>>,
    http: Http,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Server<S> {
    async fn run(&mut self) -> End {
        loop {
            let head = match self.next().await {
                Next::Request(head) => head,
                Next::End(end) => return end,
            };
            if let Some(end) = self.answer(head).await {
                return end;
            }
        }
    }

    /// Waits for a request, while nothing is held but the socket and what has come of it.
    async fn next(&mut self) -> Next {
        // The first one has as long as a head, as in nginx.
        let first = self.connection.requests.get() == 0;
        let mut begun = false;
        self.timer.clear();
        loop {
            match self.wire.head() {
                Ok(Some(head)) => return Next::Request(head),
                Ok(None) => {}
                Err(refused) => return Next::End(End::Refused(refused)),
            }
            if !begun && self.wire.waiting() > 0 {
                begun = true;
                self.timer.set(self.http.header_timeout);
            }
            let waited = poll_fn(|cx| {
                if let Poll::Ready(came) = self.wire.poll_bytes(cx) {
                    return Poll::Ready(Waited::Came(came));
                }
                if !begun && !self.timer.is_set() {
                    self.timer.set(if first { self.http.header_timeout } else { self.http.keepalive_timeout });
                }
                if self.timer.poll(cx).is_ready() {
                    return Poll::Ready(Waited::TooLong);
                }
                // A client that was just let in, or whose request has begun to arrive, is answered.
                if !first && !begun && self.poll_drain(cx).is_ready() {
                    return Poll::Ready(Waited::Draining);
                }
                Poll::Pending
            });
            let came = match waited.await {
                Waited::Came(came) => came,
                Waited::TooLong => return Next::End(self.without_head(Refusal::HeadTimeout)),
                Waited::Draining => self.last_call().await,
            };
            if came == Came::End {
                return Next::End(self.without_head(Refusal::ClientLeft));
            }
        }
    }

    /// The end of a connection whose next request does not come, or only a part of its head.
    fn without_head(&self, why: Refusal) -> End {
        let head = self.wire.take_waiting();
        if head.is_empty() { End::Closed } else { End::Refused(Refused { why, head: head.to_vec() }) }
    }

    /// Ready when the worker drains.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_none() {
            let mut mode = self.worker.mode.clone();
            let mut drain: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                // It fails when the proxy is gone.
                let _ = mode.wait_for(|mode| *mode == Mode::Draining).await;
            });
            let polled = drain.as_mut().poll(cx);
            self.drain = Some(drain);
            return polled;
        }
        if self.worker.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The worker drains, and this client was not told: it may send its next request until it has rested.
    async fn last_call(&self) -> Came {
        let rested = self.connection.idle_since.get() + REST_AFTER;
        let mut resting = pin!(sleep_until(rested));
        let came = poll_fn(|cx| match self.wire.poll_bytes(cx) {
            Poll::Ready(came) => Poll::Ready(Some(came)),
            Poll::Pending => resting.as_mut().poll(cx).map(|()| None),
        });
        if let Some(came) = came.await {
            return came;
        }
        // The runtime looks at its sockets before this goes on: otherwise it would not know of what has just come.
        tokio::task::yield_now().await;
        poll_fn(|cx| match self.wire.poll_bytes(cx) {
            Poll::Ready(came) => Poll::Ready(came),
            Poll::Pending => Poll::Ready(Came::End),
        })
        .await
    }

    /// Answers a request. `None`: the connection goes on.
    async fn answer(&mut self, head: Head) -> Option<End> {
        let asked = Asked::of(&head.method, head.version);
        let mut answering = flight::begin(&self.worker, &self.connection, self.request(head));
        let answer = poll_fn(|cx| match Pin::new(&mut answering).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => self.wire.poll_left(cx).map(|()| None),
        })
        .await;
        drop(answering);
        let Some(answer) = answer else { return Some(End::Left) };
        let mut out = OUTGOING.take();
        let written = self.write(asked, answer, &mut out).await;
        if out.is_empty() {
            OUTGOING.set(out);
        }
        match written {
            Ok(Written { closing, switched: None }) => {
                // Whoever reads the request's body may go on.
                let progress = poll_fn(|cx| match self.wire.body_progress(cx) {
                    BodyProgress::UnderWay => Poll::Pending,
                    over => Poll::Ready(over),
                })
                .await;
                match progress {
                    BodyProgress::Complete if closing => Some(End::Closed),
                    BodyProgress::Complete => None,
                    BodyProgress::UnderWay | BodyProgress::Abandoned => Some(End::Unfinished),
                }
            }
            Ok(Written { switched: Some(body), .. }) => Some(End::Switched(body)),
            Err(WriteError::Broken) => Some(End::Closed),
            Err(WriteError::ClientLeft) => Some(End::Left),
        }
    }

    /// A request as the flight takes it.
    fn request(&self, head: Head) -> Request<Incoming> {
        let mut request = Request::new(self.wire.body().map_or(Incoming::Empty, Incoming::Http1));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers;
        if head.spelling != Spelling::default() {
            request.extensions_mut().insert(head.spelling);
        }
        if let Some(target) = head.raw_target {
            request.extensions_mut().insert(target);
        }
        request
    }

    /// Writes an answer, its body as it comes. A body that is dropped tells its request what has become of it.
    async fn write(
        &self,
        asked: Asked,
        answer: Response<ClientBody>,
        out: &mut Outgoing,
    ) -> Result<Written, WriteError> {
        let (head, body) = answer.into_parts();
        // A request whose body nobody wants cannot be followed by another.
        let abandoned = poll_fn(|cx| Poll::Ready(self.wire.body_progress(cx))).await == BodyProgress::Abandoned;
        let closing = abandoned || self.connection.closing.get();
        let known = Known { is_empty: body.is_end_stream(), size: body.size_hint() };
        self.wire.begin_answer(out);
        let (framing, closing) = answer_head::put(out.bytes(), asked, head, &known, closing);
        self.connection.closing.set(closing);
        let mut going = match framing {
            Some(encoder) if !known.is_empty => Some(Going { encoder, paced: body.is_paced(), body }),
            _ if body.is_switching() => {
                self.flush(out).await?;
                return Ok(Written { closing, switched: Some(body) });
            }
            // It has no body, or none that is told.
            _ => {
                drop(body);
                None
            }
        };
        poll_fn(|cx| self.poll_body(&mut going, out, cx)).await?;
        Ok(Written { closing, switched: None })
    }

    /// Writes what there is of a body, and of what went before it. Ready when all of it is out.
    fn poll_body(
        &self,
        going: &mut Option<Going>,
        out: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            let held = going.as_ref().is_some_and(|going| going.paced) && !self.poll_out(out, cx).is_ready();
            let mut waits = held;
            while let Some(Going { body, encoder, paced }) = going
                && !waits
                && !out.is_full()
                && (!*paced || out.is_empty())
            {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        encoder.put(frame, out);
                        if !body.is_end_stream() {
                            continue;
                        }
                    }
                    Poll::Ready(None) => {}
                    Poll::Ready(Some(Err(_))) => return self.break_off(out, cx),
                    Poll::Pending => {
                        waits = true;
                        continue;
                    }
                }
                let ended = encoder.end(out);
                *going = None;
                if ended == Err(TooShort) {
                    return self.break_off(out, cx);
                }
            }
            match self.poll_out(out, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(WriteError::ClientLeft)),
                Poll::Ready(Ok(())) if going.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits => {}
                _ => return self.wire.poll_left(cx).map(|()| Err(WriteError::ClientLeft)),
            }
        }
    }

    fn poll_out(&self, out: &mut Outgoing, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire.poll_write(out, cx) {
            Poll::Ready(Ok(())) => self.wire.poll_flush(cx),
            waiting => waiting,
        }
    }

    /// A body ends before its end: the client gets what there is, and sees its connection end.
    fn break_off(&self, out: &mut Outgoing, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        self.connection.closing.set(true);
        let _ = self.wire.poll_write(out, cx);
        Poll::Ready(Err(WriteError::Broken))
    }

    async fn flush(&self, out: &mut Outgoing) -> Result<(), WriteError> {
        poll_fn(|cx| self.poll_out(out, cx)).await.map_err(|_| WriteError::ClientLeft)
    }
}

enum Waited {
    Came(Came),
    TooLong,
    Draining,
}

/// An answer that is out.
struct Written {
    closing: bool,
    switched: Option<ClientBody>,
}

/// Why an answer is not out.
enum WriteError {
    /// Its body broke off.
    Broken,
    ClientLeft,
}

/// A body on its way.
struct Going {
    body: ClientBody,
    encoder: Encoder,
    /// Nothing of it is asked for before what went before it is out.
    paced: bool,
}

/// Closes its own end and reads on for a while, so that what the client still sends does not make the kernel
/// throw away the answer that it has not read (nginx's `lingering_close`).
async fn close_gently<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
    if socket.shutdown().await.is_err() {
        return;
    }
    linger(async |scratch: &mut [u8]| -> io::Result<usize> { socket.read(scratch).await }).await;
}

async fn close<S: AsyncWrite + Unpin>(socket: &mut S) {
    // TLS says goodbye; a client that does not listen is not waited for.
    let _ = tokio::time::timeout(SILENCE, socket.shutdown()).await;
}

//! The bodies that go to clients and to upstreams.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use silverback_config::settings::Http;
use tokio::time::{Instant, Sleep};

use crate::{
    answer::Tunnel,
    flight::Finish,
    request_body::{self, BodyError},
    upstream::answer::UpstreamResponseBody,
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a client. Whatever becomes of it (sent whole, broken off, dropped unsent), its
/// [`Finish`] runs once: that is when the request is over, and is logged.
pub(crate) struct ClientBody {
    kind: ClientBodyKind,
    finish: Option<Finish>,
    /// `response_buffering: false`.
    paced: bool,
}

enum ClientBodyKind {
    Empty,
    Switching(Box<Tunnel>),
    Whole(Option<Bytes>),
    /// Whole, but its length is not told beforehand; with trailers, maybe.
    Chunked(Option<Bytes>, Option<HeaderMap>),
    /// And how many bytes of it may still go on, where a plugin said so.
    Upstream(UpstreamResponseBody, Option<u64>),
}

impl ClientBody {
    pub(crate) fn empty(finish: Finish) -> Self {
        Self { kind: ClientBodyKind::Empty, finish: Some(finish), paced: false }
    }

    pub(crate) fn whole(bytes: Bytes, finish: Finish) -> Self {
        Self { kind: ClientBodyKind::Whole(Some(bytes)), finish: Some(finish), paced: false }
    }

    /// The answer of a switch of protocols: what follows it is no body.
    pub(crate) fn switching(tunnel: Tunnel, finish: Finish) -> Self {
        Self { kind: ClientBodyKind::Switching(Box::new(tunnel)), finish: Some(finish), paced: false }
    }

    pub(crate) fn chunked(bytes: Bytes, trailers: Option<HeaderMap>, finish: Finish) -> Self {
        let kind = ClientBodyKind::Chunked((!bytes.is_empty()).then_some(bytes), trailers);
        Self { kind, finish: Some(finish), paced: false }
    }

    /// `allowed`: a length that a plugin declared; nothing is sent beyond it. `paced`: see [`Self::is_paced`].
    pub(crate) fn upstream(body: UpstreamResponseBody, allowed: Option<u64>, paced: bool, finish: Finish) -> Self {
        Self { kind: ClientBodyKind::Upstream(body, allowed), finish: Some(finish), paced }
    }
}

impl ClientBody {
    /// Whether nothing is to be read from the upstream before the client's socket took what was (`response_buffering:
    /// false`).
    pub(crate) fn is_paced(&self) -> bool {
        self.paced
    }

    /// What passes bytes on once this answer, a switch of protocols, is out.
    pub(crate) fn into_tunnel(mut self) -> Option<(Box<Tunnel>, Finish)> {
        match std::mem::replace(&mut self.kind, ClientBodyKind::Empty) {
            ClientBodyKind::Switching(tunnel) => Some((tunnel, self.finish.take()?)),
            _ => None,
        }
    }

    /// Whether this is a switch of protocols.
    pub(crate) fn is_switching(&self) -> bool {
        matches!(self.kind, ClientBodyKind::Switching(_))
    }

    /// The client left before its answer was made.
    pub(crate) fn abandon(mut self) {
        if let Some(mut finish) = self.finish.take() {
            finish.unsend();
            finish.client_left();
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(finish) = &mut this.finish {
            finish.hold_back(false);
        }
        let polled = match &mut this.kind {
            ClientBodyKind::Empty | ClientBodyKind::Switching(_) => Poll::Ready(None),
            ClientBodyKind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ClientBodyKind::Chunked(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            ClientBodyKind::Upstream(_, Some(0)) => Poll::Ready(None),
            ClientBodyKind::Upstream(body, allowed) => Pin::new(body).poll_frame(cx).map_ok(|frame| match allowed {
                None => frame,
                Some(left) => frame.map_data(|mut data| {
                    data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= data.len() as u64;
                    data
                }),
            }),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(finish)) = (frame.data_ref(), &mut this.finish) {
                    finish.sent(data.len());
                }
                if this.is_end_stream() {
                    if let Some(finish) = this.finish.take() {
                        finish.complete();
                    }
                } else if let Some(finish) = &mut this.finish {
                    finish.hold_back(frame.is_data());
                }
            }
            Poll::Ready(None) => {
                if let Some(finish) = this.finish.take() {
                    finish.complete();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(finish) = this.finish.take() {
                    finish.upstream_broke(error);
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ClientBodyKind::Empty | ClientBodyKind::Switching(_) => true,
            ClientBodyKind::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            // An empty one has its last chunk too.
            ClientBodyKind::Chunked(..) => false,
            ClientBodyKind::Upstream(_, Some(0)) => true,
            ClientBodyKind::Upstream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ClientBodyKind::Empty | ClientBodyKind::Switching(_) => SizeHint::with_exact(0),
            ClientBodyKind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ClientBodyKind::Chunked(..) => SizeHint::default(),
            ClientBodyKind::Upstream(_, Some(left)) => SizeHint::with_exact(*left),
            ClientBodyKind::Upstream(body, None) => body.size_hint(),
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // A body that is at its end (HEAD, 204, empty) is never polled; the others are dropped unfinished when the client
        // is gone.
        if let Some(finish) = self.finish.take() {
            if self.is_end_stream() || finish.is_bodiless() { finish.complete() } else { finish.client_left() }
        }
    }
}

/// The body of a request to an upstream.
pub(crate) enum UpstreamRequestBody {
    Empty,
    Whole(Option<Bytes>),
    File(FileBody, Progress),
    Client(ClientRequestBody, Progress),
}

/// How far a body has come, for those who wait for an answer: while it is still being sent, the upstream is not late.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    sent: Sent,
    fault: Option<BodyFault>,
}

/// Why a body could not be sent to its end: nothing that the upstream could help.
#[derive(Debug)]
pub(crate) enum BodyFault {
    Client(BodyError),
    Spool(io::Error),
}

/// The client left its body unfinished. hyper resets a stream upstream with the reason that it finds in an error: the
/// request is not wanted any more.
#[derive(Debug, thiserror::Error)]
#[error("{told}")]
struct BrokenOff {
    told: String,
    #[source]
    reset: h2::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// When the last piece was taken.
    pub(crate) at: Instant,
    pub(crate) complete: bool,
    /// The upstream would take more, and the client has not sent it.
    pub(crate) waits: bool,
}

impl Progress {
    /// Of a body that is complete before it begins, or not.
    pub(crate) fn new(complete: bool) -> Self {
        Self(Arc::new(Mutex::new(State { sent: Sent { at: Instant::now(), complete, waits: false }, fault: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sent(&self) -> Sent {
        self.state().sent
    }

    /// What the body failed of, told once. What comes of it on the connection does not tell.
    pub(crate) fn take_fault(&self) -> Option<BodyFault> {
        self.state().fault.take()
    }

    fn failed(&self, fault: BodyFault) {
        self.state().fault.get_or_insert(fault);
    }

    /// A piece was taken; the last one or not.
    pub(crate) fn note(&self, complete: bool) {
        self.state().sent = Sent { at: Instant::now(), complete, waits: false };
    }

    /// The next piece has not come.
    pub(crate) fn wait(&self) {
        self.state().sent.waits = true;
    }
}

impl Body for UpstreamRequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(file, progress) => {
                let polled = file.poll_frame(cx);
                if polled.is_ready() {
                    progress.note(file.left == 0);
                }
                polled.map_err(|error| {
                    let told = error.to_string();
                    progress.failed(BodyFault::Spool(error));
                    told.into()
                })
            }
            Self::Client(body, progress) => {
                let polled = body.poll_frame(cx);
                match &polled {
                    Poll::Ready(frame) => progress.note(frame.is_none() || body.is_end_stream()),
                    Poll::Pending => progress.wait(),
                }
                polled.map_err(|error| {
                    let told = BrokenOff { told: error.to_string(), reset: h2::Reason::CANCEL.into() };
                    progress.failed(BodyFault::Client(error));
                    told.into()
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::File(file, _) => file.left == 0,
            Self::Client(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::File(file, _) => SizeHint::with_exact(file.left),
            Self::Client(body, _) => body.size_hint(),
        }
    }
}

/// A spooled body, read piece by piece.
pub(crate) struct FileBody {
    reader: tokio_util::io::ReaderStream<tokio::fs::File>,
    left: u64,
}

impl FileBody {
    /// Bytes read at a time.
    const PIECE: usize = 64 * 1024;

    pub(crate) async fn open(path: &std::path::Path, length: u64) -> io::Result<Self> {
        let file = tokio::fs::File::open(path).await?;
        Ok(Self { reader: tokio_util::io::ReaderStream::with_capacity(file, Self::PIECE), left: length })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        use futures_core::Stream;
        if self.left == 0 {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.reader).poll_next(cx).map(|piece| {
            let ended = || Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it was"));
            Some(piece.unwrap_or_else(ended).map(|mut piece| {
                piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= piece.len() as u64;
                Frame::data(piece)
            }))
        })
    }
}

/// A request body that goes upstream as it comes (`request_buffering: false`), limited in size.
pub(crate) struct ClientRequestBody {
    incoming: request_body::Incoming,
    /// Bytes that may still come; `None` for no limit.
    allowed: Option<u64>,
    /// `client_body_timeout`: between two pieces; zero for no limit.
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl ClientRequestBody {
    pub(crate) fn new(incoming: request_body::Incoming, settings: &Http) -> Self {
        let max = settings.max_body_size;
        Self { incoming, allowed: (max > 0).then_some(max), limit: settings.body_timeout, sleep: None }
    }

    /// Nothing of it was read.
    pub(crate) fn into_inner(self) -> request_body::Incoming {
        self.incoming
    }
}

impl ClientRequestBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.incoming.poll_frame(cx);
        if polled.is_ready() {
            self.sleep = None;
        } else if !self.limit.is_zero() {
            let limit = self.limit;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(BodyError::Timeout)));
            }
        }
        polled.map(|frame| {
            frame.map(|frame| {
                let frame = frame?;
                if let (Some(data), Some(allowed)) = (frame.data_ref(), &mut self.allowed) {
                    *allowed = allowed.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
                }
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

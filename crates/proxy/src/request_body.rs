//! Reading a request's body whole: in memory up to `nginx_http_client_body_buffer_size`, in a file beyond it.

use std::{
    fs,
    future::poll_fn,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use silverback_config::Settings;
use silverback_pdk::exchange::RequestBody;
use tokio::task::spawn_blocking;

use crate::{buffered::Held, connection::http1};

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("client intended to send too large body")]
    TooLarge,
    #[error("client timed out")]
    Timeout,
    #[error("client sent invalid body, or left ({0})")]
    Client(String),
    #[error("the body cannot be spooled ({0}): is there room under the prefix?")]
    Spool(#[source] io::Error),
    #[error(
        "the body of {length} bytes is too large for a plugin to read: with its copy for the plugin server it is more \
         than the {total} bytes of buffered_proxying_total_size"
    )]
    TooLargeForPlugin { length: u64, total: u64 },
    #[error(
        "the body of {length} bytes cannot be read by a plugin now: what is held by now leaves no room for it and its \
         copy for the plugin server within the {total} bytes of buffered_proxying_total_size"
    )]
    NoRoom { length: u64, total: u64 },
}

/// A request's body as it comes from the client.
pub(crate) enum Incoming {
    Empty,
    Http1(http1::Body),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    /// The next piece.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(incoming) => Pin::new(&mut *incoming).poll_frame(cx).map(|frame| match frame {
                Some(frame) => Some(frame.map_err(|error| BodyError::Client(error.to_string()))),
                // hyper takes a stream that a client resets with NO_ERROR for one that is at its end: what came of it
                // would pass for the whole.
                None if !incoming.is_end_stream() => {
                    Some(Err(BodyError::Client("the stream was reset before its end".to_owned())))
                }
                None => None,
            }),
        }
    }

    /// Whether all of it has been read.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    /// How much of it is to come, where that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// The file of a spooled body. It is removed when the request is over.
#[derive(Debug)]
pub(crate) struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        // Unlinking is quick, and nothing is left to do where it fails.
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes collected before they are written to the file at once.
const PIECE: usize = 256 * 1024;

/// Reads a body to its end. Gives the body, its file if it has one, and its length in bytes.
pub(crate) async fn read(
    mut incoming: Incoming,
    settings: &Settings,
) -> Result<(RequestBody, Option<Spool>, u64), BodyError> {
    let max = settings.http.max_body_size;
    let in_memory = settings.http.body_buffer_size;
    let exact = incoming.size_hint().exact();
    if max > 0 && exact.is_some_and(|length| length > max) {
        return Err(BodyError::TooLarge);
    }
    let mut collected = BytesMut::new();
    let mut length = 0_u64;
    let mut spooling: Option<Spooling> = None;
    let mut first: Option<Bytes> = None;
    let limit = settings.http.body_timeout;
    while let Some(frame) = in_time(limit, poll_fn(|cx| incoming.poll_frame(cx))).await? {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len() as u64;
        if max > 0 && length > max {
            return Err(BodyError::TooLarge);
        }
        // The commonest body comes in one piece: it is not copied.
        if first.is_none() && collected.is_empty() && spooling.is_none() && data.len() <= in_memory {
            first = Some(data);
            continue;
        }
        if let Some(first) = first.take() {
            collected.extend_from_slice(&first);
        }
        collected.extend_from_slice(&data);
        let threshold = if spooling.is_some() { PIECE } else { in_memory };
        if collected.len() > threshold {
            let started = match spooling.take() {
                Some(spooling) => spooling,
                None => Spooling::start(settings).await.map_err(BodyError::Spool)?,
            };
            spooling = Some(started.write(collected.split().freeze()).await.map_err(BodyError::Spool)?);
        }
    }
    match spooling {
        Some(mut spooling) => {
            if !collected.is_empty() {
                spooling = spooling.write(collected.freeze()).await.map_err(BodyError::Spool)?;
            }
            Ok((RequestBody::File(spooling.path.0.clone(), length), Some(spooling.path), length))
        }
        None => {
            let bytes = first.unwrap_or_else(|| collected.freeze());
            Ok((RequestBody::Memory(bytes), None, length))
        }
    }
}

/// Waits for a piece of the body.
async fn in_time<T>(limit: Duration, piece: impl Future<Output = T>) -> Result<T, BodyError> {
    if limit.is_zero() {
        return Ok(piece.await);
    }
    tokio::time::timeout(limit, piece).await.map_err(|_| BodyError::Timeout)
}

/// A file being written. Files block, so that they are written elsewhere, a piece at a time.
struct Spooling {
    file: fs::File,
    path: Spool,
}

impl Spooling {
    async fn start(settings: &Settings) -> io::Result<Self> {
        // nginx's name for it, under the prefix: plugin servers read the file too.
        let directory = settings.prefix.join("client_body_temp");
        let create = move || {
            fs::create_dir_all(&directory)?;
            let named = tempfile::Builder::new().prefix("").rand_bytes(16).tempfile_in(&directory)?;
            let (file, path) = named.keep().map_err(|error| error.error)?;
            Ok(Self { file, path: Spool(path) })
        };
        spawn_blocking(create).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    async fn write(mut self, piece: Bytes) -> io::Result<Self> {
        let write = move || self.file.write_all(&piece).map(|()| self);
        spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Reads a spooled body into memory, so that a plugin can have it. It counts among all that is held (`all`, at most
/// `total` bytes), and so does its copy in the message to the plugin server.
pub(crate) async fn load(
    path: &Path,
    length: u64,
    all: &Arc<AtomicU64>,
    total: u64,
) -> Result<(Bytes, Held), BodyError> {
    let twice = length.saturating_mul(2);
    if twice > total {
        return Err(BodyError::TooLargeForPlugin { length, total });
    }
    let held = Held::of(all, twice, total).ok_or(BodyError::NoRoom { length, total })?;
    let path = path.to_owned();
    let read = move || fs::read(path).map(Bytes::from);
    let bytes = spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    Ok((bytes.map_err(BodyError::Spool)?, held))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_body_for_a_plugin_counts_among_what_is_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), b"12345").unwrap();
            let all = Arc::new(AtomicU64::new(0));
            let (bytes, held) = load(file.path(), 5, &all, 10).await.unwrap();
            assert_eq!((bytes.as_ref(), all.load(Ordering::Relaxed)), (b"12345".as_slice(), 10));
            assert!(matches!(load(file.path(), 5, &all, 10).await, Err(BodyError::NoRoom { .. })));
            drop(held);
            assert!(matches!(load(file.path(), 5, &all, 9).await, Err(BodyError::TooLargeForPlugin { .. })));
            assert_eq!(all.load(Ordering::Relaxed), 0);
        });
    }
}

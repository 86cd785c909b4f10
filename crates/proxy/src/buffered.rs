//! Answers of upstreams that are held whole for the response phase (Kong's buffered proxying), within limits: one for
//! each answer, and one for all that this process holds. Spooled request bodies that plugins read count among these.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use silverback_config::settings::Buffering;

use crate::{body::BoxError, upstream::answer::Upstreamed};

/// Why an answer cannot be held whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BufferError {
    #[error("the upstream's answer cannot be held for the response phase: {0}")]
    Read(BoxError),
    #[error(
        "the upstream's answer cannot be held for the response phase: it has more than the {0} bytes of \
         buffered_proxying_max_size"
    )]
    TooLarge(u64),
    #[error(
        "the upstream's answer cannot be held for the response phase: the answers held by now leave no room for it \
         within the {0} bytes of buffered_proxying_total_size"
    )]
    NoRoom(u64),
}

impl BufferError {
    /// The status that the client gets.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::Read(_) | Self::TooLarge(_) => 502,
            Self::NoRoom(_) => 503,
        }
    }

    /// What the client is told, where the usual message would say too little.
    pub(crate) const fn client_message(&self) -> Option<&'static str> {
        match self {
            Self::Read(_) => None,
            Self::TooLarge(_) => Some("The response of the upstream server is too large to be processed"),
            Self::NoRoom(_) => Some("Too many responses are being processed"),
        }
    }
}

/// The bytes that are held of one body, counted among all until this is dropped.
pub(crate) struct Held {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Held {
    fn new(all: &Arc<AtomicU64>) -> Self {
        Self { all: Arc::clone(all), bytes: 0 }
    }

    /// Counts so many bytes, if all together are no more than `total` with them.
    pub(crate) fn of(all: &Arc<AtomicU64>, bytes: u64, total: u64) -> Option<Self> {
        let mut held = Self::new(all);
        held.add(bytes, Buffering { max_size: total, total_size: total }).is_ok().then_some(held)
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts more bytes, as far as the limits allow.
    fn add(&mut self, bytes: u64, limits: Buffering) -> Result<(), BufferError> {
        if self.bytes.saturating_add(bytes) > limits.max_size {
            return Err(BufferError::TooLarge(limits.max_size));
        }
        // Counted first, so that two that come at the same time cannot both have the last room.
        self.bytes += bytes;
        if self.all.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > limits.total_size {
            return Err(BufferError::NoRoom(limits.total_size));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An answer that is held.
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) held: Held,
}

/// Reads an upstream's answer whole. `all`: the bytes that this process holds.
pub(crate) async fn read(
    upstreamed: Upstreamed,
    limits: Buffering,
    all: &Arc<AtomicU64>,
) -> Result<Whole, BufferError> {
    let Upstreamed { status, headers, body: mut upstream, .. } = upstreamed;
    let mut held = Held::new(all);
    if upstream.size_hint().lower() > limits.max_size {
        return Err(BufferError::TooLarge(limits.max_size));
    }
    let mut first: Option<Bytes> = None;
    let mut collected = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = upstream.frame().await {
        match frame.map_err(BufferError::Read)?.into_data() {
            Ok(data) => {
                held.add(data.len() as u64, limits)?;
                // The commonest body comes in one piece: it is not copied.
                if first.is_none() && collected.is_empty() {
                    first = Some(data);
                    continue;
                }
                if let Some(first) = first.take() {
                    collected.extend_from_slice(&first);
                }
                collected.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let body = first.unwrap_or_else(|| collected.freeze());
    Ok(Whole { status, headers, body, trailers, held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let all = Arc::new(AtomicU64::new(0));
        let limits = Buffering { max_size: 10, total_size: 15 };
        let (mut one, mut two) = (Held::new(&all), Held::new(&all));
        one.add(10, limits).unwrap();
        assert!(matches!(one.add(1, limits), Err(BufferError::TooLarge(10))));
        two.add(5, limits).unwrap();
        assert!(matches!(two.add(1, limits), Err(BufferError::NoRoom(15))));
        drop(one);
        two.add(1, limits).unwrap();
        drop(two);
        let three = Held::of(&all, 10, 15).unwrap();
        assert!(Held::of(&all, 6, 15).is_none());
        drop(three);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}

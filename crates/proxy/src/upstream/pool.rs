//! A worker's connections to upstreams, by address (and by all that TLS was told where it is spoken: a connection that
//! was checked for one name must not carry requests for another). Those for HTTP/1.1 are here while they are idle, those
//! for HTTP/2 as long as they take requests.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use foldhash::HashMap;
use silverback_config::settings::UpstreamKeepalive;
use tokio::time::Instant;

use super::{
    http1::{AnswerBody, Connection},
    http2::{Connections, Stream, Turn},
    tls::TlsChoice,
};

/// What connections may be shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Rc<TlsKey>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TlsKey {
    pub(crate) server_name: String,
    pub(crate) choice: TlsChoice,
}

/// Keys under which connections are kept at most. With `preserve_host` it is clients that name the servers that TLS asks
/// for.
pub(super) const MAX_KEYS: usize = 4096;

/// Closes what is kept under another key where there are too many for a new one.
pub(super) fn make_room<T>(kept: &mut HashMap<Key, T>, key: &Key) {
    if kept.len() >= MAX_KEYS && !kept.contains_key(key) {
        let other = kept.keys().next().cloned();
        other.and_then(|other| kept.remove(&other));
    }
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The connections of a worker, and how many of them are kept for how long. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    kept: Rc<Kept>,
    /// Those of the request that asks: a reload may have brought others.
    limits: UpstreamKeepalive,
}

#[derive(Default)]
struct Kept {
    /// Twice a request: the standard library's hash takes longer than the rest of it.
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    http2: Connections,
}

impl Pool {
    pub(crate) fn new(limits: UpstreamKeepalive) -> Self {
        Self { kept: Rc::default(), limits }
    }

    /// The same connections under these limits.
    pub(crate) fn under(&self, limits: UpstreamKeepalive) -> Self {
        Self { kept: Rc::clone(&self.kept), limits }
    }

    /// The connection that was used last, if one is idle and still open.
    pub(crate) fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.kept.idle.borrow_mut();
        let connections = idle.get_mut(key)?;
        while let Some(Idle { mut connection, since }) = connections.pop() {
            if self.is_expired(since) {
                // The rest is older still.
                connections.clear();
                break;
            }
            if connection.is_idle() {
                return Some(connection);
            }
        }
        idle.remove(key);
        None
    }

    /// Closes what has been idle for too long. Called now and then by the worker.
    pub(crate) fn sweep(&self) {
        self.kept.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|idle| !self.is_expired(idle.since) && idle.connection.is_idle());
            !connections.is_empty()
        });
        self.kept.http2.sweep(self.limits.idle_timeout, self.limits.pool_size);
    }

    /// A place on a connection for HTTP/2 that is there.
    pub(crate) fn share(&self, key: &Key) -> Option<Stream> {
        self.kept.http2.share(key, self.limits.max_requests)
    }

    /// Whether to open a connection for HTTP/2, or to wait for one that is being opened.
    pub(crate) fn turn(&self, key: &Key) -> Turn<'_> {
        self.kept.http2.turn(key)
    }

    /// Takes a place on a new connection for HTTP/2.
    pub(crate) fn add(&self, key: &Key, connection: super::http2::Connection) -> Stream {
        self.kept.http2.add(key, connection, self.limits.pool_size > 0 && self.limits.max_requests != 1)
    }

    fn is_expired(&self, since: Instant) -> bool {
        !self.limits.idle_timeout.is_zero() && since.elapsed() >= self.limits.idle_timeout
    }

    /// Takes a connection back whose last answer is complete, if it can be used again.
    pub(crate) fn give_back(&self, key: Key, answer: AnswerBody) {
        let Some(connection) = answer.into_reusable() else { return };
        let worn_out = self.limits.max_requests > 0 && connection.served >= self.limits.max_requests;
        if self.limits.pool_size == 0 || worn_out {
            return;
        }
        let mut idle = self.kept.idle.borrow_mut();
        make_room(&mut idle, &key);
        let connections = idle.entry(key).or_default();
        // The oldest ones make room.
        let surplus = (connections.len() + 1).saturating_sub(self.limits.pool_size);
        connections.drain(..surplus);
        connections.push(Idle { connection, since: Instant::now() });
    }
}

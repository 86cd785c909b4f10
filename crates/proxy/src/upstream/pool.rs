//! A worker's connections to upstreams, by address (and by all that TLS was told where it is spoken: a connection that
//! was checked for one name must not carry requests for another). Those for HTTP/1.1 are here while they are idle, those
//! for HTTP/2 as long as they take requests.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc};

use hyper::client::conn::http1::SendRequest;
use silverback_config::settings::UpstreamKeepalive;
use tokio::{task::AbortHandle, time::Instant};

use super::{
    http2::{Connections, Stream, Turn},
    tls::TlsChoice,
};
use crate::{body::UpstreamRequestBody, header_case::Announced};

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

/// A connection to an upstream that carries one request at a time.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<UpstreamRequestBody>,
    /// Told of each request; tells what is out.
    pub(crate) wire: Announced,
    /// Requests it has carried.
    pub(crate) served: u64,
    /// hyper's side of it, ended with this one: an upstream that stops reading must not keep what it was sent.
    pub(crate) _task: AbortOnDrop,
}

impl Connection {
    /// Whether it can carry another request: it is open, and nothing of what went before is still on its way.
    fn is_idle(&self) -> bool {
        // One that is not ready is still sending a request that was answered early: the next would wait for its client.
        // The end of such a body may also be taken, but not be out.
        !self.sender.is_closed() && self.sender.is_ready() && self.wire.is_flushed()
    }
}

/// A task that ends when its owner does.
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
        while let Some(Idle { connection, since }) = connections.pop() {
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
            connections.retain(|idle| !self.is_expired(idle.since) && !idle.connection.sender.is_closed());
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

    fn put(&self, key: Key, connection: Connection) {
        let worn_out = self.limits.max_requests > 0 && connection.served >= self.limits.max_requests;
        if self.limits.pool_size == 0 || worn_out || !connection.is_idle() {
            return;
        }
        let mut idle = self.kept.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        // The oldest ones make room.
        let surplus = (connections.len() + 1).saturating_sub(self.limits.pool_size);
        connections.drain(..surplus);
        connections.push(Idle { connection, since: Instant::now() });
    }
}

/// What a request holds of a connection until its answer is complete. Dropped before, it ends the connection (HTTP/1.1)
/// or leaves its place on it (HTTP/2).
pub(crate) enum Lease {
    Http1 { pool: Pool, key: Key, connection: Connection },
    Http2(Stream),
}

impl Lease {
    /// The exchange on it is complete: what can be used again is kept.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1 { pool, key, connection } => pool.put(key, connection),
            Self::Http2(stream) => drop(stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use silverback_config::settings::UpstreamKeepalive;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{Key, Pool};
    use crate::{
        body::{FileBody, Progress, UpstreamRequestBody},
        header_case::RequestLooks,
        upstream::connect::http1_handshake,
    };

    const LENGTH: usize = 100_000;

    /// An upload in two pieces, the second of which hyper still holds when the answer is complete.
    #[tokio::test]
    async fn a_connection_that_has_not_sent_all_is_not_kept() {
        let local = tokio::task::LocalSet::new();
        local.run_until(Box::pin(an_early_answer())).await;
    }

    async fn an_early_answer() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; LENGTH]).unwrap();
        let body = FileBody::open(file.path(), LENGTH as u64).await.unwrap();
        let progress = Progress::new(false);
        let request = http::Request::post("/")
            .header("host", "a")
            .header("content-length", LENGTH)
            .body(UpstreamRequestBody::File(body, progress.clone()))
            .unwrap();
        let (near, mut far) = duplex(1024);
        let mut connection = http1_handshake(near, 0).await.unwrap();
        connection.wire.announce_request(RequestLooks::default());
        let answer = connection.sender.send_request(request);
        let answering = async {
            // The body is taken to its end, and is not out: the answer comes between the two.
            while !progress.sent().complete {
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(answer, answering);
        assert_eq!(answer.unwrap().status(), 200);
        connection.sender.ready().await.unwrap();
        assert!(!connection.is_idle());
        let key = Key { address: "127.0.0.1:1".parse().unwrap(), tls: None };
        let pool = Pool::new(UpstreamKeepalive { pool_size: 1, max_requests: 0, idle_timeout: Duration::ZERO });
        // Once the upstream has read the rest, it can be used again.
        let reading = tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
        let sent = async {
            while !connection.is_idle() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
        pool.put(key.clone(), connection);
        let connection = pool.take(&key).unwrap();
        connection.wire.announce_request(RequestLooks::default());
        pool.put(key.clone(), connection);
        assert!(pool.take(&key).is_none());
        reading.abort();
    }
}

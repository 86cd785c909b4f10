//! Writes heads as Kong writes them, where hyper has its own mind: a layer under hyper that corrects them as they go
//! out.
//!
//! Towards upstreams, hyper keeps the case of names that came from the client and writes all others in Title-Case; of
//! those that the gateway adds, a few are spelt otherwise (`X-Real-IP`). And it ends a target at `#`.
//!
//! Towards clients, hyper joins the values of Connection, and leaves Content-Length out beside 204 and 304. Such a line
//! goes under another name ([`stand_in`]) until it is out.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderName, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Names that are not in Title-Case, as Kong writes them.
const SPELLINGS: &[&str] = &["X-Real-IP", "X-Consumer-ID", "X-Consumer-Custom-ID", "TE", "DNT"];

/// Stands for `#` in a target, which a URI of hyper's ends at: a character that is none.
pub(crate) const HASH: char = '\u{fffe}';

/// A head of this size is corrected; the rest of a longer one goes out as hyper wrote it.
const MAX_HEAD: usize = 64 * 1024;

/// The names that stand for Content-Length and Connection: as long as these, and made anew by each process, so that
/// nobody else can write them.
static STAND_INS: LazyLock<[(HeaderName, &str); 2]> = LazyLock::new(|| {
    ["Content-Length", "Connection"].map(|name| {
        let random = std::iter::repeat_with(fastrand::lowercase).take(name.len() - 1);
        let stand_in: String = std::iter::once('!').chain(random).collect();
        let known = if name == "Connection" { header::CONNECTION } else { header::CONTENT_LENGTH };
        (HeaderName::try_from(stand_in).unwrap_or(known), name)
    })
});

/// The name under which a line goes that hyper would not write: Content-Length, or a second Connection. Its head must be
/// announced ([`Announced::announce`]).
pub(crate) fn stand_in(name: &HeaderName) -> HeaderName {
    let found = STAND_INS.iter().find(|(_, known)| name.as_str().eq_ignore_ascii_case(known));
    found.map_or_else(|| name.clone(), |(stand_in, _)| stand_in.clone())
}

/// Which heads go by, and what is corrected in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    /// To an upstream: what is written after an announcement is a head.
    Requests,
    /// To a client: an announced head comes some time after it, maybe behind the end of the answer before.
    Answers,
}

/// Tells the layer that a head comes that is to be corrected.
#[derive(Clone, Default)]
pub(crate) struct Announced(Arc<AtomicBool>);

impl Announced {
    pub(crate) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection whose heads are corrected as they are written.
pub(crate) struct HeaderCase<S> {
    socket: S,
    heads: Heads,
    announced: Announced,
    /// A corrected head of which `written` bytes are out.
    head: Vec<u8>,
    written: usize,
}

impl<S> HeaderCase<S> {
    /// Over a connection to an upstream. Each request is announced.
    pub(crate) fn requests(socket: S) -> (Self, Announced) {
        let announced = Announced::default();
        (Self::new(socket, Heads::Requests, announced.clone()), announced)
    }

    /// Over a connection to a client. Answers that hold a [`stand_in`] are announced.
    pub(crate) const fn answers(socket: S, announced: Announced) -> Self {
        Self::new(socket, Heads::Answers, announced)
    }

    const fn new(socket: S, heads: Heads, announced: Announced) -> Self {
        Self { socket, heads, announced, head: Vec::new(), written: 0 }
    }

    /// Whether an announced head begins in these bytes.
    fn is_due(&self, data: &[u8]) -> bool {
        self.announced.0.load(Ordering::Relaxed)
            && match self.heads {
                Heads::Requests => true,
                Heads::Answers => STAND_INS.iter().any(|(name, _)| find_line(data, name.as_str()).is_some()),
            }
    }

    /// Takes bytes over, a head in them corrected.
    fn take_over(&mut self, data: &[u8]) {
        self.announced.0.store(false, Ordering::Relaxed);
        let begin = self.head.len();
        self.head.extend_from_slice(data);
        match self.heads {
            Heads::Requests => {
                // What follows the head, a small body, goes out in the same write.
                let end = memchr::memmem::find(data, b"\r\n\r\n").map_or(data.len(), |at| at + 4).min(MAX_HEAD);
                correct_names(&mut self.head[begin..begin + end]);
                restore_hashes(&mut self.head, begin);
            }
            Heads::Answers => {
                for (stand_in, name) in STAND_INS.iter() {
                    if let Some(at) = find_line(&self.head, stand_in.as_str()) {
                        self.head[at..at + name.len()].copy_from_slice(name.as_bytes());
                    }
                }
            }
        }
    }
}

/// Where a header line of this name begins. hyper may write the name in another case.
fn find_line(bytes: &[u8], name: &str) -> Option<usize> {
    memchr::memmem::find_iter(bytes, b"\r\n!").map(|at| at + 2).find(|&at| {
        let line = &bytes[at..];
        line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    })
}

/// Corrects the names in a head, in place.
fn correct_names(head: &mut [u8]) {
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', &head[at..]) {
        at += end + 1;
        let line = &mut head[at..];
        for spelling in SPELLINGS {
            let name = spelling.as_bytes();
            if line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name) {
                line[..name.len()].copy_from_slice(name);
            }
        }
    }
}

/// Puts `#` back into the request line that begins at `begin`.
fn restore_hashes(head: &mut Vec<u8>, begin: usize) {
    let mut encoded = [0; 4];
    let encoded = HASH.encode_utf8(&mut encoded).as_bytes();
    let end = memchr::memchr(b'\n', &head[begin..]).map_or(head.len(), |at| begin + at);
    let places: Vec<usize> = memchr::memmem::find_iter(&head[begin..end], encoded).map(|at| begin + at).collect();
    for at in places.into_iter().rev() {
        head.splice(at..at + encoded.len(), [b'#']);
    }
}

impl<S: AsyncWrite + Unpin> HeaderCase<S> {
    /// Writes what is left of a corrected head; ready when all of it is out.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.head.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.head[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.head.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Begins to write what was taken over. What the socket does not take now is written before anything else.
    fn poll_taken(&mut self, cx: &mut Context<'_>, taken: usize) -> Poll<io::Result<usize>> {
        match self.poll_head(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderCase<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match this.poll_head(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        if this.is_due(data) {
            this.take_over(data);
            return this.poll_taken(cx, data.len());
        }
        Pin::new(&mut this.socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match this.poll_head(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        // hyper never splits a head.
        if let Some(last) = data.iter().position(|slice| this.is_due(slice)) {
            let all: Vec<u8> = data.iter().take(last + 1).flat_map(|slice| slice.iter().copied()).collect();
            this.take_over(&all);
            return this.poll_taken(cx, all.len());
        }
        Pin::new(&mut this.socket).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        // A request and its body are worth one copy: they go out in one piece.
        self.heads == Heads::Answers && self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_head(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.socket).poll_flush(cx),
            other => other,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_head(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.socket).poll_shutdown(cx),
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderCase<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use http::header;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::{Announced, HASH, HeaderCase, stand_in};

    async fn check_request(head: &str, expect: &str) {
        let (near, mut far) = duplex(4096);
        let (mut layer, announced) = HeaderCase::requests(near);
        announced.announce();
        layer.write_all(head.as_bytes()).await.unwrap();
        drop(layer);
        let mut read = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut read).await.unwrap();
        assert_eq!(read, expect);
    }

    #[tokio::test]
    async fn names_are_spelt_as_kong_spells_them() {
        check_request(
            "GET / HTTP/1.1\r\nX-Real-Ip: 1\r\nX-Consumer-Id: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nX-Real-IP: 1\r\nX-Consumer-ID: 2\r\n\r\n",
        )
        .await;
    }

    #[tokio::test]
    async fn values_and_other_names_stay() {
        check_request(
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
        )
        .await;
    }

    #[tokio::test]
    async fn targets_keep_their_hashes() {
        check_request(
            &format!("GET /a{HASH}b{HASH} HTTP/1.1\r\nX: {HASH}\r\n\r\n"),
            &format!("GET /a#b# HTTP/1.1\r\nX: {HASH}\r\n\r\n"),
        )
        .await;
    }

    #[tokio::test]
    async fn stand_ins_get_their_names_back() {
        let (length, connection) = (stand_in(&header::CONTENT_LENGTH), stand_in(&header::CONNECTION));
        let head = format!("end\r\nHTTP/1.1 204 No Content\r\n{length}: 1\r\n{connection}: Upgrade\r\n\r\n");
        let expect = "end\r\nHTTP/1.1 204 No Content\r\nContent-Length: 1\r\nConnection: Upgrade\r\n\r\n";
        for vectored in [false, true] {
            let (near, mut far) = duplex(4096);
            let announced = Announced::default();
            announced.announce();
            let mut layer = HeaderCase::answers(near, announced);
            layer.write_all(b"before").await.unwrap();
            if vectored {
                let n = layer.write_vectored(&[IoSlice::new(head.as_bytes()), IoSlice::new(b"body")]).await.unwrap();
                assert_eq!(n, head.len(), "what follows the head is not copied");
            } else {
                layer.write_all(head.as_bytes()).await.unwrap();
            }
            drop(layer);
            let mut read = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut far, &mut read).await.unwrap();
            assert_eq!(read, format!("before{expect}"));
        }
    }
}

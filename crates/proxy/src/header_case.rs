//! Writes heads as Kong writes them, where hyper has its own mind: a layer under hyper that corrects them as they go
//! out.
//!
//! Towards upstreams, hyper keeps the case of names that came from the client and writes all others in Title-Case; of
//! those that the gateway adds, a few are spelt otherwise (`X-Real-IP`). And it ends a target at `#`: other characters
//! hold the places, which the layer is told ([`Announced::announce_request`]).
//!
//! Towards clients, hyper joins the values of Connection, and leaves Content-Length out beside 204 and 304. Such a line
//! goes under another name ([`stand_in`]) until it is out.
//!
//! Bodies pass as they are: a head is looked for only where one was announced, and nothing behind its end is touched.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderName, header};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Names that are not in Title-Case, as Kong writes them.
const SPELLINGS: &[&str] = &["X-Real-IP", "X-Consumer-ID", "X-Consumer-Custom-ID", "TE", "DNT"];

/// Holds the place of a `#` in a target: what a URI of hyper's may hold, as long.
pub(crate) const PLACE_OF_HASH: char = '!';

/// The names that stand for Content-Length and Connection: as long as these, and made anew by each process, so that
/// nobody else can write them.
static STAND_INS: LazyLock<[(HeaderName, &str); 2]> = LazyLock::new(|| {
    ["Content-Length", "Connection"].map(|name| {
        let mut random = vec![0; name.len() - 1];
        // Without it the names are only harder to read.
        let _ = SystemRandom::new().fill(&mut random);
        let letters = random.into_iter().map(|byte| char::from(b'a' + byte % 26));
        let stand_in: String = std::iter::once('!').chain(letters).collect();
        let known = if name == "Connection" { header::CONNECTION } else { header::CONTENT_LENGTH };
        (HeaderName::try_from(stand_in).unwrap_or(known), name)
    })
});

/// The name under which a line goes that hyper would not write: Content-Length, or a second Connection. Its head must be
/// announced ([`Announced::announce_answer`]).
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

/// Tells the layer that a head comes that is to be corrected, and others what the layer has done.
#[derive(Clone, Default)]
pub(crate) struct Announced(Arc<State>);

struct State {
    /// Requests, or stand-ins in answers, that were announced and have not come.
    due: AtomicUsize,
    /// Where in the target of the announced request a `#` belongs.
    hashes: Mutex<Vec<usize>>,
    flushed: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self { due: AtomicUsize::new(0), hashes: Mutex::default(), flushed: AtomicBool::new(true) }
    }
}

impl Announced {
    /// An answer comes with a [`stand_in`].
    pub(crate) fn announce_answer(&self) {
        self.0.due.fetch_add(1, Ordering::Relaxed);
    }

    /// The next that is written is a request. `hashes`: where in its target (in bytes from its beginning) `#` belongs
    /// instead of [`PLACE_OF_HASH`]. All that went before must be out ([`Self::is_flushed`]).
    pub(crate) fn announce_request(&self, hashes: Vec<usize>) {
        *self.0.hashes.lock().unwrap_or_else(PoisonError::into_inner) = hashes;
        self.0.flushed.store(false, Ordering::Relaxed);
        self.0.due.store(1, Ordering::Relaxed);
    }

    /// Whether all that hyper wrote is out, and hyper holds back nothing: it flushes what is under it last.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.flushed.load(Ordering::Relaxed)
    }

    fn is_due(&self) -> bool {
        self.0.due.load(Ordering::Relaxed) > 0
    }

    /// So many of them have come.
    fn came(&self, count: usize) {
        let _ = self.0.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| Some(due.saturating_sub(count)));
    }

    fn take_hashes(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.hashes.lock().unwrap_or_else(PoisonError::into_inner))
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

    /// Over a connection to a client. Each [`stand_in`] in an answer is announced.
    pub(crate) const fn answers(socket: S, announced: Announced) -> Self {
        Self::new(socket, Heads::Answers, announced)
    }

    const fn new(socket: S, heads: Heads, announced: Announced) -> Self {
        Self { socket, heads, announced, head: Vec::new(), written: 0 }
    }

    /// Whether an announced head begins in these bytes.
    fn is_due(&self, data: &[u8]) -> bool {
        self.announced.is_due()
            && match self.heads {
                Heads::Requests => true,
                Heads::Answers => next_stand_in(data).is_some(),
            }
    }

    /// Takes bytes over, the heads in them corrected.
    fn take_over(&mut self, data: &[u8]) {
        let begin = self.head.len();
        self.head.extend_from_slice(data);
        match self.heads {
            Heads::Requests => {
                self.announced.came(1);
                let hashes = self.announced.take_hashes();
                // What follows the head, a small body, goes out in the same write. hyper never splits a head.
                if let Some(end) = end_of_head(data) {
                    let head = &mut self.head[begin..begin + end];
                    correct_names(head);
                    restore_hashes(head, &hashes);
                }
            }
            Heads::Answers => {
                let mut rest = &mut self.head[begin..];
                while self.announced.is_due()
                    && let Some(at) = next_stand_in(rest)
                {
                    let end = end_of_head(&rest[at..]).map_or(rest.len(), |length| at + length);
                    let (head, behind) = rest.split_at_mut(end);
                    self.announced.came(restore_names(head));
                    rest = behind;
                }
            }
        }
    }
}

/// How long a head is that these bytes begin with, or end in; with the empty line that ends it.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Where the first line begins that goes under another name.
fn next_stand_in(bytes: &[u8]) -> Option<usize> {
    STAND_INS.iter().filter_map(|(name, _)| find_line(bytes, name.as_str())).min()
}

/// Gives the lines of a head their names back. Returns how many there were.
fn restore_names(head: &mut [u8]) -> usize {
    let mut count = 0;
    for (stand_in, name) in STAND_INS.iter() {
        if let Some(at) = find_line(head, stand_in.as_str()) {
            head[at..at + name.len()].copy_from_slice(name.as_bytes());
            count += 1;
        }
    }
    count
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

/// Puts `#` where it belongs in the target of a request line.
fn restore_hashes(head: &mut [u8], hashes: &[usize]) {
    let Some(target) = memchr::memchr(b' ', head).map(|at| at + 1) else { return };
    for hash in hashes {
        match head.get_mut(target + hash) {
            Some(byte) if char::from(*byte) == PLACE_OF_HASH => *byte = b'#',
            _ => {}
        }
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
        this.announced.0.flushed.store(false, Ordering::Relaxed);
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
        this.announced.0.flushed.store(false, Ordering::Relaxed);
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
        let polled = match self.poll_head(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.socket).poll_flush(cx),
            other => other,
        };
        self.announced.0.flushed.store(matches!(polled, Poll::Ready(Ok(()))), Ordering::Relaxed);
        polled
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
    use std::{
        io::IoSlice,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use http::header;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

    use super::{Announced, HeaderCase, stand_in};

    async fn check_request(hashes: &[usize], written: &str, expect: &str) {
        let (near, mut far) = duplex(4096);
        let (mut layer, announced) = HeaderCase::requests(near);
        announced.announce_request(hashes.to_vec());
        layer.write_all(written.as_bytes()).await.unwrap();
        drop(layer);
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, expect);
    }

    #[tokio::test]
    async fn names_are_spelt_as_kong_spells_them() {
        check_request(
            &[],
            "GET / HTTP/1.1\r\nX-Real-Ip: 1\r\nX-Consumer-Id: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nX-Real-IP: 1\r\nX-Consumer-ID: 2\r\n\r\n",
        )
        .await;
    }

    #[tokio::test]
    async fn values_and_other_names_stay() {
        check_request(
            &[],
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
            "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
        )
        .await;
    }

    #[tokio::test]
    async fn targets_keep_their_hashes_and_all_else() {
        check_request(
            &[2, 5],
            "GET /a!b!! HTTP/1.1\r\nX: !\u{fffe}!\r\n\r\n!!!",
            "GET /a#b!# HTTP/1.1\r\nX: !\u{fffe}!\r\n\r\n!!!",
        )
        .await;
        check_request(&[], "GET /\u{fffe}! HTTP/1.1\r\n\r\n", "GET /\u{fffe}! HTTP/1.1\r\n\r\n").await;
        // A place that holds something else, or is not there, stays as it is.
        check_request(&[1, 900], "GET /ab HTTP/1.1\r\n\r\n", "GET /ab HTTP/1.1\r\n\r\n").await;
    }

    #[tokio::test]
    async fn bodies_pass_as_they_are() {
        check_request(
            &[],
            "POST / HTTP/1.1\r\nX-Real-Ip: 1\r\n\r\n\r\nx-real-ip: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nX-Real-IP: 1\r\n\r\n\r\nx-real-ip: 1\r\n\r\n",
        )
        .await;
        check_request(&[1], "\r\nx-real-ip: no!head", "\r\nx-real-ip: no!head").await;
    }

    #[tokio::test]
    async fn a_connection_is_flushed_when_all_of_it_is_out() {
        let (near, mut far) = duplex(8);
        let (mut layer, announced) = HeaderCase::requests(near);
        assert!(announced.is_flushed());
        announced.announce_request(Vec::new());
        assert!(!announced.is_flushed());
        layer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut layer).poll_flush(&mut cx).is_pending());
        assert!(!announced.is_flushed());
        let mut read = [0; 18];
        let (flushed, _) = tokio::join!(layer.flush(), far.read_exact(&mut read));
        flushed.unwrap();
        assert!(announced.is_flushed());
        // A write that is refused leaves its bytes with hyper.
        let mut refused = false;
        while !refused {
            refused = matches!(Pin::new(&mut layer).poll_write(&mut cx, b"body"), Poll::Pending);
        }
        assert!(!announced.is_flushed());
    }

    #[tokio::test]
    async fn stand_ins_get_their_names_back() {
        let (length, connection) = (stand_in(&header::CONTENT_LENGTH), stand_in(&header::CONNECTION));
        let head = format!("end\r\nHTTP/1.1 204 No Content\r\n{length}: 1\r\n{connection}: Upgrade\r\n\r\n");
        let expect = "end\r\nHTTP/1.1 204 No Content\r\nContent-Length: 1\r\nConnection: Upgrade\r\n\r\n";
        for vectored in [false, true] {
            let (near, mut far) = duplex(4096);
            let announced = Announced::default();
            announced.announce_answer();
            announced.announce_answer();
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
            far.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, format!("before{expect}"));
        }
    }

    #[tokio::test]
    async fn heads_in_one_piece_are_corrected_as_often_as_announced() {
        let length = stand_in(&header::CONTENT_LENGTH);
        let head = |name: &str| format!("HTTP/1.1 204 No Content\r\n{name}: 0\r\n\r\n");
        let (ours, corrected) = (head(length.as_str()), head("Content-Length"));
        let (near, mut far) = duplex(4096);
        let announced = Announced::default();
        announced.announce_answer();
        announced.announce_answer();
        let mut layer = HeaderCase::answers(near, announced);
        layer.write_all(format!("{ours}{ours}{ours}").as_bytes()).await.unwrap();
        drop(layer);
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, format!("{corrected}{corrected}{ours}"));
    }
}

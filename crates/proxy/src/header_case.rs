//! Writes heads as Kong writes them, where hyper has its own mind: a layer under hyper that corrects them as they go
//! out.
//!
//! hyper writes all names in Title-Case. Those that came otherwise are written as they came ([`Spelling`]); of those that
//! the gateway adds, a few are spelt otherwise (`X-Real-IP`).
//!
//! Towards upstreams, hyper ends a target at `#`: other characters hold the places, which the layer is told
//! ([`Announced::announce_request`]). How the answer's names are written it sees as the answer comes.
//!
//! Towards clients, hyper joins the values of Connection, and leaves Content-Length out beside 204 and 304. Such a line
//! goes under another name ([`stand_in`]) until it is out. And so goes a line that tells how names were written
//! ([`respell`]): it must be the first, and is taken out.
//!
//! Bodies pass as they are: a head is looked for only where one was announced, and nothing behind its end is touched.

mod answer_heads;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::answer_heads::AnswerHeads;
use crate::http1::spelling::Spelling;

/// Names that are not in Title-Case, as Kong writes them.
const SPELLINGS: &[&str] = &["X-Real-IP", "X-Consumer-ID", "X-Consumer-Custom-ID", "TE", "DNT"];

/// Holds the place of a `#` in a target: what a URI of hyper's may hold, as long.
pub(crate) const PLACE_OF_HASH: char = '!';

/// The names that stand for Content-Length and Connection, as long as these, and that of the line that tells how others are
/// written. Made anew by each process, so that nobody else can write them.
static STAND_INS: LazyLock<[(HeaderName, &str); 3]> = LazyLock::new(|| {
    ["Content-Length", "Connection", SPELLING].map(|name| {
        let mut random = vec![0; name.len() - 1];
        // Without it the names are only harder to read.
        let _ = SystemRandom::new().fill(&mut random);
        let letters = random.into_iter().map(|byte| char::from(b'a' + byte % 26));
        let stand_in: String = std::iter::once('!').chain(letters).collect();
        let known = if name == "Connection" { header::CONNECTION } else { header::CONTENT_LENGTH };
        (HeaderName::try_from(stand_in).unwrap_or(known), name)
    })
});

/// What the line that tells how names were written would be called, if it had a name.
const SPELLING: &str = "spelling-of-names";

/// Tells in an answer's head how its names are to be written. The head must be announced ([`Announced::announce_answer`]).
pub(crate) fn respell(headers: &mut HeaderMap, spelling: HeaderValue) {
    let mut all = HeaderMap::with_capacity(headers.len() + 1);
    let [.., (name, _)] = &*STAND_INS;
    all.insert(name.clone(), spelling);
    all.extend(std::mem::take(headers));
    *headers = all;
}

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
    /// What the announced request is to look like.
    request: Mutex<RequestLooks>,
    flushed: AtomicBool,
    /// Requests that were announced since the beginning.
    asked: AtomicUsize,
    /// How the names in the last answer's head are written.
    answer: Mutex<Spelling>,
}

/// What of a request hyper would write otherwise, or is not told.
#[derive(Default)]
pub(crate) struct RequestLooks {
    /// Where in its target (in bytes from its beginning) `#` belongs instead of [`PLACE_OF_HASH`].
    pub(crate) hashes: Vec<usize>,
    /// Header lines behind that of Connection, each with its end.
    pub(crate) lines: Vec<u8>,
    /// How the client wrote its names.
    pub(crate) spelling: Spelling,
}

impl Default for State {
    fn default() -> Self {
        Self {
            due: AtomicUsize::new(0),
            request: Mutex::default(),
            flushed: AtomicBool::new(true),
            asked: AtomicUsize::new(0),
            answer: Mutex::default(),
        }
    }
}

impl Announced {
    /// An answer comes with a [`stand_in`], or [`respell`]ed.
    pub(crate) fn announce_answer(&self) {
        self.0.due.fetch_add(1, Ordering::Relaxed);
    }

    /// The next that is written is a request, and the next that is read its answer. All that went before must be out
    /// ([`Self::is_flushed`]).
    pub(crate) fn announce_request(&self, looks: RequestLooks) {
        *self.request() = looks;
        self.0.flushed.store(false, Ordering::Relaxed);
        self.0.due.store(1, Ordering::Relaxed);
        self.0.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How the names in the answer's head are written, once hyper has told of it.
    pub(crate) fn answer_spelling(&self) -> Spelling {
        std::mem::take(&mut *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn request(&self) -> MutexGuard<'_, RequestLooks> {
        self.0.request.lock().unwrap_or_else(PoisonError::into_inner)
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
}

/// A connection whose heads are corrected as they are written.
pub(crate) struct HeaderCase<S> {
    socket: S,
    heads: Heads,
    announced: Announced,
    /// A corrected head of which `written` bytes are out.
    head: Vec<u8>,
    written: usize,
    answers: AnswerHeads,
}

impl<S> HeaderCase<S> {
    /// Over a connection to an upstream. Each request is announced.
    pub(crate) fn requests(socket: S) -> (Self, Announced) {
        let announced = Announced::default();
        (Self::new(socket, Heads::Requests, announced.clone()), announced)
    }

    /// Over a connection to a client. Each [`stand_in`] in an answer is announced.
    pub(crate) fn answers(socket: S, announced: Announced) -> Self {
        Self::new(socket, Heads::Answers, announced)
    }

    fn new(socket: S, heads: Heads, announced: Announced) -> Self {
        Self { socket, heads, announced, head: Vec::new(), written: 0, answers: AnswerHeads::default() }
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
        match self.heads {
            Heads::Requests => {
                self.announced.came(1);
                let looks = std::mem::take(&mut *self.announced.request());
                // What follows the head, a small body, goes out in the same write. hyper never splits a head.
                let head = end_of_head(data).unwrap_or(0);
                let (head, behind) = data.split_at(head);
                let (before, after) = head.split_at(place_of_lines(head));
                // Never in front of a request, where they would be one.
                let lines = if before.is_empty() { &[][..] } else { &looks.lines };
                self.head.reserve(data.len() + lines.len());
                for part in [before, lines, after] {
                    self.head.extend_from_slice(part);
                }
                let head = &mut self.head[begin..];
                correct_names(&mut head[..before.len()]);
                correct_names(&mut head[before.len() + lines.len()..]);
                restore_hashes(head, &looks.hashes);
                if let Some(first) = memchr::memchr(b'\n', head) {
                    looks.spelling.restore(&mut head[first + 1..]);
                }
                self.head.extend_from_slice(behind);
            }
            Heads::Answers => {
                self.head.extend_from_slice(data);
                let mut from = begin;
                while self.announced.is_due()
                    && let Some(at) = next_stand_in(&self.head[from..])
                {
                    let at = from + at;
                    let end = end_of_head(&self.head[at..]).map_or(self.head.len(), |length| at + length);
                    let (spelling, taken) = self.take_spelling(at, end);
                    // With the end of the line before: that is how lines are told.
                    let head = &mut self.head[at - 2..end - taken];
                    spelling.restore(head);
                    self.announced.came(usize::from(taken > 0) + restore_names(head));
                    from = end - taken;
                }
            }
        }
    }
}

impl<S> HeaderCase<S> {
    /// Takes out the line that tells how names are written, if the lines from `at` to `end` begin with it; and tells how
    /// long it was.
    fn take_spelling(&mut self, at: usize, end: usize) -> (Spelling, usize) {
        let [.., (name, _)] = &*STAND_INS;
        let line = &self.head[at..end];
        let value = line
            .get(name.as_str().len() + 2..)
            .filter(|_| find_line(&self.head[at - 2..end], name.as_str()) == Some(2));
        let Some(length) = value.and_then(|value| memchr::memchr(b'\r', value)) else {
            return (Spelling::default(), 0);
        };
        let value = name.as_str().len() + 2;
        let spelling = Spelling::from_value(&line[value..value + length]);
        let taken = value + length + 2;
        self.head.drain(at..at + taken);
        (spelling, taken)
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
    let [stand_ins @ .., _] = &*STAND_INS;
    for (stand_in, name) in stand_ins {
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

/// Where in a head lines are added: behind that of Connection, else behind the first. Nothing in front of Connection was
/// written by the client but the target.
fn place_of_lines(head: &[u8]) -> usize {
    let line = memchr::memmem::find(head, b"\r\nConnection: ").map_or(0, |at| at + 2);
    memchr::memchr(b'\n', &head[line..]).map_or(0, |length| line + length + 1)
}

/// Corrects the names in the lines of a head, in place.
fn correct_names(lines: &mut [u8]) {
    let mut at = 0;
    while let Some(length) = memchr::memchr(b'\n', &lines[at..]) {
        let line = &mut lines[at..at + length];
        for spelt in SPELLINGS {
            if let Some((name, [b':', ..])) = line.split_at_mut_checked(spelt.len())
                && name.eq_ignore_ascii_case(spelt.as_bytes())
            {
                name.copy_from_slice(spelt.as_bytes());
            }
        }
        at += length + 1;
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
        let this = &mut *self;
        let before = out.filled().len();
        let polled = Pin::new(&mut this.socket).poll_read(cx, out);
        if this.heads == Heads::Requests {
            this.answers.see(&out.filled()[before..], &this.announced);
        }
        polled
    }
}

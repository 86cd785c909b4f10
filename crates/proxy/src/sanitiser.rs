//! Reads requests out of the bytes of an HTTP/1 connection: only those that can be read in one way.
//!
//! Two parsers that disagree about where a request ends are what request smuggling lives on. This is the only one on this
//! side: it checks each head as it reads it ([`request_line`], [`head`]), follows the body to its end, and stops at the
//! first byte that is ambiguous. What it refuses it does not answer; it tells why ([`Refusal`]), and the connection's task
//! answers with the gateway's own error page.

mod head;
mod request_line;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri, Version};
use http_body::Frame;

pub use head::Refusal;
pub(crate) use head::{is_host, is_kept, repeats_what_is_single};

use crate::http1::{
    decoder::{Decoder, Framing, FramingError},
    spelling::Spelling,
};

/// Empty lines that a client may send before a head.
const MAX_EMPTY_LINES: usize = 16;

/// What bounds a connection's heads, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest line of a head: one of nginx's `large_client_header_buffers`.
    pub line: usize,
    /// Longest head: all of them.
    pub head: usize,
    /// Most header lines in a head.
    pub lines: usize,
    /// Whether header names may hold underscores; such a header is dropped otherwise.
    pub underscores: bool,
}

/// A request that was refused, and its bytes as far as they are known.
#[derive(Debug)]
pub struct Refused {
    pub why: Refusal,
    /// The head's bytes; empty when it never began.
    pub head: Vec<u8>,
}

/// A request's head that has passed all checks.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// With those bytes percent-encoded that nginx takes as they are, and a URI may not hold.
    pub(crate) uri: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub(crate) version: Version,
    /// Without those whose names nginx ignores.
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// How the names are written.
    pub(crate) spelling: Spelling,
    /// Path and query as they came, where they are not those of the URI: it knows no fragment.
    pub(crate) raw_target: Option<RawTarget>,
    /// The client waits for `100 Continue` before it sends its body.
    pub(crate) expects_continue: bool,
}

/// Path, query and fragment as a client wrote them: nginx's `$request_uri`.
#[derive(Clone, Debug)]
pub(crate) struct RawTarget(pub(crate) Bytes);

/// The bytes of a connection that have come and are not read yet, and where in its requests they are.
#[derive(Debug)]
pub(crate) struct Reader {
    limits: Limits,
    buffer: BytesMut,
    /// How much of the head at the front has been searched for its end, and the empty lines that stood before it.
    searched: usize,
    empty_lines: usize,
    body: Decoder,
}

impl Reader {
    /// `read`: what has come already.
    pub(crate) fn new(limits: Limits, read: BytesMut) -> Self {
        Self { limits, buffer: read, searched: 0, empty_lines: 0, body: Decoder::new(Framing::Length(0)) }
    }

    /// Where to add what comes.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// How many bytes have come and are not read.
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Takes what has come and is not read.
    pub(crate) fn take_waiting(&mut self) -> BytesMut {
        std::mem::take(&mut self.buffer)
    }

    /// Whether what waits is more than the beginning of a request.
    pub(crate) fn holds_head(&self) -> bool {
        memchr::memmem::find(&self.buffer, b"\r\n\r\n").is_some()
    }

    /// The next request, if its head has come. Its body is read next ([`Self::body`]), to its end, and then the request
    /// after it. Nothing is read behind one that was refused.
    pub(crate) fn head(&mut self) -> Result<Option<Head>, Refused> {
        // A client may send empty lines between requests (RFC 9112, 2.2).
        if self.buffer.first() == Some(&b'\r') {
            let empty = self.buffer.chunks_exact(2).take_while(|line| line == b"\r\n").count();
            let _ = self.buffer.split_to(empty * 2);
            self.searched = if empty > 0 { 0 } else { self.searched };
            self.empty_lines += empty;
            if self.empty_lines > MAX_EMPTY_LINES {
                return Err(Refused { why: Refusal::BadRequestLine, head: Vec::new() });
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let end = match head::find_end(&self.buffer, self.searched, &self.limits) {
            Ok(Some(end)) => end,
            unfinished => {
                // The request line comes before the rest, also where all has come at once.
                let checked = request_line::check_beginning(&self.buffer, self.searched, &self.limits).and(unfinished);
                let Err(why) = checked else {
                    self.searched = self.buffer.len();
                    return Ok(None);
                };
                let head = self.buffer[..self.buffer.len().min(self.limits.head)].to_vec();
                return Err(Refused { why, head });
            }
        };
        // Most requests come alone: what they came in is theirs.
        let bytes = if end == self.buffer.len() { self.take_waiting() } else { self.buffer.split_to(end) }.freeze();
        match head::parse(&bytes, &self.limits) {
            Ok(head) => {
                self.body = Decoder::new(head.framing);
                self.searched = 0;
                self.empty_lines = 0;
                Ok(Some(head))
            }
            Err(why) => Err(Refused { why, head: bytes.to_vec() }),
        }
    }

    /// The next piece of the request's body. `None` where more has to come, and at its end.
    pub(crate) fn body(&mut self) -> Result<Option<Frame<Bytes>>, FramingError> {
        let waiting = self.buffer.len() as u64;
        // A piece that is all data is handed on as it is.
        if waiting > 0 && self.body.plain_bytes_left().is_some_and(|left| waiting <= left) {
            self.body.took(self.buffer.len());
            return Ok(Some(Frame::data(self.take_waiting().freeze())));
        }
        let frame = self.body.decode(&mut self.buffer);
        if self.buffer.is_empty() {
            // Frees what it was read into.
            self.buffer = BytesMut::new();
        }
        frame
    }

    /// Whether the request's body has been read to its end.
    pub(crate) fn is_body_complete(&self) -> bool {
        self.body.is_complete()
    }

    /// How many bytes of the body are to be read, where the head said so.
    pub(crate) fn body_length(&self) -> Option<u64> {
        self.body.length()
    }

    /// Bytes that are certainly the body's, of those that come next.
    pub(crate) fn plain_bytes_left(&self) -> u64 {
        self.body.plain_bytes_left().unwrap_or(0).saturating_sub(self.buffer.len() as u64)
    }
}

/// What was read of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Method, target and headers.
    Request(String),
    Data(Vec<u8>),
    /// The end of a body, with the number of its trailers.
    End(usize),
    Refused(Refusal),
    /// The end of all: a body that cannot be followed.
    Broken,
}

/// What is read of bytes that come in these pieces: for tests.
pub fn follow<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut reader = Reader::new(limits, BytesMut::new());
    let mut seen = Vec::new();
    let mut in_body = false;
    for piece in pieces {
        reader.buffer().extend_from_slice(piece);
        loop {
            if !in_body {
                match reader.head() {
                    Ok(None) => break,
                    Ok(Some(Head { method, uri, headers, .. })) => {
                        seen.push(Seen::Request(format!("{method} {uri} {headers:?}")));
                        in_body = true;
                    }
                    Err(refused) => {
                        seen.push(Seen::Refused(refused.why));
                        return seen;
                    }
                }
            }
            let mut trailers = 0;
            match reader.body() {
                Err(FramingError) => {
                    // How much of it was read before depends on how it came.
                    seen.pop_if(|seen| matches!(seen, Seen::Data(_)));
                    seen.push(Seen::Broken);
                    return seen;
                }
                Ok(None) if !reader.is_body_complete() => break,
                Ok(None) => {}
                Ok(Some(frame)) => match (frame.into_data(), seen.last_mut()) {
                    (Ok(data), Some(Seen::Data(before))) => before.extend_from_slice(&data),
                    (Ok(data), _) => seen.push(Seen::Data(data.to_vec())),
                    (Err(frame), _) => trailers = frame.into_trailers().map_or(0, |trailers| trailers.len()),
                },
            }
            if reader.is_body_complete() {
                seen.push(Seen::End(trailers));
                in_body = false;
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests;

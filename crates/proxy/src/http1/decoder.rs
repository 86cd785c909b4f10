//! Where a body ends that comes in, and what of the bytes is the body (RFC 9112, 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

/// How a head says that its body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// To the end of the connection: answers only.
    UntilClose,
}

/// A body's framing is broken: what follows cannot be told from another message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunked body")]
pub struct FramingError;

/// Longest line of chunk framing or trailer, extension included.
const MAX_LINE: usize = 4096;
/// Longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// A chunk that is no longer than this is copied, if others came with it.
const SMALL: usize = 4 * 1024;

/// A body that is being read.
#[derive(Debug)]
pub enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

/// The chunks of a body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// The size being read, or the bytes of the chunk that are left.
    left: u64,
    /// Bytes of the present line.
    line: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first digit of a size.
    SizeStart,
    Size,
    /// After `;`: to the end of the line.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the final empty one.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    /// At the end, with trailers that nobody has been told of.
    Trailers,
    Done,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => {
                Self::Chunked(Box::new(Chunked { state: State::SizeStart, left: 0, line: 0, trailers: Vec::new() }))
            }
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether all of it has been read.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// Whether a connection may end where this is.
    pub fn may_end(&self) -> bool {
        matches!(self, Self::UntilClose) || self.is_complete()
    }

    /// How many bytes are to come, where the head said so.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Bytes that are certainly data, if the body is at such a place.
    pub fn plain_bytes_left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(chunked) => (chunked.state == State::Data).then_some(chunked.left),
            Self::UntilClose => Some(u64::MAX),
        }
    }

    /// `n` of the [`Self::plain_bytes_left`] went by on another way than through [`Self::decode`].
    pub fn took(&mut self, n: usize) {
        match self {
            Self::Length(left) => *left = left.saturating_sub(n as u64),
            Self::Chunked(chunked) => chunked.took(n),
            Self::UntilClose => {}
        }
    }

    /// Takes the next piece of the body out of what has come. `None` where more has to come, and at its end.
    ///
    /// # Errors
    /// It is not framed as its head says.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, FramingError> {
        let data = match self {
            Self::Length(left) => {
                let n = at_most(buffer.len(), *left);
                *left -= n as u64;
                buffer.split_to(n)
            }
            Self::Chunked(chunked) => return chunked.decode(buffer),
            Self::UntilClose => buffer.split(),
        };
        Ok((!data.is_empty()).then(|| Frame::data(data.freeze())))
    }
}

fn at_most(bytes: usize, left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes)
}

impl Chunked {
    fn took(&mut self, n: usize) {
        self.left = self.left.saturating_sub(n as u64);
        if self.left == 0 {
            self.state = State::DataCr;
        }
    }

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, FramingError> {
        self.step_over(buffer)?;
        match self.state {
            State::Data if !buffer.is_empty() => {
                let first = self.piece(buffer)?;
                if first.len() > SMALL || self.small_piece(buffer) == 0 {
                    return Ok(Some(Frame::data(first.freeze())));
                }
                // Small chunks that came together go on together: whoever holds a piece needs more than its bytes.
                let mut together = BytesMut::with_capacity(first.len() + buffer.len());
                together.extend_from_slice(&first);
                while self.small_piece(buffer) > 0 {
                    together.extend_from_slice(&self.piece(buffer)?);
                }
                Ok(Some(Frame::data(together.freeze())))
            }
            State::Trailers => {
                self.state = State::Done;
                Ok(Some(Frame::trailers(trailers(&self.trailers)?)))
            }
            _ => Ok(None),
        }
    }

    /// How many bytes the next piece of data has, if there is a small one.
    fn small_piece(&self, buffer: &BytesMut) -> usize {
        let length = if self.state == State::Data { at_most(buffer.len(), self.left) } else { 0 };
        if length <= SMALL { length } else { 0 }
    }

    /// Takes what there is of a chunk.
    fn piece(&mut self, buffer: &mut BytesMut) -> Result<BytesMut, FramingError> {
        let n = at_most(buffer.len(), self.left);
        self.took(n);
        let data = buffer.split_to(n);
        // With the last piece of most bodies it is known that it is the last.
        self.step_over(buffer)?;
        Ok(data)
    }

    /// Goes on to where there is something to tell.
    fn step_over(&mut self, buffer: &mut BytesMut) -> Result<(), FramingError> {
        let mut at = 0;
        while at < buffer.len() && !matches!(self.state, State::Data | State::Trailers | State::Done) {
            self.state = self.step(buffer[at])?;
            at += 1;
        }
        buffer.advance(at);
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<State, FramingError> {
        use State::{
            Data, DataCr, DataLf, Done, EndLf, Extension, Size, SizeLf, SizeStart, Trailer, TrailerLf, TrailerStart,
            Trailers,
        };
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(FramingError);
        }
        Ok(match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 58 != 0 {
                    return Err(FramingError);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                self.left = self.left << 4 | digit;
                Size
            }
            (Size, b';' | b' ' | b'\t') => Extension,
            (Size | Extension, b'\r') => SizeLf,
            (Extension, b'\t' | 0x20..=0x7e | 0x80..) => Extension,
            (SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 { TrailerStart } else { Data }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line = 0;
                SizeStart
            }
            (TrailerStart, b'\r') => EndLf,
            (EndLf, b'\n') if self.trailers.is_empty() => Done,
            (EndLf, b'\n') => Trailers,
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => {
                self.line = 0;
                self.trailers.push(byte);
                TrailerStart
            }
            (TrailerStart | Trailer, b'\t' | 0x20..=0x7e | 0x80..) => {
                if self.trailers.len() >= MAX_TRAILERS {
                    return Err(FramingError);
                }
                self.trailers.push(byte);
                Trailer
            }
            _ => return Err(FramingError),
        })
    }
}

/// The trailer section's lines, each with LF at its end.
fn trailers(section: &[u8]) -> Result<HeaderMap, FramingError> {
    let mut headers = HeaderMap::new();
    for line in section.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).ok_or(FramingError)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| FramingError)?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| FramingError)?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What there is of a body, its trailers, whether that is all, and what follows it.
    type Read = (Vec<u8>, Option<HeaderMap>, bool, Vec<u8>);

    fn read(framing: Framing, pieces: &[&[u8]]) -> Result<Read, FramingError> {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut trailers, mut buffer) = (Vec::new(), None, BytesMut::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
        }
        Ok((data, trailers, decoder.is_complete(), buffer.to_vec()))
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        let body = |framing, bytes: &str| {
            let (data, _, complete, rest) = read(framing, &[bytes.as_bytes()]).unwrap();
            (String::from_utf8(data).unwrap(), complete, String::from_utf8(rest).unwrap())
        };
        let expect = |data: &str, complete, rest: &str| (data.to_owned(), complete, rest.to_owned());
        assert_eq!(body(Framing::Length(3), "abcdef"), expect("abc", true, "def"));
        assert_eq!(body(Framing::Length(7), "abcdef"), expect("abcdef", false, ""));
        assert_eq!(body(Framing::UntilClose, "abcdef"), expect("abcdef", false, ""));
        assert_eq!(body(Framing::Chunked, "3\r\nabc\r\n1 ;x=y\r\nd\r\n0\r\n\r\nGET"), expect("abcd", true, "GET"));
        assert_eq!(body(Framing::Chunked, "A\r\nabc"), expect("abc", false, ""));
    }

    #[test]
    fn small_chunks_that_come_together_are_one_piece() {
        let large = "x".repeat(SMALL + 1);
        let small = "1\r\na\r\n".repeat(1000);
        let mut buffer = BytesMut::from(&*format!("{small}{:x}\r\n{large}\r\n{small}0\r\nA: b\r\n\r\n", large.len()));
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut lengths = Vec::new();
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            lengths.push(frame.data_ref().map(Bytes::len));
        }
        assert_eq!(lengths, [Some(1000), Some(large.len()), Some(1000), None]);
        assert!(decoder.is_complete());
    }

    #[test]
    fn trailers_are_told_at_the_end() {
        let (data, trailers, complete, rest) =
            read(Framing::Chunked, &[b"1\r\na\r\n0\r\nX-Sum: 42 \r\nX-B:\r\n\r\nrest"]).unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((data.as_slice(), complete, rest.as_slice()), (&b"a"[..], true, &b"rest"[..]));
        assert_eq!(
            (trailers.len(), trailers["x-sum"].as_bytes(), trailers["x-b"].as_bytes()),
            (2, &b"42"[..], &b""[..])
        );
    }

    #[test]
    fn broken_chunks_are_errors() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "1\n",
            "1\r\nab",
            "1\r\na\n",
            "10000000000000000\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX: \x01\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "1;\x01\r\n",
        ] {
            assert_eq!(read(Framing::Chunked, &[body.as_bytes()]).map(|_| ()), Err(FramingError), "{body:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(MAX_LINE));
        assert!(read(Framing::Chunked, &[long.as_bytes()]).is_err());
        let trailers = format!("0\r\n{}", "X: y\r\n".repeat(MAX_TRAILERS));
        assert!(read(Framing::Chunked, &[trailers.as_bytes()]).is_err());
    }

    proptest! {
        /// It does not matter in which pieces a body comes.
        #[test]
        fn pieces_make_no_difference(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in any::<bool>(), cuts in proptest::collection::vec(0..200_usize, 0..5),
        ) {
            let mut bytes: Vec<u8> = chunks.iter().flat_map(|chunk| {
                [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
            }).collect();
            bytes.extend_from_slice(if trailer { b"0\r\nA: b\r\n\r\n" } else { b"0\r\n\r\n" });
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let (data, trailers, complete, rest) = read(Framing::Chunked, &pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!((trailers.is_some(), complete, rest.len()), (trailer, true, 0));
        }
    }
}

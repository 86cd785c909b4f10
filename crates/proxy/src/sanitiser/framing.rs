//! Where a request's body ends.

/// How a head says that its body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A body being followed to its end.
#[derive(Debug)]
pub(super) enum Body {
    Length(u64),
    Chunked(Chunked),
}

/// The body's framing is broken: what follows cannot be told from another request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BodyError;

/// Longest line of chunk framing or trailer, extension included.
const MAX_LINE: usize = 4096;
/// Longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Chunked {
    state: ChunkState,
    /// The size being read, or the bytes of the chunk that are left.
    left: u64,
    /// Bytes of the present line, and of the trailer section.
    line: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
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
    Done,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked { state: ChunkState::SizeStart, left: 0, line: 0, trailers: 0 }),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == ChunkState::Done,
        }
    }

    /// Bytes that are certainly data, if the body is at such a place.
    pub(super) fn plain_bytes_left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(chunked) => (chunked.state == ChunkState::Data && chunked.left > 0).then_some(chunked.left),
        }
    }

    /// `n` of the [`Self::plain_bytes_left`] have gone by.
    pub(super) fn took(&mut self, n: usize) {
        match self {
            Self::Length(left) => *left = left.saturating_sub(n as u64),
            Self::Chunked(chunked) => chunked.took(n),
        }
    }

    /// How many of these bytes belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        match self {
            Self::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= n as u64;
                Ok(n)
            }
            Self::Chunked(chunked) => chunked.advance(bytes),
        }
    }
}

impl Chunked {
    fn took(&mut self, n: usize) {
        self.left = self.left.saturating_sub(n as u64);
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < bytes.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.took(n);
                at += n;
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, BodyError> {
        use ChunkState::{
            Data, DataCr, DataLf, Done, EndLf, Extension, Size, SizeLf, SizeStart, Trailer, TrailerLf, TrailerStart,
        };
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(BodyError);
        }
        Ok(match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 58 != 0 {
                    return Err(BodyError);
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
            (EndLf, b'\n') => Done,
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => {
                self.line = 0;
                TrailerStart
            }
            (TrailerStart | Trailer, b'\t' | 0x20..=0x7e | 0x80..) => {
                self.trailers += 1;
                if self.trailers > MAX_TRAILERS {
                    return Err(BodyError);
                }
                Trailer
            }
            _ => return Err(BodyError),
        })
    }
}

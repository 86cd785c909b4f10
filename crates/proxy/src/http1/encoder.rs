//! What frames a body that goes out (RFC 9112, 6 and 7).

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body::Frame;

use super::{lines, outgoing::Outgoing};

/// A body that is being written.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// So many bytes are still to come.
    Length(u64),
    /// With trailers of these names, if there are any.
    Chunked(Vec<HeaderName>),
    /// To the end of the connection.
    UntilClose,
}

/// A body that is shorter than its head says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is shorter than its head says")]
pub(crate) struct TooShort;

impl Encoder {
    /// In chunks. Trailers go if the head announces them (`Trailer`).
    pub(crate) fn chunked(head: &HeaderMap) -> Self {
        let announced = head.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
        let names = announced.flat_map(|list| list.split(','));
        Self::Chunked(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect())
    }

    /// Puts a piece of the body into what goes out. What is longer than the head says is left out.
    pub(crate) fn put(&mut self, frame: Frame<Bytes>, out: &mut Outgoing) {
        match (frame.into_data(), &mut *self) {
            (Ok(data), Self::Chunked(_)) if !data.is_empty() => {
                let _ = write!(out.bytes(), "{:x}\r\n", data.len());
                out.put(data);
                out.put_end(b"\r\n");
            }
            (Ok(mut data), Self::Length(left)) => {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                out.put(data);
            }
            (Ok(data), Self::UntilClose) => out.put(data),
            (Err(frame), Self::Chunked(announced)) => {
                let Ok(trailers) = frame.into_trailers() else { return };
                let bytes = out.bytes();
                bytes.extend_from_slice(b"0\r\n");
                for (name, value) in &trailers {
                    if announced.contains(name) && may_trail(name) {
                        lines::put(bytes, name.as_str(), value.as_bytes());
                    }
                }
                bytes.extend_from_slice(b"\r\n");
                *self = Self::Length(0);
            }
            _ => {}
        }
    }

    /// The body has ended: puts what says so.
    pub(crate) fn end(&mut self, out: &mut Outgoing) -> Result<(), TooShort> {
        match self {
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Length(_) => Err(TooShort),
            Self::Chunked(_) => {
                out.put_end(b"0\r\n\r\n");
                *self = Self::Length(0);
                Ok(())
            }
        }
    }
}

/// Whether a field may come that late (RFC 9110, 6.5.1): not what says where a message ends, to whom it goes, or how it is
/// to be read.
fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 12] = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::HOST,
        header::MAX_FORWARDS,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ];
    !NEVER.contains(name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn written(mut encoder: Encoder, frames: Vec<Frame<Bytes>>) -> Result<String, TooShort> {
        let mut out = Outgoing::default();
        for frame in frames {
            encoder.put(frame, &mut out);
        }
        encoder.end(&mut out)?;
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_body_is_framed_as_its_head_says() {
        let mut head = HeaderMap::new();
        let pieces = || vec![data("abc"), data(""), data("de")];
        assert_eq!(written(Encoder::Length(5), pieces()).unwrap(), "abcde");
        assert_eq!(written(Encoder::Length(4), pieces()).unwrap(), "abcd");
        assert_eq!(written(Encoder::Length(6), pieces()), Err(TooShort));
        assert_eq!(written(Encoder::UntilClose, pieces()).unwrap(), "abcde");
        assert_eq!(written(Encoder::chunked(&head), pieces()).unwrap(), "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");

        let mut trailers = HeaderMap::new();
        for name in ["x-a", "x-b", "content-length"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        let pieces = || vec![data("abc"), Frame::trailers(trailers.clone())];
        assert_eq!(written(Encoder::chunked(&head), pieces()).unwrap(), "3\r\nabc\r\n0\r\n\r\n");
        head.insert(header::TRAILER, HeaderValue::from_static("X-A, Content-Length"));
        assert_eq!(written(Encoder::chunked(&head), pieces()).unwrap(), "3\r\nabc\r\n0\r\nX-A: 1\r\n\r\n");
    }
}

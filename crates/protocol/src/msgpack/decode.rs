//! From a complete message to a [`Value`].

use bytes::Bytes;

use super::{Error, MAX_DEPTH};
use crate::{Value, lua, value::readable};

/// Strings shorter than this are copied, so that a value that lives long does not keep the whole message alive.
const SHARED_FROM: usize = 1024;

/// Decodes the value that `message` is. Bytes after it are ignored.
///
/// Raw strings of old servers arrive as text, extension types (JavaScript's dates) as nil, an integral float as the
/// integer that it is in Lua.
///
/// # Errors
/// The value is not complete, or nested too deep.
pub fn decode(message: &Bytes) -> Result<Value, Error> {
    Decoder::new(message).value(MAX_DEPTH)
}

pub(super) struct Decoder<'a> {
    message: &'a Bytes,
    position: usize,
}

impl<'a> Decoder<'a> {
    pub(super) const fn new(message: &'a Bytes) -> Self {
        Self { message, position: 0 }
    }

    /// The number of items, if a list follows: it is entered then.
    pub(super) fn enter_list(&mut self) -> Result<Option<usize>, Error> {
        self.enter(0x90, [0xdc, 0xdd])
    }

    /// The number of entries, if a map follows: it is entered then.
    pub(super) fn enter_map(&mut self) -> Result<Option<usize>, Error> {
        self.enter(0x80, [0xde, 0xdf])
    }

    fn enter(&mut self, short: u8, long: [u8; 2]) -> Result<Option<usize>, Error> {
        let Some(marker) = self.message.get(self.position).copied() else { return Err(Error::Truncated) };
        let width = long.iter().zip(1..).find(|(long, _)| **long == marker).map(|(_, width)| width);
        if width.is_none() && marker & 0xf0 != short {
            return Ok(None);
        }
        self.position += 1;
        width.map_or(Ok(usize::from(marker & 0x0f)), |width| self.length(width)).map(Some)
    }

    /// The bytes of a text or binary value, if one follows: it is taken then, without a copy.
    pub(super) fn text(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let Some(marker) = self.message.get(self.position).copied() else { return Err(Error::Truncated) };
        let short = marker & 0xe0 == 0xa0;
        if !short && !matches!(marker, 0xc4..=0xc6 | 0xd9..=0xdb) {
            return Ok(None);
        }
        self.position += 1;
        let length = match marker {
            0xc4..=0xc6 => self.length(marker - 0xc4)?,
            0xd9..=0xdb => self.length(marker - 0xd9)?,
            _ => usize::from(marker & 0x1f),
        };
        self.slice(length).map(Some)
    }

    /// Whether nil follows. If so, it is taken.
    pub(super) fn nil(&mut self) -> Result<bool, Error> {
        let is_nil = *self.message.get(self.position).ok_or(Error::Truncated)? == 0xc0;
        self.position += usize::from(is_nil);
        Ok(is_nil)
    }

    /// What was not decoded yet.
    pub(super) fn rest(&self) -> Bytes {
        self.message.slice(self.position.min(self.message.len())..)
    }

    /// The next value.
    pub(super) fn value(&mut self, depth: usize) -> Result<Value, Error> {
        let [marker] = self.array()?;
        Ok(match marker {
            0x00..=0x7f => Value::Int(marker.into()),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), depth)?,
            0x90..=0x9f => self.list(usize::from(marker & 0x0f), depth)?,
            0xa0..=0xbf => Value::Text(self.bytes(usize::from(marker & 0x1f))?),
            0xc0 => Value::Nil,
            0xc1 => return Err(Error::UnusedByte),
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(marker - 0xc4)?;
                Value::Binary(self.bytes(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.length(marker - 0xc7)?;
                self.extension(length)?
            }
            0xca => lua::number(f32::from_be_bytes(self.array()?).into()),
            0xcb => lua::number(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Int(u8::from_be_bytes(self.array()?).into()),
            0xcd => Value::Int(u16::from_be_bytes(self.array()?).into()),
            0xce => Value::Int(u32::from_be_bytes(self.array()?).into()),
            0xcf => {
                let int = u64::from_be_bytes(self.array()?);
                #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
                i64::try_from(int).map_or(Value::Float(int as f64), Value::Int)
            }
            0xd0 => Value::Int(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4))?,
            0xd9..=0xdb => {
                let length = self.length(marker - 0xd9)?;
                Value::Text(self.bytes(length)?)
            }
            0xdc | 0xdd => {
                let length = self.length(marker - 0xdc + 1)?;
                self.list(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.length(marker - 0xde + 1)?;
                self.map(length, depth)?
            }
            0xe0..=0xff => Value::Int(i8::from_be_bytes([marker]).into()),
        })
    }

    fn list(&mut self, length: usize, depth: usize) -> Result<Value, Error> {
        let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
        // an item takes a byte at least: what is there bounds what is reserved
        let mut items = Vec::with_capacity(length.min(self.remaining()));
        for _ in 0..length {
            items.push(self.value(depth)?);
        }
        Ok(Value::List(items))
    }

    /// A key that is no text is written as one; an entry whose key cannot be is left out.
    fn map(&mut self, length: usize, depth: usize) -> Result<Value, Error> {
        let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
        let mut fields = Vec::with_capacity(length.min(self.remaining() / 2));
        for _ in 0..length {
            let key = match self.text()? {
                Some(text) => Some(readable(text).into_owned()),
                None => match self.value(depth)? {
                    Value::Int(int) => Some(int.to_string()),
                    Value::Float(float) => Some(lua::number_text(float)),
                    Value::Bool(truth) => Some(truth.to_string()),
                    Value::Nil | Value::List(_) | Value::Map(_) | Value::Text(_) | Value::Binary(_) => None,
                },
            };
            let value = self.value(depth)?;
            fields.extend(key.map(|key| (key, value)));
        }
        Ok(Value::Map(fields))
    }

    fn extension(&mut self, length: usize) -> Result<Value, Error> {
        let [_type] = self.array()?;
        self.bytes(length)?;
        Ok(Value::Nil)
    }

    /// A length of 1, 2 or 4 bytes for `width` 0, 1 or 2.
    fn length(&mut self, width: u8) -> Result<usize, Error> {
        Ok(match width {
            0 => u8::from_be_bytes(self.array()?).into(),
            1 => u16::from_be_bytes(self.array()?).into(),
            _ => usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Error::Truncated)?,
        })
    }

    fn remaining(&self) -> usize {
        self.message.len().saturating_sub(self.position)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let rest = self.message.get(self.position..).ok_or(Error::Truncated)?;
        let array = rest.first_chunk().ok_or(Error::Truncated)?;
        self.position += N;
        Ok(*array)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.position.checked_add(length).ok_or(Error::Truncated)?;
        let slice = self.message.get(self.position..end).ok_or(Error::Truncated)?;
        self.position = end;
        Ok(slice)
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes, Error> {
        let slice = self.slice(length)?;
        Ok(if length < SHARED_FROM { Bytes::copy_from_slice(slice) } else { self.message.slice_ref(slice) })
    }
}

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
    Decoder { message, position: 0 }.value(MAX_DEPTH)
}

struct Decoder<'a> {
    message: &'a Bytes,
    position: usize,
}

impl Decoder<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
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
            let key = match self.value(depth)? {
                Value::Text(bytes) | Value::Binary(bytes) => Some(readable(&bytes).into_owned()),
                Value::Int(int) => Some(int.to_string()),
                Value::Float(float) => Some(lua::number_text(float)),
                Value::Bool(truth) => Some(truth.to_string()),
                Value::Nil | Value::List(_) | Value::Map(_) => None,
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

    fn bytes(&mut self, length: usize) -> Result<Bytes, Error> {
        let end = self.position.checked_add(length).ok_or(Error::Truncated)?;
        let slice = self.message.get(self.position..end).ok_or(Error::Truncated)?;
        let bytes = if length < SHARED_FROM { Bytes::copy_from_slice(slice) } else { self.message.slice_ref(slice) };
        self.position = end;
        Ok(bytes)
    }
}

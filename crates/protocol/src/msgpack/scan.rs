//! Finds where a message ends, without decoding it and without looking at a byte twice, however many pieces the
//! message comes in.

use super::{Error, MAX_ITEMS};

/// How far the message at the front of a buffer has been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    max: usize,
    /// Bytes looked at, those of strings that are still to come included.
    position: usize,
    /// Items that the message still owes.
    owed: u64,
    items: u64,
}

impl Scanner {
    /// For messages of at most `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { max, position: 0, owed: 1, items: 0 }
    }

    /// How many bytes the message has at least, strings that are announced and still to come included.
    pub const fn seen(&self) -> usize {
        self.position
    }

    /// Looks at what is new in `buffer`, which starts where the message does. `Some(length)` once the message is
    /// complete; the scanner is then ready for the next one.
    ///
    /// # Errors
    /// The message is too large, or no MessagePack.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, Error> {
        while self.owed > 0 {
            let Some(item) = buffer.get(self.position..).and_then(Item::at) else {
                // a header is at most 5 bytes long, 9 with a number: it cannot be longer than what is accepted
                return if buffer.len() > self.max { Err(Error::TooLarge { max: self.max }) } else { Ok(None) };
            };
            let item = item?;
            self.items += 1;
            self.owed = self.owed - 1 + item.children;
            self.position = self.position.saturating_add(item.length);
            if self.items.saturating_add(self.owed) > MAX_ITEMS {
                return Err(Error::TooManyItems);
            }
            if self.position > self.max {
                return Err(Error::TooLarge { max: self.max });
            }
        }
        if self.position > buffer.len() {
            return Ok(None);
        }
        let length = self.position;
        *self = Self::new(self.max);
        Ok(Some(length))
    }
}

/// One item as its first bytes tell it.
struct Item {
    /// Bytes of the header, and of the data for what has no children.
    length: usize,
    children: u64,
}

impl Item {
    /// `None`: the header is not there yet.
    fn at(bytes: &[u8]) -> Option<Result<Self, Error>> {
        let (marker, rest) = bytes.split_first()?;
        let u8_at = || rest.first().map(|byte| u64::from(*byte));
        let u16_at = || rest.first_chunk().map(|bytes| u64::from(u16::from_be_bytes(*bytes)));
        let u32_at = || rest.first_chunk().map(|bytes| u64::from(u32::from_be_bytes(*bytes)));
        let data = |header: usize, length: u64| Self {
            length: header.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)),
            children: 0,
        };
        let children = |header: usize, children: u64| Self { length: header, children };
        Some(Ok(match marker {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => data(1, 0),
            0x80..=0x8f => children(1, 2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => children(1, u64::from(marker & 0x0f)),
            0xa0..=0xbf => data(1, u64::from(marker & 0x1f)),
            0xc1 => return Some(Err(Error::UnusedByte)),
            0xc4 | 0xd9 => data(2, u8_at()?),
            0xc5 | 0xda => data(3, u16_at()?),
            0xc6 | 0xdb => data(5, u32_at()?),
            0xc7 => data(3, u8_at()?),
            0xc8 => data(4, u16_at()?),
            0xc9 => data(6, u32_at()?),
            0xcc | 0xd0 => data(1, 1),
            0xcd | 0xd1 => data(1, 2),
            0xca | 0xce | 0xd2 => data(1, 4),
            0xcb | 0xcf | 0xd3 => data(1, 8),
            0xd4 => data(2, 1),
            0xd5 => data(2, 2),
            0xd6 => data(2, 4),
            0xd7 => data(2, 8),
            0xd8 => data(2, 16),
            0xdc => children(3, u16_at()?),
            0xdd => children(5, u32_at()?),
            0xde => children(3, 2 * u16_at()?),
            0xdf => children(5, 2 * u32_at()?),
        }))
    }
}

//! Counts the items of a message before it is decoded. An empty item is two bytes long, and takes many times as much
//! once it is decoded.

use prost::{
    DecodeError,
    bytes::Buf as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use super::{Error, MAX_ITEMS, undecodable};
use crate::method::Message;

/// Bytes of the shortest item: its key, and the length 0.
const SHORTEST_ITEM: usize = 2;

/// Nesting that is followed. prost refuses what is nested deeper.
const MAX_DEPTH: usize = 100;

/// A message that can hold many items.
#[derive(Clone, Copy)]
enum Shape {
    Value,
    List,
    Struct,
    Entry,
    KeyAndValue,
    ExitArgs,
    AuthenticateArgs,
    Consumer,
    /// An item without items in it.
    Text,
}

/// # Errors
/// The message holds more than [`MAX_ITEMS`], or is no message.
pub(super) fn check(input: Message, bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() / SHORTEST_ITEM <= MAX_ITEMS {
        return Ok(());
    }
    let shape = match input {
        Message::Value => Shape::Value,
        Message::ListValue => Shape::List,
        Message::Struct => Shape::Struct,
        Message::KV => Shape::KeyAndValue,
        Message::ExitArgs => Shape::ExitArgs,
        Message::AuthenticateArgs => Shape::AuthenticateArgs,
        Message::Consumer => Shape::Consumer,
        _ => return Ok(()),
    };
    let items = count(shape, bytes, MAX_DEPTH).map_err(undecodable("of a PDK call"))?;
    if items > MAX_ITEMS { Err(Error::TooManyItems) } else { Ok(()) }
}

fn count(shape: Shape, mut bytes: &[u8], depth: usize) -> Result<usize, DecodeError> {
    let mut items: usize = 0;
    while bytes.has_remaining() && items <= MAX_ITEMS && depth > 0 {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        let Some(field) = shape.field(tag).filter(|_| wire_type == WireType::LengthDelimited) else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
            continue;
        };
        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        // what is cut off is left to prost to refuse
        let Some((inner, rest)) = bytes.split_at_checked(length) else { break };
        bytes = rest;
        // a field that is given twice is decoded twice, so it counts as if it were an item
        let inside = if matches!(field, Shape::Text) { 0 } else { count(field, inner, depth - 1)? };
        items = items.saturating_add(1).saturating_add(inside);
    }
    Ok(items)
}

impl Shape {
    /// What the field with this number holds, if it is an item or can hold some.
    const fn field(self, tag: u32) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Struct, 1) => Self::Entry,
            (Self::List, 1) | (Self::Entry | Self::KeyAndValue, 2) => Self::Value,
            (Self::Value, 5) | (Self::ExitArgs, 3) => Self::Struct,
            (Self::Value, 6) => Self::List,
            (Self::AuthenticateArgs, 1) => Self::Consumer,
            (Self::Consumer, 5) => Self::Text,
            _ => return None,
        })
    }
}

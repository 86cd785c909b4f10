//! `google.protobuf.Value`, `Struct` and `ListValue`: what headers and other tables travel as. They are read to our own values
//! and written from them at once. By way of prost's types, which are maps of texts that are copied, a table took four times
//! as long.

use std::mem;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    DecodeError,
    encoding::{
        DecodeContext, WireType, bool, check_wire_type, decode_key, decode_varint, double, encode_varint,
        encoded_len_varint, int32, skip_field,
    },
};

use super::{Error, MAX_ITEMS, undecodable};
use crate::{Value, lua, value::readable};

/// Bytes of an entry of a struct that is rather long.
const LONG_ENTRY: usize = 64;

/// Nesting that is followed: prost's own limit.
const MAX_DEPTH: usize = 100;

/// The keys of fields: their numbers, and how long they are.
mod key {
    const DELIMITED: u8 = 2;
    pub(super) const NULL: u8 = 1 << 3;
    /// A fixed 64 bits.
    pub(super) const NUMBER: u8 = 2 << 3 | 1;
    pub(super) const TEXT: u8 = 3 << 3 | DELIMITED;
    pub(super) const BOOL: u8 = 4 << 3;
    pub(super) const STRUCT: u8 = 5 << 3 | DELIMITED;
    pub(super) const LIST: u8 = 6 << 3 | DELIMITED;
    /// Of a list, and the entry of a struct.
    pub(super) const ITEM: u8 = 1 << 3 | DELIMITED;
    pub(super) const NAME_OF_ENTRY: u8 = 1 << 3 | DELIMITED;
    pub(super) const VALUE_OF_ENTRY: u8 = 2 << 3 | DELIMITED;
}

/// Reads one message, and counts its items: an empty one is two bytes long, and takes many times as much once it is read.
#[derive(Default)]
pub(super) struct Reader {
    items: usize,
}

impl Reader {
    /// The message `Value`. Lua's `a or b` chain in Kong loses a false and shows a null by the name of its enum value.
    ///
    /// # Errors
    /// Here as below: the message holds more than [`MAX_ITEMS`], or is no such message.
    pub(super) fn value(&mut self, bytes: &[u8]) -> Result<Value, Error> {
        self.nested_value(bytes, MAX_DEPTH)
    }

    /// The message `ListValue`.
    pub(super) fn items(&mut self, bytes: &[u8]) -> Result<Vec<Value>, Error> {
        self.nested_items(bytes, MAX_DEPTH)
    }

    /// The message `Struct`. A nil is an absent field.
    pub(super) fn fields(&mut self, bytes: &[u8]) -> Result<Vec<(String, Value)>, Error> {
        self.nested_fields(bytes, MAX_DEPTH)
    }

    fn nested_value(&mut self, mut bytes: &[u8], depth: usize) -> Result<Value, Error> {
        let mut value = Value::Nil;
        while let Some((number, kind)) = next_field(&mut bytes)? {
            // Of several the last counts.
            value = match number {
                1 => {
                    scalar(kind, &mut bytes, int32::merge)?;
                    "NULL_VALUE".into()
                }
                2 => lua::number(scalar(kind, &mut bytes, double::merge)?),
                3 => Value::Text(Bytes::copy_from_slice(text(kind, &mut bytes)?.as_bytes())),
                4 => match scalar(kind, &mut bytes, bool::merge)? {
                    true => Value::Bool(true),
                    false => Value::Nil,
                },
                5 => Value::Map(self.nested_fields(delimited(kind, &mut bytes)?, deeper(depth)?)?),
                6 => Value::List(self.nested_items(delimited(kind, &mut bytes)?, deeper(depth)?)?),
                _ => {
                    skip(number, kind, &mut bytes)?;
                    value
                }
            };
        }
        Ok(value)
    }

    fn nested_items(&mut self, mut bytes: &[u8], depth: usize) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        while let Some((number, kind)) = next_field(&mut bytes)? {
            if number == 1 {
                self.count()?;
                items.push(self.nested_value(delimited(kind, &mut bytes)?, deeper(depth)?)?);
            } else {
                skip(number, kind, &mut bytes)?;
            }
        }
        Ok(items)
    }

    fn nested_fields(&mut self, mut bytes: &[u8], depth: usize) -> Result<Vec<(String, Value)>, Error> {
        let mut fields = Vec::with_capacity(bytes.len() / LONG_ENTRY);
        while let Some((number, kind)) = next_field(&mut bytes)? {
            if number == 1 {
                self.count()?;
                fields.push(self.entry(delimited(kind, &mut bytes)?, deeper(depth)?)?);
            } else {
                skip(number, kind, &mut bytes)?;
            }
        }
        // In the order of their names. Of several with one name the last counts.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                mem::swap(later, earlier);
            }
            same
        });
        fields.retain(|(_, value)| !value.is_nil());
        Ok(fields)
    }

    fn entry(&mut self, mut bytes: &[u8], depth: usize) -> Result<(String, Value), Error> {
        let (mut name, mut value) = (String::new(), Value::Nil);
        while let Some((number, kind)) = next_field(&mut bytes)? {
            match number {
                1 => name = text(kind, &mut bytes)?.to_owned(),
                2 => value = self.nested_value(delimited(kind, &mut bytes)?, deeper(depth)?)?,
                _ => skip(number, kind, &mut bytes)?,
            }
        }
        Ok((name, value))
    }

    /// Counts an item.
    pub(super) const fn count(&mut self) -> Result<(), Error> {
        self.items += 1;
        if self.items > MAX_ITEMS { Err(Error::TooManyItems) } else { Ok(()) }
    }
}

const MESSAGE: &str = "of a PDK call";

fn no_message(reason: &str) -> Error {
    Error::Undecodable { message: MESSAGE, reason: reason.to_owned() }
}

fn deeper(depth: usize) -> Result<usize, Error> {
    depth.checked_sub(1).ok_or_else(|| no_message("recursion limit reached"))
}

/// The number and the kind of the field that comes next; `None` at the end.
pub(super) fn next_field(bytes: &mut &[u8]) -> Result<Option<(u32, WireType)>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    // Nearly all keys are one byte long, as are nearly all lengths below.
    if let [key @ 0x08..0x80, rest @ ..] = *bytes
        && let Ok(kind) = WireType::try_from(u64::from(key & 7))
    {
        *bytes = rest;
        return Ok(Some((u32::from(key >> 3), kind)));
    }
    decode_key(bytes).map(Some).map_err(undecodable(MESSAGE))
}

pub(super) fn skip(number: u32, kind: WireType, bytes: &mut &[u8]) -> Result<(), Error> {
    skip_field(kind, number, bytes, DecodeContext::default()).map_err(undecodable(MESSAGE))
}

/// A field that is itself a message.
fn delimited<'b>(kind: WireType, bytes: &mut &'b [u8]) -> Result<&'b [u8], Error> {
    check_wire_type(WireType::LengthDelimited, kind).map_err(undecodable(MESSAGE))?;
    let length = match *bytes {
        [short @ 0..0x80, rest @ ..] => {
            *bytes = rest;
            usize::from(*short)
        }
        _ => usize::try_from(decode_varint(bytes).map_err(undecodable(MESSAGE))?).unwrap_or(usize::MAX),
    };
    let (field, rest) = bytes.split_at_checked(length).ok_or_else(|| no_message("buffer underflow"))?;
    *bytes = rest;
    Ok(field)
}

fn text<'b>(kind: WireType, bytes: &mut &'b [u8]) -> Result<&'b str, Error> {
    std::str::from_utf8(delimited(kind, bytes)?).map_err(|_| no_message("text that is not UTF-8"))
}

fn scalar<'b, T: Default>(
    kind: WireType,
    bytes: &mut &'b [u8],
    merge: impl FnOnce(WireType, &mut T, &mut &'b [u8], DecodeContext) -> Result<(), DecodeError>,
) -> Result<T, Error> {
    let mut value = T::default();
    merge(kind, &mut value, bytes, DecodeContext::default()).map_err(undecodable(MESSAGE))?;
    Ok(value)
}

/// Appends the message `Value`. A table is a list if it has an item at 1, so the empty table is a struct, whatever it was meant
/// to be.
pub(super) fn put_value(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Nil => out.put_slice(&[key::NULL, 0]),
        Value::Bool(truth) => out.put_slice(&[key::BOOL, (*truth).into()]),
        #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
        Value::Int(int) => put_number(*int as f64, out),
        Value::Float(float) => put_number(*float, out),
        Value::Text(bytes) | Value::Binary(bytes) => put_text(key::TEXT, &readable(bytes), out),
        Value::List(items) if !items.is_empty() => put_delimited(key::LIST, out, |out| put_items(items, out)),
        Value::List(_) | Value::Map(_) => put_delimited(key::STRUCT, out, |out| put_struct(value, out)),
    }
}

/// Appends the message `ListValue`.
pub(super) fn put_items(items: &[Value], out: &mut BytesMut) {
    for item in items {
        put_delimited(key::ITEM, out, |out| put_value(item, out));
    }
}

/// Appends the message `Struct`; an empty one for what is no table.
pub(super) fn put_struct(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Map(fields) => {
            for (name, item) in fields {
                put_entry(name, out, |out| put_value(item, out));
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                put_entry(&(index + 1).to_string(), out, |out| put_value(item, out));
            }
        }
        _ => {}
    }
}

/// Appends a `Struct` of headers or query arguments: each a text or a list of texts. go-pdk loses what is none, such as the
/// `true` of an argument without a value.
pub(super) fn put_struct_of_texts(value: &Value, out: &mut BytesMut) {
    let put_one = |item: &Value, out: &mut BytesMut| match item {
        Value::Bool(truth) => put_text(key::TEXT, if *truth { "true" } else { "false" }, out),
        Value::Int(int) => put_text(key::TEXT, &int.to_string(), out),
        Value::Float(float) => put_text(key::TEXT, &lua::number_text(*float), out),
        other => put_value(other, out),
    };
    let Value::Map(fields) = value else { return put_struct(value, out) };
    for (name, item) in fields {
        put_entry(name, out, |out| match item {
            Value::List(items) => put_delimited(key::LIST, out, |out| {
                for item in items {
                    put_delimited(key::ITEM, out, |out| put_one(item, out));
                }
            }),
            single => put_one(single, out),
        });
    }
}

fn put_entry(name: &str, out: &mut BytesMut, put_value: impl FnOnce(&mut BytesMut)) {
    put_delimited(key::ITEM, out, |out| {
        if !name.is_empty() {
            put_text(key::NAME_OF_ENTRY, name, out);
        }
        put_delimited(key::VALUE_OF_ENTRY, out, put_value);
    });
}

fn put_number(number: f64, out: &mut BytesMut) {
    out.put_u8(key::NUMBER);
    out.put_f64_le(number);
}

fn put_text(key: u8, text: &str, out: &mut BytesMut) {
    if let Ok(short @ 0..0x80) = u8::try_from(text.len()) {
        out.put_slice(&[key, short]);
    } else {
        out.put_u8(key);
        encode_varint(text.len() as u64, out);
    }
    out.put_slice(text.as_bytes());
}

/// Appends a field whose length is known only when it has been written. Most are short: their length is one byte.
fn put_delimited(key: u8, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    out.put_slice(&[key, 0]);
    let begin = out.len();
    put(out);
    let length = out.len() - begin;
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        out[begin - 1] = short;
        return;
    }
    let extra = encoded_len_varint(length as u64) - 1;
    out.put_bytes(0, extra);
    out.copy_within(begin..begin + length, begin + extra);
    encode_varint(length as u64, &mut &mut out[begin - 1..begin + extra]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::{ListValue, Struct, value::Kind};

    use super::{super::tests::any_value, *};

    /// What a message of the schema says, as Kong reads it.
    fn as_the_schema_says(value: prost_types::Value) -> Value {
        match value.kind {
            None | Some(Kind::BoolValue(false)) => Value::Nil,
            Some(Kind::BoolValue(true)) => Value::Bool(true),
            Some(Kind::NullValue(_)) => "NULL_VALUE".into(),
            Some(Kind::NumberValue(number)) => lua::number(number),
            Some(Kind::StringValue(text)) => text.into(),
            Some(Kind::ListValue(list)) => Value::List(list.values.into_iter().map(as_the_schema_says).collect()),
            Some(Kind::StructValue(map)) => {
                let fields = map.fields.into_iter().map(|(name, value)| (name, as_the_schema_says(value)));
                Value::Map(fields.filter(|(_, value)| !value.is_nil()).collect())
            }
        }
    }

    fn message() -> impl Strategy<Value = prost_types::Value> {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let leaf = prop_oneof![
            Just(prost_types::Value { kind: None }),
            Just(value(Kind::NullValue(0))),
            any::<bool>().prop_map(move |truth| value(Kind::BoolValue(truth))),
            (-9.0..9.0_f64).prop_map(move |number| value(Kind::NumberValue(number))),
            ".{0,80}".prop_map(move |text| value(Kind::StringValue(text))),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4);
            let map = prop::collection::btree_map(".{0,8}", inner, 0..4);
            prop_oneof![
                list.prop_map(move |values| value(Kind::ListValue(ListValue { values }))),
                map.prop_map(move |fields| value(Kind::StructValue(Struct { fields }))),
            ]
        })
    }

    proptest! {
        #[test]
        fn messages_are_read_as_the_schema_reads_them(message in message()) {
            let read = Reader::default().value(&message.encode_to_vec()).unwrap();
            prop_assert_eq!(read, as_the_schema_says(message));
        }

        /// What one schema refuses the other refuses; what both can read they read alike, but for messages in two parts.
        #[test]
        fn no_bytes_are_read_that_are_no_message(bytes in any::<Vec<u8>>()) {
            let (ours, schemas) = (Reader::default().value(&bytes), prost_types::Value::decode(&*bytes));
            prop_assert_eq!(ours.is_ok(), schemas.is_ok(), "{:?} {:?}", ours, schemas);
        }

        #[test]
        fn what_is_written_can_be_read_with_the_schema(value in any_value()) {
            let mut out = BytesMut::new();
            put_value(&value, &mut out);
            let message = prost_types::Value::decode(&*out).unwrap();
            prop_assert_eq!(Reader::default().value(&out).unwrap(), as_the_schema_says(message));
        }
    }

    #[test]
    fn of_several_fields_of_one_name_the_last_counts() {
        let entry = |name: &str, value: &Value| {
            let mut out = BytesMut::new();
            put_entry(name, &mut out, |out| put_value(value, out));
            out
        };
        let entries = [entry("b", &1.into()), entry("a", &2.into()), entry("b", &3.into()), entry("a", &false.into())];
        let read = Reader::default().fields(&entries.concat()).unwrap();
        assert_eq!(read, [("b".to_owned(), Value::Int(3))]);
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        let nested = |depth: usize| {
            let mut out = BytesMut::new();
            put_value(&(0..depth).fold(Value::Nil, |inner, _| Value::List(vec![inner])), &mut out);
            Reader::default().value(&out)
        };
        assert!(nested(49).is_ok());
        assert!(nested(60).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn long_fields_have_long_lengths() {
        for length in [0, 1, 100, 120, 127, 128, 16_383, 16_384, 3_000_000] {
            let value = Value::Map(vec![("name".to_owned(), Value::List(vec!["x".repeat(length).into()]))]);
            let mut out = BytesMut::from(&b"before"[..]);
            put_value(&value, &mut out);
            assert_eq!(Reader::default().value(&out[6..]), Ok(value), "{length}");
        }
    }
}

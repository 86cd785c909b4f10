//! From a method's input message to its arguments, as Kong unwraps them (`pb_unwrap` in pb_rpc.lua).

use bytes::Bytes;
use prost::Message as _;

use super::{
    Error,
    dynamic::{Reader, next_field, skip},
    schema, undecodable,
};
use crate::{Value, lua, method::Message};

/// The schema's `KV`, its dynamic part still as bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Kv {
    #[prost(string, tag = "1")]
    k: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    v: Option<Bytes>,
}

/// The schema's `ExitArgs`, in the same way.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ExitArgs {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(bytes = "bytes", tag = "2")]
    body: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    headers: Option<Bytes>,
}

/// The schema's `AuthenticateArgs`, whose consumer may have many tags.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct AuthenticateArgs {
    #[prost(bytes = "bytes", optional, tag = "1")]
    consumer: Option<Bytes>,
    #[prost(message, optional, tag = "2")]
    credential: Option<schema::AuthenticatedCredential>,
}

pub(super) fn decode(input: Message, bytes: Bytes) -> Result<Vec<Value>, Error> {
    match short_texts(input, &bytes) {
        Some(texts) => Ok(texts),
        None => decode_message(input, bytes),
    }
}

/// As the message of the schema that it is.
fn decode_message(input: Message, bytes: Bytes) -> Result<Vec<Value>, Error> {
    let mut dynamic = Reader::default();
    macro_rules! message {
        ($type:ty) => {
            <$type>::decode(bytes).map_err(undecodable(stringify!($type)))?
        };
    }
    Ok(match input {
        Message::Empty => Vec::new(),
        Message::Bool => vec![message!(schema::Bool).v.into()],
        Message::Int => vec![i64::from(message!(schema::Int).v).into()],
        Message::Number => vec![lua::number(message!(schema::Number).v)],
        Message::String => vec![message!(schema::String).v.into()],
        Message::ByteString => vec![Value::Binary(message!(schema::ByteString).v)],
        Message::KV => {
            let kv = message!(Kv);
            vec![kv.k.into(), kv.v.map_or(Ok(Value::Nil), |value| dynamic.value(&value))?]
        }
        Message::Target => {
            let target = message!(schema::Target);
            vec![target.host.into(), i64::from(target.port).into()]
        }
        Message::ExitArgs => {
            let exit = message!(ExitArgs);
            let headers = exit.headers.map(|headers| dynamic.fields(&headers)).transpose()?;
            vec![i64::from(exit.status).into(), Value::Binary(exit.body), headers.map_or(Value::Nil, Value::Map)]
        }
        Message::ConsumerSpec => {
            let spec = message!(schema::ConsumerSpec);
            vec![spec.id.into(), spec.by_username.into()]
        }
        Message::AuthenticateArgs => {
            let args = message!(AuthenticateArgs);
            let consumer = args.consumer.map_or(Ok(Value::Nil), consumer)?;
            vec![consumer, args.credential.map_or(Value::Nil, credential)]
        }
        Message::Struct => vec![Value::Map(dynamic.fields(&bytes)?)],
        Message::ListValue => lua::unpack(dynamic.items(&bytes)?),
        Message::Value => vec![dynamic.value(&bytes)?],
        Message::Consumer => vec![consumer(bytes)?],
        Message::AuthenticatedCredential => vec![credential(message!(schema::AuthenticatedCredential))],
        // results only: no method takes them
        Message::MemoryStats
        | Message::RawBodyResult
        | Message::Route
        | Message::Service
        | Message::UriCapturesResult => Vec::new(),
    })
}

/// The arguments of the calls that are made most, a text or a key with a text, where they are short: decoded without the
/// copies that a message of the schema needs. `None`: it is another message.
fn short_texts(input: Message, mut bytes: &[u8]) -> Option<Vec<Value>> {
    const FIRST: u8 = 1 << 3 | 2;
    const SECOND: u8 = 2 << 3 | 2;
    const STRING_VALUE: u8 = 3 << 3 | 2;
    let texts = match input {
        Message::String => vec![short_text(&mut bytes, FIRST)?],
        Message::KV => {
            let key = short_text(&mut bytes, FIRST)?;
            let mut value = short_field(&mut bytes, SECOND)?;
            let text = short_text(&mut value, STRING_VALUE)?;
            if !value.is_empty() {
                return None;
            }
            vec![key, text]
        }
        _ => return None,
    };
    bytes.is_empty().then_some(texts)
}

fn short_text(bytes: &mut &[u8], key: u8) -> Option<Value> {
    let text = std::str::from_utf8(short_field(bytes, key)?).ok()?;
    Some(Value::Text(Bytes::copy_from_slice(text.as_bytes())))
}

/// Takes a field of less than 128 bytes, whose length is one byte, from the front of a message.
fn short_field<'b>(bytes: &mut &'b [u8], key: u8) -> Option<&'b [u8]> {
    let [first, length @ 0..0x80, rest @ ..] = *bytes else { return None };
    let (field, rest) = rest.split_at_checked((*length).into())?;
    *bytes = rest;
    (*first == key).then_some(field)
}

fn consumer(bytes: Bytes) -> Result<Value, Error> {
    const TAGS: u32 = 5;
    let (mut items, mut rest) = (Reader::default(), &*bytes);
    while let Some((number, kind)) = next_field(&mut rest)? {
        if number == TAGS {
            items.count()?;
        }
        skip(number, kind, &mut rest)?;
    }
    let consumer = schema::Consumer::decode(bytes).map_err(undecodable("Consumer"))?;
    Ok(Value::Map(vec![
        ("id".to_owned(), consumer.id.into()),
        ("created_at".to_owned(), consumer.created_at.into()),
        ("username".to_owned(), consumer.username.into()),
        ("custom_id".to_owned(), consumer.custom_id.into()),
        ("tags".to_owned(), Value::List(consumer.tags.into_iter().map(Value::from).collect())),
    ]))
}

fn credential(credential: schema::AuthenticatedCredential) -> Value {
    Value::Map(vec![("id".to_owned(), credential.id.into()), ("consumer_id".to_owned(), credential.consumer_id.into())])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that are often a text, or a key with one.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let field = |key: u8| {
            proptest::collection::vec(any::<u8>(), 0..4)
                .prop_map(move |text| [&[key, text.len() as u8], &text[..]].concat())
        };
        let value = field(3 << 3 | 2).prop_map(|value| [&[2 << 3 | 2, value.len() as u8], &value[..]].concat());
        let part = prop_oneof![field(1 << 3 | 2), value, proptest::collection::vec(any::<u8>(), 0..3)];
        proptest::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// What is read without the schema is what the schema says.
        #[test]
        fn short_texts_are_read_as_the_schema_reads_them(bytes in message()) {
            for input in [Message::String, Message::KV] {
                if let Some(texts) = short_texts(input, &bytes) {
                    prop_assert_eq!(decode_message(input, Bytes::from(bytes.clone())).ok(), Some(texts));
                }
            }
        }
    }
}

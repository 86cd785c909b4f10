//! The frames of an event of a ProtoBuf server, as `plugin-host` reads and writes them.

use std::hint::black_box;

use bytes::{BufMut, BytesMut};
use prost::Message;
use silverback_protocol::{
    Return,
    method::Method,
    protobuf::{Answer, Command, Step, decode_call, put_result, take_frame, take_step},
};

use super::{HotPath, requests::HEADERS, values};

pub(super) fn paths() -> Vec<HotPath> {
    let text = |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) };
    let headers = HEADERS.map(|(name, value)| (name.to_owned(), text(value))).into();
    vec![
        command(),
        decode("call", "kong.request.get_header", &name("cookie")),
        encode("result", "kong.request.get_header", values::header()),
        decode("call_with_value", "kong.response.set_header", &pair("x-tenant-plan", &text("gold"))),
        encode("result_with_headers", "kong.request.get_headers", values::headers()),
        decode(
            "call_with_headers",
            "kong.response.set_headers",
            &prost_types::Struct { fields: headers }.encode_to_vec(),
        ),
        end(),
    ]
}

fn command() -> HotPath {
    let mut out = BytesMut::with_capacity(4096);
    HotPath::new("protobuf/encode/handle_event", move |_| {
        out.clear();
        Command::HandleEvent { instance: 5, phase: black_box("access") }.put(4711, &mut out);
        black_box(&out);
    })
}

/// Decodes a call from the bytes of its two frames.
fn decode(kind: &str, method: &'static str, args: &[u8]) -> HotPath {
    let mut frames = BytesMut::new();
    put_frame(method.as_bytes(), &mut frames);
    put_frame(args, &mut frames);
    let mut input = BytesMut::with_capacity(4096);
    HotPath::new(format!("protobuf/decode/{kind}"), move |_| {
        input.extend_from_slice(black_box(&frames));
        let step = take_step(&mut input, 256, |_| 1 << 20);
        let call = match step {
            Ok(Some(Step::Call { name, args })) => decode_call(&name, args).ok(),
            _ => None,
        };
        assert!(black_box(&call).is_some(), "the frames are a call");
    })
}

fn encode(kind: &str, method: &'static str, result: Return) -> HotPath {
    let mut out = BytesMut::with_capacity(4096);
    #[expect(clippy::expect_used, reason = "the methods are those above")]
    let method = Method::by_name(method.as_bytes()).expect("a method of the schema");
    HotPath::new(format!("protobuf/encode/{kind}"), move |_| {
        out.clear();
        put_result(method, black_box(&result), &mut out);
        black_box(&out);
    })
}

/// The `RpcReturn` after an event.
fn end() -> HotPath {
    let mut frame = BytesMut::new();
    put_frame(&[0x08, 0x05], &mut frame); // sequence 5
    let mut input = BytesMut::with_capacity(4096);
    HotPath::new("protobuf/decode/end", move |_| {
        input.extend_from_slice(black_box(&frame));
        let frame = take_frame(&mut input, 1 << 20).ok().flatten().unwrap_or_default();
        assert!(black_box(Answer::decode(frame)).is_ok(), "the frame is an answer");
    })
}

fn put_frame(message: &[u8], out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
}

/// The message `String`: its text is field 1.
fn name(text: &str) -> Vec<u8> {
    #[derive(Message)]
    struct Name {
        #[prost(string, tag = "1")]
        v: String,
    }
    Name { v: text.to_owned() }.encode_to_vec()
}

/// The message `KV`.
fn pair(key: &str, value: &prost_types::Value) -> Vec<u8> {
    #[derive(Message)]
    struct Pair {
        #[prost(string, tag = "1")]
        k: String,
        #[prost(message, optional, tag = "2")]
        v: Option<prost_types::Value>,
    }
    Pair { k: key.to_owned(), v: Some(value.clone()) }.encode_to_vec()
}

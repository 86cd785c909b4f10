//! The messages of an event of a MessagePack server, as `plugin-host` reads and writes them.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use silverback_protocol::{
    Return, Value,
    msgpack::{Next, Request, Response, Scanner, ServerMessage, put_value},
};

use super::{HotPath, values};

pub(super) fn paths() -> Vec<HotPath> {
    let headers = values::headers().value;
    vec![
        encode("handle_event", "kong.request.get_header", None),
        decode("call", answer(called("kong.request.get_header", vec!["cookie".into()]))),
        encode("step", "kong.request.get_header", Some(values::header())),
        encode("step_with_headers", "kong.request.get_headers", Some(values::headers())),
        decode("call_with_headers", answer(called("kong.response.set_headers", vec![headers]))),
        decode("end", answer("ret".into())),
    ]
}

/// Decodes what a server answers, from the bytes that were read to what it wants next.
fn decode(kind: &str, answer: Bytes) -> HotPath {
    let mut scanner = Scanner::new(1 << 20);
    HotPath::new(format!("msgpack/decode/{kind}"), move |_| {
        let length = scanner.scan(black_box(&answer)).ok().flatten();
        assert_eq!(length, Some(answer.len()), "the message is complete");
        let next = match ServerMessage::decode(&answer) {
            Ok(ServerMessage::Response(Response { outcome: Ok(result), .. })) => Next::decode(&result).ok(),
            _ => None,
        };
        assert!(black_box(&next).is_some(), "the message is an answer");
    })
}

/// Encodes the result of a call, or the event's beginning where there is none.
fn encode(kind: &str, method: &'static str, result: Option<Return>) -> HotPath {
    let mut out = BytesMut::with_capacity(4096);
    HotPath::new(format!("msgpack/encode/{kind}"), move |_| {
        out.clear();
        let request = match &result {
            Some(result) => Request::Step { event: 4711, method, result },
            None => Request::HandleEvent { instance: 5, phase: "access" },
        };
        black_box(request).put(4712, &mut out);
        black_box(&out);
    })
}

/// The response to a request of an event.
fn answer(data: Value) -> Bytes {
    let result = Value::Map(vec![("Data".to_owned(), data), ("EventId".to_owned(), 4711.into())]);
    let mut message = BytesMut::new();
    put_value(&Value::List(vec![1.into(), 4712.into(), Value::Nil, result]), &mut message);
    message.freeze()
}

/// What a server answers when its plugin makes a PDK call.
fn called(method: &str, args: Vec<Value>) -> Value {
    Value::Map(vec![("Method".to_owned(), method.into()), ("Args".to_owned(), Value::List(args))])
}

use proptest::prelude::*;
use prost_types::{ListValue, Struct, value::Kind};

use super::*;
use crate::{Value, method::Message};

fn wrapped(kind: Kind) -> prost_types::Value {
    prost_types::Value { kind: Some(kind) }
}

fn text(text: &str) -> prost_types::Value {
    wrapped(Kind::StringValue(text.to_owned()))
}

fn args(method: &str, message: &impl prost::Message) -> Vec<Value> {
    let (call, _) = decode_call(method.as_bytes(), message.encode_to_vec().into()).unwrap();
    assert_eq!(call.method, method);
    call.args
}

/// The output message of a method for a result, without its frame's header.
fn result(method: &str, result: impl Into<Return>) -> Bytes {
    let mut out = BytesMut::new();
    put_result(Method::by_name(method.as_bytes()).unwrap(), &result.into(), &mut out);
    let frame = take_frame(&mut out, usize::MAX).unwrap().unwrap();
    assert!(out.is_empty(), "one frame");
    frame
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

#[test]
fn frames_come_in_pieces() {
    let mut buffer = BytesMut::new();
    for byte in [3, 0, 0, 0, b'a', b'b'] {
        buffer.put_u8(byte);
        assert_eq!(take_frame(&mut buffer, 10), Ok(None));
    }
    buffer.put_slice(b"c\x00\x00\x00\x00\x01");
    assert_eq!(take_frame(&mut buffer, 10), Ok(Some(Bytes::from_static(b"abc"))));
    assert_eq!(take_frame(&mut buffer, 10), Ok(Some(Bytes::new())));
    assert_eq!(take_frame(&mut buffer, 10), Ok(None));
    assert_eq!(&buffer[..], b"\x01");
}

#[test]
fn a_frame_that_is_too_long_is_refused_by_its_header() {
    let mut buffer = BytesMut::from(&b"\xff\xff\xff\xff"[..]);
    assert_eq!(take_frame(&mut buffer, 1000), Err(Error::FrameTooLarge { length: 0xffff_ffff, max: 1000 }));
}

/// What is taken once all of `bytes` has come, after nothing while they come one by one.
fn step_of(bytes: &[u8]) -> Result<Option<Step>, Error> {
    let max_args = |name: &[u8]| if name == b"large" { 300 } else { 2 };
    let mut buffer = BytesMut::new();
    let (last, before) = bytes.split_last().unwrap();
    for byte in before {
        buffer.put_u8(*byte);
        assert_eq!(take_step(&mut buffer, 5, max_args), Ok(None));
    }
    buffer.put_u8(*last);
    let step = take_step(&mut buffer, 5, max_args);
    assert!(buffer.is_empty() || step.is_err());
    step
}

#[test]
fn a_call_is_taken_when_both_of_its_frames_are_there() {
    let call = |name: &'static str, args: &'static str| Step::Call { name: name.into(), args: args.into() };
    assert_eq!(step_of(b"\x03\0\0\0abc\x02\0\0\0de"), Ok(Some(call("abc", "de"))));
    assert_eq!(step_of(b"\x03\0\0\0abc\0\0\0\0"), Ok(Some(call("abc", ""))));
    assert_eq!(step_of(b"\0\0\0\0"), Ok(Some(Step::End)));
    assert_eq!(step_of(b"\x05\0\0\0large\x04\0\0\0defg"), Ok(Some(call("large", "defg"))));
}

#[test]
fn a_call_that_is_too_large_is_refused_by_its_headers() {
    assert_eq!(step_of(b"\x06\0\0\0"), Err(Error::FrameTooLarge { length: 6, max: 5 }));
    let refused = |method: &str, length, max| Err(Error::CallTooLarge { method: method.to_owned(), length, max });
    assert_eq!(step_of(b"\x03\0\0\0abc\x03\0\0\0"), refused("abc", 3, 2));
    assert_eq!(step_of(b"\x05\0\0\0large\x2d\x01\0\0"), refused("large", 301, 300));
}

#[test]
fn commands_are_those_of_the_schema() {
    let mut out = BytesMut::new();
    Command::HandleEvent { instance: 5, phase: "access" }.put(7, &mut out);
    let frame = take_frame(&mut out, 1000).unwrap().unwrap();
    // sequence: field 1, varint; cmd_handle_event: field 36, of instance_id and event_name
    assert_eq!(&frame[..], b"\x08\x07\xa2\x02\x0a\x08\x05\x12\x06access");
    Command::StartInstance { plugin: "p", config: "{}" }.put(1, &mut out);
    let frame = take_frame(&mut out, 1000).unwrap().unwrap();
    assert_eq!(&frame[..], b"\x08\x01\x8a\x02\x07\x0a\x01p\x12\x02{}");
}

proptest! {
    #[test]
    fn what_is_written_by_hand_is_what_the_schema_says(sequence: i64, instance: i32, phase in ".{0,200}") {
        use schema::rpc_call::Call as Cmd;
        let mut out = BytesMut::new();
        Command::HandleEvent { instance, phase: &phase }.put(sequence, &mut out);
        let event = schema::CmdHandleEvent { instance_id: instance, event_name: phase.clone() };
        let call = schema::RpcCall { sequence, call: Some(Cmd::CmdHandleEvent(event)) };
        prop_assert_eq!(take_frame(&mut out, usize::MAX), Ok(Some(call.encode_to_vec().into())));
        let message = schema::String { v: phase.clone() };
        prop_assert_eq!(result("kong.request.get_host", Value::text(phase)), message.encode_to_vec());
    }
}

#[test]
fn answers_are_read() {
    // sequence 3, instance_status {name: "p", instance_id: 300}
    let frame = Bytes::from_static(b"\x08\x03\x8a\x02\x06\x0a\x01p\x10\xac\x02");
    assert_eq!(Answer::decode(frame), Ok(Answer { sequence: 3, instance: Some(300) }));
    assert_eq!(Answer::decode(Bytes::from_static(b"\x08\x04")), Ok(Answer { sequence: 4, instance: None }));
    assert!(Answer::decode(Bytes::from_static(b"\xff")).is_err());
}

#[test]
fn arguments_are_unwrapped_as_kong_does() {
    let message = schema::String { v: "host".to_owned() };
    assert_eq!(args("kong.request.get_header", &message), [Value::from("host")]);
    assert_eq!(args("kong.response.set_status", &schema::Int { v: 404 }), [Value::Int(404)]);
    assert_eq!(args("kong.client.get_protocol", &schema::Bool { v: false }), [Value::Bool(false)]);
    let message = schema::Kv { k: "x-a".to_owned(), v: Some(text("1")) };
    assert_eq!(args("kong.service.request.set_header", &message), ["x-a".into(), Value::from("1")]);
    let message = schema::Kv { k: "x-a".to_owned(), v: None };
    assert_eq!(args("kong.ctx.shared.set", &message), ["x-a".into(), Value::Nil]);
    let message = schema::Target { host: "h".to_owned(), port: 80 };
    assert_eq!(args("kong.service.set_target", &message), ["h".into(), Value::Int(80)]);
    let message = schema::ConsumerSpec { id: "i".to_owned(), by_username: true };
    assert_eq!(args("kong.client.load_consumer", &message), ["i".into(), Value::Bool(true)]);
    let message = schema::AuthenticateArgs {
        consumer: None,
        credential: Some(schema::AuthenticatedCredential { id: "c".to_owned(), consumer_id: String::new() }),
    };
    let credential = map(&[("id", "c".into()), ("consumer_id", "".into())]);
    assert_eq!(args("kong.client.authenticate", &message), [Value::Nil, credential]);
    let message = schema::ByteString { v: Bytes::from_static(b"\xff\x00") };
    assert_eq!(args("kong.service.request.set_raw_body", &message), [Value::Binary(Bytes::from_static(b"\xff\x00"))]);
}

#[test]
fn exit_arguments_keep_their_places() {
    let headers = Struct { fields: [("a".to_owned(), text("b"))].into() };
    let message = schema::ExitArgs { status: 200, body: Bytes::new(), headers: Some(headers) };
    let expect = [Value::Int(200), Value::Binary(Bytes::new()), map(&[("a", "b".into())])];
    assert_eq!(args("kong.response.exit", &message), expect);
    let message = schema::ExitArgs { status: 403, body: "no".into(), headers: None };
    assert_eq!(args("kong.response.exit", &message), [403.into(), Value::Binary("no".into()), Value::Nil]);
}

#[test]
fn a_message_of_very_many_items_is_refused() {
    const MANY: usize = MAX_ITEMS + 1;
    let check = |method: &str, message: Vec<u8>, refused: bool| {
        let error = decode_call(method.as_bytes(), message.into()).err();
        assert_eq!(error, refused.then_some(Error::TooManyItems), "{method}");
    };
    let nothing = || prost_types::Value { kind: None };
    let list = |count| ListValue { values: vec![nothing(); count] };
    let in_list = |count| wrapped(Kind::ListValue(list(count)));
    check("kong.log.err", list(MANY).encode_to_vec(), true);
    check("kong.log.err", list(MAX_ITEMS).encode_to_vec(), false);
    let headers = |count| Some(Struct { fields: [("a".to_owned(), in_list(count))].into() });
    let exit =
        |body: usize, count| schema::ExitArgs { status: 200, body: vec![1; body].into(), headers: headers(count) };
    check("kong.response.exit", exit(0, MANY).encode_to_vec(), true);
    check("kong.response.exit", exit(4 * MANY, 9).encode_to_vec(), false);
    check("kong.service.request.set_headers", headers(MANY).unwrap().encode_to_vec(), true);
    let kv = |v| schema::Kv { k: "k".to_owned(), v: Some(v) }.encode_to_vec();
    check("kong.ctx.shared.set", kv(in_list(MANY)), true);
    check("kong.ctx.shared.set", kv(text(&"x".repeat(4 * MANY))), false);
    let tagged = |tag: &str, count| {
        let consumer = schema::Consumer { tags: vec![tag.to_owned(); count], ..Default::default() };
        schema::AuthenticateArgs { consumer: Some(consumer), credential: None }.encode_to_vec()
    };
    check("kong.client.authenticate", tagged("", MANY), true);
    check("kong.client.authenticate", tagged("\u{7f}\u{7f}", MAX_ITEMS - 9), false);
    assert!(decode_call(b"kong.log.err", vec![0xff; 4 * MANY].into()).is_err());
}

#[test]
fn a_frame_is_told_from_more() {
    let check = |buffer: &[u8], expect| assert_eq!(is_one_frame(buffer), expect, "{buffer:?}");
    check(b"", true);
    check(b"\x02\x00", true);
    check(b"\x02\x00\x00\x00a", true);
    check(b"\x02\x00\x00\x00ab", true);
    check(b"\x02\x00\x00\x00abc", false);
    check(b"\x00\x00\x00\x00\x00", false);
}

#[test]
fn dynamic_values_lose_false_and_name_null() {
    let list = |values| ListValue { values };
    let message = list(vec![text("a"), wrapped(Kind::NumberValue(1.0)), wrapped(Kind::NumberValue(1.5))]);
    assert_eq!(args("kong.log.err", &message), ["a".into(), Value::Int(1), Value::Float(1.5)]);
    let check = |kind, expect: Value| {
        let message = schema::Kv { k: String::new(), v: Some(wrapped(kind)) };
        assert_eq!(args("kong.nginx.set_ctx", &message)[1], expect);
    };
    check(Kind::BoolValue(false), Value::Nil);
    check(Kind::BoolValue(true), Value::Bool(true));
    check(Kind::NullValue(0), "NULL_VALUE".into());
    check(Kind::ListValue(list(vec![text("x")])), Value::List(vec!["x".into()]));
    let fields = [("a".to_owned(), wrapped(Kind::BoolValue(false))), ("b".to_owned(), text("c"))].into();
    check(Kind::StructValue(Struct { fields }), map(&[("b", "c".into())]));
    // a hole ends the arguments as it does in Lua
    let message = list(vec![text("a"), wrapped(Kind::BoolValue(false)), text("b")]);
    assert_eq!(args("kong.log.err", &message), [Value::from("a")]);
}

#[test]
fn unknown_methods_are_named() {
    let error = decode_call(b"kong.no.such", Bytes::new()).unwrap_err();
    assert_eq!(error.to_string(), r#"PDK method "kong.no.such" is not known"#);
}

#[test]
fn nil_is_an_empty_message() {
    for method in Method::all() {
        if !matches!(method.output, Message::Value | Message::RawBodyResult) {
            assert_eq!(result(method.name, Value::Nil), "", "{}", method.name);
        }
    }
}

#[test]
fn scalars_are_wrapped() {
    let check = |method: &str, value: Value, expect: &[u8]| assert_eq!(&result(method, value)[..], expect, "{method}");
    check("kong.request.get_host", "h".into(), b"\x0a\x01h");
    check("kong.request.get_query_arg", true.into(), b"\x0a\x04true");
    check("kong.request.get_query_arg", 80.into(), b"\x0a\x0280");
    check("kong.request.get_query_arg", "".into(), b"");
    check("kong.request.get_header", Value::Text(Bytes::from_static(b"\xff")), b"\x0a\x02\xc3\xbf");
    check("kong.request.get_port", 8000.into(), b"\x08\xc0\x3e");
    check("kong.request.get_forwarded_port", 80.5.into(), b"\x08\x50");
    check("kong.request.get_http_version", 1.1.into(), b"\x09\x9a\x99\x99\x99\x99\x99\xf1\x3f");
    check("kong.request.get_http_version", 2.into(), b"\x09\x00\x00\x00\x00\x00\x00\x00\x40");
    check("kong.ip.is_trusted", true.into(), b"\x08\x01");
    check("kong.ip.is_trusted", false.into(), b"");
    check("kong.service.response.get_raw_body", Value::Binary(Bytes::from_static(b"\xff")), b"\x0a\x01\xff");
    check("kong.response.exit", "ignored".into(), b"");
}

#[test]
fn raw_bodies_have_three_forms() {
    let check = |value: Return, expect: &[u8]| {
        assert_eq!(&result("kong.request.get_raw_body", value)[..], expect);
    };
    check(Value::Binary(Bytes::from_static(b"\xff")).into(), b"\x0a\x01\xff");
    check(Value::Binary(Bytes::new()).into(), b"\x0a\x00");
    check(map(&[("body_filepath", "/tmp/x".into())]).into(), b"\x12\x06/tmp/x");
    check(Return { value: Value::Nil, error: Some("no".to_owned()) }, b"\x1a\x02no");
}

#[test]
fn tables_become_structs() {
    let headers = map(&[("a", "1".into()), ("b", Value::List(vec!["2".into(), "3".into()])), ("c", true.into())]);
    let message = Struct::decode(result("kong.request.get_headers", headers)).unwrap();
    assert_eq!(message.fields["a"], text("1"));
    let list = ListValue { values: vec![text("2"), text("3")] };
    assert_eq!(message.fields["b"], wrapped(Kind::ListValue(list)));
    assert_eq!(message.fields["c"], text("true"), "go-pdk would lose it");
    // an empty table is a struct, whatever it was meant to be
    let empty = prost_types::Value::decode(result("kong.ctx.shared.get", Value::List(Vec::new()))).unwrap();
    assert_eq!(empty.kind, Some(Kind::StructValue(Struct::default())));
    let nil = prost_types::Value::decode(result("kong.ctx.shared.get", Value::Nil)).unwrap();
    assert_eq!(nil.kind, Some(Kind::NullValue(0)));
}

#[test]
fn uri_captures_start_at_one() {
    let captures = map(&[
        ("unnamed", Value::List(vec!["/a/b".into(), "a".into(), "b".into()])),
        ("named", map(&[("x", "b".into())])),
    ]);
    let message = schema::UriCapturesResult::decode(result("kong.request.get_uri_captures", captures)).unwrap();
    assert_eq!(message.unnamed, ["a", "b"]);
    assert_eq!(message.named.into_iter().collect::<Vec<_>>(), [("x".to_owned(), Bytes::from_static(b"b"))]);
}

#[test]
fn entities_are_filled_by_field_name() {
    let route = map(&[
        ("id", "r".into()),
        ("created_at", Value::Int(1_700_000_000)),
        ("paths", Value::List(vec!["/a".into()])),
        ("strip_path", true.into()),
        ("headers", map(&[("x", Value::List(vec!["y".into()]))])),
        ("service", map(&[("id", "s".into())])),
    ]);
    let message = schema::Route::decode(result("kong.router.get_route", route)).unwrap();
    let expect = schema::Route {
        id: "r".to_owned(),
        created_at: 1_700_000_000,
        paths: vec!["/a".to_owned()],
        strip_path: true,
        service: Some(schema::ServiceKey { id: "s".to_owned() }),
        ..Default::default()
    };
    assert_eq!(message, expect);
    let stats = map(&[
        ("lua_shared_dicts", map(&[("kong", map(&[("capacity", 5.into()), ("allocated_slabs", 3.into())]))])),
        ("workers_lua_vms", Value::List(vec![map(&[("pid", 9.into()), ("http_allocated_gc", 1.5.into())])])),
    ]);
    let message = schema::MemoryStats::decode(result("kong.node.get_memory_stats", stats)).unwrap();
    let dict = message.lua_shared_dicts.unwrap().kong.unwrap();
    assert_eq!((dict.capacity, dict.allocated_slabs), (5, 3));
    assert_eq!((message.workers_lua_vms[0].pid, message.workers_lua_vms[0].http_allocated_gc), (9, 1));
}

pub(super) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<Vec<u8>>().prop_map(|bytes| Value::Text(bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| Value::Binary(bytes.into())),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec((".{0,8}", inner), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    /// However the bytes of two frames are cut, the same frames come out.
    #[test]
    fn frames_survive_any_cut(first in any::<Vec<u8>>(), second in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        for frame in [&first, &second] {
            bytes.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
            bytes.extend(frame);
        }
        let cut = cut.index(bytes.len() + 1);
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for part in [&bytes[..cut], &bytes[cut..]] {
            buffer.extend_from_slice(part);
            while let Some(frame) = take_frame(&mut buffer, 1 << 20).unwrap() {
                frames.push(frame.to_vec());
            }
        }
        prop_assert_eq!(frames, [first, second]);
    }

    /// Bytes from a server never make a decoder panic.
    #[test]
    fn decoding_never_panics(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>()) {
        let bytes = Bytes::from(bytes);
        let methods: Vec<_> = Method::all().collect();
        let _ = decode_call(methods[at.index(methods.len())].name.as_bytes(), bytes.clone());
        let _ = Answer::decode(bytes.clone());
        let _ = take_frame(&mut BytesMut::from(&bytes[..]), 100);
        let _ = decode_call(&bytes, Bytes::new());
    }

    /// Every value fits every output message: what does not belong there is left out.
    #[test]
    fn every_result_is_one_frame(value in any_value()) {
        for method in Method::all() {
            result(method.name, value.clone());
        }
    }
}

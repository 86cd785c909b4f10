use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{Call, Return, Value, lua, value::readable};

fn encoded(value: &Value) -> BytesMut {
    let mut out = BytesMut::new();
    put_value(value, &mut out);
    out
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

#[test]
fn values_take_their_shortest_form() {
    let check = |value: Value, expect: &[u8]| assert_eq!(&encoded(&value)[..], expect, "{value:?}");
    check(Value::Nil, b"\xc0");
    check(0.into(), b"\x00");
    check(127.into(), b"\x7f");
    check(128.into(), b"\xcc\x80");
    check(256.into(), b"\xcd\x01\x00");
    check(65_536.into(), b"\xce\x00\x01\x00\x00");
    check((1_i64 << 32).into(), b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00");
    check((-32).into(), b"\xe0");
    check((-33).into(), b"\xd0\xdf");
    check((-129).into(), b"\xd1\xff\x7f");
    check((-32_769).into(), b"\xd2\xff\xff\x7f\xff");
    check((-1_i64 << 40).into(), b"\xd3\xff\xff\xff\x00\x00\x00\x00\x00");
    check(2.0.into(), b"\x02");
    check(1.5.into(), b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00");
    check("a".into(), b"\xa1a");
    check(Value::Text(Bytes::from_static(b"\xff")), b"\xa2\xc3\xbf");
    check(Value::Binary(Bytes::from_static(b"\xff")), b"\xc4\x01\xff");
    check(Value::List(vec![1.into()]), b"\x91\x01");
    check(map(&[("a", true.into())]), b"\x81\xa1a\xc3");
    check(Value::Map(Vec::new()), b"\x90");
    assert_eq!(&encoded(&"x".repeat(32).into())[..2], b"\xd9\x20");
    assert_eq!(&encoded(&"x".repeat(256).into())[..3], b"\xda\x01\x00");
    assert_eq!(&encoded(&"x".repeat(65_536).into())[..5], b"\xdb\x00\x01\x00\x00");
    assert_eq!(&encoded(&Value::List(vec![Value::Nil; 16]))[..3], b"\xdc\x00\x10");
}

#[test]
fn what_only_servers_write_is_read() {
    let check = |bytes: &'static [u8], expect: Value| assert_eq!(decode(&Bytes::from_static(bytes)), Ok(expect));
    check(b"\xca\x3f\xc0\x00\x00", 1.5.into()); // float 32
    check(b"\xcb\x40\x00\x00\x00\x00\x00\x00\x00", 2.into()); // an integral float
    check(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", Value::Float(18_446_744_073_709_551_615.0));
    check(b"\xda\x00\x01a", "a".into()); // raw 16 of old writers
    check(b"\xd6\xff\x00\x00\x00\x00", Value::Nil); // a timestamp
    check(b"\x82\x01\xa1a\xc0\xa1b", map(&[("1", "a".into())])); // keys that are no text
    check(b"\xdf\x00\x00\x00\x00", Value::Map(Vec::new()));
}

#[test]
fn what_is_malformed_is_refused() {
    let check = |bytes: &[u8], expect| assert_eq!(decode(&Bytes::copy_from_slice(bytes)), Err(expect));
    check(b"", Error::Truncated);
    check(b"\xc1", Error::UnusedByte);
    check(b"\xa5abc", Error::Truncated);
    check(b"\xdd\xff\xff\xff\xff", Error::Truncated);
    check(&[b"\x91".repeat(MAX_DEPTH + 1), b"\xc0".to_vec()].concat(), Error::TooDeep);
    let scan = |max, bytes: &[u8]| Scanner::new(max).scan(bytes);
    assert_eq!(scan(100, b"\xdb\x00\x00\x01\x00"), Err(Error::TooLarge { max: 100 }));
    assert_eq!(scan(100, b"\xdd\xff\xff\xff\xff"), Err(Error::TooManyItems));
    assert_eq!(scan(100, b"\xc1"), Err(Error::UnusedByte));
    assert_eq!(scan(100, b""), Ok(None));
}

fn put(request: &Request<'_>) -> Value {
    let mut out = BytesMut::new();
    request.put(9, &mut out);
    let length = Scanner::new(1 << 20).scan(&out).unwrap();
    assert_eq!(length, Some(out.len()));
    decode(&out.freeze()).unwrap()
}

/// The RPC method and the argument of a step.
fn step(method: &str, value: impl Into<Value>) -> (Value, Value) {
    let Value::List(items) =
        put(&Request::Step { event: 5, method, result: &Return { value: value.into(), error: None } })
    else {
        panic!("a request is a list")
    };
    let Value::List(args) = &items[3] else { panic!("arguments are a list") };
    assert_eq!(args[0].field("EventId"), &Value::Int(5));
    (items[2].clone(), args[0].field("Data").clone())
}

#[test]
fn requests_have_the_form_of_the_rpc() {
    let expect = Value::List(vec![
        0.into(),
        9.into(),
        "plugin.HandleEvent".into(),
        Value::List(vec![map(&[("InstanceId", 0.into()), ("EventName", "access".into())])]),
    ]);
    assert_eq!(put(&Request::HandleEvent { instance: 0, phase: "access" }), expect);
    let expect = Value::List(vec![
        0.into(),
        9.into(),
        "plugin.StartInstance".into(),
        Value::List(vec![map(&[("Name", "p".into()), ("Config", "{}".into())])]),
    ]);
    assert_eq!(put(&Request::StartInstance { plugin: "p", config: "{}" }), expect);
    let expect = Value::List(vec![
        0.into(),
        9.into(),
        "plugin.StepError".into(),
        Value::List(vec![map(&[("EventId", 1.into()), ("Data", "no".into())])]),
    ]);
    assert_eq!(put(&Request::StepError { event: 1, message: "no" }), expect);
}

#[test]
fn steps_are_typed_by_the_method() {
    let check = |method, rpc: &str| assert_eq!(step(method, "x").0, rpc.into(), "{method}");
    check("kong.request.get_path", "plugin.Step");
    check("kong.client.get_credential", "plugin.StepCredential");
    check("kong.client.authenticate", "plugin.StepCredential");
    check("kong.client.load_consumer", "plugin.StepConsumer");
    check("kong.client.get_consumer", "plugin.StepConsumer");
    check("kong.router.get_route", "plugin.StepRoute");
    check("kong.router.get_service", "plugin.StepService");
    check("kong.node.get_memory_stats", "plugin.StepMemoryStats");
    check("kong.service.response.get_headers", "plugin.StepMultiMap");
    check("kong.request.get_query", "plugin.StepMultiMap");
}

#[test]
fn nil_leaves_the_data_out() {
    let Value::List(items) =
        put(&Request::Step { event: 5, method: "kong.client.get_consumer", result: &Return::default() })
    else {
        panic!("a request is a list")
    };
    assert_eq!(items[2], "plugin.StepConsumer".into());
    assert_eq!(items[3], Value::List(vec![map(&[("EventId", 5.into())])]));
}

#[test]
fn multi_maps_are_maps_of_lists() {
    let headers = map(&[("a", "1".into()), ("b", Value::List(vec!["2".into(), true.into()])), ("flag", true.into())]);
    let expect = map(&[
        ("a", Value::List(vec!["1".into()])),
        ("b", Value::List(vec!["2".into(), true.into()])),
        ("flag", Value::List(Vec::new())),
    ]);
    assert_eq!(step("kong.request.get_query", headers).1, expect);
    assert_eq!(step("kong.request.get_headers", Value::Map(Vec::new())).1, Value::Map(Vec::new()));
}

#[test]
fn uri_captures_include_the_whole_match() {
    let captures =
        map(&[("unnamed", Value::List(vec!["/a".into(), "a".into()])), ("named", map(&[("x", "a".into())]))]);
    let expect =
        map(&[("unnamed", map(&[("0", "/a".into()), ("1", "a".into())])), ("named", map(&[("x", "a".into())]))]);
    assert_eq!(step("kong.request.get_uri_captures", captures).1, expect);
    let none = map(&[("unnamed", Value::List(Vec::new())), ("named", Value::Map(Vec::new()))]);
    let expect = map(&[("unnamed", Value::List(Vec::new())), ("named", Value::List(Vec::new()))]);
    assert_eq!(step("kong.request.get_uri_captures", none).1, expect);
}

#[test]
fn bodies_are_binary() {
    let body = Value::Binary("b".into());
    assert_eq!(step("kong.request.get_raw_body", "b").1, body);
    assert_eq!(step("kong.service.response.get_raw_body", body.clone()).1, body);
}

#[test]
fn server_messages_are_told_apart() {
    let check = |value: Value, expect| assert_eq!(ServerMessage::decode(&encoded(&value).freeze()), expect);
    check(
        Value::List(vec![1.into(), 9.into(), Value::Nil, "x".into()]),
        Ok(ServerMessage::Response(Response { id: 9, outcome: Ok(encoded(&"x".into()).freeze()) })),
    );
    check(
        Value::List(vec![1.into(), 9.into(), "bad".into(), Value::Nil]),
        Ok(ServerMessage::Response(Response { id: 9, outcome: Err("bad".to_owned()) })),
    );
    check(
        Value::List(vec![2.into(), "serverPid".into(), 77.into()]),
        Ok(ServerMessage::Notification { label: "serverPid".to_owned(), argument: 77.into() }),
    );
    let long = |unit: &str| Value::List(vec![1.into(), 9.into(), unit.repeat(3000).into(), Value::Nil]);
    let error = Value::List(vec![Value::List(vec![Value::Nil; 3000]), Value::Nil]);
    match ServerMessage::decode(&encoded(&Value::List(vec![1.into(), 9.into(), error, Value::Nil])).freeze()) {
        Ok(ServerMessage::Response(Response { outcome: Err(text), .. })) => {
            assert!(text.starts_with("List([List([Nil, Nil,") && text.len() == 4096, "{text}");
        }
        other => panic!("{other:?}"),
    }
    let cut = |text: String| Ok(ServerMessage::Response(Response { id: 9, outcome: Err(text) }));
    check(long("ab"), cut("ab".repeat(2048)));
    check(long("äö"), cut("äö".repeat(1024)));
    check(Value::List(vec![0.into()]), Err(Error::NotRpc("neither a response nor a notification")));
    check("x".into(), Err(Error::NotRpc("not a list")));
    check(Value::List(vec![1.into(), 9.into()]), Err(Error::NotRpc("a response without id, error and result")));
}

#[test]
fn events_go_on_or_end() {
    let decode = |value: Value| Next::decode(&encoded(&value).freeze());
    let next = |data: Value| decode(map(&[("EventId", 3.into()), ("Data", data)]));
    assert_eq!(next("ret".into()), Ok(Next::Done));
    assert_eq!(next(Value::Binary("ret".into())), Ok(Next::Done));
    let call = |method: &str, args, terminal| {
        Ok(Next::Call { event: 3, call: Call { method: method.to_owned().into(), args }, terminal })
    };
    assert_eq!(
        next(map(&[("Method", "kong.log".into()), ("Args", Value::List(vec!["a".into()]))])),
        call("kong.log", vec!["a".into()], false)
    );
    assert_eq!(next(map(&[("Method", "kong.log".into())])), call("kong.log", Vec::new(), false));
    let exit = Value::List(vec![200.into(), Value::Nil, map(&[("a", "b".into())])]);
    assert_eq!(
        next(map(&[("Method", "kong.response.exit".into()), ("Args", exit)])),
        call("kong.response.exit", vec![200.into()], true)
    );
    assert!(next(Value::Nil).is_err());
    assert!(next("other".into()).is_err());
    assert_eq!(next(map(&[("Args", Value::Nil)])), Err(Error::NotRpc("a PDK call without Method")));
    assert_eq!(next(map(&[("Method", 1.into())])), Err(Error::NotRpc("a PDK call without Method")));
    let log = map(&[("Extra", Value::List(vec![1.into()])), ("Args", "a".into()), ("Method", "kong.log".into())]);
    assert_eq!(next(log.clone()), call("kong.log", vec!["a".into()], false));
    let others_first = map(&[("x", map(&[("y", 1.into())])), ("Data", log.clone()), ("EventId", 3.into())]);
    assert_eq!(decode(others_first), call("kong.log", vec!["a".into()], false));
    assert_eq!(decode(map(&[("Data", log)])), Err(Error::NotRpc("the result of an event has no EventId")));
    assert_eq!(decode(map(&[("EventId", 3.into())])), Err(Error::NotRpc("the result of an event has no Data")));
    assert_eq!(decode(Value::Nil), Err(Error::NotRpc("the result of an event is no map")));
}

#[test]
fn a_lost_instance_is_recognised() {
    let check = |text, expect| assert_eq!(Response::no_such_instance(text), expect, "{text}");
    check("no plugin instance #3", true);
    check("No plugin instance 3", true);
    check("no plugin", false);
    check("", false);
    check("ünknown", false);
}

/// What a value is after a journey through MessagePack.
fn arrived(value: &Value) -> Value {
    match value {
        Value::Float(float) if float.is_nan() => Value::Nil, // NaN is not equal to itself
        Value::Float(float) => lua::number(*float),
        Value::Text(bytes) => Value::Text(readable(bytes).into_owned().into()),
        Value::List(items) => Value::List(items.iter().map(arrived).collect()),
        Value::Map(fields) if fields.is_empty() => Value::List(Vec::new()),
        Value::Map(fields) => Value::Map(fields.iter().map(|(key, item)| (key.clone(), arrived(item))).collect()),
        other => other.clone(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(|bytes| Value::Text(bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| Value::Binary(bytes.into())),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::List),
            prop::collection::vec((".{0,40}", inner), 0..20).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive(value in any_value()) {
        let bytes = encoded(&value).freeze();
        prop_assert_eq!(decode(&bytes), Ok(arrived(&value)));
    }

    /// The scanner finds the end of a message byte by byte, and not before.
    #[test]
    fn the_end_is_found_in_pieces(value in any_value()) {
        let bytes = encoded(&value);
        let mut scanner = Scanner::new(1 << 24);
        for end in 0..bytes.len() {
            prop_assert_eq!(scanner.scan(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(scanner.scan(&bytes), Ok(Some(bytes.len())));
    }

    /// Bytes from a server never make a decoder panic, and the scanner and the decoder agree on where a value ends.
    #[test]
    fn decoding_never_panics(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        let _ = ServerMessage::decode(&bytes);
        let _ = Next::decode(&bytes);
        if decode(&bytes).is_ok() {
            let length = Scanner::new(1 << 20).scan(&bytes);
            prop_assert!(matches!(length, Ok(Some(_))), "{:?}", length);
        }
    }
}

//! Every namespace by cases: a call, and what it comes to.

mod client;
mod misc;
mod request;
mod response;
mod service;

use silverback_protocol::Value;

use crate::{Exchange, Outcome, json, testing::call};

/// A value from JSON, as a plugin would send it.
fn value(text: &str) -> Value {
    json::decode(text.as_bytes()).unwrap()
}

/// The arguments from a JSON list.
fn args(text: &str) -> Vec<Value> {
    match value(text) {
        Value::List(args) => args,
        _ => panic!("arguments are a list"),
    }
}

/// Makes a call whose result is that of the JSON text.
#[track_caller]
fn gives(exchange: &mut Exchange, name: &str, arguments: &str, result: &str) {
    match call(exchange, name, &args(arguments)) {
        Outcome::Done(done) => {
            let shown = json::encode(&done.value, 16, json::EmptyList::Array).unwrap();
            let expected = json::encode(&value(result), 16, json::EmptyList::Array).unwrap();
            assert_eq!(shown, expected, "{name}{arguments} (error {:?})", done.error);
        }
        other => panic!("{name}{arguments}: {other:?}"),
    }
}

/// Makes a call that gives nil and this error.
#[track_caller]
fn fails(exchange: &mut Exchange, name: &str, arguments: &str, error: &str) {
    assert_eq!(call(exchange, name, &args(arguments)), Outcome::failed(error), "{name}{arguments}");
}

/// Makes a call that raises this error.
#[track_caller]
fn raises(exchange: &mut Exchange, name: &str, arguments: &str, error: &str) {
    assert_eq!(call(exchange, name, &args(arguments)), Outcome::raise(error), "{name}{arguments}");
}

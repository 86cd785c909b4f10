use http::HeaderValue;
use silverback_model::{Id, Phase};
use silverback_protocol::Call;

use super::*;
use crate::{
    Caller, Need,
    exchange::RequestBody,
    testing::{exchange, http_exchange, matched},
};

#[test]
fn getters() {
    let exchange = &mut http_exchange();
    exchange.matched = Some(matched());
    for (name, arguments, result) in [
        ("get_scheme", "[]", r#""http""#),
        ("get_host", "[]", r#""example.test""#),
        ("get_port", "[]", "8000"),
        ("get_forwarded_port", "[]", "80"),
        ("get_forwarded_prefix", "[]", r#""/a""#),
        ("get_http_version", "[]", "1.1"),
        ("get_method", "[]", r#""GET""#),
        ("get_path", "[]", r#""/a/b""#),
        ("get_raw_path", "[]", r#""/a/b""#),
        ("get_path_with_query", "[]", r#""/a/b?x=1&Y=%20""#),
        ("get_raw_query", "[]", r#""x=1&Y=%20""#),
        ("get_query", "[]", r#"{"x":"1","Y":" "}"#),
        ("get_query", "[1]", r#"{"x":"1"}"#),
        ("get_query", "[1.5]", r#"{"x":"1"}"#),
        ("get_query_arg", r#"["Y"]"#, r#"" ""#),
        ("get_query_arg", r#"["y"]"#, "null"),
        ("get_header", r#"["X_In"]"#, r#""1""#),
        ("get_header", r#"["none"]"#, "null"),
        ("get_headers", "[2]", r#"{"host":"example.test","x-in":"1"}"#),
        ("get_start_time", "[]", "1000000000000"),
        ("get_uri_captures", "[]", r#"{"unnamed":["/a/b","b"],"named":{"n":"b"}}"#),
    ] {
        gives(exchange, &format!("kong.request.{name}"), arguments, result);
    }
}

#[test]
fn wrong_arguments() {
    let exchange = &mut exchange();
    for (name, arguments, error) in [
        ("get_query", r#"["1"]"#, "max_args must be a number"),
        ("get_query", "[0]", "max_args must be >= 1"),
        ("get_query", "[1001]", "max_args must be <= 1000"),
        ("get_headers", "[true]", "max_headers must be a number"),
        ("get_headers", "[0.5]", "max_headers must be >= 1"),
        ("get_header", "[]", "header name must be a string"),
        ("get_query_arg", "[5]", "query argument name must be a string"),
        ("get_body", r#"["application/x-www-form-urlencoded","x"]"#, "max_args must be a number"),
    ] {
        raises(exchange, &format!("kong.request.{name}"), arguments, error);
    }
}

#[test]
fn a_trusted_client_may_say_where_it_comes_from() {
    let exchange = &mut exchange();
    for (header, sent, name, result) in [
        ("x-forwarded-proto", "HTTPS", "get_forwarded_scheme", r#""https""#),
        ("x-forwarded-host", "u@Front.Test:8443", "get_forwarded_host", r#""front.test""#),
        ("x-forwarded-host", "u@Front.Test:8443", "get_forwarded_port", "8443"),
        ("x-forwarded-host", "", "get_forwarded_host", r#""""#),
        ("x-forwarded-port", "0x50", "get_forwarded_port", "80"),
        ("x-forwarded-port", "80.5", "get_forwarded_port", "80.5"),
        ("x-forwarded-port", "70000", "get_forwarded_port", "8443"),
        ("x-forwarded-path", "/orig", "get_forwarded_path", r#""/orig""#),
        ("x-forwarded-prefix", "/pre", "get_forwarded_prefix", r#""/pre""#),
    ] {
        exchange.request.headers.insert("x-forwarded-host", HeaderValue::from_static("f:8443"));
        exchange.request.headers.insert(header, HeaderValue::from_static(sent));
        gives(exchange, &format!("kong.request.{name}"), "[]", result);
    }
    exchange.client.ip = Some([192, 0, 2, 1].into());
    gives(exchange, "kong.request.get_forwarded_host", "[]", r#""example.test""#);
    gives(exchange, "kong.request.get_forwarded_port", "[]", "80");
}

#[test]
fn a_header_that_looks_like_several_is_under_the_limit() {
    let exchange = &mut exchange();
    exchange.request.headers.insert("x-a", HeaderValue::from_static("a, b"));
    gives(exchange, "kong.request.get_header", r#"["x-a"]"#, r#""a, b""#);
    exchange.request.headers.append("x-b", HeaderValue::from_static("1"));
    exchange.request.headers.append("x-b", HeaderValue::from_static("2"));
    gives(exchange, "kong.request.get_header", r#"["x-b"]"#, r#""1""#);
}

#[test]
fn in_log_headers_are_those_that_were_saved() {
    let exchange = &mut exchange();
    for value in ["a=1", "b=2"] {
        exchange.request.headers.append("cookie", HeaderValue::from_static(value));
    }
    gives(exchange, "kong.request.get_header", r#"["cookie"]"#, r#""a=1; b=2""#);
    exchange.phase = Phase::Log;
    gives(exchange, "kong.request.get_header", r#"["cookie"]"#, r#""a=1""#);
    for name in ["kong.request.get_header", "kong.response.get_header"] {
        gives(exchange, name, "[5]", "null");
        raises(exchange, name, "[]", "bad argument #1 to 'lower' (string expected, got nil)");
    }
}

#[test]
fn bodies() {
    let exchange = &mut exchange();
    let mut check = |content_type: &'static str, body: &'static str, arguments: &str, result: &str| {
        exchange.request.headers.insert("content-type", HeaderValue::from_static(content_type));
        exchange.request.body = RequestBody::Memory(body.into());
        gives(exchange, "kong.request.get_body", arguments, result);
    };
    check("application/x-www-form-urlencoded", "a=1&a=x+y&b", "[]", r#"{"a":["1","x y"],"b":true}"#);
    check("application/x-www-form-urlencoded; charset=utf-8", "a=1&b=2", "[null,1]", r#"{"a":"1"}"#);
    check("APPLICATION/JSON", r#"{"a":[1,null]}"#, "[]", r#"{"a":[1,null]}"#);
    check("application/json-patch+json", "[]", "[]", "[]");
    check("text/plain", "hello", r#"["application/x-www-form-urlencoded"]"#, r#"{"hello":true}"#);
    exchange.request.body = RequestBody::Memory("5".into());
    fails(exchange, "kong.request.get_body", r#"["application/json"]"#, "invalid json body");
    fails(exchange, "kong.request.get_body", "[]", "unsupported content type 'text/plain'");
    exchange.request.headers.clear();
    fails(exchange, "kong.request.get_body", "[]", "missing content type");
}

#[test]
fn raw_bodies() {
    let exchange = &mut exchange();
    let raw = |exchange: &mut Exchange, arguments: &str| call(exchange, "kong.request.get_raw_body", &args(arguments));
    exchange.request.body = RequestBody::Unread;
    assert_eq!(raw(exchange, "[]"), Outcome::Need(Need::RequestBody));
    exchange.request.body = RequestBody::Memory(vec![0, 255].into());
    assert_eq!(raw(exchange, "[]"), Outcome::value(Value::Binary(vec![0, 255].into())));
    exchange.request.body = RequestBody::File("/spool/1".into(), 3000);
    assert_eq!(raw(exchange, "[]"), Outcome::Need(Need::RequestBodyInMemory));
    assert_eq!(raw(exchange, "[5000]"), Outcome::Need(Need::RequestBodyInMemory));
    assert_eq!(raw(exchange, "[100]"), Outcome::raise("request body file too big: 3000 > 100"));
    let go = Caller { plugin_name: "go".to_owned(), plugin_id: Id::nil(), takes_body_files: true };
    let question = Call { method: "kong.request.get_raw_body".into(), args: Vec::new() };
    assert_eq!(
        crate::call(exchange, &go, &question),
        Outcome::value(Value::Map(vec![("body_filepath".to_owned(), "/spool/1".into())]))
    );
    exchange.phase = Phase::Log;
    raises(
        exchange,
        "kong.request.get_raw_body",
        "[]",
        "function cannot be called in log phase (only in: rewrite, access, response, error, admin_api)",
    );
}

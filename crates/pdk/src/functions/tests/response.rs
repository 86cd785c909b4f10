use http::{HeaderMap, HeaderValue};
use silverback_model::Phase;

use super::*;
use crate::{
    exchange::{Exit, ExitBody, Source, Subsystem},
    testing::{exchange, http_exchange},
};

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn getters_in_response() {
    let exchange = &mut http_exchange();
    exchange.phase = Phase::Response;
    exchange.response.source = Some(Source::Service);
    for (name, arguments, result) in [
        ("kong.response.get_status", "[]", "201"),
        ("kong.response.get_header", r#"["X_Out"]"#, r#""o""#),
        ("kong.response.get_headers", "[]", r#"{"x-out":"o"}"#),
        ("kong.response.get_source", "[]", r#""service""#),
        ("kong.service.response.get_status", "[]", "200"),
        ("kong.service.response.get_header", r#"["X-Up"]"#, r#""u""#),
        ("kong.service.response.get_headers", "[1]", r#"{"x-up":"u"}"#),
        ("kong.service.response.get_raw_body", "[]", r#""{\"a\":1}""#),
        ("kong.service.response.get_body", "[]", r#"{"a":1}"#),
        ("kong.service.response.get_body", r#"["application/x-www-form-urlencoded"]"#, r#"{"{\"a\":1}":true}"#),
    ] {
        gives(exchange, name, arguments, result);
    }
    exchange.phase = Phase::Access;
    raises(
        exchange,
        "kong.response.get_status",
        "[]",
        "function cannot be called in access phase (only in: response, header_filter, body_filter, log, error, admin_api)",
    );
}

#[test]
fn an_unbuffered_body_is_not_there() {
    let exchange = &mut exchange();
    exchange.phase = Phase::Log;
    raises(
        exchange,
        "kong.service.response.get_raw_body",
        "[]",
        "service body is only available with buffered proxying (see: kong.service.request.enable_buffering function)",
    );
    gives(exchange, "kong.service.response.get_status", "[]", "null");
}

#[test]
fn setters() {
    let exchange = &mut exchange();
    for (name, arguments) in [
        ("set_status", "[299.5]"),
        ("set_header", r#"["X_A", ["1","","2"]]"#),
        ("add_header", r#"["x-a", true]"#),
        ("set_headers", r#"[{"X-B": 1.5, "X-C": {"a":"b"}, "X-D": null, "Transfer-Encoding": "x"}]"#),
        ("set_header", r#"["x-gone","1"]"#),
        ("clear_header", r#"["X-Gone"]"#),
    ] {
        gives(exchange, &format!("kong.response.{name}"), arguments, "null");
    }
    assert_eq!(exchange.response.status, Some(299));
    let expect = headers(&[("x-a", "1"), ("x-a", " "), ("x-a", "2"), ("x-a", "true"), ("x-b", "1.5")]);
    assert_eq!(exchange.response.headers, expect);
    exchange.response.sent = true;
    raises(exchange, "kong.response.set_status", "[200]", "headers have already been sent");
}

#[test]
fn wrong_arguments() {
    let exchange = &mut exchange();
    for (name, arguments, error) in [
        ("set_status", r#"["200"]"#, "code must be a number"),
        ("set_status", "[99]", "code must be a number between 100 and 599"),
        (
            "set_header",
            r#"["x"]"#,
            "invalid header value for \"x\": got nil, expected array of string, string, number or boolean",
        ),
        ("set_headers", r#"["x"]"#, "headers must be a table"),
        ("clear_header", "[5]", "header name must be a string"),
        ("exit", "[]", "code must be a number"),
        ("exit", "[600]", "code must be a number between 100 and 599"),
        ("exit", "[200, 5]", "body must be a nil, string or table"),
        ("exit", r#"[200, "x", "y"]"#, "headers must be a nil or table"),
        ("exit", "[100]", "code must be that of a final answer: given 100"),
        ("error", "[399]", "code must be a number between 400 and 599"),
        ("error", "[400, 5]", "message must be a nil, a string or a table"),
        ("error", r#"[400, "m", {"Content-Type": "image/png"}]"#, "no template found for MIME type image/png"),
        ("get_raw_body", "[]", "function cannot be called in access phase (only in: body_filter)"),
    ] {
        raises(exchange, &format!("kong.response.{name}"), arguments, error);
        assert!(exchange.exit.is_none());
    }
}

#[track_caller]
fn exits(exchange: &mut Exchange, name: &str, arguments: &str, expect: &Exit) {
    exchange.exit = None;
    assert_eq!(call(exchange, name, &args(arguments)), Outcome::Exit, "{arguments}");
    let exit = exchange.exit.as_mut().unwrap();
    let declared = exit.headers.remove("content-length").map(|value| value.to_str().unwrap().parse::<usize>().unwrap());
    let length = match &exit.body {
        ExitBody::Bytes(bytes) if exchange.subsystem == Subsystem::Http => Some(bytes.len()),
        _ => None,
    };
    assert_eq!(declared, length, "{arguments}");
    assert_eq!(exit, expect, "{arguments}");
    assert_eq!(exchange.response.source, Some(Source::Exit));
}

#[test]
fn exit_answers() {
    let exchange = &mut exchange();
    let exit = "kong.response.exit";
    let bytes = |text: &'static str| ExitBody::Bytes(text.into());
    exits(exchange, exit, "[404]", &Exit { status: 404, body: ExitBody::None, headers: headers(&[]) });
    exits(exchange, exit, r#"[200.5, ""]"#, &Exit { status: 200, body: bytes(""), headers: headers(&[]) });
    exits(
        exchange,
        exit,
        r#"[403, "no", {"x-e": ["1","2"], "Content_Type": "text/x"}]"#,
        &Exit {
            status: 403,
            body: bytes("no"),
            headers: headers(&[("x-e", "1"), ("x-e", "2"), ("content-type", "text/x")]),
        },
    );
    exits(
        exchange,
        exit,
        r#"[200, {"a": [], "b": "x/y"}]"#,
        &Exit {
            status: 200,
            body: bytes(r#"{"a":{},"b":"x\/y"}"#),
            headers: headers(&[("content-type", "application/json; charset=utf-8")]),
        },
    );
    // A null swallows the headers.
    exits(
        exchange,
        exit,
        r#"[200, null, {"x": "1"}]"#,
        &Exit { status: 200, body: ExitBody::None, headers: headers(&[]) },
    );
}

#[test]
fn a_declared_length_is_kept() {
    let exchange = &mut exchange();
    let arguments = args(r#"[200, "hello", {"Content-Length": 2}]"#);
    assert_eq!(call(exchange, "kong.response.exit", &arguments), Outcome::Exit);
    assert_eq!(exchange.exit.as_ref().unwrap().headers["content-length"], "2");
}

#[test]
fn error_answers() {
    let exchange = &mut exchange();
    let error = "kong.response.error";
    let json = |text: &str| {
        ExitBody::Bytes(
            format!("{{\n  \"message\":\"{text}\",\n  \"request_id\":\"0123456789abcdef0123456789abcdef\"\n}}").into(),
        )
    };
    let json_type = || headers(&[("content-type", "application/json; charset=utf-8")]);
    exits(exchange, error, "[401]", &Exit { status: 401, body: json("Unauthorized"), headers: json_type() });
    exits(
        exchange,
        error,
        r#"[403, "no \"x\""]"#,
        &Exit { status: 403, body: json(r#"no \"x\""#), headers: json_type() },
    );
    exchange.request.headers.insert("accept", HeaderValue::from_static("text/plain"));
    exits(
        exchange,
        error,
        r#"[400, "m", {"x-e": "1"}]"#,
        &Exit {
            status: 400,
            body: ExitBody::Bytes("m\nrequest_id: 0123456789abcdef0123456789abcdef\n".into()),
            headers: headers(&[("x-e", "1"), ("content-type", "text/plain; charset=utf-8")]),
        },
    );
}

#[test]
fn the_page_of_an_error_is_chosen_by_the_header_in_its_usual_spelling() {
    let exchange = &mut exchange();
    for (header, content_type) in [("Content-Type", "text/plain"), ("content-type", "application/json; charset=utf-8")]
    {
        let arguments = args(&format!(r#"[400, "m", {{"{header}": "text/plain"}}]"#));
        assert_eq!(call(exchange, "kong.response.error", &arguments), Outcome::Exit);
        assert_eq!(exchange.exit.as_ref().unwrap().headers["content-type"], content_type);
    }
}

#[test]
fn holes_in_a_list_are_null() {
    let exchange = &mut exchange();
    assert_eq!(call(exchange, "kong.response.exit", &args("[200, [1,null,3,null]]")), Outcome::Exit);
    assert_eq!(exchange.exit.as_ref().unwrap().body, ExitBody::Bytes("[1,null,3]".into()));
    let sparse = args("[200, [null,null,null,null,null,null,null,null,null,null,1]]");
    assert!(matches!(call(exchange, "kong.response.exit", &sparse), Outcome::Raise(_)));
}

#[test]
fn what_cannot_be_a_length_is_an_error() {
    let exchange = &mut exchange();
    for (name, arguments) in [
        ("set_header", r#"["Content-Length", "x"]"#),
        ("add_header", r#"["Content-Length", ""]"#),
        ("set_headers", r#"[{"Content-Length": -1}]"#),
        ("exit", r#"[200, "x", {"Content-Length": "1.5"}]"#),
    ] {
        raises(exchange, &format!("kong.response.{name}"), arguments, "failed to set header");
    }
}

#[test]
fn an_answer_that_fails_halfway_leaves_its_headers() {
    let exchange = &mut exchange();
    raises(
        exchange,
        "kong.response.exit",
        r#"[403, {"message": "no"}, {"Content-Type": "application/grpc"}]"#,
        "table body encoding with gRPC is not supported",
    );
    assert_eq!(exchange.response.headers, headers(&[("content-type", "application/grpc"), ("grpc-status", "7")]));
}

#[test]
fn grpc_answers() {
    let exchange = &mut exchange();
    exchange.request.version = crate::exchange::HttpVersion::Http2;
    exchange.request.headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    let empty = || ExitBody::Bytes("".into());
    exits(
        exchange,
        "kong.response.exit",
        r#"[403, {"message": "no"}]"#,
        &Exit { status: 403, body: empty(), headers: headers(&[("grpc-status", "7"), ("grpc-message", "no")]) },
    );
    exits(
        exchange,
        "kong.response.error",
        "[401]",
        &Exit {
            status: 401,
            body: empty(),
            headers: headers(&[
                ("content-type", "application/grpc"),
                ("grpc-status", "16"),
                ("grpc-message", "Unauthenticated"),
            ]),
        },
    );
}

#[test]
fn exit_of_a_stream() {
    let exchange = &mut exchange();
    exchange.subsystem = Subsystem::Stream;
    exchange.phase = Phase::Preread;
    raises(
        exchange,
        "kong.response.exit",
        "[404]",
        "unacceptable code, only 200, 400, 403, 500, 502 and 503 are accepted",
    );
    exits(
        exchange,
        "kong.response.exit",
        r#"[403, "no"]"#,
        &Exit { status: 403, body: ExitBody::Bytes("no".into()), headers: headers(&[]) },
    );
}

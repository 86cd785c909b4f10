use http::{HeaderMap, HeaderValue};
use silverback_model::Phase;

use super::*;
use crate::{
    Need,
    exchange::{RequestBody, Subsystem},
    testing::{exchange, http_exchange},
};

#[test]
fn destinations() {
    let exchange = &mut exchange();
    let gives = |exchange: &mut _, name: &str, arguments: &str, result: &str| {
        gives(exchange, &format!("kong.service.{name}"), arguments, result);
    };
    gives(exchange, "set_upstream", r#"["pool.test"]"#, "true");
    assert_eq!(exchange.upstream.host, "pool.test");
    fails(exchange, "kong.service.set_upstream", r#"["x"]"#, "could not find an Upstream named 'x'");
    gives(exchange, "set_target", r#"["h.test", 81.0]"#, "null");
    let upstream = &exchange.upstream;
    assert_eq!((upstream.host.as_str(), upstream.port, upstream.host_header.as_str()), ("h.test", 81, "h.test"));
    gives(exchange, "set_retries", "[3]", "null");
    gives(exchange, "set_timeouts", "[1, 2, 3]", "null");
    gives(exchange, "set_tls_verify", "[false]", "true");
    gives(exchange, "set_tls_verify_depth", "[2]", "true");
    let upstream = &exchange.upstream;
    assert_eq!(
        (upstream.retries, upstream.connect_timeout, upstream.write_timeout, upstream.read_timeout),
        (3, 1, 2, 3)
    );
    assert_eq!((upstream.tls_verify, exchange.wishes.upstream_tls_verify_depth), (Some(false), Some(2)));
}

#[test]
fn headers_without_end_are_an_error() {
    let exchange = &mut exchange();
    let failed = (0..=20_000).find(|number| {
        let args = [format!("x-{number}").as_str().into(), "1".into()];
        matches!(call(exchange, "kong.service.request.add_header", &args), Outcome::Raise(_))
    });
    assert!(failed.is_some_and(|number| number <= 10_000), "{failed:?}");
    let many: Vec<_> = (0..10_001).map(|number| format!(r#""y-{number}": "1""#)).collect();
    let many = format!("[{{{}}}]", many.join(","));
    for name in ["kong.service.request.set_headers", "kong.response.set_headers"] {
        let raised = matches!(call(exchange, name, &args(&many)), Outcome::Raise(why) if why == "there are more than 10000 headers");
        assert!(raised, "{name}");
    }
}

#[test]
fn a_header_has_no_values_without_end() {
    let list = |count: usize| Value::List(vec!["1".into(); count]);
    let table = |value: Value| Value::Map(vec![("x".to_owned(), value)]);
    let beyond = Outcome::raise("there are more than 1000 values of the header x");
    for side in ["kong.service.request", "kong.response"] {
        let exchange = &mut exchange();
        let mut check = |name: &str, args: &[Value], expect: &Outcome| {
            assert_eq!(call(exchange, &format!("{side}.{name}"), args), *expect, "{side}.{name}");
        };
        check("set_header", &["x".into(), list(70_000)], &beyond);
        check("add_header", &["x".into(), list(70_000)], &beyond);
        check("set_headers", &[table(list(70_000))], &beyond);
        check("set_header", &["x".into(), list(999)], &Outcome::nothing());
        check("add_header", &["x".into(), "1".into()], &Outcome::nothing());
        check("add_header", &["x".into(), "1".into()], &beyond);
        check("set_header", &["x".into(), list(1000)], &Outcome::nothing());
    }
    let exchange = &mut exchange();
    for name in ["exit", "error"] {
        let args = [500.into(), "b".into(), table(list(70_000))];
        assert_eq!(call(exchange, &format!("kong.response.{name}"), &args), beyond, "{name}");
    }
}

#[test]
fn headers_have_no_bytes_without_end() {
    let large = Value::Text(vec![b'x'; 600 << 10].into());
    let beyond = Outcome::raise("the headers have more than 1048576 bytes");
    for side in ["kong.service.request", "kong.response"] {
        let exchange = &mut exchange();
        let mut check = |name: &str, header: &str, expect: &Outcome| {
            let args = [header.into(), large.clone()];
            assert_eq!(call(exchange, &format!("{side}.{name}"), &args), *expect, "{side}.{name} {header}");
        };
        check("set_header", "x", &Outcome::nothing());
        check("set_header", "x", &Outcome::nothing());
        check("add_header", "x", &beyond);
        check("set_header", "y", &beyond);
    }
}

#[test]
fn wrong_destinations() {
    let exchange = &mut exchange();
    for (name, arguments, error) in [
        ("set_upstream", "[5]", "host must be a string"),
        ("set_target", r#"["h"]"#, "port must be an integer"),
        ("set_target", r#"["h", 1.5]"#, "port must be an integer"),
        ("set_target", r#"["h", 65536]"#, "port must be an integer between 0 and 65535: given 65536"),
        ("set_retries", "[-1]", "retries must be an integer between 0 and 32767: given -1"),
        ("set_timeouts", "[1, 2]", "read_timeout must be an integer"),
        ("set_timeouts", "[0, 2, 3]", "connect_timeout must be an integer between 1 and 2147483646: given 0"),
        ("set_tls_verify", "[1]", "argument must be a boolean"),
        ("set_tls_cert_key", r#"["c","k"]"#, "chain must be a parsed cdata object"),
    ] {
        raises(exchange, &format!("kong.service.{name}"), arguments, error);
    }
    exchange.phase = Phase::Rewrite;
    raises(
        exchange,
        "kong.service.set_upstream",
        r#"["pool.test"]"#,
        "function cannot be called in rewrite phase (only in: access)",
    );
}

#[test]
fn paths_queries_and_methods() {
    let exchange = &mut http_exchange();
    let set = |exchange: &mut Exchange, name: &str, arguments: &str| {
        gives(exchange, &format!("kong.service.request.{name}"), arguments, "null");
    };
    set(exchange, "set_scheme", r#"["https"]"#);
    set(exchange, "set_path", r#"["/a b?c"]"#);
    set(exchange, "set_method", r#"["PUT"]"#);
    assert_eq!((&*exchange.upstream.scheme, exchange.upstream.path.as_str()), ("https", "/a%20b?c"));
    gives(exchange, "kong.request.get_method", "[]", r#""PUT""#);
    gives(exchange, "kong.nginx.get_var", r#"["request"]"#, r#""GET /a/b?x=1&Y=%20 HTTP/1.1""#);
    for (name, arguments, query) in [
        ("set_raw_query", r#"["a=x y#"]"#, Some("a=x%20y#")),
        ("set_query", r#"[{"b":"2","a":[true,"x y"],"f":false}]"#, Some("&a&a=x%20y&b=2")),
        ("set_query", r#"[{"b":{"x":1}}]"#, Some("b=1")),
        ("clear_query_arg", r#"["b"]"#, None),
        ("set_query", "[{}]", None),
        ("set_raw_query", r#"["a=1&b=%20&a"]"#, Some("a=1&b=%20&a")),
        ("clear_query_arg", r#"["a"]"#, Some("b=+")),
    ] {
        set(exchange, name, arguments);
        assert_eq!(exchange.request.query.as_deref(), query, "{name}{arguments}");
    }
    for (name, arguments, error) in [
        ("set_scheme", r#"["ftp"]"#, "invalid scheme: ftp"),
        ("set_path", r#"["a"]"#, "path must start with /"),
        ("set_method", r#"["get"]"#, "invalid method: get"),
        ("set_raw_query", "[5]", "query must be a string"),
        ("set_query", r#"["a"]"#, "args must be a table"),
        ("set_query", r#"[["a"]]"#, "arg keys must be strings"),
        ("set_query", r#"[{"a":[[1]]}]"#, "attempt to use table as query arg value"),
    ] {
        raises(exchange, &format!("kong.service.request.{name}"), arguments, error);
    }
}

#[test]
fn headers() {
    let exchange = &mut exchange();
    let set = |exchange: &mut Exchange, name: &str, arguments: &str| {
        gives(exchange, &format!("kong.service.request.{name}"), arguments, "null");
    };
    set(exchange, "set_header", r#"["X-A", "a\r\nX-Evil: 1"]"#);
    set(exchange, "add_header", r#"["x-a", ["b", "c"]]"#);
    set(exchange, "set_headers", r#"[{"x_u": 2, "X-L": ["1"], "X-Null": null}]"#);
    set(exchange, "set_header", r#"["x-gone", "1"]"#);
    set(exchange, "set_header", r#"["X-Gone", []]"#);
    let mut expect = HeaderMap::new();
    for (name, value) in [("x-a", "a%0D%0AX-Evil: 1"), ("x-a", "b"), ("x-a", "c"), ("x_u", "2"), ("x-l", "1")] {
        expect.append(name, HeaderValue::from_static(value));
    }
    assert_eq!(exchange.request.headers, expect);
    set(exchange, "clear_header", r#"["x-u"]"#);
    assert!(exchange.request.headers.contains_key("x_u"), "an underscore is no dash");
    set(exchange, "set_header", r#"["Host", "H.test:99"]"#);
    assert_eq!((exchange.upstream.host_header.as_str(), exchange.request.host.as_str()), ("H.test:99", "h.test"));
    fails(
        exchange,
        "kong.service.request.set_header",
        r#"[":authority", "a"]"#,
        "cannot set :authority pseudo-header on non-grpc requests",
    );
    raises(
        exchange,
        "kong.service.request.set_header",
        r#"["x", {"a":"b"}]"#.replace("{\"a\":\"b\"}", "[[1]]").as_str(),
        "invalid header value in array \"x\": got table, expected string",
    );
}

#[test]
fn bodies() {
    let exchange = &mut exchange();
    let set_body = "kong.service.request.set_body";
    let mut check = |arguments: &str, body: &str, content_type: &str| {
        gives(exchange, set_body, arguments, "true");
        let RequestBody::Memory(sent) = &exchange.request.body else { panic!("no body") };
        assert_eq!(sent, body);
        assert_eq!(exchange.request.headers["content-type"], content_type);
        assert_eq!(exchange.request.headers["content-length"], body.len().to_string());
    };
    check(
        r#"[{"b":"x y&","a":1,"c":true}, "application/x-www-form-urlencoded"]"#,
        "a=1&b=x%20y%26&c",
        "application/x-www-form-urlencoded",
    );
    check(
        r#"[{"a":[1,2,{"b":null}],"e":[],"c":"ä/"}, "application/json; x=1"]"#,
        r#"{"a":[1,2,{}],"e":{},"c":"ä\/"}"#,
        "application/json; x=1",
    );
    check(r#"[{}, "multipart/form-data; boundary=BB"]"#, "--BB--\r\n", "multipart/form-data; boundary=BB");
    raises(exchange, set_body, r#"[{}, "text/plain"]"#, "unsupported content type text/plain");
    raises(exchange, set_body, r#"[{}, "Application/JSON"]"#, "unsupported content type Application/JSON");
    raises(exchange, set_body, r#"["x"]"#, "args must be a table");
    raises(exchange, set_body, "[{}, 5]", "mime must be a string");
    exchange.request.headers.clear();
    fails(
        exchange,
        set_body,
        "[{}]",
        "content type was neither explicitly given as an argument or received as a header",
    );
    exchange.request.body = RequestBody::Unread;
    let raw = "kong.service.request.set_raw_body";
    assert_eq!(call(exchange, raw, &args(r#"["x"]"#)), Outcome::Need(Need::RequestBody));
    raises(exchange, raw, "[5]", "body must be a string");
}

#[test]
fn tls_towards_the_upstream_of_a_stream() {
    let exchange = &mut exchange();
    let name = "kong.service.request.disable_tls";
    assert_eq!(call(exchange, name, &[]), Outcome::Unknown);
    exchange.subsystem = Subsystem::Stream;
    exchange.phase = Phase::Preread;
    gives(exchange, name, "[]", "true");
    assert_eq!(exchange.upstream.scheme, "tcp");
}

#[test]
fn headers_that_nginx_knows_have_one_value() {
    let exchange = &mut exchange();
    for (name, value) in [("user-agent", "ua"), ("x-in", "1"), ("x-in", "2")] {
        exchange.request.headers.append(name, HeaderValue::from_static(value));
    }
    for (name, arguments) in [
        ("add_header", r#"["User-Agent", "mine"]"#),
        ("set_header", r#"["Referer", ["a", "b"]]"#),
        ("add_header", r#"["X_In", "3"]"#),
        ("add_header", r#"["X-In", 4]"#),
    ] {
        gives(exchange, &format!("kong.service.request.{name}"), arguments, "null");
    }
    let values = |name: &str| {
        let values = exchange.request.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values("user-agent"), ["mine"]);
    assert_eq!(values("referer"), ["b"]);
    assert_eq!(values("x-in"), ["1", "2", "4"]);
    assert_eq!(values("x_in"), ["1", "2", "3"]);
}

#[test]
fn headers_that_cannot_be_set() {
    let exchange = &mut exchange();
    for (name, value) in
        [("Content-Length", r#""x""#), ("Host", r#""a/b""#), ("Host", r#""a..b""#), ("host", r#"":80""#)]
    {
        let arguments = format!(r#"["{name}", {value}]"#);
        raises(exchange, "kong.service.request.set_header", &arguments, "failed to set header");
        raises(exchange, "kong.service.request.add_header", &arguments, "failed to set header");
    }
    gives(exchange, "kong.service.request.set_header", r#"["Host", "[::1]:80"]"#, "null");
    gives(exchange, "kong.request.get_host", "[]", r#""[::1]""#);
    gives(exchange, "kong.service.request.clear_header", r#"["host"]"#, "null");
    gives(exchange, "kong.request.get_host", "[]", r#""kong""#);
}

use silverback_model::Phase;

use super::*;
use crate::{
    exchange::{Hello, Subsystem, Transport},
    testing::{exchange, http_exchange, matched},
};

#[test]
fn names() {
    let exchange = &mut exchange();
    gives(exchange, "kong.request..get_method", "[]", r#""GET""#);
    gives(exchange, "kong/request get_method", "[]", r#""GET""#);
    gives(exchange, "kong.log", r#"["x"]"#, "null");
    assert_eq!(call(exchange, "kong.no.such", &[]), Outcome::Unknown);
    assert_eq!(call(exchange, "kong.client.GET_IP", &[]), Outcome::Unknown);
    raises(exchange, "kong.client", "[]", "attempt to call a table value");
    raises(exchange, "kong.ctx.shared", "[]", "attempt to call a table value");
    raises(exchange, "kong.version", "[]", "attempt to call a string value");
    raises(exchange, "kong.client.get_ip.x", "[]", "attempt to index a function value");
}

#[test]
fn shared_values() {
    for (get, set) in [("kong.ctx.shared.get", "kong.ctx.shared.set"), ("kong.nginx.get_ctx", "kong.nginx.set_ctx")] {
        let exchange = &mut exchange();
        for (stored, read) in [
            (r#""text""#, r#""text""#),
            ("1.5", "1.5"),
            ("false", "false"),
            ("9007199254740993", "9007199254740992"),
            (r#"{"a":{"b":[null,1]},"c":null}"#, r#"{"a":{"b":{"2":1}}}"#),
            ("[1,2,null]", "[1,2]"),
            ("null", "null"),
        ] {
            gives(exchange, set, &format!(r#"["k",{stored}]"#), "null");
            gives(exchange, get, r#"["k"]"#, read);
        }
        gives(exchange, set, r#"[5,"number"]"#, "null");
        gives(exchange, get, "[5]", r#""number""#);
        gives(exchange, get, r#"["5"]"#, "null");
        gives(exchange, get, "[]", "null");
        gives(exchange, set, "[{},1]", "null");
        raises(exchange, set, "[]", "table index is nil");
    }
}

#[test]
fn trusted_addresses() {
    let exchange = &mut exchange();
    for (address, trusted) in [
        (r#""127.9.9.9""#, "true"),
        (r#""10.0.0.1""#, "false"),
        (r#""127.0.0.1:80""#, "false"),
        (r#""127.0.0""#, "false"),
        (r#""""#, "false"),
        ("null", "false"),
    ] {
        gives(exchange, "kong.ip.is_trusted", &format!("[{address}]"), trusted);
    }
    raises(exchange, "kong.ip.is_trusted", "[{}]", "bad argument #1 (string expected, got table)");
}

#[test]
fn node_and_plugin() {
    let exchange = &mut exchange();
    for (name, arguments, result) in [
        ("kong.node.get_id", "[]", r#""22222222-2222-4222-8222-222222222222""#),
        ("kong.node.get_hostname", "[]", r#""here""#),
        ("kong.node.get_memory_stats", r#"["K", 1]"#, r#"{"workers_lua_vms":[],"lua_shared_dicts":{}}"#),
        ("kong.cluster.get_id", "[]", "null"),
        ("kong.plugin.get_id", "[]", r#""00000000-0000-0000-0000-000000000007""#),
        ("kong.nginx.get_subsystem", "[]", r#""http""#),
        ("kong.nginx.req_start_time", "[]", "1000000000"),
        ("kong.nginx.get_tls1_version_str", "[]", "null"),
        ("kong.nginx.get_var", "[1]", "null"),
        ("kong.table.new", "[1,2]", "{}"),
    ] {
        gives(exchange, name, arguments, result);
    }
    raises(exchange, "kong.nginx.get_var", "[]", "bad variable name");
    raises(exchange, "kong.node.get_memory_stats", r#"["x"]"#, "invalid unit 'x' (expected 'k/K', 'm/M', or 'g/G')");
    raises(exchange, "kong.node.get_memory_stats", r#"["m",-1]"#, "scale must be equal or greater than 0");
    fails(exchange, "kong.telemetry.log", "[5]", "plugin_name must be a string");
}

#[test]
fn secrets() {
    let exchange = &mut exchange();
    for (reference, secret) in [
        ("{vault://env/pdk-secret}", r#""s3cret""#),
        ("{vault://env/secret?prefix=pdk_}", r#""s3cret""#),
        ("{vault://env/pdk-json/inner}", r#""in""#),
        ("{vault://env/pdk-json/num}", "null"),
        ("{vault://env/pdk-json/none}", "null"),
        ("{vault://mine/secret}", r#""of-my""#),
        ("{vault://other/secret}", "null"),
        ("plain", "null"),
    ] {
        gives(exchange, "kong.vault.get", &format!(r#"["{reference}"]"#), secret);
    }
    gives(
        exchange,
        "kong.vault.parse_reference",
        r#"["{vault://env/pdk-json/inner?prefix=A_&ttl=5#2}"]"#,
        r#"{"name":"env","resource":"pdk-json","key":"inner","config":{"prefix":"A_","ttl":"5"},"version":2}"#,
    );
    fails(
        exchange,
        "kong.vault.parse_reference",
        r#"["{vault://env/}"]"#,
        "reference url has empty path [{vault://env/}]",
    );
    gives(exchange, "kong.vault.is_reference", r#"["{vault://env/}"]"#, "true");
    gives(exchange, "kong.vault.is_reference", "[5]", "false");
    gives(
        exchange,
        "kong.vault.update",
        r#"[{"a":"old","$refs":{"a":"{vault://env/pdk-secret}"}}]"#,
        r#"{"a":"s3cret","$refs":{"a":"{vault://env/pdk-secret}"}}"#,
    );
}

#[test]
fn entities_have_no_unset_fields() {
    let exchange = &mut exchange();
    gives(exchange, "kong.router.get_route", "[]", "null");
    exchange.matched = Some(matched());
    let Outcome::Done(done) = call(exchange, "kong.router.get_route", &[]) else { panic!("no route") };
    let Value::Map(route) = done.value else { panic!("no table") };
    let field = |name: &str| route.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    assert_eq!(field("headers"), Some(value(r#"{"x-r":["1"]}"#)));
    assert_eq!(field("service"), Some(value(r#"{"id":"00000000-0000-0000-0000-000000000004"}"#)));
    assert_eq!(field("hosts"), None);
    assert!(field("ws_id").is_some());
}

#[test]
fn log_entries() {
    let exchange = &mut http_exchange();
    exchange.matched = Some(matched());
    gives(exchange, "kong.log.set_serialize_value", r#"["mine.a", 1]"#, "null");
    gives(exchange, "kong.log.set_serialize_value", r#"["mine.a", 2, {"mode":"add"}]"#, "null");
    raises(
        exchange,
        "kong.log.set_serialize_value",
        r#"["k", 1, {"mode":"append"}]"#,
        "mode must be 'set', 'add' or 'replace'",
    );
    raises(exchange, "kong.log.set_serialize_value", "[]", "key must be a string");
    raises(exchange, "kong.log.serialize", "[]", "function cannot be called in access phase (only in: log)");
    exchange.phase = Phase::Log;
    // The entry is already made.
    gives(exchange, "kong.log.set_serialize_value", r#"["late", 1]"#, "null");
    let Outcome::Done(done) = call(exchange, "kong.log.serialize", &[]) else { panic!("no entry") };
    let entry: serde_json::Value = serde_json::from_slice(done.value.as_bytes().unwrap()).unwrap();
    for (pointer, expect) in [
        ("/request/uri", serde_json::json!("/a/b?x=1&Y=%20")),
        ("/request/url", serde_json::json!("http://example.test:80/a/b?x=1&Y=%20")),
        ("/request/querystring", serde_json::json!({"x": "1", "Y": " "})),
        ("/request/headers/authorization", serde_json::json!("REDACTED")),
        ("/request/size", serde_json::json!(77)),
        ("/response/status", serde_json::json!(201)),
        ("/upstream_uri", serde_json::json!("/up?x=1&Y=%20")),
        ("/upstream_status", serde_json::json!("502, 200")),
        ("/tries/1/ip", serde_json::json!("10.1.1.2")),
        ("/client_ip", serde_json::json!("10.0.0.9")),
        ("/route/name", serde_json::json!("r")),
        ("/service/name", serde_json::json!("echo")),
        ("/workspace_name", serde_json::json!("default")),
        ("/source", serde_json::json!("kong")),
        ("/mine", serde_json::json!({"a": 1})),
    ] {
        assert_eq!(entry.pointer(pointer), Some(&expect), "{pointer}");
    }
    assert_eq!(entry.get("late"), None);
    assert_eq!(entry.get("consumer"), None);
}

#[test]
fn before_the_handshake_there_are_no_variables() {
    let exchange = &mut exchange();
    exchange.phase = Phase::Certificate;
    let disabled = "API disabled in the context of ssl_certificate_by_lua*";
    raises(exchange, "kong.client.get_ip", "[]", disabled);
    raises(exchange, "kong.nginx.get_var", r#"["remote_addr"]"#, disabled);
    gives(exchange, "kong.nginx.req_start_time", "[]", "null");
    gives(exchange, "kong.client.tls.request_client_certificate", "[]", "true");
    assert!(exchange.wishes.request_client_certificate);
}

#[test]
fn streams() {
    let exchange = &mut exchange();
    exchange.subsystem = Subsystem::Stream;
    exchange.phase = Phase::Log;
    exchange.matched = Some(matched());
    exchange.response.bytes_sent = 11;
    exchange.response.status = Some(200);
    exchange.stream.transport = Transport::Udp;
    (exchange.stream.upstream_received, exchange.stream.upstream_sent) = (11, 70);
    for (name, value) in [("protocol", "UDP"), ("status", "200"), ("bytes_received", "77"), ("bytes_sent", "11")] {
        gives(exchange, "kong.nginx.get_var", &format!(r#"["{name}"]"#), &format!(r#""{value}""#));
    }
    gives(exchange, "kong.nginx.get_var", r#"["ssl_preread_server_name"]"#, "null");
    exchange.stream.hello = Some(Hello { server_name: Some("a.test".to_owned()), ..Hello::default() });
    gives(exchange, "kong.nginx.get_var", r#"["ssl_preread_server_name"]"#, r#""a.test""#);
    gives(exchange, "kong.nginx.get_subsystem", "[]", r#""stream""#);
    gives(exchange, "kong.client.get_protocol", "[]", r#""tcp""#);
    gives(exchange, "kong.nginx.get_var", r#"["request_uri"]"#, "null");
    gives(exchange, "kong.request.get_port", "[]", "8000");
    raises(exchange, "kong.request.get_path", "[]", "kong.request.get_path is not available in streams");
    assert_eq!(call(exchange, "kong.client.tls.set_client_verify", &["NONE".into()]), Outcome::Unknown);
    let Outcome::Done(done) = call(exchange, "kong.log.serialize", &[]) else { panic!("no entry") };
    let entry: serde_json::Value = serde_json::from_slice(done.value.as_bytes().unwrap()).unwrap();
    let session = serde_json::json!({"received": 77, "sent": 11, "status": 200, "server_port": 80});
    assert_eq!(entry["session"], session);
    assert_eq!(entry["upstream"], serde_json::json!({"received": 11, "sent": 70}));
}

#[test]
fn what_plugins_keep_has_bounds() {
    let large = Value::Text(vec![b'x'; 20 << 20].into());
    for name in ["kong.ctx.shared.set", "kong.nginx.set_ctx", "kong.log.set_serialize_value"] {
        let exchange = &mut exchange();
        let failed = (0..20).find(|number| {
            let args = [format!("key-{number}").as_str().into(), large.clone()];
            matches!(call(exchange, name, &args), Outcome::Raise(_))
        });
        assert_eq!(failed, Some(6), "{name}: six of 20 MB are within 128 MB");
        let many = (0..20_000).find(|number| {
            let args = [format!("small-{number}").as_str().into(), 1.into()];
            matches!(call(exchange, name, &args), Outcome::Raise(_))
        });
        assert!(many.is_some_and(|number| number <= 10_000), "{name}: {many:?}");
    }
}

#[test]
fn what_is_kept_can_be_replaced_and_removed() {
    let exchange = &mut exchange();
    let large = Value::Text(vec![b'x'; 100 << 20].into());
    for _ in 0..3 {
        for value in [&large, &large, &Value::Nil] {
            assert_eq!(call(exchange, "kong.ctx.shared.set", &["key".into(), value.clone()]), Outcome::nothing());
        }
    }
    assert_eq!(exchange.kept, crate::exchange::Kept::default());
}

#[test]
fn a_key_of_the_log_entry_has_no_parts_without_end() {
    let exchange = &mut exchange();
    let key = "a.".repeat(100_000);
    let outcome = call(exchange, "kong.log.set_serialize_value", &[key.as_str().into(), 1.into()]);
    assert_eq!(outcome, Outcome::raise("key has more than 1000 parts"));
}

#[test]
fn large_tables_are_merged_in_time() {
    let table = |from: i64| Value::Map((from..from + 200_000).map(|i| (i.to_string(), i.into())).collect());
    let exchange = &mut exchange();
    let Outcome::Done(_) = call(exchange, "kong.table.merge", &[table(0), table(100_000)]) else {
        panic!("it has a result")
    };
}

use silverback_model::Phase;

use super::*;
use crate::testing::{ANN, exchange, matched};

#[test]
fn addresses() {
    let mut exchange = exchange();
    exchange.client.real_ip = Some([10, 0, 0, 9].into());
    exchange.client.real_port = Some(99);
    for (name, result) in [
        ("kong.client.get_ip", r#""127.0.0.1""#),
        ("kong.client.get_port", "4242"),
        ("kong.client.get_forwarded_ip", r#""10.0.0.9""#),
        ("kong.client.get_forwarded_port", "99"),
    ] {
        gives(&mut exchange, name, "[]", result);
    }
}

#[test]
fn consumers() {
    let exchange = &mut exchange();
    let ann = format!(r#"{{"id":"{ANN}","username":"ann","created_at":1,"updated_at":2}}"#);
    let load = "kong.client.load_consumer";
    gives(exchange, load, &format!(r#"["{ANN}"]"#), &ann);
    gives(exchange, load, r#"["ann",true]"#, &ann);
    gives(exchange, load, r#"["bob",true]"#, "null");
    gives(exchange, load, r#"["22222222-2222-4222-8222-222222222222"]"#, "null");
    raises(exchange, load, r#"["ann"]"#, "cannot load a consumer with an id that is not a uuid");
    raises(exchange, load, "[5]", "consumer_id must be a string");
    raises(exchange, load, "[]", "consumer_id must be a string");
}

#[test]
fn authentication() {
    let exchange = &mut exchange();
    let authenticate = "kong.client.authenticate";
    raises(exchange, authenticate, "[]", "either credential or consumer must be provided");
    raises(exchange, authenticate, r#"["x"]"#, "consumer must be a table or nil");
    raises(exchange, authenticate, r#"[{},"x"]"#, "credential must be a table or nil");
    // A configured consumer, with fields that only the plugin knows.
    let given = format!(r#"{{"id":"{ANN}","extra":[1]}}"#);
    gives(exchange, authenticate, &format!(r#"[{given},{{"id":"c","x":null}}]"#), "null");
    gives(exchange, "kong.client.get_consumer", "[]", &given);
    gives(exchange, "kong.client.get_credential", "[]", r#"{"id":"c"}"#);
    assert_eq!(exchange.consumer.as_ref().and_then(|consumer| consumer.username.as_deref()), Some("ann"));
    // A null in first place does not swallow the credential.
    gives(exchange, authenticate, r#"[null,{"id":"z"}]"#, "null");
    gives(exchange, "kong.client.get_consumer", "[]", "null");
    gives(exchange, "kong.client.get_credential", "[]", r#"{"id":"z"}"#);
    assert!(exchange.consumer.is_none());
}

#[test]
fn phases_of_authentication() {
    let exchange = &mut exchange();
    exchange.phase = Phase::Response;
    raises(
        exchange,
        "kong.client.authenticate",
        "[{}]",
        "function cannot be called in response phase (only in: access)",
    );
    exchange.phase = Phase::Rewrite;
    raises(
        exchange,
        "kong.client.get_consumer",
        "[]",
        "function cannot be called in rewrite phase (only in: access, response, header_filter, body_filter, log)",
    );
}

#[test]
fn protocols() {
    let exchange = &mut exchange();
    let protocol = "kong.client.get_protocol";
    fails(exchange, protocol, "[]", "No active route found");
    exchange.matched = Some(matched());
    gives(exchange, protocol, "[]", r#""http""#);
    exchange.request.headers.insert("x-forwarded-proto", "HTTPS".parse().unwrap());
    gives(exchange, protocol, "[]", r#""http""#);
    gives(exchange, protocol, "[true]", r#""https""#);
    exchange.request.headers.append("x-forwarded-proto", "http".parse().unwrap());
    fails(exchange, protocol, "[true]", "Only one X-Forwarded-Proto header allowed");
}

#[test]
fn client_verify() {
    let exchange = &mut exchange();
    let name = "kong.client.tls.set_client_verify";
    gives(exchange, name, r#"["FAILED:no"]"#, "null");
    assert_eq!(exchange.wishes.client_verify.as_deref(), Some("FAILED:no"));
    raises(
        exchange,
        name,
        r#"["maybe"]"#,
        "unknown client verify value: maybe accepted values are: \"SUCCESS\", \"NONE\" or \"FAILED:<reason>\"",
    );
}

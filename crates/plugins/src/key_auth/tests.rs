use http::HeaderValue;
use serde_json::json;
use silverback_model::{Consumer, Credential, Directory, Id};
use silverback_pdk::{
    Need,
    exchange::{Exit, ExitBody, RequestBody},
    testing,
};

use super::*;

fn config(changes: Json) -> Map<String, Json> {
    let Json::Object(changes) = changes else { panic!("a configuration is an object") };
    definition().schema.process(changes).unwrap()
}

/// A request, and two consumers: ann has the key `k`, nobody is anonymous.
fn exchange() -> Exchange {
    let consumer = |id, username: &str, custom_id: Option<&str>| Consumer {
        id: Id::from_u128(id),
        username: Some(username.to_owned()),
        custom_id: custom_id.map(str::to_owned),
        tags: None,
        created_at: 1,
        updated_at: 1,
    };
    let id = Id::from_u128(9);
    let Json::Object(fields) = json!({"id": id, "key": "k", "consumer": {"id": Id::from_u128(1)}, "tags": null}) else {
        unreachable!()
    };
    let key = Credential { kind: CredentialKind::KeyAuth, id, consumer: Id::from_u128(1), key: "k".to_owned(), fields };
    let mut exchange = testing::exchange();
    exchange.directory =
        Directory::new(vec![consumer(1, "ann", Some("c-1")), consumer(2, "nobody", None)], vec![key]).into();
    exchange.request.headers.insert("x-consumer-username", HeaderValue::from_static("forged"));
    exchange
}

fn with_query(query: &str) -> Exchange {
    let mut exchange = exchange();
    exchange.request.query = Some(query.to_owned());
    exchange
}

fn with_header(name: &'static str, value: &'static str) -> Exchange {
    let mut exchange = exchange();
    exchange.request.headers.append(name, HeaderValue::from_static(value));
    exchange
}

fn access(exchange: &mut Exchange, changes: Json) -> Outcome {
    run(Phase::Access, exchange, &testing::caller(), &config(changes))
}

fn sent<'a>(exchange: &'a Exchange, name: &str) -> Option<&'a str> {
    exchange.request.headers.get(name).map(|value| value.to_str().unwrap())
}

#[track_caller]
fn lets_through(mut exchange: Exchange, changes: Json) -> Exchange {
    assert_eq!(access(&mut exchange, changes), Outcome::nothing());
    exchange
}

#[track_caller]
fn refuses(mut exchange: Exchange, changes: Json, status: u16, message: &str) -> Exit {
    assert_eq!(access(&mut exchange, changes), Outcome::Exit);
    let exit = exchange.exit.unwrap();
    assert_eq!(exit.status, status);
    let ExitBody::Bytes(body) = &exit.body else { panic!("no body") };
    let page: Json = serde_json::from_slice(body).unwrap();
    assert_eq!(page["message"], message);
    exit
}

#[test]
fn defaults_and_checks_of_the_configuration() {
    assert_eq!(
        Json::Object(config(json!({}))),
        json!({
            "key_names": ["apikey"],
            "hide_credentials": false,
            "anonymous": null,
            "key_in_header": true,
            "key_in_query": true,
            "key_in_body": false,
            "run_on_preflight": true,
            "realm": null,
        })
    );
    let Json::Object(bad) = json!({"key_names": ["a b"], "key_in_body": "yes"}) else { unreachable!() };
    let errors = definition().schema.process(bad).unwrap_err();
    assert!(errors.iter().any(|error| error.message.contains("bad header name 'a b'")), "{errors:?}");
    assert!(errors.iter().any(|error| error.path.contains("key_in_body")), "{errors:?}");
}

#[test]
fn a_key_tells_who_it_is() {
    for exchange in [with_header("apikey", "k"), with_query("a=1&apikey=k")] {
        let exchange = lets_through(exchange, json!({}));
        assert_eq!(exchange.consumer.as_ref().and_then(|consumer| consumer.username.as_deref()), Some("ann"));
        for (header, value) in [
            ("x-consumer-id", Some("00000000-0000-0000-0000-000000000001")),
            ("x-consumer-username", Some("ann")),
            ("x-consumer-custom-id", Some("c-1")),
            ("x-credential-identifier", Some("00000000-0000-0000-0000-000000000009")),
            ("x-anonymous-consumer", None),
        ] {
            assert_eq!(sent(&exchange, header), value, "{header}");
        }
        let Some(Value::Map(credential)) = exchange.credential else { panic!("no credential") };
        assert!(credential.iter().any(|(name, value)| name == "key" && *value == "k".into()));
        assert!(!credential.iter().any(|(name, _)| name == "tags"));
    }
}

#[test]
fn a_key_that_has_expired_is_none() {
    for (created_at, ttl, known) in [
        (1_000_000_000, json!(null), true),
        (1_000_000_000, json!(1), true),
        (999_999_999, json!(1), false),
        (1_000_000_000, json!(0), false),
        (0, json!(1_000_000_001), true),
        (0, json!(1_000_000_000), false),
    ] {
        let mut exchange = with_header("apikey", "k");
        let consumer = exchange.directory.consumer(Id::from_u128(1)).unwrap().as_ref().clone();
        let mut key = exchange.directory.credential(CredentialKind::KeyAuth, "k").unwrap().as_ref().clone();
        key.fields.extend([("created_at".to_owned(), json!(created_at)), ("ttl".to_owned(), ttl.clone())]);
        exchange.directory = Directory::new(vec![consumer], vec![key]).into();
        if known {
            lets_through(exchange, json!({}));
        } else {
            refuses(exchange, json!({}), 401, "Unauthorized");
        }
    }
}

#[test]
fn refusals() {
    let exit = refuses(exchange(), json!({}), 401, "No API key found in request");
    assert_eq!(exit.headers["www-authenticate"], "Key");
    let exit = refuses(with_query("apikey=x"), json!({"realm": "r"}), 401, "Unauthorized");
    assert_eq!(exit.headers["www-authenticate"], "Key realm=\"r\"");
    refuses(with_query("apikey=k&apikey=k"), json!({}), 401, "Duplicate API key found");
    refuses(with_query("apikey="), json!({}), 401, "No API key found in request");
    refuses(with_query("apikey"), json!({}), 401, "No API key found in request");
    refuses(with_header("apikey", "k"), json!({"key_in_header": false}), 401, "No API key found in request");
    refuses(with_query("apikey=k"), json!({"key_in_query": false}), 401, "No API key found in request");
}

#[test]
fn names_are_tried_in_order() {
    let exchange = lets_through(with_header("x-key", "k"), json!({"key_names": ["apikey", "X_Key"]}));
    assert!(exchange.consumer.is_some());
}

#[test]
fn keys_can_be_hidden() {
    let mut both = with_query("a=1&apikey=k");
    both.request.headers.insert("apikey", HeaderValue::from_static("k"));
    let exchange = lets_through(both, json!({"hide_credentials": true}));
    assert_eq!(exchange.request.query.as_deref(), Some("a=1"));
    assert_eq!(sent(&exchange, "apikey"), None);
    // A header is found with a dash for an underscore, and hidden so too.
    let changes = json!({"hide_credentials": true, "key_names": ["api_key"]});
    let exchange = lets_through(with_header("api-key", "k"), changes);
    assert_eq!(sent(&exchange, "api-key"), None);
}

#[test]
fn a_key_in_the_body_waits_for_it() {
    let mut exchange = with_header("content-type", "application/x-www-form-urlencoded");
    exchange.request.body = RequestBody::Unread;
    let changes = json!({"key_in_body": true, "hide_credentials": true});
    assert_eq!(access(&mut exchange, changes.clone()), Outcome::Need(Need::RequestBody));
    exchange.request.body = RequestBody::Memory("a=1&apikey=k".into());
    let exchange = lets_through(exchange, changes.clone());
    let RequestBody::Memory(body) = &exchange.request.body else { panic!("no body") };
    assert_eq!(body, "a=1");
    // A key in the header stays in place until the body is there.
    let mut exchange = with_header("apikey", "k");
    exchange.request.body = RequestBody::Unread;
    exchange.request.headers.insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(access(&mut exchange, changes), Outcome::Need(Need::RequestBody));
    assert_eq!(sent(&exchange, "apikey"), Some("k"));
}

#[test]
fn anonymous_consumers() {
    for anonymous in ["nobody", "00000000-0000-0000-0000-000000000002"] {
        let exchange = lets_through(exchange(), json!({"anonymous": anonymous}));
        assert_eq!(sent(&exchange, "x-consumer-username"), Some("nobody"));
        assert_eq!(sent(&exchange, "x-anonymous-consumer"), Some("true"));
        assert_eq!(exchange.credential, None);
    }
    let exchange = lets_through(with_query("apikey=k"), json!({"anonymous": "nobody"}));
    assert_eq!(sent(&exchange, "x-consumer-username"), Some("ann"));
    let mut known = exchange;
    known.request.query = None;
    let known = lets_through(known, json!({"anonymous": "nobody"}));
    assert_eq!(sent(&known, "x-consumer-username"), Some("ann"));
    let mut exchange = self::exchange();
    assert_eq!(
        access(&mut exchange, json!({"anonymous": "none"})),
        Outcome::raise("the anonymous consumer none does not exist")
    );
}

#[test]
fn preflight_requests() {
    let mut options = exchange();
    options.request.method = Method::OPTIONS;
    lets_through(options, json!({"run_on_preflight": false}));
    let mut options = exchange();
    options.request.method = Method::OPTIONS;
    refuses(options, json!({}), 401, "No API key found in request");
}

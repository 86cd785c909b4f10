use serde_json::json;

use super::*;

#[test]
fn defaults_and_checks_of_the_configuration() {
    let schema = definition().schema;
    let config = schema.process(Map::new()).unwrap();
    assert_eq!(
        Json::Object(config),
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
    let errors = schema.process(bad).unwrap_err();
    assert!(errors.iter().any(|error| error.message.contains("bad header name 'a b'")), "{errors:?}");
    assert!(errors.iter().any(|error| error.path.contains("key_in_body")), "{errors:?}");
}

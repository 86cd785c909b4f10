//! The schema language as a plugin server writes it, over configurations as users write them.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;

fn object(value: &Json) -> Map<String, Json> {
    value.as_object().cloned().unwrap_or_default()
}

/// `expect` is the processed configuration, or the errors as `path: message`.
fn check(fields: &Json, config: &Json, expect: Result<Json, &[&str]>) {
    let record = Record::from_json(fields).unwrap_or_else(|problem| panic!("{fields}: {problem}"));
    let found = record.process(object(config)).map(Json::Object).map_err(|errors| {
        errors.into_iter().map(|error| format!("{}: {}", error.path, error.message)).collect::<Vec<_>>()
    });
    match (found, expect) {
        (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{fields} on {config}"),
        (Err(found), Err(expect)) => assert_eq!(found, expect, "{fields} on {config}"),
        (found, expect) => panic!("{fields} on {config}: {found:?} instead of {expect:?}"),
    }
}

#[test]
fn types() {
    for (kind, value, problem) in [
        ("string", json!("a"), None),
        ("string", json!(1), Some("expected a string")),
        ("string", json!(""), Some("length must be at least 1")),
        ("integer", json!(1), None),
        ("integer", json!(1.5), Some("expected an integer")),
        ("integer", json!("1"), Some("expected an integer")),
        ("number", json!(1.5), None),
        ("number", json!("1"), Some("expected a number")),
        ("boolean", json!(true), None),
        ("boolean", json!("on"), Some("expected a boolean")),
        ("any", json!({"a": [1]}), None),
        ("json", json!([1]), None),
    ] {
        let fields = json!([{"x": {"type": kind}}]);
        match problem {
            None => check(&fields, &json!({"x": value}), Ok(json!({"x": value}))),
            Some(problem) => check(&fields, &json!({"x": value}), Err(&[&format!("x: {problem}")])),
        }
    }
}

#[test]
fn numbers_without_a_fraction_are_integers() {
    check(&json!([{"x": {"type": "integer"}}]), &json!({"x": 5.0}), Ok(json!({"x": 5})));
    check(&json!([{"x": {"type": "number"}}]), &json!({"x": 5.0}), Ok(json!({"x": 5})));
}

#[test]
fn presence() {
    let fields = json!([
        {"needed": {"type": "string", "required": true}},
        {"free": {"type": "string"}},
        {"preset": {"type": "integer", "default": 7}},
    ]);
    check(&fields, &json!({"needed": "a"}), Ok(json!({"needed": "a", "free": null, "preset": 7})));
    check(&fields, &json!({"preset": null, "needed": "a"}), Ok(json!({"needed": "a", "free": null, "preset": null})));
    check(&fields, &json!({}), Err(&["needed: required field missing"]));
    check(&fields, &json!({"needed": null}), Err(&["needed: required field missing"]));
    check(
        &fields,
        &json!({"other": 1, "free": 2}),
        Err(&["needed: required field missing", "free: expected a string", "other: unknown field"]),
    );
}

#[test]
fn collections() {
    let fields = json!([
        {"list": {"type": "array", "elements": {"type": "string", "one_of": ["a", "b"]}}},
        {"set": {"type": "set", "elements": {"type": "integer"}}},
        {"map": {"type": "map", "keys": {"type": "string"}, "values": {"type": "integer"}}},
    ]);
    check(
        &fields,
        &json!({"list": ["a", "a"], "set": [1, 2, 1], "map": {"k": 1}}),
        Ok(json!({"list": ["a", "a"], "set": [1, 2], "map": {"k": 1}})),
    );
    // Lua has one empty table.
    check(&fields, &json!({"list": {}, "set": {}, "map": []}), Ok(json!({"list": [], "set": [], "map": {}})));
    check(
        &fields,
        &json!({"list": ["a", "c", 1], "set": "x", "map": {"k": "v"}}),
        Err(&[
            "list[1]: expected one of: a, b",
            "list[2]: expected a string",
            "set: expected a set",
            "map: expected an integer",
        ]),
    );
    check(&fields, &json!({"list": {"a": 1}}), Err(&["list: expected an array"]));
    check(&fields, &json!({"list": [null]}), Err(&["list[0]: required field missing"]));
}

#[test]
fn records() {
    let fields = json!([
        {"nested": {"type": "record", "fields": [
            {"inner": {"type": "string"}},
            {"limit": {"type": "integer", "default": 3}},
            {"deep": {"type": "record", "fields": [{"x": {"type": "boolean", "default": true}}]}},
        ]}},
        {"list": {"type": "array", "elements": {"type": "record", "fields": [
            {"a": {"type": "integer", "required": true}}, {"b": {"type": "string", "default": "z"}},
        ]}}},
        {"absent": {"type": "record", "required": false, "fields": [{"x": {"type": "string"}}]}},
    ]);
    check(
        &fields,
        &json!({"list": [{"a": 1}]}),
        Ok(json!({
            "nested": {"inner": null, "limit": 3, "deep": {"x": true}}, "list": [{"a": 1, "b": "z"}], "absent": null,
        })),
    );
    check(
        &fields,
        &json!({"nested": {"deep": {"y": 1}}, "list": [{"a": 1}, {}]}),
        Err(&["nested.deep.y: unknown field", "list[1].a: required field missing"]),
    );
    check(&fields, &json!({"nested": 1}), Err(&["nested: expected a record"]));
}

#[test]
fn constraints() {
    for (attributes, value, problem) in [
        (json!({"type": "string", "one_of": ["a", "b"]}), json!("c"), Some("expected one of: a, b")),
        (json!({"type": "string", "not_one_of": ["a"]}), json!("a"), Some("must not be one of: a")),
        (json!({"type": "integer", "between": [1, 5]}), json!(6), Some("value should be between 1 and 5")),
        (json!({"type": "integer", "gt": 0}), json!(0), Some("value must be greater than 0")),
        (json!({"type": "number", "gt": 0}), json!(0.5), None),
        (json!({"type": "string", "len_min": 0}), json!(""), None),
        (json!({"type": "string", "len_max": 2}), json!("abc"), Some("length must be at most 2")),
        (json!({"type": "string", "len_eq": 2}), json!("abc"), Some("length must be 2")),
        (
            json!({"type": "array", "elements": {"type": "string"}, "len_min": 1}),
            json!([]),
            Some("length must be at least 1"),
        ),
        (json!({"type": "string", "match": "^%d+$"}), json!("12"), None),
        (json!({"type": "string", "match": "^%d+$"}), json!("1a"), Some("invalid value: 1a")),
        (json!({"type": "string", "not_match": "x"}), json!("axb"), Some("invalid value: axb")),
        (json!({"type": "string", "match_none": [{"pattern": "//", "err": "no //"}]}), json!("a//b"), Some("no //")),
        (json!({"type": "string", "match_all": [{"pattern": "^/"}]}), json!("a"), Some("invalid value: a")),
        (
            json!({"type": "string", "match_any": {"patterns": ["^a", "^b"], "err": "a or b"}}),
            json!("c"),
            Some("a or b"),
        ),
        (json!({"type": "string", "starts_with": "/"}), json!("a"), Some("should start with: /")),
        (json!({"type": "string", "uuid": true}), json!("x"), Some("expected a valid UUID")),
        (json!({"type": "string", "uuid": true}), json!("0C61e164-6171-4837-8836-8f5298726d53"), None),
        (json!({"type": "string", "is_regex": true}), json!("("), Some("not a valid regex: (")),
        (json!({"type": "integer", "eq": 3}), json!(4), Some("value must be 3")),
        (json!({"type": "integer", "ne": 3}), json!(3), Some("value must not be 3")),
        (json!({"type": "integer", "timestamp": true}), json!(0), Some("expected a valid timestamp")),
        (
            json!({"type": "set", "elements": {"type": "string"}, "contains": "a"}),
            json!(["b"]),
            Some("expected to contain: a"),
        ),
        (
            json!({"type": "set", "elements": {"type": "string"}, "mutually_exclusive_subsets": [["a"], ["b"]]}),
            json!(["a", "b"]),
            Some("these sets are mutually exclusive: ('a'), ('b')"),
        ),
        (json!({"type": "string", "match": "^%d", "err": "digits!"}), json!("a"), Some("digits!")),
        (json!({"type": "string", "match": "^%d", "referenceable": true}), json!("{vault://env/x}"), None),
        (json!({"type": "string", "who_knows": {"a": 1}, "description": "text"}), json!("a"), None),
    ] {
        let fields = json!([{"x": attributes}]);
        match problem {
            None => check(&fields, &json!({"x": value}), Ok(json!({"x": value}))),
            Some(problem) => check(&fields, &json!({"x": value}), Err(&[&format!("x: {problem}")])),
        }
    }
}

#[test]
fn checks_across_fields() {
    let fields = |checks: Json| {
        json!([{"r": {"type": "record", "entity_checks": checks, "fields": [
            {"a": {"type": "string"}}, {"b": {"type": "string"}}, {"c": {"type": "string"}},
        ]}}])
    };
    for (checks, value, problems) in [
        (json!([{"at_least_one_of": ["a", "b"]}]), json!({"a": "x"}), vec![]),
        (
            json!([{"at_least_one_of": ["a", "b"]}]),
            json!({}),
            vec!["r: at least one of these fields must be non-empty: 'a', 'b'"],
        ),
        (
            json!([{"only_one_of": ["a", "b"]}]),
            json!({"a": "x", "b": "y"}),
            vec!["r: exactly one of these fields must be non-empty: 'a', 'b'"],
        ),
        (
            json!([{"mutually_required": ["a", "b"]}]),
            json!({"a": "x"}),
            vec!["r: all or none of these fields must be set: 'a', 'b'"],
        ),
        (
            json!([{"mutually_exclusive": ["a", "b"]}]),
            json!({"a": "x", "b": "y"}),
            vec!["r: only one or none of these fields must be set: 'a', 'b'"],
        ),
        (
            json!([{"mutually_exclusive_sets": {"set1": ["a"], "set2": ["b", "c"]}}]),
            json!({"a": "x", "c": "y"}),
            vec!["r: these sets are mutually exclusive: ('a'), ('c')"],
        ),
        (
            json!([{"distinct": ["a", "b"]}]),
            json!({"a": "x", "b": "x"}),
            vec!["r: values of these fields must be distinct: 'a', 'b'"],
        ),
        (
            json!([{"conditional": {
                "if_field": "a", "if_match": {"match": "^x$"}, "then_field": "b", "then_match": {"required": true},
            }}]),
            json!({"a": "x"}),
            vec!["r.b: required field missing", "r: failed conditional validation given value of field 'a'"],
        ),
        (
            json!([{"conditional": {
                "if_field": "a", "if_match": {"match": "^x$"}, "then_field": "b", "then_match": {"required": true},
            }}]),
            json!({"a": "y"}),
            vec![],
        ),
        (
            json!([{"conditional_at_least_one_of": {
                "if_field": "a", "if_match": {"match": "^x$"}, "then_at_least_one_of": ["b", "c"],
                "then_err": "one of %s!",
            }}]),
            json!({"a": "x"}),
            vec!["r: one of 'b', 'c'!"],
        ),
        (json!([{"custom_entity_check": {"field_sources": ["a"]}}]), json!({}), vec![]),
    ] {
        let record = Record::from_json(&fields(checks.clone())).unwrap();
        let found: Vec<String> = match record.process(object(&json!({"r": value}))) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.into_iter().map(|error| format!("{}: {}", error.path, error.message)).collect(),
        };
        assert_eq!(found, problems, "{checks} on {value}");
    }
}

#[test]
fn what_servers_print() {
    // An embedded Go server: types only.
    let go = json!([
        {"count": {"type": "integer"}},
        {"names": {"elements": {"type": "string"}, "type": "array"}},
        {"limits": {"type": "map", "keys": {"type": "string"}, "values": {"type": "integer"}}},
        {"nested": {"fields": [{"inner": {"type": "string"}}], "type": "record"}},
    ]);
    check(
        &go,
        &json!({"limits": {"a": 1}}),
        Ok(json!({"count": null, "names": null, "limits": {"a": 1}, "nested": {"inner": null}})),
    );
    // No field at all is printed as null, an empty array or an empty object.
    for empty in [Json::Null, json!([]), json!({})] {
        check(&empty, &json!({}), Ok(json!({})));
        check(&empty, &json!({"a": 1}), Err(&["a: unknown field"]));
    }
}

#[test]
fn descriptions_that_make_no_sense() {
    for (fields, part) in [
        (json!(1), "'fields' must be an array"),
        (json!([1]), "must be an object with one field"),
        (json!([{"a": 1}]), "field 'a'"),
        (json!([{"a": {}}]), "'type' is missing"),
        (json!([{"a": {"type": "strnig"}}]), "invalid type: strnig"),
        (json!([{"a": {"type": "array"}}]), "'elements' is missing"),
        (json!([{"a": {"type": "record", "fields": [{"b": {"type": "map"}}]}}]), "field 'b'"),
        (json!([{"a": {"type": "string", "match": "["}}]), "malformed pattern"),
        (json!([{"a": {"type": "integer", "between": [1]}}]), "'between'"),
    ] {
        let problem = Record::from_json(&fields).unwrap_err();
        assert!(problem.contains(part), "{fields}: {problem}");
    }
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        (-1e6f64..1e6).prop_map(Json::from),
        "[a-z]{0,3}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec(("[a-e]", inner), 0..4).prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_field() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "default": "d", "len_max": 3})),
        Just(json!({"type": "integer"})),
        Just(json!({"type": "number", "default": 1.0})),
        Just(json!({"type": "boolean", "required": true, "default": false})),
        Just(json!({"type": "any"})),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|field| json!({"type": "array", "elements": field})),
            inner.clone().prop_map(|field| json!({"type": "set", "elements": field})),
            inner.clone().prop_map(|field| json!({"type": "map", "keys": {"type": "string"}, "values": field})),
            prop::collection::vec(("[a-e]", inner), 0..3).prop_map(|fields| {
                let fields: Vec<Json> = fields.into_iter().map(|(name, field)| json!({name: field})).collect();
                json!({"type": "record", "fields": fields})
            }),
        ]
    })
}

proptest! {
    #[test]
    fn processing_twice_changes_nothing(
        fields in prop::collection::vec(("[a-e]", any_field()), 0..4),
        config in prop::collection::vec(("[a-e]", any_json()), 0..4),
    ) {
        let fields: Vec<Json> = fields.into_iter().map(|(name, field)| json!({name: field})).collect();
        let record = Record::from_json(&Json::Array(fields)).unwrap();
        if let Ok(once) = record.process(config.into_iter().collect()) {
            let names: Vec<&str> = record.fields().map(|(name, _)| name).collect();
            prop_assert_eq!(once.keys().map(String::as_str).collect::<Vec<_>>(), names);
            prop_assert_eq!(record.process(once.clone()), Ok(once));
        }
    }

    #[test]
    fn no_description_panics(fields in any_json(), config in any_json()) {
        if let Ok(record) = Record::from_json(&fields) {
            let _ = record.process(object(&config));
        }
    }
}

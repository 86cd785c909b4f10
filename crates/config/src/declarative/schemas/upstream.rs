//! Upstreams, with their health checks and what they hash on.

use serde_json::{Map, Value as Json, json};
use silverback_model::schema::{Record, Shorthand};

use super::{build, common, list, path, tags, with};

/// The health checks of an upstream: counters are off by default.
fn healthchecks() -> Json {
    let seconds = |default: u32| json!({"type": "number", "between": [0, 65535], "default": default});
    let counter = || json!({"type": "integer", "between": [0, 255], "default": 0});
    let statuses = |default: Json| json!({"type": "array", "elements": {"type": "integer", "between": [100, 999]}, "default": default});
    let check_type =
        || json!({"type": "string", "one_of": ["tcp", "http", "https", "grpc", "grpcs"], "default": "http"});
    json!({"type": "record", "fields": [
        {"active": {"type": "record", "fields": [
            {"type": check_type()},
            {"timeout": seconds(1)},
            {"concurrency": {"type": "integer", "between": [1, 2_147_483_648_u32], "default": 10}},
            {"http_path": with(path(), json!({"default": "/"}))},
            {"https_sni": {"type": "string", "custom_validator": "sni"}},
            {"https_verify_certificate": {"type": "boolean", "required": true, "default": true}},
            {"headers": {
                "type": "map",
                "keys": {"type": "string", "custom_validator": "header_name"},
                "values": {"type": "array", "elements": {"type": "string"}},
            }},
            {"healthy": {"type": "record", "fields": [
                {"interval": seconds(0)},
                {"http_statuses": statuses(json!([200, 302]))},
                {"successes": counter()},
            ]}},
            {"unhealthy": {"type": "record", "fields": [
                {"interval": seconds(0)},
                {"http_statuses": statuses(json!([429, 404, 500, 501, 502, 503, 504, 505]))},
                {"tcp_failures": counter()},
                {"timeouts": counter()},
                {"http_failures": counter()},
            ]}},
        ]}},
        {"passive": {"type": "record", "fields": [
            {"type": check_type()},
            {"healthy": {"type": "record", "fields": [
                {"http_statuses": statuses(json!([
                    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308,
                ]))},
                {"successes": counter()},
            ]}},
            {"unhealthy": {"type": "record", "fields": [
                {"http_statuses": statuses(json!([429, 500, 503]))},
                {"tcp_failures": counter()},
                {"timeouts": counter()},
                {"http_failures": counter()},
            ]}},
        ]}},
        {"threshold": {"type": "number", "default": 0, "between": [0, 100]}},
    ]})
}

pub(super) fn schema() -> Record {
    const HASH: [&str; 8] = ["none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"];
    let hash = || json!({"type": "string", "default": "none", "one_of": HASH});
    let header = || json!({"type": "string", "custom_validator": "header_name"});
    let param = || json!({"type": "string", "len_min": 1});
    let needs = |field: &str, value: &str, needed: &str| {
        json!({"conditional": {
            "if_field": field, "if_match": {"match": format!("^{value}$")},
            "then_field": needed, "then_match": {"required": true},
        }})
    };
    let fallback_of = |value: &str, allowed: &[&str]| {
        json!({"conditional": {
            "if_field": "hash_on", "if_match": {"match": format!("^{value}$")},
            "then_field": "hash_fallback", "then_match": {"one_of": allowed},
        }})
    };
    build(
        &list(&[
            &common(),
            &json!([
                {"name": {"type": "string", "required": true, "custom_validator": "upstream_name"}},
                {"algorithm": {
                    "type": "string", "default": "round-robin",
                    "one_of": ["consistent-hashing", "least-connections", "round-robin", "latency"],
                }},
                {"hash_on": hash()},
                {"hash_fallback": hash()},
                {"hash_on_header": header()},
                {"hash_fallback_header": header()},
                {"hash_on_cookie": {"type": "string", "custom_validator": "cookie_name"}},
                {"hash_on_cookie_path": with(path(), json!({"default": "/"}))},
                {"hash_on_query_arg": param()},
                {"hash_fallback_query_arg": param()},
                {"hash_on_uri_capture": param()},
                {"hash_fallback_uri_capture": param()},
                {"slots": {"type": "integer", "default": 10000, "between": [10, 65536]}},
                {"healthchecks": healthchecks()},
            ]),
            &tags(),
            &json!([
                {"host_header": {"type": "string", "custom_validator": "host_with_optional_port"}},
                {"client_certificate": {"type": "foreign"}},
                {"use_srv_name": {"type": "boolean", "default": false}},
            ]),
        ]),
        &json!([
            needs("hash_on", "header", "hash_on_header"),
            needs("hash_fallback", "header", "hash_fallback_header"),
            needs("hash_on", "cookie", "hash_on_cookie"),
            needs("hash_fallback", "cookie", "hash_on_cookie"),
            fallback_of("none", &["none"]),
            fallback_of("cookie", &["none"]),
            fallback_of("consumer", &["none", "ip", "header", "cookie", "path", "query_arg", "uri_capture"]),
            fallback_of("ip", &["none", "consumer", "header", "cookie", "path", "query_arg", "uri_capture"]),
            fallback_of("path", &["none", "consumer", "header", "cookie", "query_arg", "ip", "uri_capture"]),
            {"distinct": ["hash_on_header", "hash_fallback_header"]},
            needs("hash_on", "query_arg", "hash_on_query_arg"),
            needs("hash_fallback", "query_arg", "hash_fallback_query_arg"),
            {"distinct": ["hash_on_query_arg", "hash_fallback_query_arg"]},
            needs("hash_on", "uri_capture", "hash_on_uri_capture"),
            needs("hash_fallback", "uri_capture", "hash_fallback_uri_capture"),
            {"distinct": ["hash_on_uri_capture", "hash_fallback_uri_capture"]},
        ]),
        vec![
            Shorthand { field: "algorithm", expand: expand_algorithm },
            Shorthand { field: "hash_on", expand: expand_hash_on },
        ],
    )
}

/// The algorithms that hash nothing reset `hash_on`.
fn expand_algorithm(value: &Json) -> Result<Map<String, Json>, String> {
    if !value.is_string() && !value.is_null() {
        return Err("expected a string".to_owned());
    }
    let mut fields: Map<String, Json> = [("algorithm".to_owned(), value.clone())].into_iter().collect();
    if matches!(value.as_str(), Some("least-connections" | "latency")) {
        fields.insert("hash_on".to_owned(), Json::Null);
    }
    Ok(fields)
}

/// What is hashed decides the algorithm.
fn expand_hash_on(value: &Json) -> Result<Map<String, Json>, String> {
    let fields: &[(&str, Json)] = match value {
        Json::Null => &[("hash_on", json!("none"))],
        Json::String(text) if text == "none" => &[("hash_on", json!("none")), ("algorithm", json!("round-robin"))],
        Json::String(_) => &[("hash_on", value.clone()), ("algorithm", json!("consistent-hashing"))],
        _ => return Err("expected a string".to_owned()),
    };
    Ok(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

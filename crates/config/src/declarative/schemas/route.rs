//! Routes: one table of fields, of which the protocols change some.

use serde_json::{Value as Json, json};
use silverback_model::schema::Record;

use super::{build, common, list, name, port, protocol, tags, with};

pub(super) fn http() -> Record {
    route(&http_route())
}

pub(super) fn stream() -> Record {
    route(&stream_route())
}

pub(super) fn grpc() -> Record {
    route(&grpc_route())
}

/// What the protocols of a route change in its schema.
struct RouteVariant {
    /// Fields that may not be set, and the text that says so.
    forbidden: &'static [&'static str],
    because: &'static str,
    strip_path: Json,
    checks: Json,
}

fn http_route() -> RouteVariant {
    RouteVariant {
        forbidden: &["sources", "destinations"],
        because: "'protocols' is 'http' or 'https'",
        strip_path: json!({"type": "boolean", "required": true, "default": true}),
        checks: json!([{"conditional_at_least_one_of": {
            "if_field": "protocols",
            "if_match": {"contains": "https"},
            "then_at_least_one_of": ["methods", "hosts", "headers", "paths", "snis"],
            "then_err": "must set one of %s when 'protocols' is 'https'",
            "else_match": {"contains": "http"},
            "else_then_at_least_one_of": ["methods", "hosts", "headers", "paths"],
            "else_then_err": "must set one of %s when 'protocols' is 'http'",
        }}]),
    }
}

fn stream_route() -> RouteVariant {
    let of = |names: &[&str]| json!({"elements": {"type": "string", "one_of": names}});
    RouteVariant {
        forbidden: &["methods", "hosts", "paths", "headers"],
        because: "'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp'",
        strip_path: json!({"type": "boolean", "required": true, "default": true}),
        checks: json!([
            {"conditional_at_least_one_of": {
                "if_field": "protocols",
                "if_match": of(&["tcp", "tls", "udp"]),
                "then_at_least_one_of": ["sources", "destinations", "snis"],
                "then_err": "must set one of %s when 'protocols' is 'tcp', 'tls' or 'udp'",
            }},
            {"conditional_at_least_one_of": {
                "if_field": "protocols",
                "if_match": of(&["tls_passthrough"]),
                "then_at_least_one_of": ["snis"],
                "then_err": "must set snis when 'protocols' is 'tls_passthrough'",
            }},
        ]),
    }
}

fn grpc_route() -> RouteVariant {
    RouteVariant {
        forbidden: &["methods", "sources", "destinations"],
        because: "'protocols' is 'grpc' or 'grpcs'",
        strip_path: json!({
            "type": "boolean", "required": true, "default": false, "ne": true,
            "err": "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
        }),
        checks: json!([{"conditional_at_least_one_of": {
            "if_field": "protocols",
            "if_match": {"contains": "grpcs"},
            "then_at_least_one_of": ["hosts", "headers", "paths", "snis"],
            "then_err": "must set one of %s when 'protocols' is 'grpcs'",
            "else_match": {"contains": "grpc"},
            "else_then_at_least_one_of": ["hosts", "headers", "paths"],
            "else_then_err": "must set one of %s when 'protocols' is 'grpc'",
        }}]),
    }
}

fn route(variant: &RouteVariant) -> Record {
    let endpoints = json!({
        "type": "set",
        "elements": {
            "type": "record",
            "fields": [{"ip": {"type": "string", "custom_validator": "ip_or_cidr"}}, {"port": port()}],
            "entity_checks": [{"at_least_one_of": ["ip", "port"]}],
        },
    });
    let field = |name: &str, description: Json| {
        let description = if variant.forbidden.contains(&name) {
            with(description, json!({"eq": null, "err": format!("cannot set '{name}' when {}", variant.because)}))
        } else {
            description
        };
        json!({name: description})
    };
    let fields = list(&[
        &common(),
        &json!([
            {"name": name()},
            {"protocols": {
                "type": "set", "len_min": 1, "required": true, "elements": protocol(),
                "mutually_exclusive_subsets": [
                    ["http", "https"], ["tcp", "tls", "udp"], ["tls_passthrough"], ["grpc", "grpcs"],
                ],
                "default": ["http", "https"],
            }},
            {"https_redirect_status_code": {
                "type": "integer", "one_of": [426, 301, 302, 307, 308], "default": 426, "required": true,
            }},
            {"strip_path": variant.strip_path},
            {"preserve_host": {"type": "boolean", "required": true, "default": false}},
            {"request_buffering": {"type": "boolean", "required": true, "default": true}},
            {"response_buffering": {"type": "boolean", "required": true, "default": true}},
        ]),
        &tags(),
        &json!([
            {"service": {"type": "foreign"}},
            {"snis": {"type": "set", "elements": {"type": "string", "custom_validator": "wildcard_host"}}},
            field("sources", endpoints.clone()),
            field("destinations", endpoints),
            field("methods", json!({"type": "set", "elements": {"type": "string", "match": "^%u+$"}})),
            field("hosts", json!({"type": "array", "elements": {
                "type": "string",
                "match_all": [{
                    "pattern": "^[^*]*%*?[^*]*$",
                    "err": "invalid wildcard: must have at most one wildcard",
                }],
                "match_any": {
                    "patterns": ["^%*%.", "%.%*$", "^[^*]*$"],
                    "err": "invalid wildcard: must be placed at leftmost or rightmost label",
                },
                "custom_validator": "route_host",
            }})),
            field("paths", json!({"type": "array", "elements": {
                "type": "string",
                "match_any": {
                    "patterns": ["^/", "^~/"],
                    "err": "should start with: / (fixed path) or ~/ (regex path)",
                },
                "match_none": [{"pattern": "//", "err": "must not have empty segments"}],
                "custom_validator": "router_path",
            }})),
            field("headers", json!({
                "type": "map",
                "keys": {
                    "type": "string",
                    "match_none": [{
                        "pattern": "^[Hh][Oo][Ss][Tt]$",
                        "err": "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
                    }],
                    "custom_validator": "header_name",
                },
                "values": {"type": "array", "elements": {"type": "string"}},
            })),
            {"regex_priority": {"type": "integer", "default": 0}},
            {"path_handling": {"type": "string", "default": "v0", "one_of": ["v0", "v1"]}},
        ]),
    ]);
    let checks = list(&[
        &json!([{"conditional": {
            "if_field": "protocols",
            "if_match": {"elements": {"type": "string", "not_one_of": ["grpcs", "https", "tls", "tls_passthrough"]}},
            "then_field": "snis",
            "then_match": {"len_eq": 0},
            "then_err": "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        }}]),
        &variant.checks,
    ]);
    build(&fields, &checks, Vec::new())
}

//! The schemas of the entities, in the schema language that plugins use too. Fields, defaults and rules are Kong 3.9's
//! (`kong/db/schema/entities`, `kong/plugins/*/daos.lua`).

use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};
use silverback_model::{
    CredentialKind,
    schema::{Record, Shorthand},
};

use super::{kinds::Kind, url, validators::VOCABULARY};

/// The schema of a kind. Routes have three; this is the one for HTTP.
pub(super) fn of(kind: Kind) -> &'static Record {
    let schemas = &*SCHEMAS;
    match kind {
        Kind::Certificate => &schemas.certificate,
        Kind::Consumer => &schemas.consumer,
        Kind::Service => &schemas.service,
        Kind::Route => &schemas.route_http,
        Kind::Sni => &schemas.sni,
        Kind::Upstream => &schemas.upstream,
        Kind::Target => &schemas.target,
        Kind::Plugin => &schemas.plugin,
        Kind::CaCertificate => &schemas.ca_certificate,
        Kind::Vault => &schemas.vault,
        Kind::Credential(kind) => match kind {
            CredentialKind::KeyAuth => &schemas.key_auth,
            CredentialKind::BasicAuth => &schemas.basic_auth,
            CredentialKind::HmacAuth => &schemas.hmac_auth,
            CredentialKind::Jwt => &schemas.jwt,
            CredentialKind::OAuth2 => &schemas.oauth2,
            CredentialKind::Acl => &schemas.acl,
        },
    }
}

/// The schema of a route with these protocols: the first that is known decides.
///
/// # Errors
/// Kong's text, if none is.
pub(super) fn of_route(protocols: Option<&Json>) -> Result<&'static Record, String> {
    let schemas = &*SCHEMAS;
    let list = match protocols {
        None => return Ok(&schemas.route_http),
        Some(Json::Array(list)) if !list.is_empty() => list,
        // Another type, or nothing: the field's own check says so.
        Some(_) => return Ok(&schemas.route_http),
    };
    for protocol in list {
        match protocol.as_str() {
            Some("http" | "https") => return Ok(&schemas.route_http),
            Some("grpc" | "grpcs") => return Ok(&schemas.route_grpc),
            Some("tcp" | "tls" | "udp" | "tls_passthrough") => return Ok(&schemas.route_stream),
            _ => {}
        }
    }
    let first = list.first().map(|first| first.as_str().map_or_else(|| first.to_string(), str::to_owned));
    Err(format!("unknown type: {}", first.unwrap_or_default()))
}

struct Schemas {
    certificate: Record,
    consumer: Record,
    service: Record,
    route_http: Record,
    route_stream: Record,
    route_grpc: Record,
    sni: Record,
    upstream: Record,
    target: Record,
    plugin: Record,
    ca_certificate: Record,
    vault: Record,
    key_auth: Record,
    basic_auth: Record,
    hmac_auth: Record,
    jwt: Record,
    oauth2: Record,
    acl: Record,
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas {
    certificate: certificate(),
    consumer: consumer(),
    service: service(),
    route_http: route(&http_route()),
    route_stream: route(&stream_route()),
    route_grpc: route(&grpc_route()),
    sni: sni(),
    upstream: upstream(),
    target: target(),
    plugin: plugin(),
    ca_certificate: ca_certificate(),
    vault: vault(),
    key_auth: credential(&json!([{"key": {"type": "string", "auto": true}}]), &Json::Null),
    basic_auth: credential(
        &json!([{"username": {"type": "string", "required": true}}, {"password": {"type": "string", "required": true}}]),
        &Json::Null,
    ),
    hmac_auth: credential(
        &json!([{"username": {"type": "string", "required": true}}, {"secret": {"type": "string", "auto": true}}]),
        &Json::Null,
    ),
    jwt: jwt(),
    oauth2: oauth2(),
    acl: credential(&json!([{"group": {"type": "string", "required": true}}]), &Json::Null),
});

/// The schemas are constants of this file, checked by its test: none can be malformed.
#[expect(clippy::expect_used, reason = "the argument is a constant of this file, and a test builds every one")]
fn build(fields: &Json, checks: &Json, shorthands: Vec<Shorthand>) -> Record {
    Record::from_parts(fields, checks, VOCABULARY, shorthands).expect("the schemas of the entities are well-formed")
}

fn list(parts: &[&Json]) -> Json {
    Json::Array(parts.iter().filter_map(|part| part.as_array()).flatten().cloned().collect())
}

fn common() -> Json {
    json!([
        {"id": {"type": "string", "uuid": true, "auto": true}},
        {"created_at": {"type": "integer", "timestamp": true, "auto": true}},
        {"updated_at": {"type": "integer", "timestamp": true, "auto": true}},
    ])
}

fn tags() -> Json {
    json!([{"tags": {"type": "set", "elements": {"type": "string", "required": true, "custom_validator": "tag"}}}])
}

fn name() -> Json {
    json!({"type": "string", "custom_validator": "utf8_name"})
}

fn path() -> Json {
    json!({
        "type": "string",
        "starts_with": "/",
        "match_none": [{"pattern": "//", "err": "must not have empty segments"}],
        "custom_validator": "path",
    })
}

fn protocol() -> Json {
    json!({"type": "string", "one_of": ["grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp"]})
}

fn port() -> Json {
    json!({"type": "integer", "between": [0, 65535]})
}

fn with(base: Json, extra: Json) -> Json {
    match (base, extra) {
        (Json::Object(mut base), Json::Object(extra)) => {
            base.extend(extra);
            Json::Object(base)
        }
        (base, _) => base,
    }
}

fn certificate() -> Record {
    let text = |required: bool, check: &str| json!({"type": "string", "required": required, "referenceable": true, "custom_validator": check});
    build(
        &list(&[
            &common(),
            &json!([
                {"cert": text(true, "certificate")},
                {"key": text(true, "key")},
                {"cert_alt": text(false, "certificate")},
                {"key_alt": text(false, "key")},
            ]),
            &tags(),
        ]),
        &json!([{"mutually_required": ["cert_alt", "key_alt"]}]),
        Vec::new(),
    )
}

fn ca_certificate() -> Record {
    build(
        &list(&[
            &common(),
            &json!([
                {"cert": {"type": "string", "required": true, "custom_validator": "certificate"}},
                {"cert_digest": {"type": "string"}},
            ]),
            &tags(),
        ]),
        &Json::Null,
        Vec::new(),
    )
}

fn consumer() -> Record {
    build(
        &list(&[&common(), &json!([{"username": {"type": "string"}}, {"custom_id": {"type": "string"}}]), &tags()]),
        &json!([{"at_least_one_of": ["custom_id", "username"]}]),
        Vec::new(),
    )
}

fn service() -> Record {
    let timeout = json!({"type": "integer", "between": [1, 2_147_483_646_u32], "default": 60000});
    let only_tls = |field: &str| {
        json!({"conditional": {
            "if_field": "protocol", "if_match": {"not_one_of": ["https", "tls"]},
            "then_field": field, "then_match": {"eq": null},
        }})
    };
    build(
        &list(&[
            &common(),
            &json!([
                {"name": name()},
                {"retries": {"type": "integer", "default": 5, "between": [0, 32767]}},
                {"protocol": with(protocol(), json!({"required": true, "default": "http"}))},
                {"host": {"type": "string", "required": true, "custom_validator": "host"}},
                {"port": with(port(), json!({"required": true, "default": 80}))},
                {"path": path()},
                {"connect_timeout": timeout},
                {"write_timeout": timeout},
                {"read_timeout": timeout},
            ]),
            &tags(),
            &json!([
                {"client_certificate": {"type": "foreign"}},
                {"tls_verify": {"type": "boolean"}},
                {"tls_verify_depth": {"type": "integer", "default": null, "between": [0, 64]}},
                {"ca_certificates": {"type": "array", "elements": {"type": "string", "uuid": true}}},
                {"enabled": {"type": "boolean", "required": true, "default": true}},
            ]),
        ]),
        &json!([
            {"conditional": {
                "if_field": "protocol", "if_match": {"one_of": ["tcp", "tls", "udp", "grpc", "grpcs"]},
                "then_field": "path", "then_match": {"eq": null},
            }},
            only_tls("client_certificate"),
            only_tls("tls_verify"),
            only_tls("tls_verify_depth"),
            only_tls("ca_certificates"),
        ]),
        vec![Shorthand { field: "url", expand: expand_url }],
    )
}

/// `url` of a service stands for protocol, host, port and path.
fn expand_url(value: &Json) -> Result<Map<String, Json>, String> {
    if value.is_null() {
        return Ok(Map::new());
    }
    let text = value.as_str().ok_or("expected a string")?;
    if text.is_empty() {
        return Err("length must be at least 1".to_owned());
    }
    let parsed = url::parse(text);
    let number = parsed.port.and_then(|port| port.parse::<u64>().ok());
    let protocol = parsed.scheme.unwrap_or(match number {
        Some(443) => "https",
        _ => "http",
    });
    let port = match (number, parsed.port) {
        (Some(number), _) => Json::from(number),
        (None, Some(text)) => Json::from(text),
        (None, None) if protocol == "https" => Json::from(443),
        (None, None) => Json::from(80),
    };
    Ok([
        ("protocol".to_owned(), Json::from(protocol)),
        ("host".to_owned(), Json::from(parsed.host)),
        ("port".to_owned(), port),
        ("path".to_owned(), Json::from(parsed.path)),
    ]
    .into_iter()
    .collect())
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

fn sni() -> Record {
    build(
        &list(&[
            &common(),
            &json!([{"name": {"type": "string", "required": true, "custom_validator": "wildcard_host"}}]),
            &tags(),
            &json!([{"certificate": {"type": "foreign"}}]),
        ]),
        &Json::Null,
        Vec::new(),
    )
}

fn target() -> Record {
    build(
        &list(&[
            &json!([
                {"id": {"type": "string", "uuid": true, "auto": true}},
                {"created_at": {"type": "number", "timestamp": true, "auto": true}},
                {"updated_at": {"type": "number", "timestamp": true, "auto": true}},
                {"upstream": {"type": "foreign"}},
                {"target": {"type": "string", "required": true, "custom_validator": "target"}},
                {"weight": {"type": "integer", "default": 100, "between": [0, 65535]}},
            ]),
            &tags(),
        ]),
        &Json::Null,
        Vec::new(),
    )
}

fn plugin() -> Record {
    build(
        &list(&[
            &json!([
                {"id": {"type": "string", "uuid": true, "auto": true}},
                {"name": {"type": "string", "required": true}},
                {"instance_name": name()},
                {"created_at": {"type": "integer", "timestamp": true, "auto": true}},
                {"updated_at": {"type": "integer", "timestamp": true, "auto": true}},
                {"route": {"type": "foreign"}},
                {"service": {"type": "foreign"}},
                {"consumer": {"type": "foreign"}},
                {"config": {"type": "any"}},
                {"protocols": {
                    "type": "set", "required": true, "elements": protocol(),
                    "default": ["grpc", "grpcs", "http", "https"],
                }},
                {"enabled": {"type": "boolean", "required": true, "default": true}},
            ]),
            &tags(),
        ]),
        &Json::Null,
        Vec::new(),
    )
}

fn vault() -> Record {
    build(
        &list(&[
            &json!([
                {"id": {"type": "string", "uuid": true, "auto": true}},
                {"prefix": {
                    "type": "string", "required": true,
                    "match": "^[a-z][a-z%d-]-[a-z%d]+$", "not_one_of": ["env"],
                }},
                {"name": {"type": "string", "required": true}},
                {"description": {"type": "string"}},
                {"config": {"type": "record", "fields": [
                    {"prefix": {"type": "string", "match": "^[%a_-][%a%d_-]*$"}},
                ]}},
                {"created_at": {"type": "integer", "timestamp": true, "auto": true}},
                {"updated_at": {"type": "integer", "timestamp": true, "auto": true}},
            ]),
            &tags(),
        ]),
        &Json::Null,
        Vec::new(),
    )
}

fn credential(fields: &Json, checks: &Json) -> Record {
    let head = json!([
        {"id": {"type": "string", "uuid": true, "auto": true}},
        {"created_at": {"type": "integer", "timestamp": true, "auto": true}},
        {"consumer": {"type": "foreign"}},
    ]);
    build(&list(&[&head, fields, &tags()]), checks, Vec::new())
}

fn jwt() -> Record {
    credential(
        &json!([
            {"key": {"type": "string", "auto": true}},
            {"secret": {"type": "string", "auto": true}},
            {"rsa_public_key": {"type": "string"}},
            {"algorithm": {"type": "string", "default": "HS256", "one_of": [
                "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512",
                "PS256", "PS384", "PS512", "EdDSA",
            ]}},
        ]),
        &json!([{"conditional": {
            "if_field": "algorithm",
            "if_match": {"match_any": {"patterns": [
                "^RS256$", "^RS384$", "^RS512$", "^PS256$", "^PS384$", "^PS512$", "^EdDSA$",
            ]}},
            "then_field": "rsa_public_key",
            "then_match": {"required": true, "custom_validator": "public_key"},
        }}]),
    )
}

fn oauth2() -> Record {
    credential(
        &json!([
            {"name": {"type": "string", "required": true}},
            {"client_id": {"type": "string", "auto": true}},
            {"client_secret": {"type": "string", "auto": true}},
            {"hash_secret": {"type": "boolean", "required": true, "default": false}},
            {"redirect_uris": {"type": "array", "elements": {"type": "string", "custom_validator": "uri"}}},
            {"client_type": {
                "type": "string", "required": true, "default": "confidential", "one_of": ["confidential", "public"],
            }},
        ]),
        &Json::Null,
    )
}

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

fn upstream() -> Record {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_well_formed() {
        for kind in Kind::ALL {
            assert!(!of(kind).is_empty(), "{kind:?}");
            for foreign in kind.foreign() {
                assert!(of(kind).field(foreign.field).is_some(), "{kind:?} {}", foreign.field);
            }
        }
    }
}

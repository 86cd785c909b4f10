//! The schemas of the entities, in the schema language that plugins use too. Fields, defaults and rules are Kong 3.9's
//! (`kong/db/schema/entities`, `kong/plugins/*/daos.lua`).

use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};
use silverback_model::{
    CredentialKind,
    schema::{Record, Shorthand},
};

mod route;
mod upstream;

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
    route_http: route::http(),
    route_stream: route::stream(),
    route_grpc: route::grpc(),
    sni: sni(),
    upstream: upstream::schema(),
    target: target(),
    plugin: plugin(),
    ca_certificate: ca_certificate(),
    vault: vault(),
    // 9999-12-31, as a date that is to be told apart from a time to live; see `Credential::expires_at`.
    key_auth: credential(
        &json!([{"key": {"type": "string", "auto": true}}, {"ttl": {"type": "integer", "between": [0, 253_402_300_799_i64]}}]),
        &Json::Null,
    ),
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
                // these two are not Kong's
                {"timeout": {"type": "integer", "between": [1, 86_400_000]}},
                {"on_error": {"type": "string", "custom_validator": "on_error"}},
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

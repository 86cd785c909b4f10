//! The entities as Kong knows them: field names, defaults and types are those of Kong 3.9's schemas
//! (`kong/db/schema/entities`), so that their JSON is what the Admin API shows.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::OnError;

pub use uuid::Uuid as Id;

/// Labels of an entity; `None` where none were given.
pub type Tags = Option<Vec<String>>;

/// A protocol that a route or a plugin is bound to, or that a service is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Http,
    Https,
    Grpc,
    Grpcs,
    Tcp,
    Tls,
    Udp,
    TlsPassthrough,
    Ws,
    Wss,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::TlsPassthrough => "tls_passthrough",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether the protocol belongs to the HTTP subsystem (the others are streams).
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Grpc | Self::Grpcs | Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An upstream service: where requests are sent to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    pub id: Id,
    pub name: Option<String>,
    pub protocol: Protocol,
    /// A host name, an IP address, or the name of an [`Upstream`].
    pub host: String,
    pub port: u16,
    /// Put in front of the request's path; `None` means `/`.
    pub path: Option<String>,
    /// Further attempts after a failed one.
    pub retries: u32,
    /// Milliseconds.
    pub connect_timeout: u32,
    /// Milliseconds between two writes.
    pub write_timeout: u32,
    /// Milliseconds between two reads.
    pub read_timeout: u32,
    pub tags: Tags,
    pub client_certificate: Option<Id>,
    pub tls_verify: Option<bool>,
    pub tls_verify_depth: Option<u32>,
    pub ca_certificates: Option<Vec<Id>>,
    pub enabled: bool,
    /// Seconds since 1970.
    pub created_at: i64,
    pub updated_at: i64,
}

impl Service {
    /// A service of which nothing but its host is given: Kong's defaults (`kong/db/schema/entities/services.lua`), and
    /// dates of 0.
    pub fn new(id: Id, host: impl Into<String>) -> Self {
        Self {
            id,
            name: None,
            protocol: Protocol::Http,
            host: host.into(),
            port: 80,
            path: None,
            retries: 5,
            connect_timeout: 60_000,
            write_timeout: 60_000,
            read_timeout: 60_000,
            tags: None,
            client_certificate: None,
            tls_verify: None,
            tls_verify_depth: None,
            ca_certificates: None,
            enabled: true,
            created_at: 0,
            updated_at: 0,
        }
    }
}

/// How a route's path and its service's path are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathHandling {
    V0,
    V1,
}

/// Source or destination address of a stream route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// An address or a CIDR block.
    pub ip: Option<String>,
    pub port: Option<u16>,
}

/// A rule that leads requests to a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    pub id: Id,
    pub name: Option<String>,
    pub protocols: Vec<Protocol>,
    pub methods: Option<Vec<String>>,
    /// Exact names, or with one `*` at an end; with or without a port.
    pub hosts: Option<Vec<String>>,
    /// Prefixes, or regular expressions after `~`.
    pub paths: Option<Vec<String>>,
    /// Header name (lower case) to accepted values; one value `~*re` is a regular expression.
    pub headers: Option<Vec<(String, Vec<String>)>>,
    pub snis: Option<Vec<String>>,
    pub sources: Option<Vec<Endpoint>>,
    pub destinations: Option<Vec<Endpoint>>,
    pub https_redirect_status_code: u16,
    pub regex_priority: i32,
    pub strip_path: bool,
    pub preserve_host: bool,
    pub path_handling: PathHandling,
    pub request_buffering: bool,
    pub response_buffering: bool,
    pub tags: Tags,
    /// The service it leads to; a route without one answers 503.
    pub service: Option<Id>,
    pub created_at: i64,
    pub updated_at: i64,
}

impl Route {
    /// A route that asks for nothing and leads nowhere: Kong's defaults (`kong/db/schema/entities/routes.lua`), and dates
    /// of 0.
    pub fn new(id: Id) -> Self {
        Self {
            id,
            name: None,
            protocols: vec![Protocol::Http, Protocol::Https],
            methods: None,
            hosts: None,
            paths: None,
            headers: None,
            snis: None,
            sources: None,
            destinations: None,
            https_redirect_status_code: 426,
            regex_priority: 0,
            strip_path: true,
            preserve_host: false,
            path_handling: PathHandling::V0,
            request_buffering: true,
            response_buffering: true,
            tags: None,
            service: None,
            created_at: 0,
            updated_at: 0,
        }
    }
}

/// Somebody, or something, that uses services.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Consumer {
    pub id: Id,
    pub username: Option<String>,
    pub custom_id: Option<String>,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// The kinds of credentials that the declarative format knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    KeyAuth,
    BasicAuth,
    HmacAuth,
    Jwt,
    OAuth2,
    Acl,
}

impl CredentialKind {
    pub const ALL: [Self; 6] = [Self::KeyAuth, Self::BasicAuth, Self::HmacAuth, Self::Jwt, Self::OAuth2, Self::Acl];

    /// The name of its collection in declarative files and the Admin API.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::KeyAuth => "keyauth_credentials",
            Self::BasicAuth => "basicauth_credentials",
            Self::HmacAuth => "hmacauth_credentials",
            Self::Jwt => "jwt_secrets",
            Self::OAuth2 => "oauth2_credentials",
            Self::Acl => "acls",
        }
    }

    /// The field by which a plugin looks it up.
    pub const fn key_field(self) -> &'static str {
        match self {
            Self::KeyAuth | Self::Jwt => "key",
            Self::BasicAuth | Self::HmacAuth => "username",
            Self::OAuth2 => "client_id",
            Self::Acl => "group",
        }
    }
}

/// A consumer's credential. Fields other than the common ones depend on the kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub kind: CredentialKind,
    pub id: Id,
    pub consumer: Id,
    /// The value of [`CredentialKind::key_field`].
    pub key: String,
    /// The whole entity, `id`, `consumer: {id}`, `created_at` and `tags` included, as the PDK shows it.
    pub fields: Map<String, Json>,
}

/// Values of `ttl` up to this are a time to live in seconds (Kong's `DAO_MAX_TTL`), greater ones a date.
const MAX_TTL: i64 = 100_000_000;

impl Credential {
    /// When the credential ends, in seconds since 1970. `ttl` counts from `created_at`; in a file that
    /// `kong config db_export` wrote it is the date itself.
    pub fn expires_at(&self) -> Option<i64> {
        let number = |name: &str| self.fields.get(name).and_then(Json::as_i64);
        let ttl = number("ttl")?;
        Some(if ttl > MAX_TTL { ttl } else { number("created_at").unwrap_or_default().saturating_add(ttl) })
    }
}

/// A plugin's configuration, and what it is bound to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plugin {
    pub id: Id,
    pub name: String,
    pub instance_name: Option<String>,
    pub service: Option<Id>,
    pub route: Option<Id>,
    pub consumer: Option<Id>,
    /// Validated, defaults filled in; unset fields are JSON null.
    pub config: Map<String, Json>,
    pub protocols: Vec<Protocol>,
    pub enabled: bool,
    /// Milliseconds for a handler of it, in place of its server's; Kong does not have this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// What its failure means, in place of its server's policy; Kong does not have this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// A virtual host name with targets behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Upstream {
    pub id: Id,
    pub name: String,
    /// `round-robin`, `consistent-hashing` or `least-connections`.
    pub algorithm: String,
    pub host_header: Option<String>,
    pub tags: Tags,
    /// Every other field (hash_on, slots, healthchecks, ...), validated, with Kong's defaults.
    pub settings: Map<String, Json>,
    pub created_at: i64,
    pub updated_at: i64,
}

/// An address behind an upstream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    pub id: Id,
    pub upstream: Id,
    /// `host:port`; the port is 8000 where none was given.
    pub target: String,
    pub host: String,
    pub port: u16,
    /// 0 to 65535; 0 takes it out.
    pub weight: u32,
    pub tags: Tags,
    /// Seconds with a fraction.
    pub created_at: f64,
    pub updated_at: f64,
}

/// A certificate with its key, PEM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    pub id: Id,
    pub cert: String,
    pub key: String,
    pub cert_alt: Option<String>,
    pub key_alt: Option<String>,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// A server name, exact or with one `*` label at an end, and its certificate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sni {
    pub id: Id,
    pub name: String,
    pub certificate: Id,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// A certificate authority, PEM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaCertificate {
    pub id: Id,
    pub cert: String,
    pub cert_digest: String,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// A place that secrets come from, by the prefix that references name it by (`{vault://PREFIX/...}`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vault {
    pub id: Id,
    pub prefix: String,
    /// The kind of vault; only `env` exists.
    pub name: String,
    pub description: Option<String>,
    pub config: Map<String, Json>,
    pub tags: Tags,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Shared by whoever handles a request, without copying.
pub type Shared<T> = Arc<T>;

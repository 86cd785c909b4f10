//! The resolved configuration of a node: every property with its type, defaults as in Kong 3.9's `kong.conf.default`.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

mod plugin_dir;
mod plugin_server;

pub use plugin_dir::{FilePolicy, PluginDir};
pub use plugin_server::{Breaker, EventPolicy, MaxMemory, PluginServer, ProcessPolicy, ResourceLimit, RestartBackoff};

/// The configuration of a node, checked, defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    pub prefix: PathBuf,
    pub log_level: LogLevel,
    pub daemon: bool,
    /// Number of worker threads; `auto` is resolved by [`available_cores`].
    pub workers: usize,
    /// `nginx_user`: user and group to drop to, when started as root.
    pub user: Option<(String, Option<String>)>,

    pub proxy_listen: Vec<Listen>,
    pub admin_listen: Vec<Listen>,
    pub status_listen: Vec<Listen>,
    /// TCP, TLS and UDP streams.
    pub stream_listen: Vec<Listen>,
    /// `port_maps`: port as clients see it, by the port that is listened on.
    pub port_maps: Vec<(u16, u16)>,

    pub plugins: EnabledPlugins,
    pub plugin_servers: Vec<PluginServer>,
    pub plugin_dir: Option<PluginDir>,
    /// `nginx_main_env`: NAME or NAME=value.
    pub main_env: Vec<String>,

    pub declarative_config: Option<PathBuf>,
    /// The text itself, already decoded.
    pub declarative_config_string: Option<String>,

    pub real_ip: RealIp,
    /// Which `headers` the gateway adds to answers.
    pub headers: AddedHeaders,
    /// `headers_upstream`: whether `X-Kong-Request-Id` goes upstream.
    pub upstream_request_id: bool,

    pub tls: Tls,
    pub api_certificates: ApiCertificates,
    pub upstream: UpstreamKeepalive,
    pub dns: Dns,
    pub upstream_tls: UpstreamTls,
    /// `status_ready_plugin_servers`: whether `/status/ready` is 503 while a plugin server is not ready.
    pub ready_needs_plugin_servers: bool,
    pub logs: Logs,
    pub debug: Debug,
    pub http: Http,
    pub buffering: Buffering,
    pub errors: ErrorPages,
    pub lua: LuaLimits,
    /// `nginx_main_worker_shutdown_timeout`; `None` waits without a limit.
    pub shutdown_timeout: Option<Duration>,
    /// `nginx_main_worker_rlimit_nofile`: `None` is `auto`.
    pub rlimit_nofile: Option<u64>,
    pub vault_env_prefix: Option<String>,

    /// Accepted properties that mean nothing here; those that change behaviour first. `check` lists them.
    pub ignored: Vec<IgnoredProperty>,
    /// Every property as written (after the environment), for `.kong_env`, in order.
    pub raw: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warn,
    Error,
    Crit,
    Alert,
    Emerg,
}

/// One address of a `*_listen` property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: ListenAddress,
    pub ssl: bool,
    pub http2: bool,
    pub proxy_protocol: bool,
    pub reuseport: bool,
    pub backlog: Option<u32>,
    /// `deferred`, `bind`, `ipv6only=...`, `so_keepalive=...` as written.
    pub udp: bool,
    pub ipv6only: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As it is written in `kong.conf`.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `plugins`: which may be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnabledPlugins {
    /// Whether `bundled` is among them.
    pub bundled: bool,
    /// The names given beside it, in order.
    pub named: Vec<String>,
}

/// What clients may ask to be told of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// `request_debug`: timings, for those who know the token or are on this machine.
    pub request: bool,
    /// `request_debug_token`; `None` is a random one for each start and reload.
    pub token: Option<String>,
    /// `allow_debug_header`: `Kong-Debug` is answered with the route and service.
    pub header: bool,
}

impl Debug {
    /// What lets a client ask for the timings of its request; `None` where nobody may.
    pub fn request_token(&self) -> Option<&str> {
        self.token.as_deref().filter(|_| self.request)
    }
}

/// `trusted_ips`, `real_ip_header`, `real_ip_recursive`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealIp {
    pub trusted: Vec<IpNet>,
    /// `unix:` is among `trusted_ips`.
    pub trust_unix: bool,
    /// `X-Real-IP` by default; `proxy_protocol` takes it from the PROXY protocol.
    pub header: String,
    pub recursive: bool,
}

/// Which of the `headers` are on. `server_tokens` is Server and Via, `latency_tokens` the latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedHeaders {
    pub server: bool,
    pub via: bool,
    pub proxy_latency: bool,
    pub response_latency: bool,
    pub upstream_latency: bool,
    pub admin_latency: bool,
    pub upstream_status: bool,
    pub request_id: bool,
}

/// A certificate and its key: the path of a file, or PEM text.
pub type Certificate = (String, String);

/// What the APIs show, where they listen with `ssl`; none: what is made for them in the prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiCertificates {
    /// `admin_ssl_cert` and `admin_ssl_cert_key`.
    pub admin: Vec<Certificate>,
    /// `status_ssl_cert` and `status_ssl_cert_key`.
    pub status: Vec<Certificate>,
}

/// `ssl_*`: what clients are served with by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `ssl_cert` and `ssl_cert_key`.
    pub certificates: Vec<Certificate>,
    /// Whether TLS 1.2 and 1.3 are allowed.
    pub tls12: bool,
    pub tls13: bool,
    /// `ssl_cipher_suite` as written.
    pub cipher_suite: String,
    /// The suites of TLS 1.2 by OpenSSL's names, the preferred one first. Those of TLS 1.3 are always on.
    pub ciphers: Vec<&'static str>,
    /// Whether the order of `ciphers` goes before the client's.
    pub prefer_server_ciphers: bool,
    pub sessions: TlsSessions,
    /// `None`: clients are not asked for certificates, unless by a plugin.
    pub client_verification: Option<ClientVerification>,
    /// Names of what was asked for and rustls does not have (TLSv1, DHE, ...).
    pub unavailable: Vec<String>,
}

/// How TLS sessions are taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsSessions {
    /// `ssl_session_timeout`.
    pub timeout: Duration,
    /// `ssl_session_cache_size`, as a number of sessions.
    pub cached: usize,
    /// `ssl_session_tickets`.
    pub tickets: bool,
}

/// `nginx_proxy_ssl_verify_client` and its company.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientVerification {
    pub demand: ClientCertificateDemand,
    /// PEM files of the authorities: `ssl_client_certificate`, `ssl_trusted_certificate`.
    pub authorities: Vec<PathBuf>,
    /// `ssl_verify_depth`: certificates between the client's and an authority.
    pub depth: usize,
}

/// What `ssl_verify_client` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientCertificateDemand {
    /// `on`: a request without a certificate that verifies is refused.
    Required,
    /// `optional`: a certificate that does not verify is refused.
    Optional,
    /// `optional_no_ca`: who issued it does not matter.
    Unverified,
}

/// How TLS is spoken with upstreams where their service says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// `client_ssl_cert` and `client_ssl_cert_key`, where `client_ssl` is on: paths, or PEM text.
    pub client_certificate: Option<(String, String)>,
    /// Of http, https and wss services: the injected `proxy_ssl_*`.
    pub http: UpstreamVerification,
    /// Of grpc and grpcs services: the injected `grpc_ssl_*`.
    pub grpc: UpstreamVerification,
}

/// Whether and how the certificates of upstreams are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamVerification {
    /// `proxy_ssl_verify`.
    pub verify: bool,
    /// `proxy_ssl_verify_depth`, else `lua_ssl_verify_depth`: certificates between the upstream's own and a trusted one.
    pub depth: u32,
    /// `proxy_ssl_trusted_certificate`, else `lua_ssl_trusted_certificate`: paths, or PEM text. `system` has been
    /// resolved.
    pub trusted: Vec<String>,
}

impl Default for UpstreamVerification {
    fn default() -> Self {
        Self { verify: false, depth: 1, trusted: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamKeepalive {
    /// Idle connections kept per upstream address; 0 turns keep-alive off.
    pub pool_size: usize,
    /// Requests per connection; 0 for no limit.
    pub max_requests: u64,
    /// 0 for no limit.
    pub idle_timeout: Duration,
}

/// `dns_*`, or `resolver_*` where `new_dns_client` is on: how names become addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    pub hosts_file: PathBuf,
    /// What is asked for, in this order, until something is found.
    pub order: Vec<DnsType>,
    /// Ask for SRV records of `_service._proto.name` only, as the new client of Kong does.
    pub srv_by_name: bool,
    /// Stands for the TTL of every answer.
    pub valid_ttl: Option<Duration>,
    /// How long an answer may be used after its time while a new one is fetched.
    pub stale_ttl: Duration,
    /// How long it is remembered that a name, or a record of it, does not exist.
    pub not_found_ttl: Duration,
    /// How long another failure is remembered.
    pub error_ttl: Duration,
    /// Names kept.
    pub cache_size: usize,
    /// Requests that wait for the same name wait for one look-up (`dns_no_sync` off).
    pub coalesce: bool,
}

/// An entry of `dns_order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsType {
    /// The type that answered the last time.
    Last,
    Srv,
    A,
    Aaaa,
    Cname,
}

/// Where logs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    pub proxy_access: AccessLog,
    pub proxy_error: LogTarget,
    pub admin_access: AccessLog,
    pub admin_error: LogTarget,
    pub status_access: AccessLog,
    pub status_error: LogTarget,
    pub stream_access: AccessLog,
    pub stream_error: LogTarget,
    /// How lines of the error log are written (`error_log_format`).
    pub error_format: ErrorLogFormat,
}

/// What a line of the error log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorLogFormat {
    /// As nginx writes it.
    Nginx,
    /// A JSON object.
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Off,
    /// Absolute, or already joined to the prefix.
    File(PathBuf),
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: LogFormat,
}

/// The text of an nginx `log_format`, variables and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    pub text: String,
    pub escape: LogEscape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEscape {
    Default,
    Json,
    None,
}

/// The limits of the HTTP side, from the injected `nginx_http_*` and `nginx_proxy_*` directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// Bytes; 0 for no limit.
    pub max_body_size: u64,
    /// Bytes of a request body that stay in memory; the rest goes to a file.
    pub body_buffer_size: usize,
    pub keepalive_timeout: Duration,
    pub keepalive_requests: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub send_timeout: Duration,
    /// `large_client_header_buffers`: number and bytes.
    pub header_buffers: (usize, usize),
    /// Bytes of the upstream's header that are accepted (`proxy_buffer_size`).
    pub proxy_buffer_size: usize,
    /// `proxy_buffers`: number and bytes.
    pub proxy_buffers: (usize, usize),
    pub underscores_in_headers: bool,
}

/// `buffered_proxying_*`, our own: how much of upstreams' answers is held for the response phase, in bytes. What
/// would go beyond is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// Of one answer.
    pub max_size: u64,
    /// Of all that are held at a time.
    pub total_size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPages {
    /// MIME type used where the client names none: `text/plain` by default.
    pub default_type: String,
    /// Text of the template files, with `{{message}}`... placeholders as Kong's `%s`.
    pub html: Option<String>,
    pub json: Option<String>,
    pub plain: Option<String>,
    pub xml: Option<String>,
}

/// `lua_max_*`: how many headers and arguments getters look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaLimits {
    pub max_req_headers: usize,
    pub max_resp_headers: usize,
    pub max_uri_args: usize,
    pub max_post_args: usize,
}

/// A property that exists in Kong and means nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredProperty {
    pub name: String,
    pub value: String,
    /// Ignoring it changes what a user sees.
    pub important: bool,
    pub why: String,
}

/// The cores that this process may use: those it is bound to, less what the quotas of its cgroups (v1 or v2) leave out.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

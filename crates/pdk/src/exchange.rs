//! One request's state: what came from the client, what plugins made of it, what goes upstream, what came back.
//!
//! The proxy creates it, reads it and moves it through the phases; PDK functions read and change it.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use silverback_model::{Consumer, Directory, Phase, Route, Service};
use silverback_protocol::Value;

use crate::entities;
pub use crate::kept::Kept;

/// Whether a request is HTTP or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    Http,
    Stream,
}

/// What never changes while the node runs, shared by all exchanges.
pub struct Node {
    pub id: String,
    pub hostname: String,
    pub trusted_ips: Vec<ipnet::IpNet>,
    pub trust_unix: bool,
    pub limits: Limits,
    /// `port_maps`: the port as clients see it, and the one that is listened on.
    pub port_maps: Vec<(u16, u16)>,
    /// `error_template_*`, for `kong.response.error`.
    pub templates: crate::error_page::Templates,
    /// Size of the shared dictionaries and memory, for `kong.node.get_memory_stats`; the log; the clock.
    pub surroundings: Box<dyn Surroundings>,
}

/// `lua_max_*`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub req_headers: usize,
    pub resp_headers: usize,
    pub uri_args: usize,
    pub post_args: usize,
}

/// What the pure code needs of the world.
pub trait Surroundings: Send + Sync {
    /// Seconds since 1970, with milliseconds or better.
    fn now(&self) -> f64;
    /// Writes one line to the error log; `exchange` gives its context.
    fn log(&self, level: LogLevel, plugin: &str, message: &str, exchange: &Exchange);
    /// Whether lines of this level are written at all.
    fn logs(&self, level: LogLevel) -> bool;
    /// An environment variable, for the environment vault.
    fn env(&self, name: &str) -> Option<String>;
    /// Connections and requests since the start, for `kong.nginx.get_statistics`.
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
    /// Memory of the workers, for `kong.node.get_memory_stats`.
    fn memory(&self) -> MemoryStats {
        MemoryStats::default()
    }
}

/// Counters of the node, as nginx's stub status has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub connections_active: u64,
    pub connections_reading: u64,
    pub connections_writing: u64,
    pub connections_waiting: u64,
    pub connections_accepted: u64,
    pub connections_handled: u64,
    pub total_requests: u64,
}

/// Memory in use, in bytes. Kong tells of its shared dictionaries and Lua machines; what comes nearest stands for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Name, allocated, capacity.
    pub shared: Vec<(String, u64, u64)>,
    /// Process id and allocated bytes of each worker.
    pub workers: Vec<(u32, u64)>,
}

/// The levels of `kong.log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warn,
    Err,
    Crit,
    Alert,
    Emerg,
}

/// One request.
pub struct Exchange {
    pub node: Arc<Node>,
    /// Consumers and credentials of the generation that the request began with.
    pub directory: Arc<Directory>,
    /// Whether an upstream of this name exists, asked by `kong.service.set_upstream`.
    pub upstream_names: Arc<std::collections::HashSet<String>>,
    pub subsystem: Subsystem,
    pub phase: Phase,
    /// 32 hex digits.
    pub id: String,
    /// Seconds since 1970.
    pub started: f64,
    pub timings: Timings,
    pub client: Client,
    pub request: Request,
    /// Where the request will be sent; set by the router, changed by plugins.
    pub upstream: UpstreamChoice,
    pub matched: Option<Matched>,
    pub consumer: Option<Arc<Consumer>>,
    /// The consumer as plugins see it, where a plugin gave one (`kong.client.authenticate`): it need not be any that
    /// is configured. `None`: [`Exchange::consumer`] is what they see.
    pub consumer_given: Option<Value>,
    /// The credential as plugins see it.
    pub credential: Option<Value>,
    /// `kong.ctx.shared`.
    pub shared: Vec<(String, Value)>,
    /// `ngx.ctx`, what plugins put there.
    pub nginx_ctx: Vec<(String, Value)>,
    /// `kong.log.set_serialize_value`: path, value, and mode.
    pub serialize_values: Vec<(String, Value, SerializeMode)>,
    /// What these three take together.
    pub kept: Kept,
    /// What the upstream answered, once it has.
    pub service_response: Option<ServiceResponse>,
    /// What goes to the client: headers set by plugins before the upstream answers, then the whole answer.
    pub response: Response,
    /// Set by a terminal call: the proxy answers this instead of going on.
    pub exit: Option<Exit>,
    /// What plugins asked of the proxy beyond the request and the answer themselves.
    pub wishes: Wishes,
    /// What only streams have. What came from their client is counted in [`Request::length`], what went to it in
    /// [`Response::bytes_sent`].
    pub stream: Stream,
}

impl Exchange {
    /// Whether an address is one of `trusted_ips`.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.node.trusted_ips.iter().any(|net| net.contains(&ip))
    }

    /// Whether the peer (not the address it forwards for) is one of `trusted_ips`.
    pub fn client_is_trusted(&self) -> bool {
        self.client.ip.is_some_and(|ip| self.trusts(ip))
    }

    /// The port that was connected to, as clients see it (`port_maps`).
    pub fn mapped_port(&self) -> u16 {
        let port = self.client.local_port;
        self.node.port_maps.iter().find(|(_, inner)| *inner == port).map_or(port, |(outer, _)| *outer)
    }

    /// The consumer as plugins see it.
    pub fn consumer_value(&self) -> Value {
        match (&self.consumer_given, &self.consumer) {
            (Some(given), _) => given.clone(),
            (None, Some(consumer)) => entities::consumer(consumer),
            (None, None) => Value::Nil,
        }
    }

    /// Sets who makes the request: what `kong.client.authenticate` does.
    pub fn authenticate(&mut self, consumer: Option<Arc<Consumer>>, credential: Option<Value>) {
        self.consumer = consumer;
        self.consumer_given = None;
        self.credential = credential;
    }
}

/// What plugins asked of the proxy beyond the request and the answer themselves; nothing at first.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// `kong.service.request.enable_buffering`, or a plugin with a `response` handler: the upstream's answer is held
    /// whole before it goes on. The proxy sets it too, when it turns buffering on.
    pub buffer_response: bool,
    /// `kong.client.tls.set_client_verify`: stands for `$ssl_client_verify` in the log entry.
    pub client_verify: Option<String>,
    /// `kong.service.set_tls_verify_depth`; until that the service's `tls_verify_depth`.
    pub upstream_tls_verify_depth: Option<u32>,
    /// `kong.client.tls.request_client_certificate`, in the `certificate` phase.
    pub request_client_certificate: bool,
    /// `kong.client.tls.disable_session_reuse`, in the `certificate` phase.
    pub disable_session_reuse: bool,
    /// `kong.response.clear_header("Date")`: the gateway adds none of its own either.
    pub omit_date: bool,
    /// The method of the request line, once `kong.service.request.set_method` changed it.
    pub original_method: Option<Method>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerializeMode {
    Set,
    Add,
    Replace,
}

/// When what happened, seconds since 1970; `None` where it did not (yet).
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    pub balancer_start: Option<f64>,
    /// First byte of the upstream's answer.
    pub upstream_header: Option<f64>,
    /// Last byte of the upstream's answer.
    pub upstream_end: Option<f64>,
    pub response_end: Option<f64>,
}

/// What only streams have; nothing of it in HTTP.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub transport: Transport,
    /// What the ClientHello says, where TLS is passed through and not ended here.
    pub hello: Option<Hello>,
    /// Bytes that came from the upstream, and that went to it.
    pub upstream_received: u64,
    pub upstream_sent: u64,
}

/// `$protocol` of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

/// A ClientHello that was looked at: `$ssl_preread_*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub server_name: Option<String>,
    /// The highest version that the client speaks, `TLSv1.3` for instance.
    pub protocol: Option<&'static str>,
    /// What the client offers to speak (ALPN).
    pub alpn: Vec<String>,
}

/// The connection to the client.
#[derive(Clone, Debug)]
pub struct Client {
    /// The peer's address; `None` for a Unix socket.
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// After `trusted_ips` and `real_ip_header`: `$remote_addr`, `$remote_port`.
    pub real_ip: Option<IpAddr>,
    pub real_port: Option<u16>,
    /// The listener's address: `$server_addr`, `$server_port`.
    pub local_ip: Option<IpAddr>,
    pub local_port: u16,
    /// What the PROXY protocol said, on a listener that speaks it.
    pub proxied: Option<Proxied>,
    pub tls: Option<Arc<TlsInfo>>,
    /// `$connection`, `$connection_requests`.
    pub connection: u64,
    pub connection_requests: u64,
}

/// The connection that a proxy in front says it forwards: `$proxy_protocol_addr` and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// A finished TLS handshake with the client.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// `TLSv1.3` for instance.
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: String,
    /// OpenSSL's name of the group that the keys were agreed on with.
    pub curve: Option<&'static str>,
    /// The protocol that was agreed on (ALPN).
    pub alpn: Option<String>,
    pub sni: Option<String>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
    /// `SUCCESS`, `NONE` or `FAILED:reason`.
    pub client_verify: String,
    /// The client's certificate and what came with it, PEM.
    pub client_chain: Option<String>,
    /// What the client's certificate says.
    pub client_certificate: Option<ClientCertificate>,
}

/// What a client's certificate says, as nginx's variables show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate alone, PEM: `$ssl_client_raw_cert`.
    pub pem: String,
    /// RFC 2253: `$ssl_client_s_dn`.
    pub subject: String,
    pub subject_legacy: String,
    /// RFC 2253: `$ssl_client_i_dn`.
    pub issuer: String,
    pub issuer_legacy: String,
    /// Hexadecimal, upper case.
    pub serial: String,
    /// SHA-1, hexadecimal, lower case.
    pub fingerprint: String,
    /// OpenSSL's form: `Jan  1 00:00:00 2030 GMT`.
    pub valid_from: String,
    pub valid_to: String,
    /// The end of its validity, seconds since 1970.
    pub expires: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http10,
    Http11,
    Http2,
}

/// The request as plugins see and change it. `kong.service.request` setters change it too, as in Kong.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub version: HttpVersion,
    /// `$request`, where it is not method, target and version: the target has a host, or the line makes no sense.
    pub line: Option<Bytes>,
    /// Path and query as the client sent them: `$request_uri`.
    pub raw_uri: String,
    /// `$uri`: decoded and normalised path.
    pub path: String,
    /// `$args`: the query as it now is; `None` when there is no `?`.
    pub query: Option<String>,
    /// `$host`: lower case, without port, from the request line or the Host header.
    pub host: String,
    /// As they now are; Host included.
    pub headers: HeaderMap,
    pub body: RequestBody,
    /// `$request_length`.
    pub length: u64,
}

#[derive(Clone, Debug)]
pub enum RequestBody {
    None,
    /// Not read yet: the proxy still holds the stream.
    Unread,
    Memory(Bytes),
    /// Spooled; the length in bytes.
    File(PathBuf, u64),
    /// Could not be read: why.
    Failed(String),
}

/// The router's match.
#[derive(Clone, Debug)]
pub struct Matched {
    pub route: Arc<Route>,
    pub service: Option<Arc<Service>>,
    /// The two as plugins see them.
    pub shown: Arc<Shown>,
    /// The part of the path that the route matched; `X-Forwarded-Prefix` when the path is stripped.
    pub prefix: Option<String>,
    /// Unnamed captures; index 0 is the whole match. Empty when the path was no regular expression.
    pub captures: Vec<String>,
    pub named_captures: Vec<(String, String)>,
}

/// A route and its service as plugins see them: made when the first plugin asks, and kept for the others.
#[derive(Debug, Default)]
pub struct Shown {
    route: OnceLock<Value>,
    service: OnceLock<Value>,
}

impl Matched {
    /// The route as plugins see it.
    pub(crate) fn route_value(&self) -> Value {
        self.shown.route.get_or_init(|| entities::route(&self.route)).clone()
    }

    /// The service as plugins see it.
    pub(crate) fn service_value(&self) -> Option<Value> {
        let service = self.service.as_ref()?;
        Some(self.shown.service.get_or_init(|| entities::service(service)).clone())
    }
}

/// Where the request goes.
#[derive(Clone, Debug, Default)]
pub struct UpstreamChoice {
    /// `http` or `https`.
    pub scheme: Cow<'static, str>,
    /// Path that goes upstream: `$upstream_uri`.
    pub path: String,
    /// Host name, address, or name of an upstream entity; with port for those that are none.
    pub host: String,
    pub port: u16,
    /// The Host header that goes upstream: `$upstream_host`. Empty: the target's.
    pub host_header: String,
    pub retries: u32,
    /// Milliseconds.
    pub connect_timeout: u32,
    pub write_timeout: u32,
    pub read_timeout: u32,
    pub tls_verify: Option<bool>,
    /// The headers that tell of the way here, as they are since the request was routed.
    pub hop_headers: Option<Arc<dyn HopHeaders>>,
    /// The address that was used in the end, and how many tries it took.
    pub tries: Vec<Try>,
}

/// The headers that tell of the way here, as the request goes upstream with them.
pub trait HopHeaders: fmt::Debug + Send + Sync {
    /// The value of nginx's variable, whose name is given without its `upstream_`: `x_forwarded_for`, `via`. Empty where
    /// there is none.
    fn variable(&self, name: &str) -> &str;
}

/// One attempt at a target.
#[derive(Clone, Debug)]
pub struct Try {
    pub ip: IpAddr,
    pub port: u16,
    /// Seconds since 1970.
    pub started: f64,
    pub connect_ms: Option<f64>,
    /// What nginx counts it as where it came to nothing: 504 for one that took too long, else 502. `None` for the one that
    /// answered.
    pub failure: Option<u16>,
}

#[derive(Clone, Debug)]
pub struct ServiceResponse {
    pub status: u16,
    pub headers: HeaderMap,
    /// Whole, if the response is buffered.
    pub body: Option<Bytes>,
}

/// Where the answer came from, as `kong.response.get_source` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Service,
    Exit,
    Error,
}

/// The answer to the client.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Set once known: by the upstream, by a plugin, by an error.
    pub status: Option<u16>,
    pub headers: HeaderMap,
    /// The body to send instead of the upstream's (buffered phase).
    pub body: Option<Bytes>,
    pub source: Option<Source>,
    /// The head has gone to the client.
    pub sent: bool,
    /// Body bytes that went to the client.
    pub body_bytes: u64,
    /// All bytes that went to the client, the head included: `$bytes_sent`.
    pub bytes_sent: u64,
}

/// An answer that a plugin gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub status: u16,
    pub body: ExitBody,
    /// In order; they replace what is there.
    pub headers: HeaderMap,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExitBody {
    /// No body was given: with 404, 500 and other error statuses the proxy sends its own page.
    None,
    Bytes(Bytes),
    /// The gateway's error page in the format that the client asked for: the message.
    Page(String),
}

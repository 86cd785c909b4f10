//! The sockets of the APIs: bound before privileges are dropped, served on the control thread.

use std::{
    convert::Infallible,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::FileTypeExt as _, net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Request, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::Zoned;
use silverback_config::{
    Settings,
    settings::{Listen, ListenAddress, LogTarget},
};
use silverback_log::{Level, Sink, Target};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    pin,
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{Api, Node, TlsError, api, tls};

/// Connections to one listener at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a head may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection older than this is asked to end, and ended when it does not.
const MAX_AGE: Duration = Duration::from_secs(600);
const LAST_ANSWER: Duration = Duration::from_secs(30);
const DEFAULT_BACKLOG: i32 = 511;

/// An address that cannot be served.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("{property}: cannot listen on {address}: {source}")]
    Bind { property: &'static str, address: String, source: io::Error },
    #[error("{property}: {address} cannot have `{flag}`, which the Admin and Status APIs do not serve")]
    Flag { property: &'static str, address: String, flag: &'static str },
    #[error("{property}: {source}")]
    Tls { property: &'static str, source: TlsError },
}

/// A bound address of an API.
#[derive(Debug)]
pub struct Listener {
    api: Api,
    socket: Bound,
    tls: Option<Arc<rustls::ServerConfig>>,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Binds every address of `admin_listen` and `status_listen`. Reads the certificates of those with `ssl`, so the
/// prefix is prepared by then.
///
/// # Errors
/// The first address that cannot be served.
pub fn bind(settings: &Settings) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for (api, addresses) in [(Api::Admin, &settings.admin_listen), (Api::Status, &settings.status_listen)] {
        for listen in addresses {
            listeners.push(bind_one(api, listen, settings)?);
        }
    }
    Ok(listeners)
}

fn bind_one(api: Api, listen: &Listen, settings: &Settings) -> Result<Listener, BindError> {
    let property = api.property();
    let address = match &listen.address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    for (set, flag) in [(listen.proxy_protocol, "proxy_protocol"), (listen.udp, "udp")] {
        if set {
            return Err(BindError::Flag { property, address, flag });
        }
    }
    let tls = if listen.ssl {
        let config =
            tls::server_config(api, settings, listen.http2).map_err(|source| BindError::Tls { property, source })?;
        Some(config)
    } else {
        None
    };
    let socket = match &listen.address {
        ListenAddress::Tcp(tcp) => bind_tcp(*tcp, listen).map(Bound::Tcp),
        ListenAddress::Unix(path) => bind_unix(path).map(|socket| Bound::Unix(socket, path.clone())),
    };
    let socket = socket.map_err(|source| BindError::Bind { property, address, source })?;
    Ok(Listener { api, socket, tls })
}

fn bind_tcp(address: SocketAddr, listen: &Listen) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(listen.ipv6only.unwrap_or(true))?;
    }
    socket.bind(&address.into())?;
    let backlog = listen.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(DEFAULT_BACKLOG);
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Takes the place of a socket that an earlier process left behind; any other file stays and is an error.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the listeners on the current runtime until the returned tasks are aborted.
///
/// # Errors
/// An access log cannot be opened, or the runtime does not take a socket.
pub fn spawn(listeners: Vec<Listener>, node: &Arc<Node>) -> io::Result<Vec<JoinHandle<()>>> {
    let settings = Arc::clone(&node.loaded().settings);
    let mut tasks = Vec::new();
    for listener in listeners {
        let log = match listener.api {
            Api::Admin => &settings.logs.admin_access.target,
            Api::Status => &settings.logs.status_access.target,
        };
        let server = Arc::new(Server {
            api: listener.api,
            node: Arc::clone(node),
            tls: listener.tls.map(TlsAcceptor::from),
            access_log: silverback_log::sink(&target(log))?,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        tasks.push(match listener.socket {
            Bound::Tcp(socket) => tokio::spawn(accept_tcp(server, tokio::net::TcpListener::from_std(socket)?)),
            Bound::Unix(socket, path) => {
                tokio::spawn(accept_unix(server, tokio::net::UnixListener::from_std(socket)?, SocketFile(path)))
            }
        });
    }
    Ok(tasks)
}

fn target(log: &LogTarget) -> Target {
    match log {
        LogTarget::Off => Target::Off,
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Stdout => Target::Stdout,
        LogTarget::Stderr => Target::Stderr,
    }
}

/// What the connections of one listener share.
struct Server {
    api: Api,
    node: Arc<Node>,
    tls: Option<TlsAcceptor>,
    access_log: Option<Sink>,
    connections: Arc<Semaphore>,
}

/// Removes a Unix socket from the file system when its listener ends.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn accept_tcp(server: Arc<Server>, listener: tokio::net::TcpListener) {
    loop {
        let Ok(permit) = Arc::clone(&server.connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let server = Arc::clone(&server);
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    server.serve(stream, peer.ip().to_string()).await;
                    drop(permit);
                });
            }
            Err(error) => accept_failed(server.api, &error).await,
        }
    }
}

async fn accept_unix(server: Arc<Server>, listener: tokio::net::UnixListener, _file: SocketFile) {
    loop {
        let Ok(permit) = Arc::clone(&server.connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    server.serve(stream, "unix:".to_owned()).await;
                    drop(permit);
                });
            }
            Err(error) => accept_failed(server.api, &error).await,
        }
    }
}

/// Most often there are no descriptors left: waits a little instead of trying without pause.
async fn accept_failed(api: Api, error: &io::Error) {
    silverback_log::write(Level::Crit, format_args!("{}: accept failed: {error}", api.property()), None);
    sleep(Duration::from_millis(500)).await;
}

impl Server {
    async fn serve(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: String) {
        match &self.tls {
            None => self.serve_http(stream, client).await,
            Some(acceptor) => match timeout(TLS_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.serve_http(stream, client).await,
                Ok(Err(error)) => silverback_log::write(
                    Level::Info,
                    format_args!("{}: TLS handshake with {client} failed: {error}", self.api.property()),
                    None,
                ),
                Err(_) => {}
            },
        }
    }

    async fn serve_http(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: String,
    ) {
        let client = Arc::<str>::from(client);
        let service = service_fn(|request: Request<Incoming>| {
            let server = Arc::clone(self);
            let client = Arc::clone(&client);
            async move {
                let line = RequestLine::of(&request);
                let response = api::answer(server.api, &server.node, request).await;
                if let Some(log) = &server.access_log {
                    let length = hyper::body::Body::size_hint(response.body()).exact().unwrap_or(0);
                    log.line(line.combined(&client, response.status().as_u16(), length));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).title_case_headers(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(32)
            .keep_alive_interval(Some(HEAD_TIMEOUT))
            .keep_alive_timeout(TLS_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(MAX_AGE) => connection.as_mut().graceful_shutdown(),
        }
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}

/// What the access log tells of a request.
struct RequestLine {
    request: String,
    referer: String,
    agent: String,
}

impl RequestLine {
    fn of<B>(request: &Request<B>) -> Self {
        let target = request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string);
        Self {
            request: format!("{} {target} {:?}", request.method(), request.version()),
            referer: text(request.headers(), &header::REFERER),
            agent: text(request.headers(), &header::USER_AGENT),
        }
    }

    /// A line in nginx's `combined` format.
    fn combined(&self, client: &str, status: u16, length: u64) -> String {
        let time = Zoned::now().strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
        format!(
            "{client} - - [{time}] \"{}\" {status} {length} \"{}\" \"{}\"",
            escaped(&self.request),
            escaped(&self.referer),
            escaped(&self.agent)
        )
    }
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> String {
    headers.get(name).map_or_else(|| "-".to_owned(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// nginx's default escaping: quotes, backslashes and control bytes as `\xXX`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if c.is_control() => {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| out.push_str(&format!("\\x{b:02X}")));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_combined_and_cannot_be_forged() {
        let request = Request::builder()
            .uri("http://h/status?a=1")
            .header("user-agent", "curl \"8\"\\")
            .body(())
            .expect("a request");
        let line = RequestLine::of(&request).combined("127.0.0.1", 200, 12);
        let (front, rest) = line.split_once(" [").expect("a date");
        let (_, rest) = rest.split_once("] ").expect("a date");
        assert_eq!(front, "127.0.0.1 - -");
        assert_eq!(rest, r#""GET /status?a=1 HTTP/1.1" 200 12 "-" "curl \x228\x22\x5C""#);
    }
}

//! The sockets that clients connect to. Every worker has its own for each address (`SO_REUSEPORT`), so that the
//! kernel spreads connections and nothing is shared. They live as long as the process: a reload never closes one.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use silverback_config::{
    Settings,
    settings::{Listen, ListenAddress},
};
use silverback_pdk::exchange::Subsystem;
use socket2::{Domain, Protocol, Socket, Type};

/// As nginx on Linux.
const BACKLOG: i32 = 511;

/// A bound socket and what is spoken on it.
pub(crate) struct Listener {
    pub(crate) socket: Bound,
    pub(crate) ssl: bool,
    pub(crate) http2: bool,
    pub(crate) proxy_protocol: bool,
    pub(crate) subsystem: Subsystem,
}

pub(crate) enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
    Unix(std::os::unix::net::UnixListener),
}

/// Listening is not possible.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("bind() to {address} failed ({source})")]
    Bind { address: String, source: io::Error },
}

/// Binds each address once for each worker.
pub(crate) fn bind_all(settings: &Settings) -> Result<Vec<Vec<Listener>>, BindError> {
    let workers = settings.workers.max(1);
    let mut by_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let http = settings.proxy_listen.iter().map(|listen| (listen, Subsystem::Http));
    let streams = settings.stream_listen.iter().map(|listen| (listen, Subsystem::Stream));
    for (listen, subsystem) in http.chain(streams) {
        for (index, listeners) in by_worker.iter_mut().enumerate() {
            let socket = match &listen.address {
                ListenAddress::Tcp(address) => {
                    let bound = if listen.udp {
                        bind_udp(listen, *address).map(Bound::Udp)
                    } else {
                        bind_tcp(listen, *address).map(Bound::Tcp)
                    };
                    bound.map_err(|source| BindError::Bind { address: address.to_string(), source })?
                }
                // A Unix socket has one path: the first worker serves it.
                ListenAddress::Unix(path) if index == 0 => Bound::Unix(
                    bind_unix(path)
                        .map_err(|source| BindError::Bind { address: format!("unix:{}", path.display()), source })?,
                ),
                ListenAddress::Unix(_) => continue,
            };
            listeners.push(Listener {
                socket,
                ssl: listen.ssl,
                http2: listen.http2,
                proxy_protocol: listen.proxy_protocol,
                subsystem,
            });
        }
    }
    Ok(by_worker)
}

fn bind_tcp(listen: &Listen, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bind(listen, address, Type::STREAM, Protocol::TCP)?;
    socket.listen(listen.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(BACKLOG))?;
    Ok(socket.into())
}

/// The kernel leads all datagrams of a client to the same worker.
fn bind_udp(listen: &Listen, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    Ok(bind(listen, address, Type::DGRAM, Protocol::UDP)?.into())
}

fn bind(listen: &Listen, address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(listen.ipv6only.unwrap_or(true))?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_unix(path: &PathBuf) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket that nobody listens on is left over from an earlier run.
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

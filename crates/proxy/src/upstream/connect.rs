//! New connections to upstreams.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    http2,
    pool::{AbortOnDrop, Connection, Key},
    tls::{ClientTls, TlsError},
};
use crate::{body::UpstreamRequestBody, header_case::HeaderCase};

/// Header lines in an answer: far more than nginx's proxy_buffer_size lets through in practice.
const MAX_HEADERS: usize = 512;

/// nginx takes a head of proxy_buffer_size, and bodies in pieces; hyper reads both into one buffer.
const MIN_BUFFER: usize = 64 * 1024;

/// Why there is no connection, in nginx's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect() failed ({0})")]
    Refused(#[source] io::Error),
    #[error("upstream timed out (110: Connection timed out)")]
    Timeout,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Opens a connection for HTTP/1.1 within the service's connect timeout, the TLS handshake included.
pub(crate) async fn http1(
    key: &Key,
    tls: &ClientTls,
    timeout: Duration,
    max_head: usize,
) -> Result<Connection, ConnectError> {
    let opening = async {
        let socket = tcp(key).await?;
        match &key.tls {
            None => http1_handshake(socket, max_head).await,
            Some(with) => http1_handshake(tls.connect(&with.choice, &with.server_name, socket).await?, max_head).await,
        }
    };
    tokio::time::timeout(timeout, opening).await.map_err(|_| ConnectError::Timeout)?
}

/// Opens a connection for HTTP/2, by prior knowledge or by ALPN.
pub(crate) async fn http2(
    key: &Key,
    tls: &ClientTls,
    timeout: Duration,
    max_head: usize,
) -> Result<http2::Connection, ConnectError> {
    let max_head = max_head.max(MIN_BUFFER);
    let opening = async {
        let socket = tcp(key).await?;
        Ok(match &key.tls {
            None => http2::Connection::open(socket, max_head).await?,
            Some(with) => {
                let stream = tls.connect(&with.choice, &with.server_name, socket).await?;
                http2::Connection::open(stream, max_head).await?
            }
        })
    };
    tokio::time::timeout(timeout, opening).await.map_err(|_| ConnectError::Timeout)?
}

async fn tcp(key: &Key) -> Result<TcpStream, ConnectError> {
    let socket = TcpStream::connect(key.address).await.map_err(ConnectError::Refused)?;
    // Nagle's algorithm would hold small requests back.
    socket.set_nodelay(true).map_err(ConnectError::Refused)?;
    Ok(socket)
}

/// Speaks HTTP/1.1 over a socket.
pub(super) async fn http1_handshake<S>(socket: S, max_head: usize) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (socket, wire) = HeaderCase::requests(socket);
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(max_head.max(MIN_BUFFER))
        .handshake::<_, UpstreamRequestBody>(TokioIo::new(socket))
        .await?;
    // Ends with the connection; what goes wrong on it is told to the request that is on it.
    let task = tokio::task::spawn_local(connection.with_upgrades());
    Ok(Connection { sender, wire, served: 0, _task: AbortOnDrop(task.abort_handle()) })
}

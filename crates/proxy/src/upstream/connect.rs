//! New connections to upstreams.

use std::{io, time::Duration};

use tokio::net::TcpStream;

use super::{
    http1::{self, Socket},
    http2,
    pool::Key,
    tls::{ClientTls, TlsError},
};

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
pub(crate) async fn http1(key: &Key, tls: &ClientTls, timeout: Duration) -> Result<http1::Connection, ConnectError> {
    let opening = async {
        let socket = tcp(key).await?;
        Ok(http1::Connection::new(match &key.tls {
            None => Socket::Tcp(socket),
            Some(with) => Socket::Tls(Box::new(tls.connect(&with.choice, &with.server_name, socket).await?)),
        }))
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

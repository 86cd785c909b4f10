//! New connections to upstreams.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    health::probe::ProbeTls,
    pool::{AbortOnDrop, Connection, Key},
};
use crate::{body::UpstreamRequestBody, header_case::HeaderCase};

/// Header lines in an answer: far more than nginx's proxy_buffer_size lets through in practice.
const MAX_HEADERS: usize = 512;

/// How TLS is spoken with upstreams, with their certificates checked and without.
#[derive(Clone)]
pub(crate) struct ClientTls {
    checked: TlsConnector,
    unchecked: TlsConnector,
    /// The same for streams: nothing is known of what is spoken inside.
    stream_checked: TlsConnector,
    stream_unchecked: TlsConnector,
}

impl ClientTls {
    /// `roots` are what checked certificates must chain to.
    pub(crate) fn new(roots: RootCertStore) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let mut checked = builder()?.with_root_certificates(roots).with_no_client_auth();
        let mut unchecked = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
            .with_no_client_auth();
        let (stream_checked, stream_unchecked) = (checked.clone(), unchecked.clone());
        for config in [&mut checked, &mut unchecked] {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let connector = |config| TlsConnector::from(Arc::new(config));
        Ok(Self {
            checked: connector(checked),
            unchecked: connector(unchecked),
            stream_checked: connector(stream_checked),
            stream_unchecked: connector(stream_unchecked),
        })
    }

    /// For the probes of health checks.
    pub(crate) fn for_probes(&self) -> ProbeTls {
        ProbeTls { checked: self.checked.clone(), unchecked: self.unchecked.clone() }
    }
}

/// Kong does not check upstream certificates unless told to (`tls_verify`).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect() failed ({0})")]
    Refused(#[source] io::Error),
    #[error("timed out while connecting")]
    Timeout,
    #[error("TLS handshake failed ({0})")]
    Tls(#[source] io::Error),
    #[error("{0:?} is no name that TLS can ask for")]
    ServerName(String),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Opens a connection within the service's connect timeout, the TLS handshake included.
pub(crate) async fn connect(
    key: &Key,
    tls: &ClientTls,
    timeout: Duration,
    max_head: usize,
) -> Result<Connection, ConnectError> {
    tokio::time::timeout(timeout, open(key, tls, max_head)).await.map_err(|_| ConnectError::Timeout)?
}

async fn open(key: &Key, tls: &ClientTls, max_head: usize) -> Result<Connection, ConnectError> {
    let socket = TcpStream::connect(key.address).await.map_err(ConnectError::Refused)?;
    // Nagle's algorithm would hold small requests back.
    socket.set_nodelay(true).map_err(ConnectError::Refused)?;
    match &key.tls {
        None => handshake(socket, max_head).await,
        Some(tls_key) => {
            let name = ServerName::try_from(tls_key.server_name.clone())
                .map_err(|_| ConnectError::ServerName(tls_key.server_name.clone()))?;
            let connector = if tls_key.verify { &tls.checked } else { &tls.unchecked };
            let stream = connector.connect(name, socket).await.map_err(ConnectError::Tls)?;
            handshake(stream, max_head).await
        }
    }
}

/// Speaks TLS on a stream's connection to its upstream.
pub(crate) async fn secure(
    tls: &ClientTls,
    socket: TcpStream,
    name: String,
    verify: bool,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName(name))?;
    let connector = if verify { &tls.stream_checked } else { &tls.stream_unchecked };
    connector.connect(name, socket).await.map_err(ConnectError::Tls)
}

async fn handshake<S>(socket: S, max_head: usize) -> Result<Connection, ConnectError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (socket, next_is_head) = HeaderCase::requests(socket);
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_headers(MAX_HEADERS)
        // nginx takes a head of proxy_buffer_size, and bodies in pieces; hyper reads both into one buffer.
        .max_buf_size(max_head.max(64 * 1024))
        .handshake::<_, UpstreamRequestBody>(TokioIo::new(socket))
        .await?;
    // Ends with the connection; what goes wrong on it is told to the request that is on it.
    let task = tokio::task::spawn_local(connection.with_upgrades());
    Ok(Connection { sender, next_is_head, served: 0, _task: AbortOnDrop(task.abort_handle()) })
}

//! A TLS client that says exactly what it can and will do.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, SupportedCipherSuite,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Connection, Http2, pki::Identity, within};

/// A client. Its sessions are kept: what one connection learns, the next may take up again.
#[derive(Clone)]
pub struct TlsClient {
    address: SocketAddr,
    preamble: Vec<u8>,
    tls12: bool,
    suites: Vec<SupportedCipherSuite>,
    schemes: Vec<SignatureScheme>,
    protocols: Vec<&'static str>,
    certificate: Option<Identity>,
    made: Option<Arc<ClientConfig>>,
}

/// What was agreed on in a handshake.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub resumed: bool,
    /// The certificate that the server showed, as DER.
    pub certificate: Vec<u8>,
    /// rustls's name of the cipher suite.
    pub cipher: String,
    pub protocol: Option<String>,
}

impl TlsClient {
    /// Offers what rustls has, and HTTP/1.1.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            preamble: Vec::new(),
            tls12: false,
            suites: ring::ALL_CIPHER_SUITES.to_vec(),
            schemes: ring::default_provider().signature_verification_algorithms.supported_schemes(),
            protocols: vec!["http/1.1"],
            certificate: None,
            made: None,
        }
    }

    /// Sends these bytes before the handshake.
    pub fn preamble(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.preamble = bytes.as_ref().to_vec();
        self
    }

    /// Speaks TLS 1.2 only.
    pub fn tls12(mut self) -> Self {
        self.tls12 = true;
        self
    }

    /// Offers these cipher suites only, in this order (rustls's names).
    pub fn suites(mut self, names: &[&str]) -> Self {
        let find = |name: &&str| {
            let named = |suite: &&SupportedCipherSuite| format!("{:?}", suite.suite()) == **name;
            *ring::ALL_CIPHER_SUITES.iter().find(named).unwrap()
        };
        self.suites = names.iter().map(find).collect();
        self
    }

    /// Can verify these signatures only, the preferred one first.
    pub fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = schemes.to_vec();
        self
    }

    /// Offers these protocols by ALPN.
    pub fn protocols(mut self, names: &[&'static str]) -> Self {
        self.protocols = names.to_vec();
        self
    }

    /// Shows this certificate when it is asked for one.
    pub fn certificate(mut self, identity: &Identity) -> Self {
        self.certificate = Some(identity.clone());
        self
    }

    /// Fixes what it can, so that the connections that follow share their sessions.
    pub fn with_sessions(mut self) -> Self {
        self.made = Some(self.config());
        self
    }

    /// A handshake; an error is the gateway's refusal.
    ///
    /// # Errors
    /// The gateway refuses.
    pub async fn connect(&self, server_name: &str) -> io::Result<(Connection, Agreed)> {
        self.connect_over(self.open().await, server_name).await
    }

    /// As [`Self::connect`], over a connection that is there.
    ///
    /// # Errors
    /// The gateway refuses.
    pub async fn connect_over(&self, socket: TcpStream, server_name: &str) -> io::Result<(Connection, Agreed)> {
        let stream = self.stream(socket, server_name).await?;
        let agreed = agreed(&stream);
        Ok((Connection::over(stream), agreed))
    }

    /// HTTP/2 on a new connection.
    pub async fn http2(&self, server_name: &str) -> Http2 {
        let client = Self { protocols: vec!["h2"], made: None, ..self.clone() };
        Http2::handshake(Box::new(client.stream(client.open().await, server_name).await.unwrap())).await
    }

    async fn open(&self) -> TcpStream {
        let stream = within("a connection", TcpStream::connect(self.address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    async fn stream(&self, mut stream: TcpStream, server_name: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = self.made.clone().unwrap_or_else(|| self.config());
        stream.write_all(&self.preamble).await?;
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        within("a handshake", TlsConnector::from(config).connect(name, stream)).await
    }

    fn config(&self) -> Arc<ClientConfig> {
        let provider = CryptoProvider { cipher_suites: self.suites.clone(), ..ring::default_provider() };
        let versions: &[_] = if self.tls12 { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { schemes: self.schemes.clone() }));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private_key()).unwrap(),
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn agreed(stream: &TlsStream<TcpStream>) -> Agreed {
    let (_, session) = stream.get_ref();
    Agreed {
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        certificate: session.peer_certificates().and_then(<[_]>::first).map(|first| first.to_vec()).unwrap_or_default(),
        cipher: session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
        protocol: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
    }
}

/// The gateway's own certificates are self-signed.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

//! TLS towards upstreams: whose certificates are trusted, which certificate the gateway shows, and the handshake.
//!
//! What a service, an upstream entity, a plugin and the settings say of it comes together in a [`TlsChoice`]. It is a
//! part of what tells pooled connections apart, by content: after a reload, connections are shared on as long as
//! nothing has changed. The configurations that rustls works with are made once for each choice of a generation, so
//! that sessions can be resumed.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use silverback_config::{
    Settings,
    settings::{UpstreamTls, UpstreamVerification},
};
use silverback_model::{Id, Service, Snapshot};
use silverback_pdk::Exchange;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::verify::{AnyCertificate, ChainVerifier, TrustStore, VerifyError};
use crate::tls::{self, CertificateError};

/// No chain is longer, and no plugin can make the gateway keep a configuration for each number that there is.
const MAX_DEPTH: u32 = 100;

/// How TLS is spoken with the upstreams of a generation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClientTls(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    /// What services say, those that say something.
    services: HashMap<Id, Own>,
    /// `client_certificate` of upstream entities, by name.
    upstreams: HashMap<String, Arc<ClientCertificate>>,
    /// `client_ssl`.
    certificate: Option<Arc<ClientCertificate>>,
    http: Defaults,
    grpc: Defaults,
    made: Mutex<HashMap<TlsChoice, Arc<ClientConfig>>>,
}

/// A service's own.
struct Own {
    certificate: Option<Arc<ClientCertificate>>,
    trusted: Option<Arc<TrustStore>>,
}

struct Defaults {
    verify: bool,
    depth: u32,
    trusted: Arc<TrustStore>,
}

/// A certificate that the gateway shows to upstreams.
pub(crate) struct ClientCertificate {
    key: Arc<CertifiedKey>,
    digest: [u8; 32],
}

/// How TLS is spoken on one connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TlsChoice {
    verify: Option<Verify>,
    certificate: Option<Arc<ClientCertificate>>,
    /// HTTP/2 is asked for (ALPN).
    http2: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Verify {
    depth: u32,
    trusted: Arc<TrustStore>,
}

/// What is asked for beyond what the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) service: Option<Id>,
    /// The name of the upstream entity, or a host.
    pub(crate) upstream: &'a str,
    /// The service's or a plugin's.
    pub(crate) verify: Option<bool>,
    pub(crate) depth: Option<u32>,
    /// gRPC: HTTP/2.
    pub(crate) grpc: bool,
}

impl<'a> Asked<'a> {
    /// What a request's or stream's service and plugins say.
    pub(crate) fn of(exchange: &'a Exchange, grpc: bool) -> Self {
        let service = exchange.matched.as_ref().and_then(|matched| matched.service.as_ref());
        Self {
            service: service.map(|service| service.id),
            upstream: &exchange.upstream.host,
            verify: exchange.upstream.tls_verify,
            depth: exchange.wishes.upstream_tls_verify_depth,
            grpc,
        }
    }
}

/// Why there is no TLS on a connection, in nginx's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Verify(VerifyError),
    #[error("SSL_do_handshake() failed ({0})")]
    Handshake(#[source] io::Error),
    #[error("upstream SSL certificate cannot be verified: {0:?} is no name that a certificate could be for")]
    Name(String),
    #[error("the upstream does not speak HTTP/2")]
    NoHttp2,
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientCertificate {}

impl Hash for ClientCertificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl ClientTls {
    /// # Errors
    /// A certificate of the configuration, or of the settings, that cannot be used.
    pub(crate) fn build(snapshot: &Snapshot, settings: &Settings) -> Result<Self, CertificateError> {
        let UpstreamTls { client_certificate, http, grpc } = &settings.upstream_tls;
        let mut certificates = Certificates { snapshot, loaded: HashMap::new() };
        let mut services = HashMap::new();
        for service in &snapshot.services {
            if let Some(own) = own(service, &mut certificates)? {
                services.insert(service.id, own);
            }
        }
        let mut upstreams = HashMap::new();
        for upstream in &snapshot.upstreams {
            let id = upstream.settings.get("client_certificate").and_then(|reference| reference.get("id"));
            let id = id.and_then(|id| id.as_str()).and_then(|id| id.parse::<Id>().ok());
            if let Some(certificate) = id.map(|id| certificates.find(id)).transpose()?.flatten() {
                upstreams.insert(upstream.name.clone(), certificate);
            }
        }
        let certificate = match client_certificate {
            Some((cert, key)) => {
                let place = "client_ssl_cert";
                Some(ClientCertificate::load(place, &tls::pem(place, cert)?, &tls::pem(place, key)?)?)
            }
            None => None,
        };
        let http_defaults = defaults(http)?;
        let grpc = if grpc.trusted == http.trusted {
            Defaults { verify: grpc.verify, depth: grpc.depth, trusted: Arc::clone(&http_defaults.trusted) }
        } else {
            defaults(grpc)?
        };
        Ok(Self(Arc::new(Inner {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            services,
            upstreams,
            certificate,
            http: http_defaults,
            grpc,
            made: Mutex::default(),
        })))
    }

    /// How a request to this service and upstream speaks TLS.
    pub(crate) fn choose(&self, asked: &Asked<'_>) -> TlsChoice {
        let Inner { services, upstreams, certificate, http, grpc, .. } = &*self.0;
        let defaults = if asked.grpc { grpc } else { http };
        let own = asked.service.and_then(|service| services.get(&service));
        let certificate = own
            .and_then(|own| own.certificate.as_ref())
            .or_else(|| upstreams.get(asked.upstream))
            .or(certificate.as_ref());
        let verify = asked.verify.unwrap_or(defaults.verify).then(|| Verify {
            depth: asked.depth.unwrap_or(defaults.depth).min(MAX_DEPTH),
            trusted: Arc::clone(own.and_then(|own| own.trusted.as_ref()).unwrap_or(&defaults.trusted)),
        });
        TlsChoice { verify, certificate: certificate.cloned(), http2: asked.grpc }
    }

    fn config(&self, choice: &TlsChoice) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(choice) {
            return Ok(Arc::clone(config));
        }
        let provider = &self.0.provider;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .dangerous();
        let builder =
            match &choice.verify {
                Some(Verify { depth, trusted }) => builder.with_custom_certificate_verifier(Arc::new(
                    ChainVerifier::new(Arc::clone(trusted), *depth, Arc::clone(provider)),
                )),
                None => builder.with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider))),
            };
        let mut config = match &choice.certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key))))
            }
            None => builder.with_no_client_auth(),
        };
        if choice.http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let config = Arc::new(config);
        made.insert(choice.clone(), Arc::clone(&config));
        Ok(config)
    }

    /// Speaks TLS over a socket. `name` is the server name (host name or address, without a port); an address is
    /// verified, but not sent.
    ///
    /// # Errors
    /// A handshake that fails, and a certificate that is not the right one.
    pub(crate) async fn connect<S>(&self, choice: &TlsChoice, name: &str, socket: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server_name = match ServerName::try_from(name) {
            Ok(server_name) => server_name.to_owned(),
            // OpenSSL sends whatever it is given. Where nobody compares it, it need not be sent.
            Err(_) if choice.verify.is_none() => ServerName::from(IpAddr::from([0, 0, 0, 0])),
            Err(_) => return Err(TlsError::Name(name.to_owned())),
        };
        let config = self.config(choice)?;
        let stream = TlsConnector::from(config).connect(server_name, socket).await.map_err(handshake_error)?;
        if choice.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(TlsError::NoHttp2);
        }
        Ok(stream)
    }
}

/// What nginx would say of a handshake that failed.
fn handshake_error(error: io::Error) -> TlsError {
    let verify = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(|error| match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<VerifyError>()
            }
            _ => None,
        })
        .cloned();
    verify.map_or_else(|| TlsError::Handshake(error), TlsError::Verify)
}

fn own(service: &Service, certificates: &mut Certificates<'_>) -> Result<Option<Own>, CertificateError> {
    if service.client_certificate.is_none() && service.ca_certificates.is_none() {
        return Ok(None);
    }
    let certificate = match service.client_certificate {
        Some(id) => certificates.find(id)?,
        None => None,
    };
    let trusted = service.ca_certificates.as_ref().map(|ids| {
        let named = certificates.snapshot.ca_certificates.iter().filter(|authority| ids.contains(&authority.id));
        let ders = named.flat_map(|authority| CertificateDer::pem_slice_iter(authority.cert.as_bytes()).flatten());
        Arc::new(TrustStore::new(ders.collect()))
    });
    Ok(Some(Own { certificate, trusted }))
}

fn defaults(settings: &UpstreamVerification) -> Result<Defaults, CertificateError> {
    let mut ders = Vec::new();
    for store in &settings.trusted {
        let text = tls::pem("lua_ssl_trusted_certificate", store)?;
        ders.extend(CertificateDer::pem_slice_iter(&text).flatten());
    }
    Ok(Defaults { verify: settings.verify, depth: settings.depth, trusted: Arc::new(TrustStore::new(ders)) })
}

/// The certificates of a snapshot, each loaded once.
struct Certificates<'a> {
    snapshot: &'a Snapshot,
    loaded: HashMap<Id, Arc<ClientCertificate>>,
}

impl Certificates<'_> {
    fn find(&mut self, id: Id) -> Result<Option<Arc<ClientCertificate>>, CertificateError> {
        if let Some(loaded) = self.loaded.get(&id) {
            return Ok(Some(Arc::clone(loaded)));
        }
        let Some(certificate) = self.snapshot.certificates.iter().find(|certificate| certificate.id == id) else {
            return Ok(None);
        };
        let place = format!("certificate {id}");
        let loaded = ClientCertificate::load(&place, certificate.cert.as_bytes(), certificate.key.as_bytes())?;
        self.loaded.insert(id, Arc::clone(&loaded));
        Ok(Some(loaded))
    }
}

impl ClientCertificate {
    fn load(place: &str, cert: &[u8], key: &[u8]) -> Result<Arc<Self>, CertificateError> {
        let certified = tls::certified(place, cert, key)?;
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(cert);
        digest.update(key);
        let digest = digest.finish().as_ref().try_into().unwrap_or_default();
        Ok(Arc::new(Self { key: Arc::new(certified), digest }))
    }
}

/// The name that TLS asks for: the Host header without its port (`proxy_ssl_name`).
pub(crate) fn server_name(host: &str) -> String {
    let name = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
mod tests {
    use super::server_name;

    #[test]
    fn tls_asks_for_the_name_alone() {
        for (host, expect) in [("a.test:8443", "a.test"), ("a.test", "a.test"), ("[::1]:8443", "::1"), ("[::1]", "::1")]
        {
            assert_eq!(server_name(host), expect);
        }
    }
}

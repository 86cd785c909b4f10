//! What listeners do TLS handshakes with: versions, cipher suites, certificates, sessions.

use std::{collections::HashMap, sync::Arc};

use rustls::{ServerConfig, server::ResolvesServerCert};
use silverback_config::Settings;

use super::Certificates;

/// What is offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    /// A stream: what is spoken is not the gateway's business.
    Nothing,
    Http1,
    Http2,
}

impl Alpn {
    const ALL: [Self; 3] = [Self::Nothing, Self::Http1, Self::Http2];

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// What one handshake may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) alpn: Alpn,
    /// The client is asked for a certificate.
    pub(crate) client_certificate: bool,
    /// The session may be taken up again.
    pub(crate) resumable: bool,
}

/// A configuration for each [`Variant`]; made once for a generation.
pub(crate) struct ServerTls {
    plain: HashMap<Variant, Arc<ServerConfig>>,
    fallback: Arc<ServerConfig>,
}

impl ServerTls {
    pub(crate) fn build(certificates: &Arc<Certificates>, settings: &Settings) -> Result<Self, rustls::Error> {
        let mut plain = HashMap::new();
        for alpn in Alpn::ALL {
            for client_certificate in [false, true] {
                for resumable in [false, true] {
                    let variant = Variant { alpn, client_certificate, resumable };
                    plain.insert(variant, Arc::new(config(certificates, settings, variant)?));
                }
            }
        }
        let variant = Variant { alpn: Alpn::Nothing, client_certificate: true, resumable: false };
        Ok(Self { plain, fallback: Arc::new(config(certificates, settings, variant)?) })
    }

    pub(crate) fn config(&self, variant: Variant) -> &Arc<ServerConfig> {
        self.plain.get(&variant).unwrap_or(&self.fallback)
    }
}

fn config(
    certificates: &Arc<Certificates>,
    settings: &Settings,
    variant: Variant,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match (settings.tls.tls12, settings.tls.tls13) {
        (true, false) => &[&rustls::version::TLS12],
        (false, true) => &[&rustls::version::TLS13],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = variant.alpn.protocols();
    Ok(config)
}

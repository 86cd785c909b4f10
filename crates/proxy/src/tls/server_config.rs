//! What listeners do TLS handshakes with: versions, cipher suites, certificates, sessions.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ResolvesServerCert, danger::ClientCertVerifier},
};
use silverback_config::Settings;

use super::{
    CertificateError, Certificates,
    client_certificate::{Asking, Authorities},
    sessions::{self, Audience, Sessions, Terms},
};

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
    /// A plugin asks the client for a certificate.
    pub(crate) client_certificate: bool,
    /// The session may be taken up again.
    pub(crate) resumable: bool,
}

/// Why there can be no handshakes.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// A configuration for each [`Variant`]; made once for a generation.
pub(crate) struct ServerTls {
    configs: HashMap<Variant, Arc<ServerConfig>>,
    /// What clients' certificates are verified with; empty where nothing is configured.
    pub(crate) authorities: Authorities,
}

impl ServerTls {
    pub(crate) fn build(
        certificates: &Arc<Certificates>,
        settings: &Settings,
        sessions: &Sessions,
    ) -> Result<Self, ServerTlsError> {
        let (authorities, texts) = Authorities::load(settings.tls.client_verification.as_ref())?;
        let terms = Terms {
            sessions: settings.tls.sessions,
            client_verification: settings.tls.client_verification.clone(),
            authorities: texts,
        };
        let provider = Arc::new(provider(settings));
        let mut configs = HashMap::new();
        for alpn in Alpn::ALL {
            // What operators inject is for HTTP; a stream's clients are asked by plugins only.
            let always = alpn != Alpn::Nothing && settings.tls.client_verification.is_some();
            for client_certificate in [false, true] {
                let asked = client_certificate || always;
                for resumable in [false, true] {
                    let verifier = asked.then(|| Asking::verifier(&provider, &authorities));
                    let mut config = config(&provider, certificates, settings, verifier)?;
                    config.alpn_protocols = alpn.protocols();
                    if resumable {
                        let audience = Audience { stream: alpn == Alpn::Nothing, client_certificate: asked };
                        sessions.resume(&mut config, &terms, audience)?;
                    } else {
                        sessions::forbid(&mut config);
                    }
                    configs.insert(Variant { alpn, client_certificate, resumable }, Arc::new(config));
                }
            }
        }
        Ok(Self { configs, authorities })
    }

    #[expect(clippy::indexing_slicing, reason = "build() makes a configuration for every variant")]
    pub(crate) fn config(&self, variant: Variant) -> &Arc<ServerConfig> {
        &self.configs[&variant]
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    certificates: &Arc<Certificates>,
    settings: &Settings,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match (settings.tls.tls12, settings.tls.tls13) {
        (true, false) => &[&rustls::version::TLS12],
        (false, true) => &[&rustls::version::TLS13],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    config.ignore_client_order = settings.tls.prefer_server_ciphers;
    Ok(config)
}

/// The suites of TLS 1.3, then those chosen for TLS 1.2, in their order.
fn provider(settings: &Settings) -> CryptoProvider {
    let (mut suites, tls12): (Vec<_>, Vec<_>) =
        ring::ALL_CIPHER_SUITES.iter().copied().partition(|suite| suite.tls13().is_some());
    let named = |name: &str| tls12.iter().copied().find(|suite| openssl_name(suite.suite()) == name);
    suites.extend(settings.tls.ciphers.iter().filter_map(|name| named(name)));
    CryptoProvider { cipher_suites: suites, ..ring::default_provider() }
}

/// OpenSSL's name of a cipher suite, which `$ssl_cipher` shows.
pub(crate) fn openssl_name(suite: rustls::CipherSuite) -> String {
    let suite = format!("{suite:?}");
    match suite.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => suite
            .trim_start_matches("TLS_")
            .replace("_WITH_", "-")
            .replace("AES_", "AES")
            .replace("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305")
            .replace('_', "-"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::openssl_name;

    #[test]
    fn suites_have_openssls_names() {
        for (suite, openssl) in [
            (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
            (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
            (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(openssl_name(suite), openssl);
        }
    }
}

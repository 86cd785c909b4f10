//! The certificates of the APIs' `ssl` listeners.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring::{default_provider, sign::any_supported_type},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use silverback_config::{Settings, settings::Certificate};
use thiserror::Error;

use crate::Api;

/// A certificate that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{place} is not PEM: {source}")]
    Pem { place: String, source: pem::Error },
    #[error("{place} has no certificate")]
    NoCertificate { place: String },
    #[error("the key in {place} cannot be used: {source}")]
    Key { place: String, source: rustls::Error },
    #[error("{0}")]
    Config(#[from] rustls::Error),
}

/// The certificates of an API: `admin_ssl_cert` or `status_ssl_cert`, else those generated in the prefix.
pub(crate) fn server_config(api: Api, settings: &Settings, http2: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let mut keys = Vec::new();
    for (certificate, key) in certificates(api, settings) {
        keys.push(Arc::new(certified_key(&certificate, &key)?));
    }
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(FirstThatFits(keys)));
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Arc::new(config))
}

/// Certificates and their keys: paths, or PEM text.
fn certificates(api: Api, settings: &Settings) -> Vec<Certificate> {
    let (name, given) = match api {
        Api::Admin => ("admin", &settings.api_certificates.admin),
        Api::Status => ("status", &settings.api_certificates.status),
    };
    if !given.is_empty() {
        return given.clone();
    }
    let ssl = settings.prefix.join("ssl");
    ["-ecdsa", ""]
        .map(|kind| {
            let stem = format!("{name}-kong-default{kind}");
            let path = |ending: &str| ssl.join(format!("{stem}.{ending}")).display().to_string();
            (path("crt"), path("key"))
        })
        .to_vec()
}

fn certified_key(certificate: &str, key: &str) -> Result<CertifiedKey, TlsError> {
    let invalid = |material: &str| {
        let place = shown(material);
        move |source| TlsError::Pem { place, source }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem_text(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(invalid(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { place: shown(certificate) });
    }
    let private = PrivateKeyDer::from_pem_slice(&pem_text(key)?).map_err(invalid(key))?;
    let signer = any_supported_type(&private).map_err(|source| TlsError::Key { place: shown(key), source })?;
    Ok(CertifiedKey::new(chain, signer))
}

fn pem_text(material: &str) -> Result<Vec<u8>, TlsError> {
    if material.contains("-----BEGIN") {
        return Ok(material.as_bytes().to_vec());
    }
    fs::read(material).map_err(|source| TlsError::Unreadable { path: PathBuf::from(material), source })
}

/// What messages call a certificate or key; never its text.
fn shown(material: &str) -> String {
    if Path::new(material).exists() { material.to_owned() } else { "the given text".to_owned() }
}

/// Serves the first certificate whose key the client can verify.
#[derive(Debug)]
struct FirstThatFits(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for FirstThatFits {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = self.0.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        fitting.or(self.0.first()).cloned()
    }
}

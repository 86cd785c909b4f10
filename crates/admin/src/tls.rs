//! The certificates of the APIs' `ssl` listeners.

use std::{
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
use silverback_config::Settings;
use thiserror::Error;

use crate::Api;

/// A certificate that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} has no certificate")]
    NoCertificate { path: PathBuf },
    #[error("the key of {path} cannot be used: {source}")]
    Key { path: PathBuf, source: rustls::Error },
    #[error("{0}")]
    Config(#[from] rustls::Error),
    #[error("{certificates} certificates but {keys} keys are given; they belong together in pairs")]
    Unpaired { certificates: usize, keys: usize },
}

/// The certificates of an API: `admin_ssl_cert` or `status_ssl_cert`, else those generated in the prefix.
pub(crate) fn server_config(api: Api, settings: &Settings, http2: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let mut keys = Vec::new();
    for (certificate, key) in certificate_files(api, settings)? {
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

fn certificate_files(api: Api, settings: &Settings) -> Result<Vec<(PathBuf, PathBuf)>, TlsError> {
    let name = match api {
        Api::Admin => "admin",
        Api::Status => "status",
    };
    let files = |property: &str| -> Vec<PathBuf> {
        let property = format!("{name}_{property}");
        let value = settings.raw.iter().rev().find(|(name, _)| *name == property).map_or("", |(_, value)| value);
        value.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
    };
    let (certificates, keys) = (files("ssl_cert"), files("ssl_cert_key"));
    if certificates.len() != keys.len() {
        return Err(TlsError::Unpaired { certificates: certificates.len(), keys: keys.len() });
    }
    if !certificates.is_empty() {
        return Ok(certificates.into_iter().zip(keys).collect());
    }
    let ssl = settings.prefix.join("ssl");
    Ok(["-ecdsa", ""]
        .map(|kind| {
            let stem = format!("{name}-kong-default{kind}");
            (ssl.join(format!("{stem}.crt")), ssl.join(format!("{stem}.key")))
        })
        .to_vec())
}

fn certified_key(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Pem { path, source }
    };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(unreadable(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.to_path_buf() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    let signer = any_supported_type(&private).map_err(|source| TlsError::Key { path: key.to_path_buf(), source })?;
    Ok(CertifiedKey::new(chain, signer))
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

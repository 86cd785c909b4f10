//! Certificates of a test's own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// An authority that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate and those above it but for the root, PEM.
    chain: String,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM, with the authorities between it and the root.
    pub cert: String,
    /// PEM.
    pub key: String,
}

impl Authority {
    /// A root of this name.
    pub fn root(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(params(name, true), KeyPair::generate().unwrap()).unwrap();
        Self { issuer, chain: String::new() }
    }

    /// An authority that this one has signed.
    pub fn below(&self, name: &str) -> Self {
        let issuer =
            CertifiedIssuer::signed_by(params(name, true), KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Self { chain: issuer.pem() + &self.chain, issuer }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a host name or an address.
    pub fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, false).signed_by(&key, &self.issuer).unwrap();
        Identity { cert: certificate.pem() + &self.chain, key: key.serialize_pem() }
    }
}

impl Identity {
    /// A certificate for a host name or an address that is signed by itself.
    pub fn by_itself(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, false).self_signed(&key).unwrap();
        Self { cert: certificate.pem(), key: key.serialize_pem() }
    }

    /// What a server with this certificate does handshakes with.
    pub fn server(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        builder.with_no_client_auth().with_single_cert(self.chain(), self.private_key()).unwrap()
    }

    /// As [`Self::server`], for clients that show a certificate of this authority only.
    pub fn server_for_clients_of(&self, authority: &Authority) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        builder.with_client_cert_verifier(verifier).with_single_cert(self.chain(), self.private_key()).unwrap()
    }

    /// The certificate itself, DER.
    pub fn der(&self) -> Vec<u8> {
        self.chain().remove(0).to_vec()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes()).map(Result::unwrap).collect()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// The organisation has a comma: what shows a name as text must escape it.
fn params(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "Trials, Ltd.");
    params.distinguished_name.push(DnType::CommonName, name);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

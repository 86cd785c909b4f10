//! The certificates of upstreams: who is trusted, and for which names. What counts is what counts for nginx with
//! OpenSSL, and what is wrong is said in its words, since that is what operators search their logs for.

use std::{
    cell::Cell,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    certificate::{Validity, X509Certificate},
    extensions::GeneralName,
    prelude::{ASN1Time, FromDer},
    x509::X509Version,
};

/// Certificates that are trusted. Two of the same content are equal.
pub(crate) struct TrustStore {
    certificates: Vec<CertificateDer<'static>>,
    /// Those of them that may issue others.
    anchors: Vec<TrustAnchor<'static>>,
    /// When each anchor is in force.
    in_force: Vec<Validity>,
    digest: [u8; 32],
}

impl TrustStore {
    /// What is no certificate is left out.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for certificate in &certificates {
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let (anchors, in_force) = certificates.iter().filter_map(issuer).unzip();
        Self { certificates, anchors, in_force, digest: digest.finish().as_ref().try_into().unwrap_or_default() }
    }

    /// When an anchor of this store is in force.
    fn validity(&self, anchor: &TrustAnchor<'_>) -> Option<&Validity> {
        let at = self.anchors.iter().position(|known| std::ptr::eq(known, anchor))?;
        self.in_force.get(at)
    }
}

/// A certificate as the anchor of chains, if it may issue others: another that is trusted is so for itself alone. As
/// OpenSSL has it, roots of version 1 may, in which nothing could say so.
fn issuer(certificate: &CertificateDer<'static>) -> Option<(TrustAnchor<'static>, Validity)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let may_issue = match parsed.basic_constraints().ok()? {
        Some(constraints) => constraints.value.ca,
        None => parsed.version() == X509Version::V1 && parsed.subject() == parsed.issuer(),
    };
    let may_sign = parsed.key_usage().ok()?.is_none_or(|usage| usage.value.key_cert_sign());
    let anchor = webpki::anchor_from_trusted_cert(certificate).ok()?;
    (may_issue && may_sign).then(|| (anchor.to_owned(), parsed.validity().clone()))
}

impl PartialEq for TrustStore {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TrustStore {}

impl Hash for TrustStore {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustStore({} certificates)", self.certificates.len())
    }
}

/// What is wrong with a certificate: nginx's text, with OpenSSL's code and reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("upstream SSL certificate verify error: ({0}:{1})")]
    Chain(u16, &'static str),
    #[error("upstream SSL certificate verify error: ({0})")]
    Other(String),
    #[error("upstream SSL certificate does not match \"{0}\"")]
    Name(String),
}

/// Verifies chain, depth and name.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    trusted: Arc<TrustStore>,
    /// Certificates between the upstream's own and a trusted one.
    depth: u32,
    provider: Arc<CryptoProvider>,
}

impl ChainVerifier {
    pub(super) const fn new(trusted: Arc<TrustStore>, depth: u32, provider: Arc<CryptoProvider>) -> Self {
        Self { trusted, depth, provider }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        if self.trusted.certificates.iter().any(|trusted| **trusted == **end_entity) {
            // Trusted by itself, as a self-signed one is.
            let (_, parsed) = X509Certificate::from_der(end_entity)
                .map_err(|_| VerifyError::Other("it cannot be read".to_owned()))?;
            in_force(parsed.validity(), now)?;
        } else {
            self.verify_chain(end_entity, intermediates, now)?;
        }
        verify_name(end_entity, name)
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let (too_long, not_in_force) = (Cell::new(false), Cell::new(None));
        let acceptable = |path: &webpki::VerifiedPath<'_>| {
            if path.intermediate_certificates().count() as u64 > u64::from(self.depth) {
                too_long.set(true);
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            // To webpki an anchor has no time.
            let validity = self.trusted.validity(path.anchor()).ok_or(webpki::Error::UnknownIssuer)?;
            in_force(validity, now).map_err(|error| {
                not_in_force.set(Some(error));
                webpki::Error::UnknownIssuer
            })
        };
        let verified = EndEntityCert::try_from(end_entity).and_then(|certificate| {
            certificate
                .verify_for_usage(
                    self.provider.signature_verification_algorithms.all,
                    &self.trusted.anchors,
                    intermediates,
                    now,
                    KeyUsage::server_auth(),
                    None,
                    Some(&acceptable),
                )
                .map(|_| ())
        });
        match verified {
            Ok(()) => Ok(()),
            Err(_) if too_long.get() => Err(VerifyError::Chain(22, "certificate chain too long")),
            Err(error) => Err(not_in_force.take().unwrap_or_else(|| chain_error(&error, end_entity, intermediates))),
        }
    }
}

/// OpenSSL's code and reason.
fn chain_error(
    error: &webpki::Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> VerifyError {
    use webpki::Error;
    let (code, reason) = match error {
        Error::CertExpired { .. } => (10, "certificate has expired"),
        Error::CertNotValidYet { .. } => (9, "certificate is not yet valid"),
        Error::InvalidSignatureForPublicKey => (7, "certificate signature failure"),
        Error::PathLenConstraintViolated => (25, "path length constraint exceeded"),
        Error::EndEntityUsedAsCa => (79, "invalid CA certificate"),
        Error::RequiredEkuNotFoundContext(_) => (26, "unsuitable certificate purpose"),
        Error::NameConstraintViolation => (47, "permitted subtree violation"),
        Error::MaximumPathDepthExceeded => (22, "certificate chain too long"),
        Error::UnknownIssuer | Error::CaUsedAsEndEntity if is_self_signed(end_entity) => {
            (18, "self-signed certificate")
        }
        Error::UnknownIssuer if intermediates.iter().any(is_self_signed) => {
            (19, "self-signed certificate in certificate chain")
        }
        Error::UnknownIssuer => (20, "unable to get local issuer certificate"),
        other => return VerifyError::Other(format!("{other:?}")),
    };
    VerifyError::Chain(code, reason)
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}

fn in_force(validity: &Validity, now: UnixTime) -> Result<(), VerifyError> {
    let now = i64::try_from(now.as_secs()).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
    match now {
        Some(now) if now < validity.not_before => Err(VerifyError::Chain(9, "certificate is not yet valid")),
        Some(now) if now <= validity.not_after => Ok(()),
        _ => Err(VerifyError::Chain(10, "certificate has expired")),
    }
}

/// By the alternative names; by the common name where there is none that could be a host's (OpenSSL's
/// `X509_check_host`).
fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), VerifyError> {
    if let Ok(parsed) = EndEntityCert::try_from(certificate)
        && parsed.verify_is_valid_for_subject_name(name).is_ok()
    {
        return Ok(());
    }
    let asked = name.to_str();
    let named = X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let has_host = alternatives
            .is_some_and(|names| names.value.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(_))));
        let mut common_names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        !has_host && common_names.any(|pattern| covers(pattern, &asked))
    });
    if named { Ok(()) } else { Err(VerifyError::Name(asked.into_owned())) }
}

/// Whether a name, or a pattern with a `*` for its first label, is that of a host.
fn covers(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(suffix), Some((label, rest))) => {
            !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, server_name, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Kong does not check upstream certificates unless told to (`tls_verify`). Nor is there a point in checking that the
/// upstream has the key of a certificate that could be anybody's; those of X.509 version 1 could not be checked.
#[derive(Debug)]
pub(super) struct AnyCertificate(Vec<SignatureScheme>);

impl AnyCertificate {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms.supported_schemes())
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests;

//! Client certificates: how they are asked for, what verifies them, and what nginx's variables say of them.
//!
//! A certificate that does not verify does not end the handshake, as in nginx: its chain is kept, the verdict is
//! `$ssl_client_verify`, and the request is refused where `ssl_verify_client` demands more. That the client holds the
//! certificate's key is always proved in the handshake.

use std::{fmt::Write as _, fs, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use silverback_config::settings::ClientVerification;
use silverback_pdk::exchange::ClientCertificate;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::CertificateError;

mod names;

/// What clients' certificates are verified with.
#[derive(Clone)]
pub(crate) struct Authorities {
    roots: Arc<RootCertStore>,
    /// What `ssl_client_certificate` names: told to clients, so that they can choose.
    hints: Arc<[DistinguishedName]>,
    /// Certificates between the client's and an authority.
    depth: usize,
}

impl Authorities {
    /// Loads them, and gives the files' text beside: other text, other authorities.
    pub(crate) fn load(settings: Option<&ClientVerification>) -> Result<(Self, Vec<Vec<u8>>), CertificateError> {
        let mut roots = RootCertStore::empty();
        let mut texts = Vec::new();
        for path in settings.map(|settings| settings.authorities.as_slice()).unwrap_or_default() {
            let place = path.display().to_string();
            let text = fs::read(path).map_err(|source| CertificateError::Read { place: place.clone(), source })?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let added = certificate
                    .map_err(|error| error.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
                added.map_err(|message| CertificateError::Invalid { place: place.clone(), message })?;
            }
            texts.push(text);
        }
        let hints = roots.subjects().into();
        Ok((Self { roots: Arc::new(roots), hints, depth: settings.map_or(1, |settings| settings.depth) }, texts))
    }

    /// `$ssl_client_verify` of a chain: `NONE`, `SUCCESS`, or `FAILED:` with OpenSSL's reason.
    pub(crate) fn verdict(&self, chain: &[CertificateDer<'_>]) -> String {
        let Some((own, intermediates)) = chain.split_first() else { return "NONE".to_owned() };
        match self.verify(own, intermediates) {
            Ok(()) => "SUCCESS".to_owned(),
            Err(why) => format!("FAILED:{why}"),
        }
    }

    fn verify(&self, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), String> {
        let certificate = EndEntityCert::try_from(own).map_err(|error| reason(&error, own, intermediates))?;
        let path = certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.roots.roots,
                intermediates,
                UnixTime::now(),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| reason(&error, own, intermediates))?;
        if path.intermediate_certificates().count() > self.depth {
            return Err("certificate chain too long".to_owned());
        }
        Ok(())
    }
}

/// OpenSSL's words for what webpki found.
fn reason(error: &webpki::Error, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> String {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => "certificate has expired".to_owned(),
        Error::CertNotValidYet { .. } => "certificate is not yet valid".to_owned(),
        Error::InvalidSignatureForPublicKey => "certificate signature failure".to_owned(),
        Error::RequiredEkuNotFoundContext(_) => "unsuitable certificate purpose".to_owned(),
        Error::UnknownIssuer | Error::CaUsedAsEndEntity => {
            let last = intermediates.last().unwrap_or(own);
            let signed_by_itself = X509Certificate::from_der(last)
                .is_ok_and(|(_, certificate)| certificate.subject().as_raw() == certificate.issuer().as_raw());
            match (signed_by_itself, intermediates.is_empty()) {
                (true, true) => "self-signed certificate",
                (true, false) => "self-signed certificate in certificate chain",
                (false, true) => "unable to verify the first certificate",
                (false, false) => "unable to get local issuer certificate",
            }
            .to_owned()
        }
        other => format!("{other:?}"),
    }
}

/// The chain as PEM, the client's own certificate first.
pub(crate) fn pem(chain: &[CertificateDer<'_>]) -> Option<String> {
    (!chain.is_empty()).then(|| chain.iter().map(|certificate| encode(certificate)).collect())
}

fn encode(certificate: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// What the client's own certificate says. `None` where it is no certificate.
pub(crate) fn describe(certificate: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some(ClientCertificate {
        pem: encode(certificate),
        subject: names::rfc2253(parsed.subject()),
        subject_legacy: names::one_line(parsed.subject()),
        issuer: names::rfc2253(parsed.issuer()),
        issuer_legacy: names::one_line(parsed.issuer()),
        serial: serial(parsed.raw_serial()),
        fingerprint: hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, certificate).as_ref()),
        valid_from: date(validity.not_before.timestamp()),
        valid_to: date(validity.not_after.timestamp()),
        expires: validity.not_after.timestamp(),
    })
}

fn serial(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
    hex(bytes.get(zeros..).unwrap_or_default()).to_ascii_uppercase()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// OpenSSL's form of a date: `Jan  1 00:00:00 2030 GMT`.
fn date(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%b %e %H:%M:%S %Y GMT").to_string(),
        Err(_) => String::new(),
    }
}

/// Asks for a certificate and takes any whose key the client holds, or none.
#[derive(Debug)]
pub(crate) struct Asking {
    provider: Arc<CryptoProvider>,
    hints: Arc<[DistinguishedName]>,
}

impl Asking {
    pub(crate) fn verifier(provider: &Arc<CryptoProvider>, authorities: &Authorities) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Self { provider: Arc::clone(provider), hints: Arc::clone(&authorities.hints) })
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{date, serial};

    #[test]
    fn dates_and_serials_look_like_openssls() {
        assert_eq!(date(1_893_456_000), "Jan  1 00:00:00 2030 GMT");
        assert_eq!(date(0), "Jan  1 00:00:00 1970 GMT");
        assert_eq!((serial(&[0, 0xab, 1]), serial(&[0])), ("AB01".to_owned(), "00".to_owned()));
    }
}

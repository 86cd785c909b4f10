//! Whether certificates can be served, and how long they are good.

use std::{
    fs, io,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use silverback_config::Settings;
use silverback_model::Snapshot;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::Finding;

/// Days before its end from which on a certificate is talked of.
const SOON: i64 = 14;

/// Those of `kong.conf`. That they are certificates with their keys was seen when it was read.
pub(super) fn configured(settings: &Settings) -> Vec<Finding> {
    [
        ("ssl_cert", &settings.tls.certificates),
        ("admin_ssl_cert", &settings.api_certificates.admin),
        ("status_ssl_cert", &settings.api_certificates.status),
    ]
    .into_iter()
    .flat_map(|(property, pairs)| pairs.iter().map(move |(certificate, _)| (property, certificate)))
    .map(|(property, material)| match pem(material) {
        Ok(pem) => good(property, &pem),
        Err(error) => Finding::problem(
            "certificate_unreadable",
            property,
            format!("{material} cannot be read: {error}"),
            "let the user that starts the gateway read it, or name another file",
        ),
    })
    .collect()
}

/// Those of the declarative configuration.
pub(super) fn declared(snapshot: &Snapshot) -> Vec<Finding> {
    let each = snapshot.certificates.iter();
    each.map(|certificate| good(&format!("certificate {}", certificate.id), certificate.cert.as_bytes())).collect()
}

fn good(subject: &str, pem: &[u8]) -> Finding {
    let unusable = |why: String| {
        Finding::problem("certificate_unreadable", subject, why, "give a certificate in PEM, its own chain after it")
    };
    let certificate = match CertificateDer::from_pem_slice(pem) {
        Ok(certificate) => certificate,
        Err(error) => return unusable(format!("it is not PEM: {error}")),
    };
    let validity = match X509Certificate::from_der(&certificate) {
        Ok((_, certificate)) => certificate.validity().clone(),
        Err(error) => return unusable(format!("it is no certificate: {error}")),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let days = (until - now) / 86_400;
    if until < now {
        let message = format!("it expired on {}", validity.not_after);
        Finding::problem("certificate_expired", subject, message, "renew it")
    } else if from > now {
        let message = format!("it is valid from {} on only", validity.not_before);
        Finding::problem("certificate_not_yet_valid", subject, message, "look at the clock, or give another one")
    } else if days < SOON {
        Finding::note("certificate_expires_soon", subject, format!("it expires in {days} days: renew it"))
    } else {
        Finding::ok(subject, format!("it is valid for {days} more days"))
    }
}

/// The text of a file, or what is text itself.
fn pem(material: &str) -> io::Result<Vec<u8>> {
    if material.contains("-----BEGIN") { Ok(material.as_bytes().to_vec()) } else { fs::read(material) }
}

//! Certificates and keys: whether they are, and whether they belong together.

use std::sync::Arc;

use ring::digest;
use rustls::{crypto::ring::default_provider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::{Map, Value as Json};
use silverback_model::schema::{ErrorTree, is_reference};
use x509_parser::prelude::{FromDer, X509Certificate};

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("there is no PEM certificate in it".to_owned()),
        Ok(chain) => Ok(chain),
        Err(problem) => Err(problem.to_string()),
    }
}

pub(super) fn check_certificate(pem: &str) -> Result<(), String> {
    if is_reference(pem) {
        return Ok(());
    }
    for der in chain(pem).map_err(|problem| format!("invalid certificate: {problem}"))? {
        X509Certificate::from_der(&der).map_err(|problem| format!("invalid certificate: {problem}"))?;
    }
    Ok(())
}

pub(super) fn check_key(pem: &str) -> Result<(), String> {
    if is_reference(pem) {
        return Ok(());
    }
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|problem| format!("invalid key: {problem}"))?;
    default_provider().key_provider.load_private_key(key).map(drop).map_err(|problem| format!("invalid key: {problem}"))
}

/// A public key, or a certificate or private key that holds one.
pub(super) fn check_public_key(pem: &str) -> Result<(), String> {
    let bytes = pem.as_bytes();
    let any = SubjectPublicKeyInfoDer::from_pem_slice(bytes).is_ok()
        || CertificateDer::from_pem_slice(bytes).is_ok()
        || PrivateKeyDer::from_pem_slice(bytes).is_ok();
    if any { Ok(()) } else { Err("invalid key".to_owned()) }
}

/// The SHA-256 digest of a certificate, in hexadecimal: what Kong calls `cert_digest`.
pub(super) fn digest_of(pem: &str) -> Option<String> {
    let der = chain(pem).ok()?.into_iter().next()?;
    Some(digest::digest(&digest::SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn pair<'a>(entity: &'a Map<String, Json>, cert: &str, key: &str) -> Option<(&'a str, &'a str)> {
    let text = |name: &str| entity.get(name).and_then(Json::as_str).filter(|text| !is_reference(text));
    text(cert).zip(text(key))
}

fn matches(cert: &str, key: &str) -> bool {
    let loaded = || {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
        CertifiedKey::from_der(chain(cert).ok()?, key, &default_provider()).ok().map(Arc::new)
    };
    // `from_der` compares the keys.
    loaded().is_some()
}

/// The checks across the fields of a certificate entity whose fields are right by themselves.
pub(super) fn check_pairs(entity: &Map<String, Json>, errors: &mut ErrorTree) {
    if let Some((cert, key)) = pair(entity, "cert", "key")
        && !matches(cert, key)
    {
        errors.push_entity("certificate does not match key");
    }
    if let Some((cert, key)) = pair(entity, "cert_alt", "key_alt")
        && !matches(cert, key)
    {
        errors.push_entity("alternative certificate does not match key");
    }
    if let Some((cert, alternative)) = pair(entity, "cert", "cert_alt")
        && let (Some(first), Some(second)) = (key_type(cert), key_type(alternative))
        && first == second
    {
        errors.push_entity(
            "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), the provided \
             certificates were both of the same type",
        );
    }
}

fn key_type(pem: &str) -> Option<String> {
    let der = chain(pem).ok()?.into_iter().next()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(certificate.public_key().algorithm.algorithm.to_string())
}

/// The checks of a certificate authority: one certificate, not expired, marked as an authority.
pub(super) fn check_authority(entity: &Map<String, Json>, now: i64, errors: &mut ErrorTree) {
    let Some(pem) = entity.get("cert").and_then(Json::as_str) else { return };
    let Ok(chain) = chain(pem) else { return };
    let [der] = &chain[..] else {
        errors.push_entity("please submit only one certificate at a time");
        return;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
    if certificate.validity().not_after.timestamp() < now {
        errors.push_entity("certificate expired, \"Not After\" time is in the past");
    } else if !certificate.is_ca() {
        errors.push_entity("certificate does not appear to be a CA because it is missing the \"CA\" basic constraint");
    }
}

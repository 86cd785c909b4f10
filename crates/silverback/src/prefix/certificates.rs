//! The certificates that listeners present when none is configured: self-signed, for `localhost`, in RSA and ECDSA.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RsaKeySize,
};

/// Twenty years, as Kong's.
const VALIDITY: Duration = Duration::from_secs(20 * 365 * 86_400);

#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    Rsa,
    Ecdsa,
}

pub(super) struct Pair {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

pub(super) fn self_signed(algorithm: Algorithm) -> Result<Pair, rcgen::Error> {
    let key = match algorithm {
        Algorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        Algorithm::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
    };
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
    let mut name = DistinguishedName::new();
    // Kong's, word for word: monitoring knows a default certificate by it.
    name.push(DnType::CountryName, "US");
    name.push(DnType::StateOrProvinceName, "California");
    name.push(DnType::LocalityName, "San Francisco");
    name.push(DnType::OrganizationName, "Kong");
    name.push(DnType::OrganizationalUnitName, "IT Department");
    name.push(DnType::CommonName, "localhost");
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    parameters.not_before = now.into();
    parameters.not_after = (now + VALIDITY).into();
    let certificate = parameters.self_signed(&key)?;
    Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

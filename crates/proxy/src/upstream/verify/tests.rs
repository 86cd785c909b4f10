use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::{ChainVerifier, TrustStore, VerifyError, covers};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn root(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap()
}

fn below(issuer: &Issuer, name: &str) -> Issuer {
    CertifiedIssuer::signed_by(authority(name), KeyPair::generate().unwrap(), issuer).unwrap()
}

fn der(issuer: &Issuer) -> &CertificateDer<'static> {
    let certificate: &rcgen::Certificate = issuer.as_ref();
    certificate.der()
}

fn leaf_of(issuer: &Issuer, params: &CertificateParams) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn now() -> UnixTime {
    UnixTime::now()
}

fn verify(
    trusted: &[&CertificateDer<'_>],
    depth: u32,
    chain: &[&CertificateDer<'_>],
    name: &str,
) -> Result<(), String> {
    verify_at(trusted, depth, chain, name, now())
}

fn verify_at(
    trusted: &[&CertificateDer<'_>],
    depth: u32,
    chain: &[&CertificateDer<'_>],
    name: &str,
    time: UnixTime,
) -> Result<(), String> {
    let store = TrustStore::new(trusted.iter().map(|der| (*der).clone().into_owned()).collect());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let intermediates: Vec<_> = chain[1..].iter().map(|der| (*der).clone().into_owned()).collect();
    ChainVerifier::new(Arc::new(store), depth, provider)
        .verify(chain[0], &intermediates, &ServerName::try_from(name).unwrap(), time)
        .map_err(|error: VerifyError| error.to_string())
}

const NOT_LOCAL: &str = "upstream SSL certificate verify error: (20:unable to get local issuer certificate)";

#[test]
fn a_chain_to_a_trusted_certificate_is_taken() {
    let root = root("root");
    let middle = below(&root, "middle");
    let leaf = leaf_of(&middle, &named("a.test"));
    assert_eq!(verify(&[der(&root)], 1, &[&leaf, der(&middle)], "a.test"), Ok(()));
    assert_eq!(verify(&[der(&root)], 1, &[&leaf, der(&middle), der(&root)], "a.test"), Ok(()));
    assert_eq!(verify(&[der(&middle)], 0, &[&leaf], "a.test"), Ok(()));
}

#[test]
fn the_chain_may_be_as_long_as_the_depth_says() {
    let root = root("root");
    let first = below(&root, "first");
    let second = below(&first, "second");
    let leaf = leaf_of(&second, &named("a.test"));
    let chain = [&leaf, der(&second), der(&first)];
    assert_eq!(verify(&[der(&root)], 2, &chain, "a.test"), Ok(()));
    let too_long = "upstream SSL certificate verify error: (22:certificate chain too long)";
    assert_eq!(verify(&[der(&root)], 1, &chain, "a.test"), Err(too_long.to_owned()));
}

#[test]
fn what_nobody_trusted_has_signed_is_refused_in_the_words_of_openssl() {
    let (root, other) = (root("root"), root("other"));
    let leaf = leaf_of(&root, &named("a.test"));
    assert_eq!(verify(&[der(&other)], 1, &[&leaf], "a.test"), Err(NOT_LOCAL.to_owned()));
    assert_eq!(verify(&[], 1, &[&leaf], "a.test"), Err(NOT_LOCAL.to_owned()));
    assert_eq!(
        verify(&[der(&other)], 1, &[&leaf, der(&root)], "a.test"),
        Err("upstream SSL certificate verify error: (19:self-signed certificate in certificate chain)".to_owned())
    );
    assert_eq!(
        verify(&[der(&other)], 1, &[der(&root)], "a.test"),
        Err("upstream SSL certificate verify error: (18:self-signed certificate)".to_owned())
    );
}

#[test]
fn a_self_signed_certificate_that_is_trusted_itself_is_taken() {
    let mut params = named("a.test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
    assert_eq!(verify(&[&own], 1, &[&own], "a.test"), Ok(()));
    assert_eq!(
        verify(&[&own], 1, &[&own], "b.test"),
        Err("upstream SSL certificate does not match \"b.test\"".to_owned())
    );
    let late = UnixTime::since_unix_epoch(Duration::from_secs(200_000_000_000));
    let expired = Err("upstream SSL certificate verify error: (10:certificate has expired)".to_owned());
    assert_eq!(verify_at(&[&own], 1, &[&own], "a.test", late), expired);
}

#[test]
fn a_certificate_has_its_time() {
    let root = root("root");
    let mut params = named("a.test");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    let leaf = leaf_of(&root, &params);
    let expired = "upstream SSL certificate verify error: (10:certificate has expired)";
    assert_eq!(verify(&[der(&root)], 1, &[&leaf], "a.test"), Err(expired.to_owned()));
    params.not_before = rcgen::date_time_ymd(2990, 1, 1);
    params.not_after = rcgen::date_time_ymd(2991, 1, 1);
    let leaf = leaf_of(&root, &params);
    let early = "upstream SSL certificate verify error: (9:certificate is not yet valid)";
    assert_eq!(verify(&[der(&root)], 1, &[&leaf], "a.test"), Err(early.to_owned()));
}

#[test]
fn names_are_compared() {
    let root = root("root");
    let mut by_common_name = CertificateParams::new(Vec::new()).unwrap();
    by_common_name.distinguished_name.push(DnType::CommonName, "old.test");
    let mut both = named("a.test");
    both.distinguished_name.push(DnType::CommonName, "old.test");
    for (params, name, right) in [
        (named("a.test"), "a.test", true),
        (named("a.test"), "A.TEST", true),
        (named("a.test"), "b.test", false),
        (named("*.a.test"), "x.a.test", true),
        (named("*.a.test"), "x.y.a.test", false),
        (named("127.0.0.1"), "127.0.0.1", true),
        (named("127.0.0.1"), "127.0.0.2", false),
        (by_common_name, "old.test", true),
        (both, "old.test", false),
    ] {
        let leaf = leaf_of(&root, &params);
        let expect = if right { Ok(()) } else { Err(format!("upstream SSL certificate does not match \"{name}\"")) };
        assert_eq!(verify(&[der(&root)], 1, &[&leaf], name), expect, "{name}");
    }
}

#[test]
fn a_pattern_stands_for_one_label() {
    for (pattern, host, expect) in [
        ("a.test", "A.Test.", true),
        ("*.a.test", "x.a.test", true),
        ("*.a.test", "a.test", false),
        ("*.a.test", "x.y.a.test", false),
        ("*.test", "a.test", false),
        ("*", "a", false),
    ] {
        assert_eq!(covers(pattern, host), expect, "{pattern} {host}");
    }
}

/// A certificate below a root, and one that it signed.
fn issued_by(params: &CertificateParams, root: &Issuer) -> (Issuer, CertificateDer<'static>) {
    let mut params = params.clone();
    params.distinguished_name.push(DnType::CommonName, "issuer");
    let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), root).unwrap();
    let leaf = leaf_of(&issuer, &named("victim.test"));
    (issuer, leaf)
}

#[test]
fn only_an_authority_that_is_trusted_may_sign_for_others() {
    let root = root("root");
    let mut explicit = named("pinned.test");
    explicit.is_ca = IsCa::ExplicitNoCa;
    let mut not_for_certificates = authority("signs no certificates");
    not_for_certificates.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut for_certificates = authority("signs certificates");
    for_certificates.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for (params, may_sign) in [
        (named("pinned.test"), false),
        (explicit, false),
        (not_for_certificates, false),
        (authority("says nothing of its use"), true),
        (for_certificates, true),
    ] {
        let (issuer, leaf) = issued_by(&params, &root);
        let expect = if may_sign { Ok(()) } else { Err(NOT_LOCAL.to_owned()) };
        assert_eq!(verify(&[der(&issuer)], 1, &[&leaf], "victim.test"), expect, "{:?}", params.is_ca);
        let shown = verify(&[der(&issuer)], 1, &[&leaf, der(&issuer)], "victim.test");
        assert_eq!(shown.is_ok(), may_sign, "{:?}: {shown:?}", params.is_ca);
    }
    // It is still trusted for itself.
    let pinned = leaf_of(&root, &named("pinned.test"));
    assert_eq!(verify(&[&pinned], 1, &[&pinned], "pinned.test"), Ok(()));
}

/// A root of version 1: it has no extensions.
const OLD_ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBIjCByQIUZKTS45FUv1xptDPJ72C+g0euuOgwCgYIKoZIzj0EAwIwEzERMA8G
A1UEAwwIb2xkLXJvb3QwIBcNMjYxMTIyMTI1OTM2WhgPMjEyNjEwMjkxMjU5MzZa
MBMxETAPBgNVBAMMCG9sZC1yb290MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
iaka0W++O5IMfqeK8ifEpY/3XyePrM8QZ6r9RWrkagAMzrVJd0J6laO2gfarw2Mj
qr4J5i8a2Ju38LI6dF7wbTAKBggqhkjOPQQDAgNIADBFAiEA3KaAZ00ys/E3hypA
PjpALQMXoO10i6D8SQjhTghwTQICIGGJmXQ58cHCp9ZL4A8VDQLj6zQGj65FFoLi
aPDQFNC9
-----END CERTIFICATE-----
";

#[test]
fn a_root_of_version_1_may_sign() {
    let root = CertificateDer::from_pem_slice(OLD_ROOT.as_bytes()).unwrap();
    assert!(super::issuer(&root).is_some());
}

#[test]
fn an_authority_has_its_time_too() {
    let pem = KeyPair::generate().unwrap().serialize_pem();
    let key = || KeyPair::from_pem(&pem).unwrap();
    let mut old = authority("root");
    old.not_before = rcgen::date_time_ymd(2020, 1, 1);
    old.not_after = rcgen::date_time_ymd(2020, 2, 1);
    let mut coming = authority("root");
    coming.not_before = rcgen::date_time_ymd(2990, 1, 1);
    coming.not_after = rcgen::date_time_ymd(2991, 1, 1);
    let [old, coming, renewed] =
        [old, coming, authority("root")].map(|params| CertifiedIssuer::self_signed(params, key()).unwrap());
    let leaf = leaf_of(&renewed, &named("a.test"));
    let expired = "upstream SSL certificate verify error: (10:certificate has expired)";
    assert_eq!(verify(&[der(&old)], 1, &[&leaf], "a.test"), Err(expired.to_owned()));
    let early = "upstream SSL certificate verify error: (9:certificate is not yet valid)";
    assert_eq!(verify(&[der(&coming)], 1, &[&leaf], "a.test"), Err(early.to_owned()));
    assert_eq!(verify(&[der(&old), der(&coming), der(&renewed)], 1, &[&leaf], "a.test"), Ok(()));
}

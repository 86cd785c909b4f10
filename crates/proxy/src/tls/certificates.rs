//! Certificates for clients: by server name, exact or wildcard, else the default.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use silverback_config::Settings;
use silverback_model::{Certificate, Id, Snapshot};

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{place}: {source}")]
    Read { place: String, source: io::Error },
    #[error("{place}: {message}")]
    Invalid { place: String, message: String },
}

/// The certificates that the gateway makes for itself under `<prefix>/ssl`, the cheaper one first.
const GENERATED: [&str; 2] = ["kong-default-ecdsa", "kong-default"];

/// A certificate, and its twin with another algorithm if it has one (`cert_alt`).
type Pair = Arc<[Arc<CertifiedKey>]>;

/// Every certificate of a generation.
#[derive(Debug)]
pub(crate) struct Certificates {
    exact: HashMap<String, Pair>,
    /// `*.example.com` by `example.com`, and `example.*` by `example`.
    suffix: HashMap<String, Pair>,
    prefix: HashMap<String, Pair>,
    /// In the order of `ssl_cert`.
    defaults: Pair,
}

impl Certificates {
    pub(crate) fn build(snapshot: &Snapshot, settings: &Settings) -> Result<Self, CertificateError> {
        let generated = GENERATED.map(|name| {
            let path = |ending: &str| settings.prefix.join("ssl").join(format!("{name}.{ending}"));
            (path("crt").display().to_string(), path("key").display().to_string())
        });
        let given = &settings.tls.certificates;
        let secure = settings.proxy_listen.iter().chain(&settings.stream_listen).any(|listen| listen.ssl);
        let defaults = if given.is_empty() && secure { &generated[..] } else { given };
        let defaults = defaults
            .iter()
            .map(|(cert, key)| {
                let place = format!("ssl_cert {}", shown(cert));
                Ok(Arc::new(certified(&place, &pem(&place, cert)?, &pem(&place, key)?)?))
            })
            .collect::<Result<_, CertificateError>>()?;
        let by_id: HashMap<Id, &Certificate> =
            snapshot.certificates.iter().map(|certificate| (certificate.id, certificate.as_ref())).collect();
        let mut loaded: HashMap<Id, Pair> = HashMap::new();
        let mut certificates = Self { exact: HashMap::new(), suffix: HashMap::new(), prefix: HashMap::new(), defaults };
        for sni in &snapshot.snis {
            let Some(certificate) = by_id.get(&sni.certificate) else { continue };
            let pair = match loaded.get(&certificate.id) {
                Some(pair) => Arc::clone(pair),
                None => {
                    let pair = load(certificate)?;
                    loaded.insert(certificate.id, Arc::clone(&pair));
                    pair
                }
            };
            let name = sni.name.to_ascii_lowercase();
            match (name.strip_prefix("*."), name.strip_suffix(".*")) {
                (Some(suffix), _) => certificates.suffix.insert(suffix.to_owned(), pair),
                (None, Some(prefix)) => certificates.prefix.insert(prefix.to_owned(), pair),
                (None, None) => certificates.exact.insert(name, pair),
            };
        }
        Ok(certificates)
    }

    /// The certificate for a server name (Kong's `find_certificate`): of that name, of all names beside it, of the same name under
    /// any last label, of the name `*`. A wildcard stands for one label.
    fn find(&self, name: &str) -> &Pair {
        let name = name.to_ascii_lowercase();
        // "*.test" is for nobody: the rest must have a dot.
        let beside = || self.suffix.get(name.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.contains('.'))?);
        let under = || self.prefix.get(name.rsplit_once('.')?.0);
        self.exact.get(&name).or_else(beside).or_else(under).or_else(|| self.exact.get("*")).unwrap_or(&self.defaults)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pair = hello.server_name().map_or(&self.defaults, |name| self.find(name));
        // The client's order of algorithms decides between twins.
        let wanted = hello
            .signature_schemes()
            .iter()
            .find_map(|scheme| pair.iter().find(|key| key.key.choose_scheme(std::slice::from_ref(scheme)).is_some()));
        wanted.or(pair.first()).cloned()
    }
}

fn load(certificate: &Certificate) -> Result<Pair, CertificateError> {
    let place = format!("certificate {}", certificate.id);
    let mut pair = vec![Arc::new(certified(&place, certificate.cert.as_bytes(), certificate.key.as_bytes())?)];
    if let (Some(cert), Some(key)) = (&certificate.cert_alt, &certificate.key_alt) {
        let place = format!("{place} (cert_alt)");
        pair.push(Arc::new(certified(&place, cert.as_bytes(), key.as_bytes())?));
    }
    Ok(pair.into())
}

/// A certificate as operators give it: a path, PEM text, or PEM text in base64.
pub(crate) fn pem(place: &str, given: &str) -> Result<Vec<u8>, CertificateError> {
    if given.contains("-----BEGIN") {
        return Ok(given.as_bytes().to_vec());
    }
    fs::read(Path::new(given)).map_err(|source| CertificateError::Read { place: place.to_owned(), source })
}

/// A path as it is; PEM text is too long to show.
fn shown(given: &str) -> &str {
    if given.contains("-----BEGIN") { "(text)" } else { given }
}

/// A chain and its key, PEM.
pub(crate) fn certified(place: &str, cert: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let invalid = |message: String| CertificateError::Invalid { place: place.to_owned(), message };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().map_err(|error| invalid(error.to_string()))?;
    if chain.is_empty() {
        return Err(invalid("no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid(format!("key: {error}")))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_as_kong_does() {
        // A pair is told from the others by how many keys it has; there is one key for all.
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let key = Arc::new(
            certified("test", made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap(),
        );
        let pair = |marks: usize| -> Pair { vec![Arc::clone(&key); marks].into() };
        let map = |entries: &[(&str, usize)]| -> HashMap<String, Pair> {
            entries.iter().map(|(name, marks)| ((*name).to_owned(), pair(*marks))).collect()
        };
        let mut certificates = Certificates {
            exact: map(&[("a.example.com", 1)]),
            suffix: map(&[("example.com", 2), ("test", 9)]),
            prefix: map(&[("example", 3), ("a.b", 4)]),
            defaults: pair(5),
        };
        let check = |certificates: &Certificates, name: &str, marks: usize| {
            assert_eq!(certificates.find(name).len(), marks, "{name}");
        };
        check(&certificates, "a.example.com", 1);
        check(&certificates, "A.Example.COM", 1);
        check(&certificates, "b.example.com", 2);
        check(&certificates, "x.b.example.com", 5);
        check(&certificates, "example.org", 3);
        check(&certificates, "a.b.net", 4);
        check(&certificates, "a.test", 5);
        check(&certificates, "localhost", 5);
        certificates.exact.extend(map(&[("*", 6)]));
        check(&certificates, "localhost", 6);
        check(&certificates, "b.example.com", 2);
    }
}

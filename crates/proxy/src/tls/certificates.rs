//! Certificates for clients: by server name, exact or wildcard, else the default.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
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

/// Every certificate of a generation.
#[derive(Debug)]
pub(crate) struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `*.example.com` by `example.com`, and `example.*` by `example`.
    suffix: HashMap<String, Arc<CertifiedKey>>,
    prefix: HashMap<String, Arc<CertifiedKey>>,
    /// In the order of `ssl_cert`; the first one whose algorithm the client can check is taken.
    defaults: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(crate) fn build(snapshot: &Snapshot, settings: &Settings) -> Result<Self, CertificateError> {
        let generated = GENERATED.map(|name| {
            let path = |ending: &str| settings.prefix.join("ssl").join(format!("{name}.{ending}"));
            (path("crt").display().to_string(), path("key").display().to_string())
        });
        let given = &settings.tls.certificates;
        let secure = settings.proxy_listen.iter().any(|listen| listen.ssl);
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
        let mut loaded: HashMap<Id, Arc<CertifiedKey>> = HashMap::new();
        let mut certificates = Self { exact: HashMap::new(), suffix: HashMap::new(), prefix: HashMap::new(), defaults };
        for sni in &snapshot.snis {
            let Some(certificate) = by_id.get(&sni.certificate) else { continue };
            let key = match loaded.get(&certificate.id) {
                Some(key) => Arc::clone(key),
                None => {
                    let place = format!("certificate {}", certificate.id);
                    let key = Arc::new(certified(&place, certificate.cert.as_bytes(), certificate.key.as_bytes())?);
                    loaded.insert(certificate.id, Arc::clone(&key));
                    key
                }
            };
            let name = sni.name.to_ascii_lowercase();
            match (name.strip_prefix("*."), name.strip_suffix(".*")) {
                (Some(suffix), _) => certificates.suffix.insert(suffix.to_owned(), key),
                (None, Some(prefix)) => certificates.prefix.insert(prefix.to_owned(), key),
                (None, None) => certificates.exact.insert(name, key),
            };
        }
        Ok(certificates)
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.exact
            .get(&name)
            .or_else(|| self.suffix.get(name.split_once('.')?.1))
            .or_else(|| self.prefix.get(name.rsplit_once('.')?.0))
            // Kong has a certificate for the name "*" as the last resort before the default one.
            .or_else(|| self.exact.get("*"))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(key) = hello.server_name().and_then(|name| self.find(name)) {
            return Some(Arc::clone(key));
        }
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.defaults.iter().find(usable).or_else(|| self.defaults.first()).cloned()
    }
}

/// What upstream certificates are checked against: the system's authorities and the configuration's.
pub(crate) fn trusted_roots(snapshot: &Snapshot) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
    if let Ok(text) = fs::read(SYSTEM) {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    }
    for authority in &snapshot.ca_certificates {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority.cert.as_bytes()).flatten());
    }
    roots
}

/// A certificate as operators give it: a path, PEM text, or PEM text in base64.
fn pem(place: &str, given: &str) -> Result<Vec<u8>, CertificateError> {
    if given.contains("-----BEGIN") {
        return Ok(given.as_bytes().to_vec());
    }
    fs::read(Path::new(given)).map_err(|source| CertificateError::Read { place: place.to_owned(), source })
}

/// A path as it is; PEM text is too long to show.
fn shown(given: &str) -> &str {
    if given.contains("-----BEGIN") { "(text)" } else { given }
}

fn certified(place: &str, cert: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
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

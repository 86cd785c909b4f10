//! `ssl_*`: certificates, protocols and ciphers, as far as rustls has them.

use std::{path::Path, time::Duration};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::settings::Tls;

use super::{reader::Reader, units};

/// What rustls offers for TLS 1.2; those of TLS 1.3 are always on.
const TLS12_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

pub(super) fn read(reader: &mut Reader<'_>, ssl_listens: bool) -> Tls {
    let cipher_suite = reader.text("ssl_cipher_suite").unwrap_or_else(|| "intermediate".to_owned());
    let ciphers = reader.text("ssl_ciphers");
    let mut unavailable = Vec::new();
    let (tls12, tls13) = match cipher_suite.as_str() {
        "modern" => (false, true),
        "intermediate" => (true, true),
        "fips" => (true, false),
        "old" => {
            unavailable
                .extend(["TLSv1", "TLSv1.1", "DHE key exchange", "RSA key exchange", "CBC ciphers"].map(str::to_owned));
            (true, true)
        }
        "custom" => {
            unavailable.extend(missing_ciphers(ciphers.as_deref().unwrap_or_default()));
            protocols(reader, &mut unavailable)
        }
        other => {
            reader.problem("ssl_cipher_suite", format!("Undefined cipher suite {other}"));
            (true, true)
        }
    };
    let session_timeout =
        match reader.text("nginx_http_ssl_session_timeout").or_else(|| reader.text("ssl_session_timeout")) {
            Some(text) => units::parse_time(&text).unwrap_or_else(|| {
                reader.problem("ssl_session_timeout", format!("ssl_session_timeout is not a time: '{text}'"));
                Duration::from_hours(24)
            }),
            None => Duration::from_hours(24),
        };
    Tls {
        certificates: certificates(reader, ssl_listens),
        tls12,
        tls13,
        cipher_suite,
        ciphers,
        session_timeout,
        unavailable,
    }
}

fn protocols(reader: &mut Reader<'_>, unavailable: &mut Vec<String>) -> (bool, bool) {
    let injected = ["nginx_http_ssl_protocols", "ssl_protocols"];
    let (name, text) = injected
        .into_iter()
        .find_map(|name| reader.given(name).map(|entry| (name, entry.value.clone())))
        .unwrap_or(("ssl_protocols", "TLSv1.2 TLSv1.3".to_owned()));
    let (mut tls12, mut tls13) = (false, false);
    for word in text.split_whitespace() {
        match word {
            "TLSv1.2" => tls12 = true,
            "TLSv1.3" => tls13 = true,
            "TLSv1" | "TLSv1.1" | "SSLv3" | "SSLv2" => unavailable.push(word.to_owned()),
            other => reader.problem(name, format!("{name}: unknown protocol '{other}'")),
        }
    }
    if !tls12 && !tls13 {
        reader
            .problem(name, format!("{name}: neither TLSv1.2 nor TLSv1.3 is among '{text}', and no other is available"));
    }
    (tls12, tls13)
}

fn missing_ciphers(list: &str) -> Vec<String> {
    list.split([':', ',', ' '])
        .filter(|name| !name.is_empty() && !name.starts_with(['!', '-', '+', '@']) && !name.starts_with("TLS_"))
        .filter(|name| !TLS12_CIPHERS.contains(name))
        .map(str::to_owned)
        .collect()
}

fn certificates(reader: &mut Reader<'_>, ssl_listens: bool) -> Vec<(String, String)> {
    let (certs, keys) = (reader.list("ssl_cert"), reader.list("ssl_cert_key"));
    if !ssl_listens {
        return Vec::new();
    }
    match (certs.len(), keys.len()) {
        (0, 0) => return Vec::new(),
        (_, 0) => reader.problem("ssl_cert", "ssl_cert_key must be specified".to_owned()),
        (0, _) => reader.problem("ssl_cert_key", "ssl_cert must be specified".to_owned()),
        (a, b) if a != b => reader.problem(
            "ssl_cert",
            format!("ssl_cert was specified {a} times while ssl_cert_key was specified {b} times"),
        ),
        _ => {}
    }
    let certs: Vec<String> = certs
        .into_iter()
        .map(|cert| {
            let (value, pem) = material(&cert);
            if !pem.is_some_and(|pem| matches!(CertificateDer::from_pem_slice(&pem), Ok(der) if !der.is_empty())) {
                reader.problem("ssl_cert", format!("ssl_cert: failed loading certificate from {cert}"));
            }
            value
        })
        .collect();
    let keys: Vec<String> = keys
        .into_iter()
        .map(|key| {
            let (value, pem) = material(&key);
            if pem.is_none_or(|pem| PrivateKeyDer::from_pem_slice(&pem).is_err()) {
                let shown = if value == key && Path::new(&key).exists() { key.as_str() } else { "the given text" };
                reader.problem("ssl_cert_key", format!("ssl_cert_key: failed loading key from {shown}"));
            }
            value
        })
        .collect();
    certs.into_iter().zip(keys).collect()
}

/// The value (a path made absolute, or PEM text) and its bytes.
fn material(value: &str) -> (String, Option<Vec<u8>>) {
    let path = Path::new(value);
    if path.exists() {
        let absolute = std::path::absolute(path).map_or_else(|_| value.to_owned(), |path| path.display().to_string());
        return (absolute, std::fs::read(path).ok());
    }
    let text = super::reader::from_base64(value).unwrap_or_else(|| value.to_owned());
    let bytes = text.clone().into_bytes();
    (text, Some(bytes))
}

//! `ssl_*`: certificates, protocols and ciphers, as far as rustls has them.

use std::{path::Path, time::Duration};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::settings::{Certificate, ClientCertificateDemand, ClientVerification, Listen, Tls, TlsSessions};

use super::{reader::Reader, units};

mod ciphers;

pub(super) fn read(reader: &mut Reader<'_>, ssl_listens: bool) -> Tls {
    let cipher_suite = reader.text("ssl_cipher_suite").unwrap_or_else(|| "intermediate".to_owned());
    let mut unavailable = Vec::new();
    // Kong's presets: ciphers, protocols, and whose order of ciphers counts.
    let (list, (tls12, tls13), prefer_server_ciphers) = match cipher_suite.as_str() {
        "modern" => (String::new(), (false, true), false),
        "intermediate" => (ciphers::INTERMEDIATE.to_owned(), (true, true), false),
        "fips" => ("TLSv1.2+FIPS".to_owned(), (true, false), true),
        "old" => {
            unavailable
                .extend(["TLSv1", "TLSv1.1", "DHE key exchange", "RSA key exchange", "CBC ciphers"].map(str::to_owned));
            (ciphers::INTERMEDIATE.to_owned(), (true, true), true)
        }
        "custom" => {
            let given = ["nginx_proxy_ssl_ciphers", "nginx_http_ssl_ciphers"]
                .into_iter()
                .find_map(|name| reader.given(name).map(|entry| entry.value.clone()));
            let list = given.or_else(|| reader.text("ssl_ciphers")).unwrap_or_else(|| "DEFAULT".to_owned());
            let chosen = ciphers::choose(&list);
            unavailable.extend(chosen.missing);
            let (tls12, tls13) = protocols(reader, &mut unavailable);
            if tls12 && chosen.suites.is_empty() && !tls13 {
                let message = format!("ssl_ciphers: none of '{list}' is available for TLSv1.2, the only protocol");
                reader.problem("ssl_ciphers", message);
            }
            // Without a cipher there is no TLS 1.2.
            (list, (tls12 && !chosen.suites.is_empty(), tls13), reader.flag("ssl_prefer_server_ciphers"))
        }
        other => {
            reader.problem("ssl_cipher_suite", format!("Undefined cipher suite {other}"));
            (ciphers::INTERMEDIATE.to_owned(), (true, true), false)
        }
    };
    Tls {
        certificates: certificates(reader, "ssl_cert", ssl_listens),
        tls12,
        tls13,
        ciphers: ciphers::choose(&list).suites,
        prefer_server_ciphers,
        sessions: sessions(reader),
        client_verification: client_verification(reader),
        cipher_suite,
        unavailable,
    }
}

/// The certificates of an API, whose properties begin with its name.
pub(super) fn of_api(reader: &mut Reader<'_>, api: &str, listens: &[Listen]) -> Vec<Certificate> {
    certificates(reader, &format!("{api}_ssl_cert"), listens.iter().any(|listen| listen.ssl))
}

fn sessions(reader: &mut Reader<'_>) -> TlsSessions {
    const DAY: Duration = Duration::from_hours(24);
    let timeout = match reader.text("nginx_http_ssl_session_timeout").or_else(|| reader.text("ssl_session_timeout")) {
        Some(text) => units::parse_time(&text).unwrap_or_else(|| {
            reader.problem("ssl_session_timeout", format!("ssl_session_timeout is not a time: '{text}'"));
            DAY
        }),
        None => DAY,
    };
    let size = reader.text("ssl_session_cache_size").unwrap_or_else(|| "10m".to_owned());
    let bytes = units::parse_size(&size).unwrap_or_else(|| {
        reader.problem("ssl_session_cache_size", format!("ssl_session_cache_size is not a size: '{size}'"));
        0
    });
    // As nginx counts: about 4000 sessions in a megabyte.
    let cached = usize::try_from(bytes.saturating_mul(4000) >> 20).unwrap_or(usize::MAX);
    TlsSessions { timeout, cached, tickets: reader.flag("ssl_session_tickets") }
}

/// A directive of the `ssl` family: injected into the server block, or the http block.
fn directive(reader: &Reader<'_>, name: &str) -> Option<(String, String)> {
    ["nginx_proxy_", "nginx_http_"].into_iter().find_map(|block| {
        let property = format!("{block}{name}");
        let value = reader.given(&property)?.value.clone();
        Some((property, value))
    })
}

/// `ssl_verify_client` and its company, which operators inject to ask clients for certificates.
fn client_verification(reader: &mut Reader<'_>) -> Option<ClientVerification> {
    let (property, mode) = directive(reader, "ssl_verify_client")?;
    let demand = match mode.as_str() {
        "off" => return None,
        "on" => ClientCertificateDemand::Required,
        "optional" => ClientCertificateDemand::Optional,
        "optional_no_ca" => ClientCertificateDemand::Unverified,
        other => {
            reader.problem(&property, format!("{property}: invalid value '{other}'"));
            return None;
        }
    };
    let depth = directive(reader, "ssl_verify_depth").map_or(1, |(property, text)| {
        text.parse().unwrap_or_else(|_| {
            reader.problem(&property, format!("{property}: '{text}' is not a number"));
            1
        })
    });
    let mut authorities = Vec::new();
    for name in ["ssl_client_certificate", "ssl_trusted_certificate"] {
        let Some((property, path)) = directive(reader, name) else { continue };
        let path = super::resolve::absolute(&path);
        if !holds_certificate(std::fs::read(&path).ok().as_deref()) {
            reader.problem(&property, format!("{property}: no certificate can be read from {}", path.display()));
        }
        authorities.push(path);
    }
    if authorities.is_empty() && demand != ClientCertificateDemand::Unverified {
        reader.problem(
            &property,
            format!("{property}: no ssl_client_certificate (nginx_proxy_ssl_client_certificate) to verify with"),
        );
    }
    Some(ClientVerification { demand, authorities, depth })
}

fn protocols(reader: &mut Reader<'_>, unavailable: &mut Vec<String>) -> (bool, bool) {
    let injected = ["nginx_proxy_ssl_protocols", "nginx_http_ssl_protocols", "ssl_protocols"];
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

/// Certificates and their keys, pairwise: `ssl_cert` and `ssl_cert_key`, or those of an API. None if nobody `listens`.
fn certificates(reader: &mut Reader<'_>, property: &str, listens: bool) -> Vec<Certificate> {
    let key_property = format!("{property}_key");
    let (certs, keys) = (reader.list(property), reader.list(&key_property));
    if !listens {
        return Vec::new();
    }
    match (certs.len(), keys.len()) {
        (0, 0) => return Vec::new(),
        (_, 0) => reader.problem(property, format!("{key_property} must be specified")),
        (0, _) => reader.problem(&key_property, format!("{property} must be specified")),
        (a, b) if a != b => reader.problem(
            property,
            format!("{property} was specified {a} times while {key_property} was specified {b} times"),
        ),
        _ => {}
    }
    let certs: Vec<String> = certs.iter().map(|given| certificate(reader, property, given)).collect();
    let keys: Vec<String> = keys.iter().map(|given| key(reader, &key_property, given)).collect();
    certs.into_iter().zip(keys).collect()
}

/// A certificate as [`material`]; a problem if it is none.
pub(super) fn certificate(reader: &mut Reader<'_>, property: &str, given: &str) -> String {
    let (value, pem) = material(given);
    if !holds_certificate(pem.as_deref()) {
        reader.problem(property, format!("{property}: failed loading certificate from {given}"));
    }
    value
}

/// A private key as [`material`]; a problem if it is none.
pub(super) fn key(reader: &mut Reader<'_>, property: &str, given: &str) -> String {
    let (value, pem) = material(given);
    if pem.is_none_or(|pem| PrivateKeyDer::from_pem_slice(&pem).is_err()) {
        let shown = if Path::new(given).exists() { given } else { "the given text" };
        reader.problem(property, format!("{property}: failed loading key from {shown}"));
    }
    value
}

pub(super) fn holds_certificate(pem: Option<&[u8]>) -> bool {
    pem.is_some_and(|pem| matches!(CertificateDer::from_pem_slice(pem), Ok(der) if !der.is_empty()))
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

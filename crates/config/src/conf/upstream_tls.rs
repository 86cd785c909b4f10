//! TLS towards upstreams, as far as no service decides: `client_ssl*`, `lua_ssl_trusted_certificate`,
//! `lua_ssl_verify_depth`, and the injected `proxy_ssl_*` and `grpc_ssl_*`.

use std::path::Path;

use crate::settings::{UpstreamTls, UpstreamVerification};

use super::{reader::Reader, tls};

/// Where distributions keep the certificates that they trust; the first that is there counts.
const SYSTEM_STORES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(super) fn read(reader: &mut Reader<'_>) -> UpstreamTls {
    let trusted = trusted(reader);
    let depth = u32::try_from(reader.integer("lua_ssl_verify_depth", 0, u64::from(u32::MAX))).unwrap_or(u32::MAX);
    UpstreamTls {
        client_certificate: client_certificate(reader),
        http: verification(reader, "proxy_ssl", depth, &trusted),
        grpc: verification(reader, "grpc_ssl", depth, &trusted),
    }
}

fn client_certificate(reader: &mut Reader<'_>) -> Option<(String, String)> {
    if !reader.flag("client_ssl") {
        return None;
    }
    let (cert, key) = (reader.text("client_ssl_cert"), reader.text("client_ssl_cert_key"));
    if cert.is_none() {
        reader.problem("client_ssl", "client_ssl_cert must be specified".to_owned());
    }
    if key.is_none() {
        reader.problem("client_ssl", "client_ssl_cert_key must be specified".to_owned());
    }
    Some((tls::certificate(reader, "client_ssl_cert", &cert?), tls::key(reader, "client_ssl_cert_key", &key?)))
}

fn trusted(reader: &mut Reader<'_>) -> Vec<String> {
    const NAME: &str = "lua_ssl_trusted_certificate";
    let mut stores = Vec::new();
    for given in reader.list(NAME) {
        if given == "system" {
            // A system without any is no error: nothing may need them.
            stores.extend(SYSTEM_STORES.iter().find(|path| Path::new(path).exists()).map(|path| (*path).to_owned()));
            continue;
        }
        stores.push(tls::certificate(reader, NAME, &given));
    }
    stores
}

fn verification(reader: &mut Reader<'_>, family: &str, depth: u32, trusted: &[String]) -> UpstreamVerification {
    let verify = match reader.directive(&format!("{family}_verify")) {
        None => false,
        Some((name, text)) => match text.as_str() {
            "on" => true,
            "off" => false,
            _ => {
                reader.problem(&name, format!("{name} is neither on nor off: '{text}'"));
                false
            }
        },
    };
    let depth = match reader.directive(&format!("{family}_verify_depth")) {
        None => depth,
        Some((name, text)) => text.parse().unwrap_or_else(|_| {
            reader.problem(&name, format!("{name} is not a number: '{text}'"));
            depth
        }),
    };
    let trusted = match reader.directive(&format!("{family}_trusted_certificate")) {
        None => trusted.to_vec(),
        Some((name, path)) => {
            if !tls::holds_certificate(std::fs::read(&path).ok().as_deref()) {
                reader.problem(&name, format!("{name}: failed loading certificate from {path}"));
            }
            vec![super::resolve::absolute(&path).display().to_string()]
        }
    };
    UpstreamVerification { verify, depth, trusted }
}

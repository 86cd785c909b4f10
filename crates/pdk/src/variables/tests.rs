use std::sync::Arc;

use super::*;
use crate::{
    exchange::HopHeaders,
    testing::{exchange, http_exchange},
};

#[test]
fn variables_of_a_request() {
    let exchange = http_exchange();
    for (name, expect) in [
        ("remote_addr", Some("10.0.0.9")),
        ("Remote_Addr", Some("10.0.0.9")),
        ("realip_remote_addr", Some("127.0.0.1")),
        ("server_port", Some("8000")),
        ("request", Some("GET /a/b?x=1&Y=%20 HTTP/1.1")),
        ("request_method", Some("GET")),
        ("request_uri", Some("/a/b?x=1&Y=%20")),
        ("uri", Some("/a/b")),
        ("args", Some("x=1&Y=%20")),
        ("is_args", Some("?")),
        ("arg_y", Some("%20")),
        ("arg_z", None),
        ("http_x_in", Some("1, 2")),
        ("http_none", None),
        ("cookie_b", Some("2")),
        ("host", Some("example.test")),
        ("scheme", Some("http")),
        ("https", Some("")),
        ("remote_user", Some("ann")),
        ("status", Some("201")),
        ("sent_http_x_out", Some("o")),
        ("upstream_http_x_up", Some("u")),
        ("upstream_status", Some("502, 200")),
        ("upstream_addr", Some("10.1.1.1:80, 10.1.1.2:81")),
        ("upstream_uri", Some("/up")),
        ("kong_request_id", Some("0123456789abcdef0123456789abcdef")),
        ("ssl_protocol", None),
        ("no_such", None),
        ("msec", Some("1000000000.250")),
        ("request_time", Some("0.250")),
        ("request_length", Some("77")),
        ("upstream_x_forwarded_prefix", Some("")),
    ] {
        let value = variable(&exchange, name);
        assert_eq!(value.as_deref().map(String::from_utf8_lossy).as_deref(), expect, "{name}");
    }
    assert_eq!(variable(&exchange, "binary_remote_addr").as_deref(), Some(&[10, 0, 0, 9][..]));
}

#[derive(Debug)]
struct OneHop;

impl HopHeaders for OneHop {
    fn variable(&self, name: &str) -> &str {
        if name == "x_forwarded_for" { "192.0.2.1" } else { "" }
    }
}

#[test]
fn headers_of_the_way_here_are_empty_until_the_request_is_routed() {
    let mut exchange = exchange();
    let value = |exchange: &Exchange, name| variable(exchange, name).map(|value| value.into_owned());
    for name in ["upstream_x_forwarded_for", "upstream_x_forwarded_path", "upstream_via", "upstream_te"] {
        assert_eq!(value(&exchange, name).as_deref(), Some(&b""[..]), "{name}");
    }
    exchange.upstream.hop_headers = Some(Arc::new(OneHop));
    assert_eq!(value(&exchange, "upstream_x_forwarded_for").as_deref(), Some(&b"192.0.2.1"[..]));
    assert_eq!(value(&exchange, "upstream_via").as_deref(), Some(&b""[..]));
}

#[test]
fn times_are_in_nginx_form() {
    let exchange = exchange();
    let text = |name| String::from_utf8(variable(&exchange, name).unwrap().to_vec()).unwrap();
    // The zone is the machine's: only the form is sure.
    assert_eq!(text("time_iso8601").len(), "2001-09-09T01:46:40+00:00".len());
    assert_eq!(text("time_local").len(), "09/Sep/2001:01:46:40 +0000".len());
}

#[test]
fn variables_of_tls_and_the_proxy_protocol() {
    let mut exchange = exchange();
    for name in ["ssl_protocol", "ssl_client_s_dn", "ssl_session_reused", "proxy_protocol_addr"] {
        assert_eq!(variable(&exchange, name), None, "{name}");
    }
    let certificate = ClientCertificate {
        pem: "-----BEGIN CERTIFICATE-----\nAQ+/\n-----END CERTIFICATE-----\n".to_owned(),
        subject: "CN=a,O=b".to_owned(),
        subject_legacy: "/O=b/CN=a".to_owned(),
        serial: "0A".to_owned(),
        // The clock of the tests stands at 1,000,000,000.25.
        expires: 1_000_000_000 + 3 * 86_400,
        ..ClientCertificate::default()
    };
    exchange.client.tls = Some(Arc::new(crate::exchange::TlsInfo {
        version: "TLSv1.3",
        curve: Some("X25519"),
        alpn: Some("h2".to_owned()),
        resumed: true,
        client_verify: "SUCCESS".to_owned(),
        client_certificate: Some(certificate),
        ..crate::exchange::TlsInfo::default()
    }));
    exchange.client.proxied = Some(crate::exchange::Proxied {
        source: "[2001:db8::1]:7".parse().unwrap(),
        destination: "[2001:db8::2]:443".parse().unwrap(),
    });
    for (name, expect) in [
        ("ssl_protocol", Some("TLSv1.3")),
        ("ssl_curve", Some("X25519")),
        ("ssl_alpn_protocol", Some("h2")),
        ("ssl_server_name", None),
        ("ssl_session_reused", Some("r")),
        ("ssl_client_verify", Some("SUCCESS")),
        ("ssl_client_raw_cert", Some("-----BEGIN CERTIFICATE-----\nAQ+/\n-----END CERTIFICATE-----")),
        ("ssl_client_cert", Some("-----BEGIN CERTIFICATE-----\n\tAQ+/\n\t-----END CERTIFICATE-----")),
        ("ssl_client_escaped_cert", Some("-----BEGIN%20CERTIFICATE-----%0AAQ%2B%2F%0A-----END%20CERTIFICATE-----%0A")),
        ("ssl_client_s_dn", Some("CN=a,O=b")),
        ("ssl_client_s_dn_legacy", Some("/O=b/CN=a")),
        ("ssl_client_serial", Some("0A")),
        ("ssl_client_v_remain", Some("2")),
        ("proxy_protocol_addr", Some("2001:db8::1")),
        ("proxy_protocol_port", Some("7")),
        ("proxy_protocol_server_addr", Some("2001:db8::2")),
        ("proxy_protocol_server_port", Some("443")),
    ] {
        let value = variable(&exchange, name).map(|value| String::from_utf8_lossy(&value).into_owned());
        assert_eq!(value.as_deref(), expect, "{name}");
    }
}

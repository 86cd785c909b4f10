use super::*;
use crate::testing::{exchange, http_exchange};

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

#[test]
fn times_are_in_nginx_form() {
    let exchange = exchange();
    let text = |name| String::from_utf8(variable(&exchange, name).unwrap().to_vec()).unwrap();
    // The zone is the machine's: only the form is sure.
    assert_eq!(text("time_iso8601").len(), "2001-09-09T01:46:40+00:00".len());
    assert_eq!(text("time_local").len(), "09/Sep/2001:01:46:40 +0000".len());
}

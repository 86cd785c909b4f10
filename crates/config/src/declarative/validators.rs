//! Checks of single values that the schema language cannot express; Kong has them in `kong/db/schema/typedefs.lua`.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value as Json;
use silverback_model::{
    OnError,
    schema::{Validator, Vocabulary},
};

use super::{
    certificates,
    hosts::{self, HostKind, INVALID_PORT},
    paths,
};

pub(super) const VOCABULARY: Vocabulary = Vocabulary {
    validators: &[
        Validator { name: "host", check: |v| on_text(v, host) },
        Validator { name: "host_with_optional_port", check: |v| on_text(v, |t| hosts::parse(t).map(drop)) },
        Validator { name: "wildcard_host", check: |v| on_text(v, wildcard_host) },
        Validator { name: "route_host", check: |v| on_text(v, |t| hosts::parse(&t.replace('*', "abc")).map(drop)) },
        Validator { name: "sni", check: |v| on_text(v, sni) },
        Validator { name: "path", check: |v| on_text(v, path) },
        Validator { name: "router_path", check: |v| on_text(v, router_path) },
        Validator { name: "utf8_name", check: |v| on_text(v, utf8_name) },
        Validator { name: "tag", check: |v| on_text(v, tag) },
        Validator { name: "ip_or_cidr", check: |v| on_text(v, ip_or_cidr) },
        Validator { name: "header_name", check: |v| on_text(v, header_name) },
        Validator { name: "cookie_name", check: |v| on_text(v, cookie_name) },
        Validator { name: "target", check: |v| on_text(v, target) },
        Validator { name: "upstream_name", check: |v| on_text(v, upstream_name) },
        Validator { name: "certificate", check: |v| on_text(v, certificates::check_certificate) },
        Validator { name: "key", check: |v| on_text(v, certificates::check_key) },
        Validator { name: "public_key", check: |v| on_text(v, certificates::check_public_key) },
        Validator { name: "on_error", check: |v| on_text(v, on_error) },
        Validator { name: "uri", check: |v| on_text(v, uri) },
    ],
};

fn on_text(value: &Json, check: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    value.as_str().map_or(Ok(()), check)
}

fn on_error(text: &str) -> Result<(), String> {
    text.parse::<OnError>().map(drop).map_err(|problem| problem.to_string())
}

fn without_port(text: &str, names_only: bool) -> Result<(), String> {
    match hosts::parse(text) {
        Err(problem) if problem == INVALID_PORT => Err("must not have a port".to_owned()),
        Err(_) => Err(format!("invalid value: {text}")),
        Ok(host) if names_only && host.kind != HostKind::Name => Err("must not be an IP".to_owned()),
        Ok(host) if host.port.is_some() => Err("must not have a port".to_owned()),
        Ok(_) => Ok(()),
    }
}

fn host(text: &str) -> Result<(), String> {
    without_port(text, false)
}

fn sni(text: &str) -> Result<(), String> {
    without_port(text, true)
}

fn wildcard_host(text: &str) -> Result<(), String> {
    let Some(at) = text.find('*') else { return sni(text) };
    if at != 0 && at != text.len() - 1 {
        return Err("wildcard must be leftmost or rightmost character".to_owned());
    }
    if text.matches('*').count() > 1 {
        return Err("only one wildcard must be specified".to_owned());
    }
    sni(&text.replace('*', "wildcard"))
}

/// The first thing that is wrong with a path, and whether it is a bad percent-encoding.
fn path_problem(text: &str) -> Option<(String, bool)> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%:@!$&'()*+,;=".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(allowed) {
        return Some((
            format!("invalid path: '{text}' (characters outside of the reserved list of RFC 3986 found)"),
            false,
        ));
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(offset) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == b'%')) {
        let start = at + offset;
        let digits = bytes.get(start + 1..start + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text.get(start..).unwrap_or_default().chars().take(3).collect();
            return Some((format!("invalid url-encoded value: '{shown}'"), true));
        }
        at = start + 3;
    }
    None
}

fn path(text: &str) -> Result<(), String> {
    path_problem(text).map_or(Ok(()), |(problem, _)| Err(problem))
}

fn router_path(text: &str) -> Result<(), String> {
    if let Some((problem, true)) = path_problem(text) {
        return Err(problem);
    }
    let Some(regex) = text.strip_prefix('~') else {
        let normal = paths::normalize(text);
        if text != normal {
            return Err(format!("non-normalized path, consider use '{normal}' instead"));
        }
        return Ok(());
    };
    check_regex(regex).map_err(|problem| format!("invalid regex: '{regex}' ({problem})"))
}

/// Whether the router can compile it. Parsing is a small part of the cost of compiling, and finds the same mistakes.
pub(super) fn check_regex(regex: &str) -> Result<(), String> {
    regex_syntax::ParserBuilder::new().utf8(false).build().parse(regex).map(drop).map_err(|problem| match problem {
        regex_syntax::Error::Parse(problem) => problem.kind().to_string(),
        regex_syntax::Error::Translate(problem) => problem.kind().to_string(),
        other => other.to_string(),
    })
}

fn utf8_name(text: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~') || b >= 128;
    if !text.is_empty() && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("invalid value '{text}': the only accepted ascii characters are alphanumerics or ., -, _, and ~"))
}

fn tag(text: &str) -> Result<(), String> {
    let allowed = |b: u8| (b' '..=b'~').contains(&b) && b != b',' && b != b'/' || b >= 128;
    if !text.is_empty() && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("invalid tag '{text}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"))
}

fn ip_or_cidr(text: &str) -> Result<(), String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let limit = if address.parse::<Ipv4Addr>().is_ok() {
        Some(32)
    } else if address.parse::<Ipv6Addr>().is_ok() {
        Some(128)
    } else {
        None
    };
    let right = limit.is_some_and(|limit| bits.is_none_or(|bits| bits.parse::<u32>().is_ok_and(|bits| bits <= limit)));
    if right { Ok(()) } else { Err(format!("invalid ip or cidr range: '{text}'")) }
}

fn header_name(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Ok(());
    }
    Err(format!("bad header name '{text}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"))
}

fn cookie_name(text: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.bytes().all(token) {
        return Ok(());
    }
    Err(format!("'{text}' is not a valid HTTP token"))
}

fn target(text: &str) -> Result<(), String> {
    match hosts::parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("Invalid target ('{text}'); not a valid hostname or ip address")),
    }
}

fn upstream_name(text: &str) -> Result<(), String> {
    match hosts::parse(text) {
        Err(_) => Err(format!("Invalid name ('{text}'); must be a valid hostname")),
        Ok(host) if host.kind != HostKind::Name => Err(format!("Invalid name ('{text}'); no ip addresses allowed")),
        Ok(host) if host.port.is_some() => Err(format!("Invalid name ('{text}'); no port allowed")),
        Ok(_) => Ok(()),
    }
}

fn uri(text: &str) -> Result<(), String> {
    let parsed = super::url::parse(text);
    if parsed.scheme.is_none() || parsed.host.is_none() {
        return Err(format!("cannot parse '{text}'"));
    }
    if text.contains('#') {
        return Err(format!("fragment not allowed in '{text}'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (name, text, expect) in [
            ("host", "a.com", None),
            ("host", "a.com:80", Some("must not have a port")),
            ("host", "a b", Some("invalid value: a b")),
            ("wildcard_host", "*.a.com", None),
            ("wildcard_host", "a.*.com", Some("wildcard must be leftmost or rightmost character")),
            ("wildcard_host", "*.a.*", Some("only one wildcard must be specified")),
            ("wildcard_host", "1.2.3.4", Some("must not be an IP")),
            ("route_host", "*.a.com:80", None),
            ("path", "/a b", Some("invalid path: '/a b' (characters outside of the reserved list of RFC 3986 found)")),
            ("path", "/a%2", Some("invalid url-encoded value: '%2'")),
            ("router_path", "/a b", None),
            ("router_path", "/a%zz", Some("invalid url-encoded value: '%zz'")),
            ("router_path", "/a/../b", Some("non-normalized path, consider use '/b' instead")),
            ("router_path", "~/a(b", Some("invalid regex: '/a(b' (unclosed group)")),
            ("router_path", "~/a/(?<id>\\d+)$", None),
            ("utf8_name", "a-b_c.d~é", None),
            (
                "utf8_name",
                "a b",
                Some("invalid value 'a b': the only accepted ascii characters are alphanumerics or ., -, _, and ~"),
            ),
            ("tag", "a b", None),
            (
                "tag",
                "a,b",
                Some("invalid tag 'a,b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"),
            ),
            ("ip_or_cidr", "10.0.0.0/8", None),
            ("ip_or_cidr", "10.0.0.0/33", Some("invalid ip or cidr range: '10.0.0.0/33'")),
            ("upstream_name", "1.2.3.4", Some("Invalid name ('1.2.3.4'); no ip addresses allowed")),
            ("target", "a b", Some("Invalid target ('a b'); not a valid hostname or ip address")),
        ] {
            let validator = VOCABULARY.validators.iter().find(|validator| validator.name == name).unwrap();
            let found = (validator.check)(&Json::String(text.to_owned())).err();
            assert_eq!(found.as_deref(), expect, "{name} {text}");
        }
    }
}

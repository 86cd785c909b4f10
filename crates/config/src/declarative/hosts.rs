//! Host names and addresses, checked as Kong's `kong/tools/ip.lua` does it.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What a host turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostKind {
    V4,
    V6,
    Name,
}

/// A host with the port that followed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) kind: HostKind,
    /// Normalised: IPv4 without leading zeros, IPv6 expanded and without brackets; a name as it came.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// The problem that Kong tells apart from all the others.
pub(super) const INVALID_PORT: &str = "invalid port number";

/// Reads `name`, `name:port`, `v4`, `v4:port`, `v6`, `[v6]`, `[v6]:port`.
pub(super) fn parse(address: &str) -> Result<Host, String> {
    let colons = address.bytes().filter(|b| *b == b':').count();
    if colons > 1 {
        return v6(address);
    }
    let bare: String = address.chars().filter(|c| *c != ':').collect();
    if !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return v4(address);
    }
    name(address)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse::<u16>().map_err(|_| INVALID_PORT.to_owned())
}

fn v4(address: &str) -> Result<Host, String> {
    let invalid = || format!("invalid ipv4 address: {address}");
    let (host, port_text) = match address.split_once(':') {
        Some((host, port)) if !port.is_empty() => (host, Some(port)),
        Some(_) => return Err(invalid()),
        None => (address, None),
    };
    let mut octets = [0u8; 4];
    let mut parts = host.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| (1..=3).contains(&part.len())).ok_or_else(invalid)?;
        *octet = part.parse().map_err(|_| invalid())?;
    }
    if parts.next().is_some() {
        return Err(invalid());
    }
    if port_text.is_some_and(|text| !text.bytes().all(|b| b.is_ascii_digit())) {
        return Err(invalid());
    }
    let port = port_text.map(port).transpose()?;
    Ok(Host { kind: HostKind::V4, host: Ipv4Addr::from(octets).to_string(), port })
}

fn v6(address: &str) -> Result<Host, String> {
    let (inner, port_text) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, "")) => (inner, None),
        Some((inner, rest)) => match rest.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => (inner, Some(digits)),
            _ => return Err("invalid ipv6 address".to_owned()),
        },
        None => (address, None),
    };
    let parsed: Ipv6Addr = inner.parse().map_err(|_| format!("invalid ipv6 address: {address}"))?;
    let groups: Vec<String> = parsed.segments().iter().map(|group| format!("{group:04x}")).collect();
    let port = port_text.map(port).transpose()?;
    Ok(Host { kind: HostKind::V6, host: groups.join(":"), port })
}

fn name(address: &str) -> Result<Host, String> {
    let invalid = || format!("invalid hostname: {address}");
    let (host, port_text) = match address.rsplit_once(':') {
        Some((host, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (host, Some(digits))
        }
        _ => (address, None),
    };
    let port = port_text.map(port).transpose()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err(invalid());
    }
    let labels: Vec<&str> = host.split('.').collect();
    let last = labels.len() - 1;
    // A name may end in a dot; a label may not be empty nor end in a dash.
    if labels.iter().enumerate().any(|(at, label)| label.ends_with('-') || (label.is_empty() && at != last)) {
        return Err(invalid());
    }
    Ok(Host { kind: HostKind::Name, host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, expect) in [
            ("example.com", Some((HostKind::Name, "example.com", None))),
            ("example.com:80", Some((HostKind::Name, "example.com", Some(80)))),
            ("example.com.", Some((HostKind::Name, "example.com.", None))),
            ("a_b", Some((HostKind::Name, "a_b", None))),
            ("a-.b", None),
            ("a..b", None),
            ("a b", None),
            ("", None),
            ("a:99999", None),
            ("1.2.3.4", Some((HostKind::V4, "1.2.3.4", None))),
            ("1.2.3.4:8080", Some((HostKind::V4, "1.2.3.4", Some(8080)))),
            ("1.2.3.400", None),
            ("1.2.3", None),
            ("::1", Some((HostKind::V6, "0000:0000:0000:0000:0000:0000:0000:0001", None))),
            ("[::1]:80", Some((HostKind::V6, "0000:0000:0000:0000:0000:0000:0000:0001", Some(80)))),
            ("[::1]", Some((HostKind::V6, "0000:0000:0000:0000:0000:0000:0000:0001", None))),
            ("a::b::c", None),
        ] {
            let found = parse(text).ok();
            let found = found.as_ref().map(|host| (host.kind, host.host.as_str(), host.port));
            assert_eq!(found, expect, "{text}");
        }
        assert_eq!(parse("a:99999"), Err(INVALID_PORT.to_owned()));
    }
}

//! The client's address behind trusted proxies, as nginx's realip module finds it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use silverback_config::settings::RealIp;
use silverback_pdk::exchange::Proxied;

/// The value of `real_ip_header` that names no header.
const PROXY_PROTOCOL: &str = "proxy_protocol";

/// The address and port that a trusted peer names; nothing when the peer is not trusted, or names none.
pub(crate) fn resolve(
    settings: &RealIp,
    peer: Option<IpAddr>,
    proxied: Option<Proxied>,
    headers: &HeaderMap,
) -> (Option<IpAddr>, Option<u16>) {
    let trusted = |ip: Option<IpAddr>| is_trusted(settings, ip);
    if settings.header.eq_ignore_ascii_case(PROXY_PROTOCOL) {
        return of_stream(settings, peer, proxied);
    }
    if !trusted(peer) {
        return (None, None);
    }
    let Ok(name) = HeaderName::try_from(settings.header.as_str()) else { return (None, None) };
    let values: Vec<&[u8]> = headers.get_all(&name).iter().map(http::HeaderValue::as_bytes).collect();
    let mut found = (None, None);
    // From the nearest to the farthest.
    for item in values.iter().flat_map(|value| value.split(|byte| *byte == b',')).rev() {
        let Some((ip, port)) = parse(item.trim_ascii()) else { break };
        found = (Some(ip), port);
        if !settings.recursive || !trusted(Some(ip)) {
            break;
        }
    }
    found
}

/// The same for a stream, where only the PROXY protocol can name an address.
pub(crate) fn of_stream(
    settings: &RealIp,
    peer: Option<IpAddr>,
    proxied: Option<Proxied>,
) -> (Option<IpAddr>, Option<u16>) {
    match proxied {
        Some(proxied) if is_trusted(settings, peer) => {
            (Some(proxied.source.ip().to_canonical()), Some(proxied.source.port()))
        }
        _ => (None, None),
    }
}

fn is_trusted(settings: &RealIp, ip: Option<IpAddr>) -> bool {
    match ip {
        Some(ip) => settings.trusted.iter().any(|net| net.contains(&ip)),
        None => settings.trust_unix,
    }
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1` or `[::1]:80`.
fn parse(item: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let item = std::str::from_utf8(item).ok()?;
    if let Ok(ip) = item.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some((ip, None));
    }
    let (ip, port) = item.rsplit_once(':')?;
    let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some((ip, Some(port.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use silverback_config::settings::RealIp;

    use super::{Proxied, resolve};

    fn check(recursive: bool, header: &str, expect: Option<&str>) {
        let settings = RealIp {
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()],
            trust_unix: false,
            header: "X-Forwarded-For".into(),
            recursive,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_str(header).unwrap());
        let (ip, _) = resolve(&settings, Some("127.0.0.1".parse().unwrap()), None, &headers);
        assert_eq!(ip.map(|ip| ip.to_string()).as_deref(), expect, "{header}");
        let (ip, _) = resolve(&settings, Some("8.8.8.8".parse().unwrap()), None, &headers);
        assert_eq!(ip, None, "nothing is believed of a peer that is not trusted");
    }

    #[test]
    fn the_last_address_counts() {
        check(false, "1.1.1.1, 10.2.2.2", Some("10.2.2.2"));
        check(false, "1.1.1.1:80", Some("1.1.1.1"));
        check(false, "nonsense", None);
    }

    #[test]
    fn recursion_goes_back_to_the_first_untrusted_one() {
        check(true, "9.9.9.9, 1.1.1.1, 10.2.2.2", Some("1.1.1.1"));
        check(true, "10.3.3.3, 10.2.2.2", Some("10.3.3.3"));
        check(true, "nonsense, 10.2.2.2", Some("10.2.2.2"));
    }

    #[test]
    fn the_proxy_protocol_is_believed_of_trusted_peers() {
        let proxied = Proxied {
            source: "[2001:db8::1]:7000".parse().unwrap(),
            destination: "[2001:db8::2]:443".parse().unwrap(),
        };
        for (header, peer, expect) in [
            ("proxy_protocol", "127.0.0.1", Some("2001:db8::1")),
            ("proxy_protocol", "8.8.8.8", None),
            ("X-Real-IP", "127.0.0.1", None),
        ] {
            let settings = RealIp {
                trusted: vec!["127.0.0.1/32".parse().unwrap()],
                trust_unix: false,
                header: header.into(),
                recursive: true,
            };
            let peer = Some(peer.parse().unwrap());
            let (ip, port) = resolve(&settings, peer, Some(proxied), &HeaderMap::new());
            assert_eq!(ip.map(|ip| ip.to_string()).as_deref(), expect);
            assert_eq!(port, expect.map(|_| 7000));
        }
    }
}

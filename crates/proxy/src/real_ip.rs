//! The client's address behind trusted proxies, as nginx's realip module finds it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use silverback_config::settings::RealIp;

/// The address and port that a trusted peer names; nothing when the peer is not trusted, or names none.
pub(crate) fn resolve(settings: &RealIp, peer: Option<IpAddr>, headers: &HeaderMap) -> (Option<IpAddr>, Option<u16>) {
    let trusted = |ip: Option<IpAddr>| match ip {
        Some(ip) => settings.trusted.iter().any(|net| net.contains(&ip)),
        None => settings.trust_unix,
    };
    if (settings.trusted.is_empty() && !settings.trust_unix) || !trusted(peer) {
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

    use super::resolve;

    fn check(recursive: bool, header: &str, expect: Option<&str>) {
        let settings = RealIp {
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()],
            trust_unix: false,
            header: "X-Forwarded-For".into(),
            recursive,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_str(header).unwrap());
        let (ip, _) = resolve(&settings, Some("127.0.0.1".parse().unwrap()), &headers);
        assert_eq!(ip.map(|ip| ip.to_string()).as_deref(), expect, "{header}");
        let (ip, _) = resolve(&settings, Some("8.8.8.8".parse().unwrap()), &headers);
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
}

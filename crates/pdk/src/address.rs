//! Addresses as text.

use std::net::IpAddr;

/// An address as everybody writes it. The same as its `to_string`, which takes longer than to route a request.
pub fn text(ip: IpAddr) -> String {
    let mut text = Vec::with_capacity(15);
    append(&mut text, ip);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends an address as text.
pub(crate) fn append(text: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else { return text.extend_from_slice(ip.to_string().as_bytes()) };
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::text;

    #[test]
    fn addresses_are_written_as_everybody_does() {
        for octet in 0..=255 {
            let ip = IpAddr::from(Ipv4Addr::new(octet, 0, 255, octet));
            assert_eq!(text(ip), ip.to_string());
        }
        assert_eq!(text("2001:db8::1".parse().unwrap()), "2001:db8::1");
    }
}

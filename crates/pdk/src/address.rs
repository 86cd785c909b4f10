//! Addresses as text.

use std::net::{IpAddr, Ipv4Addr};

/// An address as everybody writes it. The same as its `to_string`, which takes longer than to route a request.
pub fn text(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut room = [0; LONGEST];
    std::str::from_utf8(in_digits(ip, &mut room)).unwrap_or_default().to_owned()
}

/// Appends an address as text.
pub fn append(text: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => text.extend_from_slice(in_digits(ip, &mut [0; LONGEST])),
        IpAddr::V6(_) => text.extend_from_slice(ip.to_string().as_bytes()),
    }
}

/// The length of `255.255.255.255`.
const LONGEST: usize = 15;

fn in_digits(ip: Ipv4Addr, room: &mut [u8; LONGEST]) -> &[u8] {
    let mut length = 0;
    let mut push = |byte| {
        room[length] = byte;
        length += 1;
    };
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    &room[..length]
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

use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Header, Malformed, ProxyProtocolError, SIGNATURE_2, accept, parse};

/// Source and destination of a whole header; "-" where it names none.
fn said(header: Header) -> String {
    header.proxied.map_or_else(|| "-".to_owned(), |proxied| format!("{} {}", proxied.source, proxied.destination))
}

#[test]
fn lines_of_version_1() {
    for (line, expect) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1:56324 198.51.100.2:443"),
        ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", "[2001:db8::1]:1 [::1]:65535"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", "192.0.2.1:0 198.51.100.2:0"),
        ("PROXY UNKNOWN\r\n", "-"),
        ("PROXY UNKNOWN anything at all\r\n", "-"),
    ] {
        let bytes = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        let header = parse(&bytes).unwrap().unwrap();
        assert_eq!((header.length, said(header).as_str()), (line.len(), expect), "{line}");
        for end in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..end]), Ok(None), "{}", &line[..end]);
        }
    }
}

#[test]
fn lines_that_can_be_read_in_two_ways_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY \r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed::Fields), "{line}");
    }
    assert_eq!(parse(b"PROXY UNKNOWN\n"), Err(Malformed::Line));
    assert_eq!(parse(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat()), Err(Malformed::Line));
    assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(Malformed::NoSignature));
    assert_eq!(parse(b"\x16\x03\x01"), Err(Malformed::NoSignature));
}

/// A header of version 2.
fn binary(version_and_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [SIGNATURE_2, &[version_and_command, family], &length, addresses].concat()
}

#[test]
fn headers_of_version_2() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
    let tlv = [0x04, 0, 3, 1, 2, 3];
    let mut v6 = [0_u8; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 80, 90);
    for (bytes, expect) in [
        (binary(0x21, 0x11, &v4), "192.0.2.1:56324 198.51.100.2:443"),
        (binary(0x21, 0x11, &[&v4[..], &tlv].concat()), "192.0.2.1:56324 198.51.100.2:443"),
        (binary(0x21, 0x21, &v6), "[::1]:80 [::2]:90"),
        // LOCAL, whatever it says; UNSPEC; a datagram; UNIX.
        (binary(0x20, 0x11, &v4), "-"),
        (binary(0x20, 0x00, &[]), "-"),
        (binary(0x21, 0x00, &[]), "-"),
        (binary(0x21, 0x12, &v4), "-"),
        (binary(0x21, 0x31, &[b'/'; 216]), "-"),
    ] {
        let header = parse(&[&bytes[..], b"more"].concat()).unwrap().unwrap();
        assert_eq!((header.length, said(header).as_str()), (bytes.len(), expect));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None));
        }
    }
}

#[test]
fn headers_of_version_2_that_make_no_sense() {
    for (bytes, expect) in [
        (binary(0x11, 0x11, &[0; 12]), Malformed::Version(1)),
        (binary(0x22, 0x11, &[0; 12]), Malformed::Command(2)),
        (binary(0x21, 0x11, &[0; 11]), Malformed::TooShort(11)),
        (binary(0x21, 0x21, &[0; 35]), Malformed::TooShort(35)),
        (binary(0x21, 0x11, &[0; 5000]), Malformed::TooLong(5016)),
    ] {
        assert_eq!(parse(&bytes), Err(expect));
    }
}

#[tokio::test]
async fn what_follows_the_header_is_not_lost() {
    let (mut client, server) = tokio::io::duplex(64);
    let sending = tokio::spawn(async move {
        for piece in ["PROXY TCP4 192.0.2.1 198.51.100.2 5", "6324 443\r\nGET /", " HTTP/1.1\r\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
        }
    });
    let (mut socket, proxied) = accept(server, Duration::from_secs(60)).await.unwrap();
    assert_eq!(proxied.unwrap().source, "192.0.2.1:56324".parse::<SocketAddr>().unwrap());
    let mut rest = String::new();
    socket.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "GET / HTTP/1.1\r\n");
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let (_client, server) = tokio::io::duplex(64);
    let waited = accept(server, Duration::from_secs(60)).await;
    assert!(matches!(waited, Err(ProxyProtocolError::Timeout(_))));
}

proptest! {
    #[test]
    fn no_bytes_are_misread(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
        }
        let _ = parse(&[SIGNATURE_2, &bytes].concat());
        let _ = parse(&[b"PROXY ".as_slice(), &bytes].concat());
    }

    #[test]
    fn addresses_come_back_as_they_went(source: SocketAddr, destination: SocketAddr) {
        prop_assume!(source.is_ipv4() == destination.is_ipv4());
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(), destination.ip(), source.port(), destination.port()
        );
        let proxied = parse(line.as_bytes()).unwrap().unwrap().proxied.unwrap();
        prop_assert_eq!((proxied.source.ip(), proxied.source.port()), (source.ip(), source.port()));
        prop_assert_eq!(proxied.destination.port(), destination.port());
    }
}

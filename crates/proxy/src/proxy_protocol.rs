//! The PROXY protocol, versions 1 and 2: a proxy in front says, before anything else, whose connection it forwards.
//!
//! After HAProxy's `proxy-protocol.txt` (2.1 and 2.2), read as strictly as it allows: what could be read in two ways is an
//! error, because the address decides whom the gateway trusts. As with nginx, a header must be there, addresses
//! that are not those of TCP connections (UNKNOWN, LOCAL, UNIX, datagrams) leave the peer's own address in force, and
//! the extensions of version 2 (TLVs) are passed over.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use bytes::{Buf, BytesMut};
pub use silverback_pdk::exchange::Proxied;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::prefixed::Prefixed;

/// A whole header: how many bytes it takes, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    /// `None`: nothing that concerns a TCP connection.
    pub proxied: Option<Proxied>,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it begins with neither version's signature")]
    NoSignature,
    #[error("its line is longer than {MAX_LINE} bytes, or ends without a carriage return")]
    Line,
    #[error("its line is not of the form PROXY TCP4|TCP6 address address port port")]
    Fields,
    #[error("version {0} is not known")]
    Version(u8),
    #[error("command {0} is not known")]
    Command(u8),
    #[error("its {0} bytes of addresses are too few")]
    TooShort(usize),
    #[error("its {0} bytes are more than {MAX_HEADER}")]
    TooLong(usize),
}

/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// The longest header of version 2 that is accepted, as nginx.
const MAX_HEADER: usize = 4096;

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header that `bytes` begin with. `None`: more bytes are needed to tell.
///
/// # Errors
/// It is no header, and more bytes would not make it one.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |signature: &[u8]| {
        let seen = bytes.len().min(signature.len());
        bytes[..seen] == signature[..seen]
    };
    if begins(SIGNATURE_2) {
        parse_binary(bytes)
    } else if begins(SIGNATURE_1) {
        parse_line(bytes)
    } else {
        Err(Malformed::NoSignature)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let seen = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() == MAX_LINE { Err(Malformed::Line) } else { Ok(None) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed::Fields)?;
    let mut fields = line.split(' ').skip(1);
    let protocol = fields.next();
    let proxied = match protocol {
        // What follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses::<Ipv4Addr>(fields)?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(fields)?),
        _ => return Err(Malformed::Fields),
    };
    Ok(Some(Header { length: end + 1, proxied }))
}

fn addresses<'f, A: FromStr + Into<IpAddr>>(mut fields: impl Iterator<Item = &'f str>) -> Result<Proxied, Malformed> {
    let (from, to) = (address::<A>(fields.next())?, address::<A>(fields.next())?);
    let (from_port, to_port) = (port(fields.next())?, port(fields.next())?);
    if fields.next().is_some() {
        return Err(Malformed::Fields);
    }
    Ok(Proxied { source: SocketAddr::new(from, from_port), destination: SocketAddr::new(to, to_port) })
}

fn address<A: FromStr + Into<IpAddr>>(field: Option<&str>) -> Result<IpAddr, Malformed> {
    field.and_then(|text| text.parse::<A>().ok()).map(Into::into).ok_or(Malformed::Fields)
}

fn port(field: Option<&str>) -> Result<u16, Malformed> {
    let text = field.ok_or(Malformed::Fields)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| Malformed::Fields) } else { Err(Malformed::Fields) }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((signature, mut rest)) = bytes.split_at_checked(SIGNATURE_2.len()) else { return Ok(None) };
    let Some((&version_and_command, after)) = rest.split_first() else { return Ok(None) };
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version != 2 {
        return Err(Malformed::Version(version));
    }
    if command > 1 {
        return Err(Malformed::Command(command));
    }
    rest = after;
    if rest.len() < 3 {
        return Ok(None);
    }
    let family_and_transport = rest.get_u8();
    let announced = usize::from(rest.get_u16());
    let length = signature.len() + 4 + announced;
    if length > MAX_HEADER {
        return Err(Malformed::TooLong(length));
    }
    let Some(mut said) = rest.get(..announced) else { return Ok(None) };
    let too_short = Malformed::TooShort(announced);
    let pair = |source: IpAddr, destination: IpAddr, mut ports: &[u8]| Proxied {
        source: SocketAddr::new(source, ports.get_u16()),
        destination: SocketAddr::new(destination, ports.get_u16()),
    };
    let proxied = match (command, family_and_transport) {
        (1, 0x11) => {
            let fixed = said.get(..12).ok_or(too_short)?;
            let source = Ipv4Addr::from_bits(said.get_u32());
            Some(pair(source.into(), Ipv4Addr::from_bits(said.get_u32()).into(), &fixed[8..]))
        }
        (1, 0x21) => {
            let fixed = said.get(..36).ok_or(too_short)?;
            let source = Ipv6Addr::from_bits(said.get_u128());
            Some(pair(source.into(), Ipv6Addr::from_bits(said.get_u128()).into(), &fixed[32..]))
        }
        _ => None,
    };
    Ok(Some(Header { length, proxied }))
}

/// Why a connection that was to begin with the PROXY protocol is given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyProtocolError {
    #[error("broken PROXY protocol header: {0}")]
    Malformed(#[from] Malformed),
    #[error("no PROXY protocol header within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the connection ended in the PROXY protocol header")]
    Ended,
    #[error("{0} while reading the PROXY protocol header")]
    Io(#[from] io::Error),
}

/// Reads the header at the start of a connection: what it says, and the socket as it goes on behind it.
///
/// # Errors
/// There is none, it is broken, or it does not come within `limit`. nginx closes the connection then.
pub(crate) async fn accept<S: AsyncRead + Unpin>(
    mut socket: S,
    limit: Duration,
) -> Result<(Prefixed<S>, Option<Proxied>), ProxyProtocolError> {
    let reading = async {
        let mut read = BytesMut::new();
        loop {
            if let Some(header) = parse(&read)? {
                read.advance(header.length);
                return Ok((read, header.proxied));
            }
            read.reserve(256);
            if socket.read_buf(&mut read).await? == 0 {
                return Err(ProxyProtocolError::Ended);
            }
        }
    };
    match tokio::time::timeout(limit, reading).await {
        Ok(Ok((read, proxied))) => Ok((Prefixed::new(read, socket), proxied)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ProxyProtocolError::Timeout(limit)),
    }
}

#[cfg(test)]
mod tests;

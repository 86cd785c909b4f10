//! One probe of an active health check.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{ActiveCheck, CheckKind, Outcome};
use crate::upstream::tls::{Asked, ClientTls};

/// Bytes in which the status line must have come.
const MAX_STATUS_LINE: usize = 4096;

/// How TLS is spoken with the targets of an upstream entity: with its client certificate.
pub(crate) struct ProbeTls<'a> {
    pub(crate) tls: &'a ClientTls,
    /// The upstream's name.
    pub(crate) upstream: &'a str,
}

/// Probes an address. `hostname` is what it is called: the upstream's `host_header`, or the target's host.
pub(crate) async fn probe(check: &ActiveCheck, tls: &ProbeTls<'_>, address: SocketAddr, hostname: &str) -> Outcome {
    match tokio::time::timeout(check.timeout, exchange(check, tls, address, hostname)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::TcpFailure,
        Err(_) => Outcome::Timeout,
    }
}

async fn exchange(check: &ActiveCheck, tls: &ProbeTls<'_>, address: SocketAddr, hostname: &str) -> io::Result<Outcome> {
    let socket = TcpStream::connect(address).await?;
    match check.kind {
        // gRPC has no request that every server answers: that it takes connections is what is checked.
        CheckKind::Tcp | CheckKind::Grpc => Ok(Outcome::Success),
        CheckKind::Http => ask(check, socket, hostname).await,
        CheckKind::Https | CheckKind::Grpcs => {
            let name = check.https_sni.as_deref().unwrap_or_else(|| without_port(hostname));
            let choice = tls.tls.choose(&Asked {
                upstream: tls.upstream,
                verify: Some(check.https_verify_certificate),
                ..Asked::default()
            });
            let connecting = tls.tls.connect(&choice, name.trim_matches(['[', ']']), socket);
            let socket = connecting.await.map_err(io::Error::other)?;
            if check.kind == CheckKind::Grpcs {
                return Ok(Outcome::Success);
            }
            ask(check, socket, hostname).await
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

async fn ask(
    check: &ActiveCheck,
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    hostname: &str,
) -> io::Result<Outcome> {
    let host = if hostname.contains(':') && hostname.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{hostname}]")
    } else {
        hostname.to_owned()
    };
    let mut request = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", check.http_path);
    let own_host = check.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    for (name, value) in check.headers.iter().filter(|(_, value)| !value.contains(['\r', '\n'])) {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !own_host {
        request.push_str(&format!("Host: {host}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let mut line = Vec::new();
    let mut piece = [0; 512];
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        let count = socket.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    // What is no status counts as a bad one, as in lua-resty-healthcheck.
    Ok(Outcome::Status(status(&line).unwrap_or(0)))
}

/// The status of a line like `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_answer() {
        for (line, expect) in [
            ("HTTP/1.1 200 OK\r\nA: b", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/2 200\r\n", None),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), expect, "{line}");
        }
    }

    #[test]
    fn names_lose_their_port() {
        for (host, expect) in
            [("a.test:80", "a.test"), ("a.test", "a.test"), ("::1", "::1"), ("10.0.0.1:9", "10.0.0.1")]
        {
            assert_eq!(without_port(host), expect);
        }
    }
}

//! The `*_listen` properties: addresses with nginx's flags.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use crate::settings::{Listen, ListenAddress};

/// What is listened for; it decides which flags there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subsystem {
    Http,
    Stream,
}

impl Subsystem {
    /// The flags as Kong lists them in its error.
    const fn flags(self) -> &'static str {
        match self {
            Self::Http => {
                "[ssl] [http2] [proxy_protocol] [deferred] [bind] [reuseport] [backlog=%d+] [ipv6only=on] \
                 [ipv6only=off] [so_keepalive=on] [so_keepalive=off] [so_keepalive=%w*:%w*:%d*]"
            }
            Self::Stream => {
                "[udp] [ssl] [proxy_protocol] [bind] [reuseport] [backlog=%d+] [ipv6only=on] [ipv6only=off] \
                 [so_keepalive=on] [so_keepalive=off] [so_keepalive=%w*:%w*:%d*]"
            }
        }
    }
}

/// Reads the entries of one property; `off` as the first gives none.
pub(super) fn parse(entries: &[String], subsystem: Subsystem) -> Result<Vec<Listen>, String> {
    if entries.first().is_some_and(|first| first == "off") {
        return Ok(Vec::new());
    }
    let usage = |problem: String| {
        format!("must be of form: [off] | <ip>:<port> {}, [... next entry ...]: {problem}", subsystem.flags())
    };
    let mut listens = Vec::new();
    for entry in entries {
        listens.extend(parse_entry(entry, subsystem).map_err(usage)?);
    }
    if listens.is_empty() { Err(usage("it is empty".to_owned())) } else { Ok(listens) }
}

fn parse_entry(entry: &str, subsystem: Subsystem) -> Result<Vec<Listen>, String> {
    let mut words = entry.split_whitespace();
    let address = words.next().ok_or_else(|| "an entry is empty".to_owned())?;
    let mut listen = Listen {
        address: ListenAddress::Unix(PathBuf::new()),
        ssl: false,
        http2: false,
        proxy_protocol: false,
        reuseport: false,
        backlog: None,
        udp: false,
        ipv6only: None,
    };
    for flag in words {
        let http = subsystem == Subsystem::Http;
        match flag {
            "ssl" => listen.ssl = true,
            "http2" if http => listen.http2 = true,
            "udp" if !http => listen.udp = true,
            "proxy_protocol" => listen.proxy_protocol = true,
            "reuseport" => listen.reuseport = true,
            "deferred" if http => {}
            "bind" | "so_keepalive=on" | "so_keepalive=off" => {}
            "ipv6only=on" => listen.ipv6only = Some(true),
            "ipv6only=off" => listen.ipv6only = Some(false),
            other => {
                let backlog = other.strip_prefix("backlog=").and_then(|number| number.parse().ok());
                if backlog.is_some() {
                    listen.backlog = backlog;
                } else if !other.strip_prefix("so_keepalive=").is_some_and(is_keepalive) {
                    return Err(format!("'{other}' in '{entry}' is not one of the flags"));
                }
            }
        }
    }
    if let Some(path) = address.strip_prefix("unix:") {
        if !path.starts_with('/') {
            return Err(format!("'{address}' needs an absolute path"));
        }
        return Ok(vec![Listen { address: ListenAddress::Unix(PathBuf::from(path)), ..listen }]);
    }
    let addresses = resolve(address)?;
    Ok(addresses.into_iter().map(|address| Listen { address: ListenAddress::Tcp(address), ..listen.clone() }).collect())
}

/// `idle:interval:count`, each of which may be left out.
fn is_keepalive(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    matches!(parts[..], [idle, interval, count]
        if idle.bytes().chain(interval.bytes()).all(|b| b.is_ascii_alphanumeric())
            && count.bytes().all(|b| b.is_ascii_digit()))
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let bad = || format!("'{address}' is not an address with a port");
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    if host == "*" {
        return Ok(vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)]);
    }
    if host.is_empty() || host.contains([':', '[', ']', '/']) || host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bad());
    }
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|problem| format!("'{host}' does not resolve: {problem}"))?.collect();
    if found.is_empty() { Err(bad()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<String> {
        text.split(',').map(|entry| entry.trim().to_owned()).collect()
    }

    #[test]
    fn addresses_and_flags() {
        let listens = parse(
            &entries("127.0.0.1:8000 reuseport backlog=16384, [::]:8443 ssl http2 ipv6only=on so_keepalive=30m::10"),
            Subsystem::Http,
        )
        .unwrap();
        assert_eq!(listens.len(), 2);
        assert_eq!(listens[0].address, ListenAddress::Tcp("127.0.0.1:8000".parse().unwrap()));
        assert!(listens[0].reuseport && listens[0].backlog == Some(16384) && !listens[0].ssl);
        assert!(listens[1].ssl && listens[1].http2 && listens[1].ipv6only == Some(true));
        assert_eq!(parse(&entries("off"), Subsystem::Http), Ok(vec![]));
        assert_eq!(parse(&entries("off, 127.0.0.1:1"), Subsystem::Http), Ok(vec![]));
        let unix = parse(&entries("unix:/run/k.sock"), Subsystem::Http).unwrap();
        assert_eq!(unix[0].address, ListenAddress::Unix("/run/k.sock".into()));
        assert!(parse(&entries("0.0.0.0:53 udp"), Subsystem::Stream).unwrap()[0].udp);
        assert_eq!(
            parse(&entries("*:80"), Subsystem::Http).unwrap()[0].address,
            ListenAddress::Tcp("0.0.0.0:80".parse().unwrap())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, subsystem, part) in [
            ("0.0.0.0", Subsystem::Http, "'0.0.0.0' is not an address with a port"),
            ("0.0.0.0:99999", Subsystem::Http, "not an address"),
            ("0.0.0.0:80 udp", Subsystem::Http, "'udp'"),
            ("0.0.0.0:80 http2", Subsystem::Stream, "'http2'"),
            ("0.0.0.0:80 sls", Subsystem::Http, "'sls'"),
            ("::1:80", Subsystem::Http, "not an address"),
            ("999.0.0.1:80", Subsystem::Http, "not an address"),
            ("", Subsystem::Http, "must be of form"),
            ("unix:run", Subsystem::Http, "absolute"),
        ] {
            let problem = parse(&entries(text), subsystem).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}

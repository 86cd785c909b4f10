//! The hosts file.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A file longer than this is not read to its end.
const MAX_NAMES: usize = 100_000;

/// The addresses of one name: of each family the first that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostsEntry {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, HostsEntry>);

impl Hosts {
    pub(super) fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, HostsEntry> = HashMap::new();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words {
                if hosts.len() >= MAX_NAMES {
                    break;
                }
                let entry = hosts.entry(name.to_ascii_lowercase()).or_default();
                match ip {
                    IpAddr::V4(ip) => entry.v4 = entry.v4.or(Some(ip)),
                    IpAddr::V6(ip) => entry.v6 = entry.v6.or(Some(ip)),
                }
            }
        }
        Self(hosts)
    }

    /// The entry of a lower-case name. `localhost` and what ends in it is always the loopback (RFC 6761, 6.3).
    pub(super) fn find(&self, name: &str) -> Option<HostsEntry> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.0.get(name).copied().or_else(|| {
            let local = name == "localhost" || name.ends_with(".localhost");
            local.then_some(HostsEntry { v4: Some(Ipv4Addr::LOCALHOST), v6: Some(Ipv6Addr::LOCALHOST) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_hosts_file() {
        let hosts = Hosts::parse(
            "# a comment\n127.0.0.1\tlocalhost Alias\n10.0.0.1 a.test a # here\n10.0.0.2 a.test\n::5 a.test\nnot an address\n",
        );
        let check = |name: &str, v4: Option<&str>, v6: Option<&str>| {
            let expect = HostsEntry { v4: v4.map(|ip| ip.parse().unwrap()), v6: v6.map(|ip| ip.parse().unwrap()) };
            assert_eq!(hosts.find(name), Some(expect), "{name}");
        };
        check("a.test", Some("10.0.0.1"), Some("::5"));
        check("a.test.", Some("10.0.0.1"), Some("::5"));
        check("a", Some("10.0.0.1"), None);
        check("alias", Some("127.0.0.1"), None);
        check("localhost", Some("127.0.0.1"), None);
        check("x.localhost", Some("127.0.0.1"), Some("::1"));
        assert_eq!(hosts.find("an"), None);
        assert_eq!(hosts.find("b.test"), None);
    }
}

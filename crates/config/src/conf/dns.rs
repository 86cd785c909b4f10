//! `dns_*` and `resolver_*`: how names become addresses. `new_dns_client` says which of the two families holds, as in Kong.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use crate::settings::{Dns, DnsType};

use super::{reader::Reader, resolve::absolute};

const DNS_PORT: u16 = 53;
/// Ten years: more than any answer is kept, and still a time that can be counted with.
const LONGEST: f64 = 315_360_000.0;

/// The names of one family.
struct Family {
    servers: &'static str,
    hosts_file: &'static str,
    order: &'static str,
    valid_ttl: &'static str,
    stale_ttl: &'static str,
    not_found_ttl: &'static str,
    error_ttl: &'static str,
    cache_size: &'static str,
}

const OLD: Family = Family {
    servers: "dns_resolver",
    hosts_file: "dns_hostsfile",
    order: "dns_order",
    valid_ttl: "dns_valid_ttl",
    stale_ttl: "dns_stale_ttl",
    not_found_ttl: "dns_not_found_ttl",
    error_ttl: "dns_error_ttl",
    cache_size: "dns_cache_size",
};

/// It does not tell a missing name from another error.
const NEW: Family = Family {
    servers: "resolver_address",
    hosts_file: "resolver_hosts_file",
    order: "resolver_family",
    valid_ttl: "resolver_valid_ttl",
    stale_ttl: "resolver_stale_ttl",
    not_found_ttl: "resolver_error_ttl",
    error_ttl: "resolver_error_ttl",
    cache_size: "resolver_lru_cache_size",
};

impl Family {
    const fn names(&self) -> [&'static str; 8] {
        [
            self.servers,
            self.hosts_file,
            self.order,
            self.valid_ttl,
            self.stale_ttl,
            self.not_found_ttl,
            self.error_ttl,
            self.cache_size,
        ]
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Dns {
    let new = reader.flag("new_dns_client");
    let (family, other) = if new { (&NEW, &OLD) } else { (&OLD, &NEW) };
    warn_of_the_other(reader, other, new);
    // Both are checked, whichever holds, as in Kong.
    order(reader, other, !new);
    servers(reader, other);
    hosts_file(reader, other);
    Dns {
        servers: servers(reader, family),
        hosts_file: absolute(&hosts_file(reader, family)),
        order: order(reader, family, new),
        srv_by_name: new,
        valid_ttl: seconds(reader, family.valid_ttl),
        stale_ttl: seconds(reader, family.stale_ttl).unwrap_or_default(),
        not_found_ttl: seconds(reader, family.not_found_ttl).unwrap_or_default(),
        error_ttl: seconds(reader, family.error_ttl).unwrap_or_default(),
        cache_size: usize::try_from(reader.integer(family.cache_size, 1, 10_000_000)).unwrap_or(usize::MAX),
        coalesce: !reader.flag("dns_no_sync"),
    }
}

/// Whoever sets what has no effect hears so.
fn warn_of_the_other(reader: &mut Reader<'_>, other: &Family, new: bool) {
    let mut told: Vec<&str> = Vec::new();
    for name in other.names() {
        if let Some(entry) = reader.given(name)
            && !told.contains(&name)
        {
            told.push(name);
            let place = reader.place(&entry.origin);
            let state = if new { "while new_dns_client is on" } else { "unless new_dns_client is on" };
            reader.warn(format!("{place}: {name} has no effect {state}"));
        }
    }
}

fn servers(reader: &mut Reader<'_>, family: &Family) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for text in reader.list(family.servers) {
        match server(&text) {
            Some(server) => servers.push(server),
            None => reader.problem(
                family.servers,
                format!(
                    "{} must be a comma separated list in the form of IPv4/6 or IPv4/6:port, got '{text}'",
                    family.servers
                ),
            ),
        }
    }
    servers
}

fn server(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, DNS_PORT)),
        Err(_) => text.parse().ok(),
    }
}

fn hosts_file(reader: &mut Reader<'_>, family: &Family) -> String {
    let path = reader.text(family.hosts_file).unwrap_or_default();
    // The default need not be there: a container may have none.
    if reader.given(family.hosts_file).is_some() && !Path::new(&path).is_file() {
        reader.problem(family.hosts_file, format!("{}: file does not exist", family.hosts_file));
    }
    path
}

fn order(reader: &mut Reader<'_>, family: &Family, new: bool) -> Vec<DnsType> {
    let mut order = Vec::new();
    for text in reader.list(family.order) {
        let known = match text.to_ascii_uppercase().as_str() {
            "LAST" if !new => Some(DnsType::Last),
            "CNAME" if !new => Some(DnsType::Cname),
            "SRV" => Some(DnsType::Srv),
            "A" => Some(DnsType::A),
            "AAAA" => Some(DnsType::Aaaa),
            _ => None,
        };
        match known {
            Some(kind) if !order.contains(&kind) => order.push(kind),
            Some(_) => {}
            None => reader.problem(family.order, format!("{}: invalid entry '{text}'", family.order)),
        }
    }
    if new {
        // Only names that have the form of a service's are asked for, and these first.
        order.sort_by_key(|kind| *kind != DnsType::Srv);
    }
    order
}

/// Seconds with a fraction; `None` where nothing is set.
fn seconds(reader: &mut Reader<'_>, name: &str) -> Option<Duration> {
    // Other types of value are reported by the check of types.
    let seconds = reader.text(name)?.parse::<f64>().ok()?;
    if !(0.0..=f64::MAX).contains(&seconds) {
        reader.problem(name, format!("{name} must be 0 or greater"));
        return None;
    }
    Some(Duration::from_secs_f64(seconds.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use crate::{
        load_text,
        settings::{Dns, DnsType},
    };

    fn dns(text: &str) -> Result<Dns, String> {
        load_text(None, text, &BTreeMap::new()).map(|loaded| loaded.settings.dns).map_err(|error| error.to_string())
    }

    #[test]
    fn what_kong_s_defaults_are() {
        let dns = dns("").unwrap();
        assert_eq!(dns.order, [DnsType::Last, DnsType::Srv, DnsType::A, DnsType::Cname]);
        assert_eq!(
            (dns.valid_ttl, dns.stale_ttl, dns.not_found_ttl, dns.error_ttl, dns.cache_size, dns.coalesce),
            (None, Duration::from_hours(1), Duration::from_secs(30), Duration::from_secs(1), 10_000, true)
        );
        assert!(dns.servers.is_empty());
    }

    #[test]
    fn what_is_set_is_used() {
        let old =
            dns("dns_resolver = 10.0.0.1, [::1]:5353, ::2\ndns_order = a, aaaa\ndns_valid_ttl = 0.5\ndns_no_sync = on");
        let old = old.unwrap();
        let servers: Vec<String> = old.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:5353", "[::2]:53"]);
        assert_eq!((old.order, old.coalesce), (vec![DnsType::A, DnsType::Aaaa], false));
        assert_eq!(old.valid_ttl, Some(Duration::from_millis(500)));

        let new =
            dns("new_dns_client = on\nresolver_address = 10.0.0.1:54\nresolver_error_ttl = 7\ndns_resolver = 10.0.0.2");
        let new = new.unwrap();
        assert_eq!(new.servers[0].to_string(), "10.0.0.1:54");
        assert_eq!((new.order, new.not_found_ttl), (vec![DnsType::Srv, DnsType::A], Duration::from_secs(7)));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expect) in [
            (
                "dns_resolver = example.com",
                "dns_resolver must be a comma separated list in the form of IPv4/6 or IPv4/6:port, got 'example.com'",
            ),
            ("dns_hostsfile = /no/such/file", "dns_hostsfile: file does not exist"),
            ("dns_order = A,MX", "dns_order: invalid entry 'MX'"),
            ("resolver_family = A,CNAME", "resolver_family: invalid entry 'CNAME'"),
            ("dns_stale_ttl = -1", "dns_stale_ttl must be 0 or greater"),
        ] {
            let error = dns(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn a_setting_of_the_other_client_has_no_effect_and_that_is_said() {
        let loaded = load_text(None, "resolver_address = 10.0.0.1", &BTreeMap::new()).unwrap();
        assert_eq!(loaded.warnings, ["line 1: resolver_address has no effect unless new_dns_client is on"]);
        assert!(loaded.settings.dns.servers.is_empty());
    }
}

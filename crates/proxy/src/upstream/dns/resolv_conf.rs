//! `/etc/resolv.conf` and the two variables that change it (`LOCALDOMAIN`, `RES_OPTIONS`).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// As in every resolver: what is more is not used.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 6;
/// OpenResty's defaults, where the file says nothing.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    /// A name with fewer dots is tried with the search domains first.
    pub(super) ndots: usize,
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
    pub(super) rotate: bool,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: TIMEOUT, attempts: ATTEMPTS, rotate: false }
    }
}

impl ResolvConf {
    pub(super) fn parse(text: &str, local_domain: Option<&str>, options: Option<&str>) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // One with a scope (`fe80::1%eth0`) is no address that could be sent to.
                    if let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>)
                        && conf.servers.len() < MAX_SERVERS
                    {
                        conf.servers.push(SocketAddr::new(ip, 53));
                    }
                }
                Some("domain" | "search") => conf.search = domains(words),
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        if let Some(domain) = local_domain.filter(|domain| !domain.trim().is_empty()) {
            conf.search = domains(domain.split_whitespace());
        }
        options.unwrap_or_default().split_whitespace().for_each(|option| conf.option(option));
        conf
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u64>()) {
            ("ndots", Ok(ndots)) => self.ndots = usize::try_from(ndots.min(15)).unwrap_or(1),
            ("timeout", Ok(seconds @ 1..)) => self.timeout = Duration::from_secs(seconds.min(30)),
            ("attempts", Ok(attempts @ 1..)) => self.attempts = usize::try_from(attempts.min(10)).unwrap_or(1),
            ("rotate", _) => self.rotate = true,
            _ => {}
        }
    }
}

fn domains<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let domains = words.map(|domain| domain.trim_matches('.').to_ascii_lowercase());
    domains.filter(|domain| !domain.is_empty()).take(MAX_SEARCH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resolv_conf_says() {
        let text = "# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\ndomain old.test\n\
                    search A.test b.test .\noptions ndots:5 timeout:1 attempts:2 rotate edns0\n";
        let conf = ResolvConf::parse(text, None, None);
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53"]);
        assert_eq!(conf.search, ["a.test", "b.test"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts, conf.rotate), (5, Duration::from_secs(1), 2, true));
        let conf = ResolvConf::parse(text, Some("c.test"), Some("ndots:1"));
        assert_eq!((conf.search, conf.ndots), (vec!["c.test".to_owned()], 1));
        assert_eq!(ResolvConf::parse("", None, None), ResolvConf::default());
    }
}

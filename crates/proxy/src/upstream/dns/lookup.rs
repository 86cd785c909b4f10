//! From a name to what it stands for: which names and which types are asked for, in which order (`dns_order`, search
//! domains), and what is made of the records.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::{Name, RData, RecordType, rdata::SRV};
use silverback_config::settings::{Dns, DnsType};
use tokio::time::Instant;

use super::{
    Answer, Endpoint, RecordKind, ResolveError,
    client::{self, Records, Servers},
    hosts::Hosts,
    resolv_conf::ResolvConf,
};

/// Names that stand for another name, one after another.
const MAX_CHAIN: usize = 8;
/// Records of an answer that are used.
const MAX_ENDPOINTS: usize = 1024;
/// Names of SRV records that are looked up.
const MAX_SRV_NAMES: usize = 64;
/// Addresses of one of these names that are used.
const MAX_SRV_ADDRESSES: usize = 64;
/// Questions that one look-up may cost: two types for each name of SRV records. Who answers each question with further
/// ones gets no more.
const MAX_QUESTIONS: usize = 2 * MAX_SRV_NAMES;
/// How long one look-up may take, or one question if the servers' timeouts allow it more.
const MAX_TIME: Duration = Duration::from_secs(10);
/// How long what the hosts file says is good: it is dropped when the file changes.
const HOSTS_TTL: Duration = Duration::from_hours(24);

/// What a look-up goes by; one for all look-ups until one of its sources changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) settings: Arc<Dns>,
    pub(super) hosts: Arc<Hosts>,
    pub(super) servers: Servers,
    pub(super) search: Vec<String>,
    pub(super) ndots: usize,
}

/// What was found, and for how long it is good.
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) ttl: Duration,
    /// The type that answered, for `LAST`.
    pub(super) by: DnsType,
}

/// What is left of what a look-up may cost.
struct Budget {
    questions: usize,
    until: Instant,
}

impl Rules {
    pub(super) fn new(settings: &Arc<Dns>, hosts: Arc<Hosts>, conf: ResolvConf) -> Self {
        let ResolvConf { servers, search, ndots, timeout, attempts, rotate } = conf;
        let addresses = if settings.servers.is_empty() { servers } else { settings.servers.clone() };
        Self {
            settings: Arc::clone(settings),
            hosts,
            servers: Servers { addresses, timeout, attempts, rotate },
            search,
            ndots,
        }
    }

    fn prefers_v6(&self) -> bool {
        let first = self.settings.order.iter().find(|kind| matches!(kind, DnsType::A | DnsType::Aaaa));
        first == Some(&DnsType::Aaaa)
    }

    /// What needs no server: the hosts file, and names that are set aside (RFC 6761).
    pub(super) fn known(&self, name: &str) -> Option<Result<Found, ResolveError>> {
        if let Some(entry) = self.hosts.find(name) {
            let (v4, v6) = (entry.v4.map(IpAddr::V4), entry.v6.map(IpAddr::V6));
            let ip = if self.prefers_v6() { v6.or(v4) } else { v4.or(v6) }?;
            return Some(Ok(found_addresses(vec![ip], HOSTS_TTL)));
        }
        let last = name.strip_suffix('.').unwrap_or(name).rsplit('.').next();
        (last == Some("invalid")).then_some(Err(ResolveError::NAME_ERROR))
    }

    /// The types to ask for: each once, the one that answered the last time where `LAST` stands.
    fn types(&self, name: &str, last: Option<DnsType>) -> Vec<DnsType> {
        let mut types = Vec::new();
        for kind in &self.settings.order {
            let kind = match kind {
                DnsType::Last => last.filter(|last| self.settings.order.contains(last)),
                DnsType::Srv if self.settings.srv_by_name && !name.starts_with('_') => None,
                kind => Some(*kind),
            };
            if let Some(kind) = kind
                && !types.contains(&kind)
            {
                types.push(kind);
            }
        }
        types
    }

    /// The names to ask for: with the search domains first if the name has few dots, else last.
    fn candidates(&self, name: &str) -> Result<Vec<Name>, ResolveError> {
        let parse = |text: String| {
            Name::from_ascii(&text)
                .map(|mut name| {
                    name.set_fqdn(true);
                    name
                })
                .map_err(|_| ResolveError::Transport("bad name".to_owned()))
        };
        if name.is_empty() || name == "." {
            return Err(ResolveError::Transport("bad name".to_owned()));
        }
        let bare = parse(name.to_owned())?;
        if name.ends_with('.') {
            return Ok(vec![bare]);
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        // Too long with a search domain: then that is no name.
        let mut candidates: Vec<Name> =
            self.search.iter().filter_map(|domain| parse(format!("{name}.{domain}")).ok()).collect();
        if dots < self.ndots {
            candidates.push(bare);
        } else {
            candidates.insert(0, bare);
        }
        Ok(candidates)
    }

    /// Looks a name up.
    ///
    /// # Errors
    /// Nothing is found: the last error. The look-up costs more than it may: [`ResolveError::Timeout`].
    pub(super) async fn look_up(&self, name: &str, last: Option<DnsType>) -> Result<Found, ResolveError> {
        let attempts = u32::try_from(self.servers.attempts).unwrap_or(u32::MAX);
        // A server that is down is to be told of as such.
        let one_question = self.servers.timeout.saturating_mul(attempts).saturating_add(Duration::from_secs(1));
        let mut budget = Budget { questions: MAX_QUESTIONS, until: Instant::now() + MAX_TIME.max(one_question) };
        self.follow(name, last, true, 0, &mut budget).await
    }

    async fn follow(
        &self,
        name: &str,
        last: Option<DnsType>,
        srv: bool,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Found, ResolveError> {
        if let Some(known) = self.known(name) {
            return known;
        }
        if depth > MAX_CHAIN {
            return Err(ResolveError::Recursion);
        }
        let candidates = self.candidates(name)?;
        let mut failed = ResolveError::Empty;
        for kind in self.types(name, last).into_iter().filter(|kind| srv || *kind != DnsType::Srv) {
            for candidate in &candidates {
                match self.ask(candidate, kind, srv, depth, budget).await {
                    Ok(Some(found)) => return Ok(found),
                    Ok(None) => failed = ResolveError::Empty,
                    // A server that does not answer this will not answer the next either.
                    Err(error @ (ResolveError::Transport(_) | ResolveError::Timeout)) => return Err(error),
                    Err(error) => failed = error,
                }
            }
        }
        Err(failed)
    }

    /// Asks for one type of one name; `None` if there is no record of it.
    async fn ask(
        &self,
        name: &Name,
        kind: DnsType,
        srv: bool,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Option<Found>, ResolveError> {
        let asked = match kind {
            DnsType::Srv => RecordType::SRV,
            DnsType::A => RecordType::A,
            DnsType::Aaaa => RecordType::AAAA,
            DnsType::Cname => RecordType::CNAME,
            DnsType::Last => return Ok(None),
        };
        budget.questions = budget.questions.checked_sub(1).ok_or(ResolveError::Timeout)?;
        let asking = client::ask(&self.servers, name, asked);
        let records = tokio::time::timeout_at(budget.until, asking).await.map_err(|_| ResolveError::Timeout)??;
        let ttl = self.ttl(records.ttl);
        let alias = match (&records, kind) {
            (Records { found, .. }, DnsType::Cname) => found.iter().find_map(|data| match data {
                RData::CNAME(cname) => Some(cname.0.to_lowercase()),
                _ => None,
            }),
            // The server did not follow the chain to its end.
            (Records { found, canonical, .. }, DnsType::A | DnsType::Aaaa)
                if found.is_empty() && *canonical != name.to_lowercase() =>
            {
                Some(canonical.clone())
            }
            _ => None,
        };
        if let Some(alias) = alias {
            let found = Box::pin(self.follow(&alias.to_ascii(), None, srv, depth + 1, budget)).await?;
            return Ok(Some(Found { ttl: found.ttl.min(ttl), ..found }));
        }
        if kind == DnsType::Srv {
            return self.services(&records, ttl, name, depth, budget).await;
        }
        let mut ips: Vec<IpAddr> = records
            .found
            .iter()
            .filter_map(|data| match data {
                RData::A(a) => Some(IpAddr::V4(Ipv4Addr::from(a.0.octets()))),
                RData::AAAA(aaaa) => Some(IpAddr::V6(Ipv6Addr::from(aaaa.0.octets()))),
                _ => None,
            })
            .take(MAX_ENDPOINTS)
            .collect();
        ips.sort_unstable();
        ips.dedup();
        if ips.is_empty() {
            return Ok(None);
        }
        Ok(Some(found_addresses(ips, ttl)))
    }

    fn ttl(&self, seconds: u32) -> Duration {
        // RFC 2181, 8: what has the highest bit set is 0. Nobody needs more than a week.
        let seconds = if seconds > i32::MAX as u32 { 0 } else { seconds.min(604_800) };
        self.settings.valid_ttl.unwrap_or(Duration::from_secs(u64::from(seconds)))
    }

    /// The records of the best priority, with the addresses of the names that they give.
    async fn services(
        &self,
        records: &Records,
        ttl: Duration,
        name: &Name,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Option<Found>, ResolveError> {
        let services: Vec<&SRV> = records
            .found
            .iter()
            .filter_map(|data| match data {
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                _ => None,
            })
            .collect();
        let Some(best) = services.iter().map(|srv| srv.priority).min() else { return Ok(None) };
        if services.iter().all(|srv| srv.target.to_lowercase() == name.to_lowercase()) {
            return Err(ResolveError::Recursion);
        }
        let mut ttl = ttl;
        let mut looked_up: Vec<(String, Vec<IpAddr>)> = Vec::new();
        let mut endpoints = Vec::new();
        let mut failed = None;
        for srv in services.into_iter().filter(|srv| srv.priority == best).take(MAX_ENDPOINTS) {
            let text = srv.target.to_lowercase().to_ascii();
            let host = text.strip_suffix('.').unwrap_or(&text).to_owned();
            let ips = match looked_up.iter().find(|(known, _)| *known == host) {
                Some((_, ips)) => ips.clone(),
                None if looked_up.len() >= MAX_SRV_NAMES => continue,
                None => {
                    // One that does not resolve takes no part; the others do, and there is always time left for them.
                    let until = budget.until;
                    budget.until = half_way_to(until);
                    let found = Box::pin(self.follow(&text, None, false, depth + 1, budget)).await;
                    budget.until = until;
                    let ips = match found {
                        Ok(found) => {
                            ttl = ttl.min(found.ttl);
                            let ips = found.answer.endpoints.into_iter().flat_map(|endpoint| endpoint.ips);
                            ips.take(MAX_SRV_ADDRESSES).collect()
                        }
                        Err(error) => {
                            failed = Some(error).filter(|error| !error.is_not_found()).or(failed);
                            Vec::new()
                        }
                    };
                    looked_up.push((host.clone(), ips));
                    looked_up.last().map(|(_, ips)| ips.clone()).unwrap_or_default()
                }
            };
            endpoints.push(Endpoint {
                host: host.into(),
                ips,
                port: (srv.port != 0).then_some(srv.port),
                // With the least chance, but not without any.
                weight: Some(srv.weight.max(1)),
            });
        }
        // Nothing could be learnt: that is no answer that should be kept.
        if let Some(error) = failed.filter(|_| endpoints.iter().all(|endpoint: &Endpoint| endpoint.ips.is_empty())) {
            return Err(error);
        }
        endpoints.sort_by(|a, b| (&a.host, a.port, a.weight).cmp(&(&b.host, b.port, b.weight)));
        endpoints.dedup();
        Ok(Some(Found { answer: Answer::new(RecordKind::Srv, endpoints), ttl, by: DnsType::Srv }))
    }
}

fn half_way_to(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 2
}

fn found_addresses(ips: Vec<IpAddr>, ttl: Duration) -> Found {
    let v6 = ips.first().is_some_and(IpAddr::is_ipv6);
    let endpoints = ips
        .into_iter()
        .map(|ip| Endpoint { host: shown(ip).into(), ips: vec![ip], port: None, weight: None })
        .collect();
    let (kind, by) = if v6 { (RecordKind::Aaaa, DnsType::Aaaa) } else { (RecordKind::A, DnsType::A) };
    Found { answer: Answer::new(kind, endpoints), ttl, by }
}

/// An address as Kong writes it: IPv6 in brackets.
pub(super) fn shown(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(order: &[DnsType], search: &[&str], ndots: usize) -> Rules {
        let settings = silverback_config::load_text(None, "", &std::collections::BTreeMap::new()).unwrap().settings.dns;
        let settings = Arc::new(Dns { order: order.to_vec(), ..settings });
        let conf = ResolvConf {
            search: search.iter().map(|domain| (*domain).to_owned()).collect(),
            ndots,
            ..ResolvConf::default()
        };
        Rules::new(&settings, Arc::new(Hosts::parse("10.0.0.1 h.test\n::9 h.test")), conf)
    }

    #[test]
    fn search_domains_come_first_where_there_are_few_dots() {
        let check = |name: &str, ndots: usize, expect: &[&str]| {
            let names = rules(&[DnsType::A], &["one.test", "two.test"], ndots).candidates(name).unwrap();
            let names: Vec<String> = names.iter().map(Name::to_ascii).collect();
            assert_eq!(names, expect, "{name} ndots {ndots}");
        };
        check("a", 1, &["a.one.test.", "a.two.test.", "a."]);
        check("a.b", 1, &["a.b.", "a.b.one.test.", "a.b.two.test."]);
        check("a.b", 5, &["a.b.one.test.", "a.b.two.test.", "a.b."]);
        check("a.b.", 5, &["a.b."]);
        assert!(rules(&[DnsType::A], &[], 1).candidates("").is_err());
        assert!(rules(&[DnsType::A], &[], 1).candidates("a..b").is_err());
    }

    #[test]
    fn the_type_that_answered_last_is_asked_for_first_and_none_twice() {
        use DnsType::{A, Cname, Last, Srv};
        let all = [Last, Srv, A, Cname];
        assert_eq!(rules(&all, &[], 1).types("a", None), [Srv, A, Cname]);
        assert_eq!(rules(&all, &[], 1).types("a", Some(A)), [A, Srv, Cname]);
        assert_eq!(rules(&all, &[], 1).types("a", Some(DnsType::Aaaa)), [Srv, A, Cname]);
        assert_eq!(rules(&[Srv, A], &[], 1).types("a", Some(A)), [Srv, A]);
        let mut by_name = rules(&[Srv, A], &[], 1);
        by_name.settings = Arc::new(Dns { srv_by_name: true, ..(*by_name.settings).clone() });
        assert_eq!(by_name.types("a", None), [A]);
        assert_eq!(by_name.types("_http._tcp.a", None), [Srv, A]);
    }

    /// A server that answers each question by naming further names, and counts the questions.
    async fn endless_server() -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
        use hickory_proto::{
            op::{Message, OpCode},
            rr::{RData, Record, rdata::CNAME},
        };
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let asked = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let query = question.queries.first().unwrap().clone();
                let mut reply = Message::response(question.metadata.id, OpCode::Query);
                let further = |n: usize| Name::from_ascii(format!("n{asked}-{n}.")).unwrap();
                let data: Vec<RData> = match query.query_type() {
                    RecordType::SRV => (0..5).map(|n| RData::SRV(SRV::new(1, 1, 80, further(n)))).collect(),
                    _ => vec![RData::CNAME(CNAME(further(0)))],
                };
                for data in data {
                    reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
                reply.add_query(query);
                let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
            }
        });
        (address, count)
    }

    #[tokio::test]
    async fn a_server_that_always_names_further_names_is_not_asked_without_end() {
        let (address, count) = endless_server().await;
        let mut rules = rules(&[DnsType::Srv, DnsType::A, DnsType::Cname], &[], 1);
        rules.servers.addresses = vec![address];
        let found = tokio::time::timeout(Duration::from_secs(60), rules.look_up("evil.test", None)).await;
        assert!(found.expect("the look-up ends").is_err());
        let asked = count.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked <= MAX_QUESTIONS, "{asked} questions");
    }

    #[tokio::test]
    async fn a_look_up_ends_when_its_time_is_over() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut rules = rules(&[DnsType::Srv, DnsType::A], &[], 1);
        rules.servers.addresses = vec![silent.local_addr().unwrap()];
        let mut budget = Budget { questions: 1, until: Instant::now() };
        let found = rules.follow("slow.test", None, true, 0, &mut budget).await;
        assert_eq!(found.err(), Some(ResolveError::Timeout));
    }

    #[tokio::test]
    async fn an_alias_is_followed_for_the_types_that_are_wanted() {
        let (address, count) = endless_server().await;
        let mut rules = rules(&[DnsType::Srv, DnsType::A], &[], 1);
        rules.servers.addresses = vec![address];
        let mut budget = Budget { questions: MAX_QUESTIONS, until: Instant::now() + MAX_TIME };
        // Each question for an address is answered with an alias; none of these may be asked for services.
        assert!(rules.follow("evil.test", None, false, 0, &mut budget).await.is_err());
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), MAX_CHAIN + 1);
    }

    #[test]
    fn what_needs_no_server() {
        let ip = |order: &[DnsType], name: &str| {
            rules(order, &[], 1)
                .known(name)
                .map(|known| known.map(|found| found.answer.endpoints[0].ips[0].to_string()))
        };
        assert_eq!(ip(&[DnsType::A], "h.test"), Some(Ok("10.0.0.1".to_owned())));
        assert_eq!(ip(&[DnsType::Aaaa, DnsType::A], "h.test"), Some(Ok("::9".to_owned())));
        assert_eq!(ip(&[DnsType::A], "localhost"), Some(Ok("127.0.0.1".to_owned())));
        assert_eq!(ip(&[DnsType::A], "no.invalid"), Some(Err(ResolveError::NAME_ERROR)));
        assert_eq!(ip(&[DnsType::A], "other.test"), None);
    }
}

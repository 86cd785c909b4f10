//! The router against a matcher that is as plain as can be: every rule is tried, in order.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use proptest::{prelude::*, sample::subsequence};
use silverback_model::{Id, Route, Snapshot};
use silverback_router::{Captures, Query, Router, normalize_path};

const HOSTS: &[&str] =
    &["a.test", "b.test", "x.a.test", "A.test", "*.a.test", "*.test", "a.*", "x.*", "a.test:80", "*.test:81", "b.*:80"];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/b",
    "/ab",
    "/a/b",
    "/a/b/c",
    r"~/a/\d+",
    "~/a$",
    "~/(?<first>[ab])(/x)?",
    "~/a/(b|c)",
    "~/b|a",
    "~.*b$",
    "~(?i)/A/B",
    "~",
];
const METHODS: &[&str] = &["GET", "POST", "PURGE"];
const VALUES: &[&str] = &["1", "2", "Two", "~*^[12]$", r"~*(?<word>t)(w)?"];
const SNIS: &[&str] = &["a.test", "b.test.", "*.test", "a.*"];

const ASKED_HOSTS: &[&str] = &["a.test", "b.test", "x.a.test", "A.test", "a.test:80", "b.test:81", "a.test:x", "c", ""];
const ASKED_PATHS: &[&str] =
    &["/", "/a", "/ab", "/a/b", "/a/b/c", "/a/7", "/a/x", "/b/x", "/b", "/A/b", "/c", "/%61//b/.", "/a%ff"];
const ASKED_VALUES: &[&[u8]] = &[b"1", b"2", b"TWO", b"other", b"\xff"];
const ASKED_SNIS: &[Option<&str>] = &[None, Some("a.test"), Some("b.test"), Some("x.b.test"), Some("c")];

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    host: &'static str,
    port: u16,
    path: &'static str,
    headers: Vec<(&'static str, &'static [u8])>,
    scheme: &'static str,
    sni: Option<&'static str>,
}

/// What is compared: the route, the text that its path matched, and what was captured.
type Found = Option<(Id, Option<String>, Option<Captures>)>;

/// A list of some of `from`; often none, as routes mostly ask for few things.
fn some(from: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<String>>> {
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    prop_oneof![2 => Just(None), 3 => subsequence(from, 1..=3).prop_shuffle().prop_map(move |list| Some(owned(list)))]
}

fn headers() -> impl Strategy<Value = Option<Vec<(String, Vec<String>)>>> {
    let condition = |name: &'static str| (Just(name.to_owned()), some(VALUES).prop_filter_map("no value", |list| list));
    prop_oneof![
        3 => Just(None),
        2 => condition("x-a").prop_map(|a| Some(vec![a])),
        1 => (condition("X_a"), condition("x-b")).prop_map(|(a, b)| Some(vec![a, b])),
    ]
}

fn route() -> impl Strategy<Value = Route> {
    let fields = (some(METHODS), some(HOSTS), some(PATHS), headers(), some(SNIS));
    (any::<u128>(), fields, -1..3).prop_map(|(id, (methods, hosts, paths, headers, snis), regex_priority)| Route {
        methods,
        hosts,
        paths,
        headers,
        snis,
        regex_priority,
        ..Route::new(Id::from_u128(id))
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    use prop::sample::select;
    let header = (select(&["x-a", "x_a", "x-b", "x-c"][..]), select(ASKED_VALUES));
    (
        select(METHODS),
        select(ASKED_HOSTS),
        80u16..82,
        select(ASKED_PATHS),
        prop::collection::vec(header, 0..4),
        select(&["http", "https"][..]),
        select(ASKED_SNIS),
    )
        .prop_map(|(method, host, port, path, headers, scheme, sni)| Asked {
            method,
            host,
            port,
            path,
            headers,
            scheme,
            sni,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn the_index_finds_what_trying_all_finds(
        routes in prop::collection::vec(route(), 0..60),
        requests in prop::collection::vec(asked(), 1..40),
    ) {
        let rules = reference::rules(&routes);
        let snapshot = Snapshot { routes: routes.into_iter().map(Arc::new).collect(), ..Snapshot::default() };
        let router = Router::build(&snapshot).unwrap();
        for asked in requests {
            prop_assert_eq!(found(&router, &asked), reference::found(&rules, &asked), "{:?}", asked);
        }
    }
}

fn found(router: &Router, asked: &Asked) -> Found {
    let method: Method = asked.method.parse().unwrap();
    let path = normalize_path(asked.path.as_bytes());
    let headers: HeaderMap = asked
        .headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
        .fold(HeaderMap::new(), |mut map, (name, value): (http::HeaderName, _)| {
            map.append(name, value);
            map
        });
    let query = Query {
        method: &method,
        host: asked.host.as_bytes(),
        port: asked.port,
        path: &path,
        headers: &headers,
        scheme: asked.scheme,
        sni: asked.sni,
    };
    let found = router.find(&query)?;
    let prefix = found.prefix(&path).map(str::to_owned);
    Some((found.route.id, prefix, found.captures.map(|captures| *captures)))
}

/// Kong's rules, written down from its expressions without a thought of speed.
mod reference {
    use std::{
        collections::{BTreeMap, HashMap},
        sync::{LazyLock, Mutex},
    };

    use regex::Regex;

    use super::*;

    pub(super) struct Rule {
        priority: u64,
        id: Id,
        route: Route,
    }

    /// One for each group of paths of the same kind, the first to be tried first.
    pub(super) fn rules(routes: &[Route]) -> Vec<Rule> {
        let mut rules = Vec::new();
        for route in routes {
            let mut groups: Vec<Vec<String>> = Vec::new();
            for path in route.paths.iter().flatten() {
                let kind = |path: &str| if path.starts_with('~') { 0 } else { path.len() };
                match groups.iter_mut().find(|group| kind(&group[0]) == kind(path)) {
                    Some(group) => group.push(path.clone()),
                    None => groups.push(vec![path.clone()]),
                }
            }
            let split = groups.len() > 1;
            if groups.is_empty() {
                groups.push(Vec::new());
            }
            for (number, paths) in (1..).zip(groups) {
                let namespace = "7f145bf9-0dce-4f91-98eb-debbce4b9f6b".parse().unwrap();
                let part = Id::new_v5(&namespace, format!("{}#{number}", route.id).as_bytes());
                let id = if split { part } else { route.id };
                let route = Route { paths: Some(paths).filter(|paths| !paths.is_empty()), ..route.clone() };
                let something = route.paths.is_some()
                    || route.hosts.is_some()
                    || route.methods.is_some()
                    || route.headers.is_some()
                    || route.snis.is_some();
                if something {
                    rules.push(Rule { priority: priority(&route), id, route });
                }
            }
        }
        rules.sort_by_key(|rule| std::cmp::Reverse((rule.priority, rule.id)));
        rules
    }

    fn priority(route: &Route) -> u64 {
        let kinds = i32::from(route.methods.is_some())
            + i32::from(route.hosts.is_some())
            + i32::from(route.paths.is_some())
            + i32::from(route.headers.is_some())
            + i32::from(route.snis.is_some());
        let mut low = kinds << 29 | (route.headers.as_ref().map_or(0, Vec::len) as i32) << 20;
        let mut high = 0;
        if route.hosts.as_ref().is_some_and(|hosts| hosts.iter().all(|host| !host.contains('*'))) {
            high |= 1 << 60;
        }
        match route.paths.as_ref().map(|paths| paths[0].as_str()) {
            Some(path) if path.starts_with('~') => {
                high |= 1 << 51;
                low |= route.regex_priority << 19;
            }
            Some(path) => low |= path.len() as i32,
            None => {}
        }
        high | i64::from(low) as u64
    }

    fn host_and_port(host: &str) -> (&str, Option<u16>) {
        let split = host.split_once(':').and_then(|(name, port)| Some((name, Some(port.parse().ok()?))));
        split.unwrap_or((host, None))
    }

    fn name_matches(pattern: &str, name: &str) -> bool {
        match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(suffix), _) => name.ends_with(suffix),
            (_, Some(prefix)) => name.starts_with(prefix),
            _ => name == pattern,
        }
    }

    /// The captures of all expressions that took part, the later over the earlier.
    #[derive(Default)]
    struct Groups(BTreeMap<usize, String>, BTreeMap<String, String>);

    impl Groups {
        /// The whole match.
        fn add(&mut self, pattern: &str, text: &str) -> Option<String> {
            let regex = compiled(pattern);
            let captures = regex.captures(text)?;
            for (number, group) in captures.iter().enumerate() {
                if let Some(group) = group {
                    self.0.insert(number, group.as_str().to_owned());
                }
            }
            for name in regex.capture_names().flatten() {
                if let Some(group) = captures.name(name) {
                    self.1.insert(name.to_owned(), group.as_str().to_owned());
                }
            }
            Some(captures[0].to_owned())
        }
    }

    fn compiled(pattern: &str) -> Regex {
        static KNOWN: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap();
        known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).clone()
    }

    fn values<'a>(asked: &'a Asked, name: &str) -> Vec<&'a [u8]> {
        let of = |name: String| -> Vec<&[u8]> {
            asked.headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect()
        };
        let underscored = of(name.to_lowercase().replace('-', "_"));
        if underscored.is_empty() { of(name.to_lowercase().replace('_', "-")) } else { underscored }
    }

    pub(super) fn found(rules: &[Rule], asked: &Asked) -> Found {
        let path = normalize_path(asked.path.as_bytes()).into_owned();
        let path = String::from_utf8(path);
        if path.is_err() && rules.iter().any(|rule| rule.route.paths.is_some()) {
            return None;
        }
        let path = path.unwrap_or_default();
        let mut fields = rules.iter().flat_map(|rule| rule.route.headers.iter().flatten());
        if fields.any(|(name, _)| values(asked, name).iter().any(|value| std::str::from_utf8(value).is_err())) {
            return None;
        }
        rules.iter().find_map(|rule| {
            let (prefix, captures) = try_rule(&rule.route, asked, &path)?;
            Some((rule.route.id, prefix, captures))
        })
    }

    fn try_rule(route: &Route, asked: &Asked, path: &str) -> Option<(Option<String>, Option<Captures>)> {
        let mut groups = Groups::default();
        if let Some(snis) = route.snis.as_ref().filter(|_| asked.scheme == "https") {
            let sni = asked.sni?;
            snis.iter().find(|pattern| name_matches(pattern.trim_end_matches('.'), sni))?;
        }
        if let Some(methods) = &route.methods {
            methods.iter().find(|method| *method == asked.method)?;
        }
        if let Some(hosts) = &route.hosts {
            let (name, port) = host_and_port(asked.host);
            let port = port.unwrap_or(asked.port);
            hosts
                .iter()
                .map(|host| host_and_port(host))
                .find(|(pattern, wanted)| name_matches(pattern, name) && wanted.is_none_or(|wanted| wanted == port))?;
        }
        let mut prefix = None;
        if let Some(paths) = &route.paths {
            prefix = paths.iter().find_map(|pattern| match pattern.strip_prefix('~') {
                Some(pattern) => groups.add(&format!("^{pattern}"), path),
                None => path.starts_with(pattern).then(|| pattern.clone()),
            });
            prefix.as_ref()?;
        }
        for (name, patterns) in route.headers.iter().flatten() {
            let values: Vec<_> =
                values(asked, name).into_iter().map(|value| String::from_utf8_lossy(value).to_lowercase()).collect();
            let matched = patterns.iter().map(|pattern| pattern.to_lowercase()).any(|pattern| {
                values.iter().any(|value| match pattern.strip_prefix("~*") {
                    Some(pattern) => groups.add(pattern, value).is_some(),
                    None => *value == pattern,
                })
            });
            if !matched {
                return None;
            }
        }
        let captures = (groups.0.len() + groups.1.len() > 1).then(|| {
            let last = groups.0.keys().max().copied().unwrap_or_default();
            Captures {
                numbered: (0..=last).map(|number| groups.0.get(&number).cloned()).collect(),
                named: groups.1.into_iter().collect(),
            }
        });
        Some((prefix, captures))
    }
}

//! One rule: what a request must be like to take a route.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;
use silverback_model::{Id, Route};

use crate::{
    matched::{Captures, Query},
    pattern::{HostPattern, NamePattern, split_port},
    priority::{Place, place},
};

/// Kong's namespace for the ids of rules that are parts of a route.
const PARTS: Id = Id::from_u128(0x7f14_5bf9_0dce_4f91_98eb_debb_ce4b_9f6b);

/// All that is asked of a request. An empty list asks nothing; of a list that is not empty one must match.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Which of the router's routes it leads to.
    pub(crate) route: usize,
    methods: Box<[Method]>,
    hosts: Box<[HostPattern]>,
    paths: Paths,
    /// All of these must match.
    headers: Box<[HeaderCondition]>,
    /// Counts over TLS only.
    snis: Box<[NamePattern]>,
}

#[derive(Clone, Debug)]
enum Paths {
    Any,
    Prefixes(Box<[Box<str>]>),
    Patterns(Box<[Regex]>),
}

#[derive(Clone, Debug)]
struct HeaderCondition {
    /// Which of the router's header fields.
    field: usize,
    values: Box<[ValuePattern]>,
}

#[derive(Clone, Debug)]
enum ValuePattern {
    Equal(Box<str>),
    Pattern(Regex),
}

/// A header that rules ask for. It is known by its name with underscores first, then by the one with dashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderField {
    underscored: HeaderName,
    dashed: HeaderName,
}

/// What rules share while they are made.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    pub(crate) fields: Vec<HeaderField>,
    patterns: HashMap<String, Regex>,
}

/// A request, taken apart once for all rules.
#[derive(Debug)]
pub(crate) struct Request<'q> {
    pub(crate) method: &'q Method,
    pub(crate) host: &'q [u8],
    pub(crate) port: i64,
    pub(crate) path: &'q str,
    pub(crate) headers: &'q HeaderMap,
    pub(crate) over_tls: bool,
    pub(crate) sni: Option<&'q [u8]>,
}

/// By what a rule may be looked up: a request satisfies it only if it has one key of every list that is not empty.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) hosts: Vec<NamePattern>,
    /// What the path begins with.
    pub(crate) paths: Vec<Box<[u8]>>,
    /// Field and values.
    pub(crate) headers: Vec<(usize, Vec<Box<str>>)>,
    /// Over TLS only.
    pub(crate) snis: Vec<NamePattern>,
}

pub(crate) fn is_regex(path: &str) -> bool {
    path.starts_with('~')
}

/// A route's paths by kind and length, in the order in which each kind first appears; each group becomes a rule of its
/// own (Kong: `split_routes_and_services_by_path`). A route without paths is one group.
pub(crate) fn parts(route: &Route) -> Vec<(Place, Vec<&str>)> {
    let mut groups: Vec<(usize, Vec<&str>)> = Vec::new();
    for path in route.paths.iter().flatten() {
        let kind = if is_regex(path) { 0 } else { path.len() };
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, paths)) => paths.push(path),
            None => groups.push((kind, vec![path])),
        }
    }
    let whole = groups.len() <= 1;
    if groups.is_empty() {
        groups.push((0, Vec::new()));
    }
    let id = |part: usize| if whole { route.id } else { Id::new_v5(&PARTS, format!("{}#{part}", route.id).as_bytes()) };
    groups.into_iter().zip(1..).map(|((_, paths), part)| (place(route, &paths, id(part)), paths)).collect()
}

impl Workshop {
    /// The rule for a route with these of its paths; `None` if it would ask nothing, for such a route matches nothing.
    ///
    /// # Errors
    /// A text that says what is wrong with a regular expression or a header name.
    pub(crate) fn rule(&mut self, route: &Route, index: usize, paths: &[&str]) -> Result<Option<Rule>, String> {
        let paths = match paths.first() {
            None => Paths::Any,
            Some(first) if is_regex(first) => {
                Paths::Patterns(paths.iter().map(|path| self.path_pattern(path)).collect::<Result<_, _>>()?)
            }
            Some(_) => Paths::Prefixes(paths.iter().map(|path| Box::from(*path)).collect()),
        };
        let methods = route.methods.iter().flatten().map(|method| {
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("methods: {method:?} is no method"))
        });
        let headers = route.headers.iter().flatten().map(|(name, values)| self.header_condition(name, values));
        let rule = Rule {
            route: index,
            headers: headers.collect::<Result<_, _>>()?,
            methods: methods.collect::<Result<_, _>>()?,
            hosts: route.hosts.iter().flatten().map(|host| HostPattern::new(host)).collect(),
            paths,
            snis: route.snis.iter().flatten().map(|sni| NamePattern::of_sni(sni)).collect(),
        };
        Ok(Some(rule).filter(|rule| !rule.asks_nothing()))
    }

    /// Kong anchors the expression by putting `^` before it, which binds to its first alternative only, and writes
    /// named groups as the regex crate used to want them.
    fn path_pattern(&mut self, path: &str) -> Result<Regex, String> {
        let pattern = path.strip_prefix('~').unwrap_or(path);
        self.pattern(format!("^{}", pattern.replace("?<", "?P<")))
            .map_err(|error| format!("paths: {path:?} is no regular expression: {error}"))
    }

    fn header_condition(&mut self, name: &str, values: &[String]) -> Result<HeaderCondition, String> {
        let field = HeaderField::new(name).ok_or_else(|| format!("headers: {name:?} is no header name"))?;
        let field = match self.fields.iter().position(|known| *known == field) {
            Some(known) => known,
            None => {
                self.fields.push(field);
                self.fields.len() - 1
            }
        };
        let values = values.iter().map(|value| match value.strip_prefix("~*") {
            // The expression itself is put in lower case, as Kong does: `\D` becomes `\d`.
            Some(pattern) => self
                .pattern(pattern.to_ascii_lowercase())
                .map(ValuePattern::Pattern)
                .map_err(|error| format!("headers: {name}: {pattern:?} is no regular expression: {error}")),
            None => Ok(ValuePattern::Equal(value.to_ascii_lowercase().into())),
        });
        Ok(HeaderCondition { field, values: values.collect::<Result<_, _>>()? })
    }

    fn pattern(&mut self, pattern: String) -> Result<Regex, regex::Error> {
        if let Some(known) = self.patterns.get(&pattern) {
            return Ok(known.clone());
        }
        let regex = Regex::new(&pattern)?;
        self.patterns.insert(pattern, regex.clone());
        Ok(regex)
    }
}

impl HeaderField {
    fn new(name: &str) -> Option<Self> {
        let underscored = HeaderName::from_bytes(name.replace('-', "_").as_bytes()).ok()?;
        let dashed = HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok()?;
        Some(Self { underscored, dashed })
    }

    /// Whether `name` is one of those by which the header is known.
    pub(crate) fn goes_by(&self, name: &HeaderName) -> bool {
        *name == self.dashed || *name == self.underscored
    }

    /// The header's values in the request, as bytes.
    pub(crate) fn values<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h [u8]> {
        let name = if self.underscored != self.dashed && headers.contains_key(&self.underscored) {
            &self.underscored
        } else {
            &self.dashed
        };
        headers.get_all(name).into_iter().map(|value| value.as_bytes())
    }

    /// The same in lower case.
    pub(crate) fn lower_values<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = Cow<'h, str>> {
        self.values(headers).filter_map(|value| std::str::from_utf8(value).ok()).map(lower)
    }
}

/// Request values go to lower case by Unicode's rules, those of routes by ASCII's: so Kong has it.
fn lower(value: &str) -> Cow<'_, str> {
    if value.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        Cow::Owned(value.to_lowercase())
    } else {
        Cow::Borrowed(value)
    }
}

impl<'q> Request<'q> {
    /// The query with `path` and the host known to be text. The host is taken apart only where a rule asks for one.
    pub(crate) fn new(query: &Query<'q>, path: &'q str, with_host: bool) -> Self {
        let (host, port) = if with_host { split_port(query.host) } else { (query.host, None) };
        Self {
            method: query.method,
            host,
            port: port.unwrap_or_else(|| query.port.into()),
            path,
            headers: query.headers,
            over_tls: query.scheme == "https",
            sni: query.sni.map(str::as_bytes),
        }
    }
}

impl Rule {
    fn asks_nothing(&self) -> bool {
        self.methods.is_empty()
            && self.hosts.is_empty()
            && matches!(self.paths, Paths::Any)
            && self.headers.is_empty()
            && self.snis.is_empty()
    }

    pub(crate) fn asks_for_host(&self) -> bool {
        !self.hosts.is_empty()
    }

    pub(crate) fn asks_for_path(&self) -> bool {
        !matches!(self.paths, Paths::Any)
    }

    pub(crate) fn keys(&self) -> Keys {
        let mut hosts: Vec<_> = self.hosts.iter().map(|host| host.name.clone()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut snis = self.snis.to_vec();
        snis.sort_unstable();
        snis.dedup();
        let mut paths = match &self.paths {
            Paths::Any => Vec::new(),
            Paths::Prefixes(prefixes) => prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect(),
            Paths::Patterns(patterns) => literal_prefixes(patterns).unwrap_or_default(),
        };
        paths.sort_unstable();
        paths.dedup();
        Keys { hosts, paths, headers: self.headers.iter().filter_map(HeaderCondition::key).collect(), snis }
    }

    /// Whether the request satisfies the rule. What costs least is asked first.
    pub(crate) fn matches(&self, request: &Request<'_>, fields: &[HeaderField]) -> bool {
        fn any<T>(list: &[T], matches: impl FnMut(&T) -> bool) -> bool {
            list.is_empty() || list.iter().any(matches)
        }
        any(&self.methods, |method| method == request.method)
            && any(&self.hosts, |host| {
                host.port.is_none_or(|port| port == request.port) && host.name.matches(request.host)
            })
            && (self.snis.is_empty()
                || !request.over_tls
                || request.sni.is_some_and(|sni| self.snis.iter().any(|pattern| pattern.matches(sni))))
            && match &self.paths {
                Paths::Any => true,
                Paths::Prefixes(prefixes) => prefixes.iter().any(|prefix| request.path.starts_with(&**prefix)),
                Paths::Patterns(patterns) => patterns.iter().any(|pattern| pattern.is_match(request.path)),
            }
            && self.headers.iter().all(|condition| condition.matches(request.headers, fields))
    }

    /// Which part of the path a request that satisfies the rule matched, and what was captured.
    pub(crate) fn details(
        &self,
        request: &Request<'_>,
        fields: &[HeaderField],
    ) -> (Option<Range<usize>>, Option<Box<Captures>>) {
        let mut captures = None;
        let mut absorb = |regex: &Regex, text: &str| -> Option<Range<usize>> {
            if regex.captures_len() == 1 && captures.is_none() {
                // Nothing to tell unless a further expression has groups, and then it overwrites the whole match.
                return regex.find(text).map(|found| found.range());
            }
            let found = regex.captures(text)?;
            captures.get_or_insert_with(Box::<Captures>::default).absorb(regex, &found);
            found.get(0).map(|whole| whole.range())
        };
        let path = match &self.paths {
            Paths::Any => None,
            Paths::Prefixes(prefixes) => {
                prefixes.iter().find(|prefix| request.path.starts_with(&***prefix)).map(|prefix| 0..prefix.len())
            }
            Paths::Patterns(patterns) => patterns.iter().find_map(|pattern| absorb(pattern, request.path)),
        };
        for condition in &self.headers {
            condition.visit_pattern(request.headers, fields, |regex, value| {
                absorb(regex, value);
            });
        }
        (path, captures.and_then(Captures::finish))
    }
}

impl HeaderCondition {
    fn matches(&self, headers: &HeaderMap, fields: &[HeaderField]) -> bool {
        self.first_match(headers, fields, |_, _| ())
    }

    fn visit_pattern(&self, headers: &HeaderMap, fields: &[HeaderField], mut visit: impl FnMut(&Regex, &str)) {
        self.first_match(headers, fields, |pattern, value| {
            if let ValuePattern::Pattern(regex) = pattern {
                visit(regex, value);
            }
        });
    }

    /// Each pattern is tried on every value before the next is.
    fn first_match(
        &self,
        headers: &HeaderMap,
        fields: &[HeaderField],
        mut matched: impl FnMut(&ValuePattern, &str),
    ) -> bool {
        let Some(field) = fields.get(self.field) else { return false };
        self.values.iter().any(|pattern| {
            field.lower_values(headers).any(|value| {
                let matches = match pattern {
                    ValuePattern::Equal(expected) => **expected == *value,
                    ValuePattern::Pattern(regex) => regex.is_match(&value),
                };
                if matches {
                    matched(pattern, &value);
                }
                matches
            })
        })
    }

    /// Its values, unless one is a regular expression.
    fn key(&self) -> Option<(usize, Vec<Box<str>>)> {
        let values = self.values.iter().map(|value| match value {
            ValuePattern::Equal(value) => Some(value.clone()),
            ValuePattern::Pattern(_) => None,
        });
        let mut values: Vec<_> = values.collect::<Option<_>>()?;
        values.sort_unstable();
        values.dedup();
        Some((self.field, values))
    }
}

/// What a text must begin with if one of the expressions matches it; `None` where that cannot be told.
fn literal_prefixes(patterns: &[Regex]) -> Option<Vec<Box<[u8]>>> {
    use regex_syntax::hir::{Look, literal::Extractor};

    let mut prefixes = Vec::new();
    for pattern in patterns {
        let hir = regex_syntax::parse(pattern.as_str()).ok()?;
        if !hir.properties().look_set_prefix().contains(Look::Start) {
            return None;
        }
        let found = Extractor::new().extract(&hir);
        for literal in found.literals()? {
            if literal.is_empty() {
                return None;
            }
            prefixes.push(literal.as_bytes().into());
        }
    }
    Some(prefixes)
}

#[cfg(test)]
pub(crate) mod tests {
    use silverback_model::Service;

    use super::*;

    pub(crate) fn route(id: u128) -> Route {
        Route::new(Id::from_u128(id))
    }

    pub(crate) fn service(id: u128) -> Service {
        Service::new(Id::from_u128(id), "upstream.test")
    }

    pub(crate) fn strings(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(|value| (*value).to_owned()).collect())
    }

    pub(crate) fn headers(conditions: &[(&str, &[&str])]) -> Option<Vec<(String, Vec<String>)>> {
        let owned = |(name, values): &(&str, &[&str])| ((*name).to_owned(), strings(values).unwrap_or_default());
        Some(conditions.iter().map(owned).collect())
    }

    #[test]
    fn paths_are_grouped_by_kind_and_length() {
        let check = |paths: &[&str], expect: &[&[&str]]| {
            let mut route = route(7);
            route.paths = strings(paths);
            let groups: Vec<_> = parts(&route).into_iter().map(|(_, paths)| paths).collect();
            assert_eq!(groups, expect, "{paths:?}");
        };
        check(&[], &[&[]]);
        check(&["/a"], &[&["/a"]]);
        check(&["/a", "/b"], &[&["/a", "/b"]]);
        check(&["~/x$", "/long", "/a", "~/.*", "/b"], &[&["~/x$", "~/.*"], &["/long"], &["/a", "/b"]]);
    }

    #[test]
    fn a_part_has_an_id_of_its_own() {
        let id = |paths: &[&str]| {
            let mut route = route(7);
            route.paths = strings(paths);
            parts(&route).into_iter().map(|(place, _)| place.1.0).collect::<Vec<_>>()
        };
        assert_eq!(id(&["/a", "/b"]), [Id::from_u128(7)]);
        let expect = |part| Id::new_v5(&PARTS, format!("00000000-0000-0000-0000-000000000007#{part}").as_bytes());
        assert_eq!(id(&["/a", "/bc"]), [expect(1), expect(2)]);
    }

    #[test]
    fn literals_are_read_off_regular_expressions() {
        let check = |pattern: &str, expect: Option<&[&str]>| {
            let found = literal_prefixes(&[Regex::new(pattern).unwrap()]);
            let found = found.map(|found| found.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect());
            let expect = expect.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expect, "{pattern}");
        };
        check(r"^/api/v1/\w+$", Some(&["/api/v1/"]));
        check(r"^/a/(?:b|c)/\w", Some(&["/a/b/", "/a/c/"]));
        check(r"^/a|/b", None);
        check(r".*", None);
        check(r"^.*", None);
    }
}

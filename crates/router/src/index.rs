//! The index: rules filed by what tells them apart best.
//!
//! A node holds a set of rules. Where the set is small it is a list; else every rule of it is filed under one kind of
//! key that it asks for (host, header value, path, SNI), the kind that it shares with the fewest others, and what comes
//! together under one key is a node again, with the kinds that are left. A request descends into every key that it
//! has. Ranks give the rest: they are the places of rules in the order in which Kong would try them, a list is in that
//! order, and whatever could only give a higher rank than the best found so far is passed by.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use crate::{
    pattern::NamePattern,
    rule::{HeaderField, Keys, Request, Rule},
    trie::Trie,
};

/// A rule's place in the order of all rules; the lowest that matches wins.
pub(crate) type Rank = u32;

/// Sets up to this size are not worth a lookup.
const LIST: usize = 6;
/// How often a rule may be filed at most, over all its keys; beyond that it stays in a list.
const COPIES: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) enum Node {
    List(Box<[Rank]>),
    Fork(Box<Fork>),
}

#[derive(Clone, Debug)]
pub(crate) struct Fork {
    /// The lowest rank of all rules here.
    least: Rank,
    hosts: Names,
    headers: Box<[(usize, ByValue)]>,
    paths: Trie<Node, false>,
    snis: Names,
    /// The rules under `snis`: without TLS that condition holds for every request.
    with_snis: Box<[Rank]>,
    /// The rules that are filed under no key.
    others: Box<[Rank]>,
}

/// Nodes by the value of one header.
type ByValue = HashMap<Box<str>, Node>;

/// Nodes by patterns for names.
#[derive(Clone, Debug)]
struct Names {
    exact: HashMap<Box<[u8]>, Node>,
    suffixes: Trie<Node, true>,
    prefixes: Trie<Node, false>,
}

/// A rule on its way into the index.
#[derive(Clone, Copy)]
struct Filed<'k> {
    rank: Rank,
    keys: &'k Keys,
    copies: usize,
}

/// The kinds of keys that have not been used on the way to a node.
#[derive(Clone, Copy)]
struct Kinds {
    hosts: bool,
    headers: bool,
    paths: bool,
    snis: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'k> {
    Host(&'k NamePattern),
    Header(usize, &'k str),
    Path(&'k [u8]),
    Sni(&'k NamePattern),
}

/// The order settles ties: what fewer requests have comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Host,
    /// That of this field.
    Header(usize),
    Path,
    Sni,
}

impl Node {
    /// `keys` are those of all rules, in the order of their ranks.
    pub(crate) fn new(keys: &[Keys]) -> Self {
        let filed: Vec<_> = (0..).zip(keys).map(|(rank, keys)| Filed { rank, keys, copies: 1 }).collect();
        Self::file(&filed, Kinds { hosts: true, headers: true, paths: true, snis: true })
    }

    fn file(set: &[Filed<'_>], open: Kinds) -> Self {
        let list = |set: &[Filed<'_>]| set.iter().map(|filed| filed.rank).collect();
        if set.len() <= LIST || !(open.hosts || open.headers || open.paths || open.snis) {
            return Self::List(list(set));
        }

        let mut counts: HashMap<Key<'_>, usize> = HashMap::new();
        for filed in set {
            filed.visit_keys(open, |_, key| *counts.entry(key).or_default() += 1);
        }
        let mut groups: BTreeMap<Kind, Vec<Filed<'_>>> = BTreeMap::new();
        let mut others = Vec::new();
        for filed in set {
            match filed.best_kind(open, &counts) {
                Some(kind) => groups.entry(kind).or_default().push(*filed),
                None => others.push(*filed),
            }
        }
        if others.len() == set.len() {
            return Self::List(list(&others));
        }

        let mut take = |kind| groups.remove(&kind).unwrap_or_default();
        let hosts = take(Kind::Host);
        let paths = take(Kind::Path);
        let snis = take(Kind::Sni);
        let fork = Fork {
            least: set.first().map_or(Rank::MAX, |filed| filed.rank),
            hosts: Names::new(&hosts, |keys| &keys.hosts, Kinds { hosts: false, ..open }),
            headers: by_header(groups, Kinds { headers: false, ..open }),
            paths: Trie::new(nodes(&paths, Kinds { paths: false, ..open }, |keys| keys.paths.clone())),
            with_snis: list(&snis),
            snis: Names::new(&snis, |keys| &keys.snis, Kinds { snis: false, ..open }),
            others: list(&others),
        };
        Self::Fork(Box::new(fork))
    }
}

impl<'k> Filed<'k> {
    fn visit_keys(&self, open: Kinds, mut visit: impl FnMut(Kind, Key<'k>)) {
        let keys = self.keys;
        if open.hosts {
            keys.hosts.iter().for_each(|host| visit(Kind::Host, Key::Host(host)));
        }
        if open.headers {
            for (field, values) in &keys.headers {
                values.iter().for_each(|value| visit(Kind::Header(*field), Key::Header(*field, value)));
            }
        }
        if open.paths {
            keys.paths.iter().for_each(|path| visit(Kind::Path, Key::Path(path)));
        }
        if open.snis {
            keys.snis.iter().for_each(|sni| visit(Kind::Sni, Key::Sni(sni)));
        }
    }

    /// The kind whose keys are the least common, if there is one under which there is room for the rule.
    fn best_kind(&self, open: Kinds, counts: &HashMap<Key<'_>, usize>) -> Option<Kind> {
        let mut costs: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
        self.visit_keys(open, |kind, key| {
            let (keys, most) = costs.entry(kind).or_default();
            *keys += 1;
            *most = (*most).max(counts.get(&key).copied().unwrap_or_default());
        });
        let affordable = costs.into_iter().filter(|(_, (keys, _))| keys * self.copies <= COPIES);
        affordable.min_by_key(|(kind, (_, most))| (*most, *kind)).map(|(kind, _)| kind)
    }
}

impl Names {
    fn new(set: &[Filed<'_>], patterns: impl Fn(&Keys) -> &[NamePattern], open: Kinds) -> Self {
        let (mut exact, mut suffixes, mut prefixes) = (HashMap::new(), Vec::new(), Vec::new());
        for (pattern, node) in nodes(set, open, |keys| patterns(keys).to_vec()) {
            match pattern {
                NamePattern::Exact(name) => {
                    exact.insert(name, node);
                }
                NamePattern::Suffix(suffix) => suffixes.push((suffix, node)),
                NamePattern::Prefix(prefix) => prefixes.push((prefix, node)),
            }
        }
        Self { exact, suffixes: Trie::new(suffixes), prefixes: Trie::new(prefixes) }
    }

    fn visit<'n>(&'n self, name: &[u8], mut visit: impl FnMut(&'n Node)) {
        if let Some(node) = self.exact.get(name) {
            visit(node);
        }
        self.suffixes.visit(name, &mut visit);
        self.prefixes.visit(name, visit);
    }
}

/// A node for each of the set's keys.
fn nodes<K: Eq + Hash>(set: &[Filed<'_>], open: Kinds, keys: impl Fn(&Keys) -> Vec<K>) -> Vec<(K, Node)> {
    let mut groups: HashMap<K, Vec<Filed<'_>>> = HashMap::new();
    for filed in set {
        let keys = keys(filed.keys);
        let copies = filed.copies * keys.len();
        for key in keys {
            groups.entry(key).or_default().push(Filed { copies, ..*filed });
        }
    }
    groups.into_iter().map(|(key, group)| (key, Node::file(&group, open))).collect()
}

fn by_header(groups: BTreeMap<Kind, Vec<Filed<'_>>>, open: Kinds) -> Box<[(usize, ByValue)]> {
    let fields = groups.into_iter().filter_map(|(kind, set)| {
        let Kind::Header(field) = kind else { return None };
        let values = |keys: &Keys| {
            let condition = keys.headers.iter().find(|(known, _)| *known == field);
            condition.map(|(_, values)| values.clone()).unwrap_or_default()
        };
        Some((field, nodes(&set, open, values).into_iter().collect()))
    });
    fields.collect()
}

/// A search for the lowest rank that matches.
pub(crate) struct Search<'s> {
    rules: &'s [Rule],
    fields: &'s [HeaderField],
    request: &'s Request<'s>,
    best: Rank,
}

impl<'s> Search<'s> {
    pub(crate) fn run(
        node: &Node,
        rules: &'s [Rule],
        fields: &'s [HeaderField],
        request: &'s Request<'s>,
    ) -> Option<&'s Rule> {
        let mut search = Self { rules, fields, request, best: Rank::MAX };
        search.visit(node);
        rules.get(usize::try_from(search.best).ok()?)
    }

    fn visit(&mut self, node: &Node) {
        let fork = match node {
            Node::List(ranks) => return self.try_all(ranks),
            Node::Fork(fork) if fork.least < self.best => fork,
            Node::Fork(_) => return,
        };
        let request = self.request;
        fork.hosts.visit(request.host, |node| self.visit(node));
        for (field, nodes) in &fork.headers {
            let values = self.fields.get(*field).map(|field| field.lower_values(request.headers));
            values.into_iter().flatten().filter_map(|value| nodes.get(&*value)).for_each(|node| self.visit(node));
        }
        fork.paths.visit(request.path.as_bytes(), |node| self.visit(node));
        if !request.over_tls {
            self.try_all(&fork.with_snis);
        } else if let Some(sni) = request.sni {
            fork.snis.visit(sni, |node| self.visit(node));
        }
        self.try_all(&fork.others);
    }

    fn try_all(&mut self, ranks: &[Rank]) {
        let matches = |rank: Rank| {
            let rule = usize::try_from(rank).ok().and_then(|rank| self.rules.get(rank));
            rule.is_some_and(|rule| rule.matches(self.request, self.fields))
        };
        let better = ranks.iter().copied().take_while(|rank| *rank < self.best);
        if let Some(rank) = better.into_iter().find(|rank| matches(*rank)) {
            self.best = rank;
        }
    }
}

//! Which of many keys a text begins with, or ends with, found in one walk along it.

use memchr::memchr;

/// How many of a text's keys are held back to be visited longest first; those beyond come as they are met.
const HELD_BACK: usize = 32;

/// A radix tree. `BACKWARDS` reads texts from their end: keys are then suffixes.
#[derive(Clone, Debug)]
pub(crate) struct Trie<T, const BACKWARDS: bool> {
    nodes: Vec<Node<T>>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    /// What leads from the parent to here, in the order of the text.
    label: Box<[u8]>,
    value: Option<T>,
    /// The byte with which the label of each child begins (backwards: ends).
    branches: Vec<u8>,
    children: Vec<usize>,
}

/// A part of the sorted keys that share their first `depth` bytes and become one node.
struct Span {
    from: usize,
    to: usize,
    depth: usize,
    parent: Option<(usize, u8)>,
}

impl<T, const BACKWARDS: bool> Trie<T, BACKWARDS> {
    /// Keys must be distinct.
    pub(crate) fn new(entries: impl IntoIterator<Item = (Box<[u8]>, T)>) -> Self {
        let mut entries: Vec<(Box<[u8]>, Option<T>)> =
            entries.into_iter().map(|(key, value)| (directed::<BACKWARDS>(key), Some(value))).collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));

        let mut nodes: Vec<Node<T>> = Vec::new();
        let mut spans = vec![Span { from: 0, to: entries.len(), depth: 0, parent: None }];
        while let Some(Span { mut from, to, depth, parent }) = spans.pop() {
            let Some([(first, value), ..]) = entries.get_mut(from..to) else { continue };
            let first = first.clone();
            let value = value.take();
            let last = entries.get(to - 1).map_or(&*first, |(key, _)| key);
            let end = first.iter().zip(last).take_while(|(a, b)| a == b).count();

            let this = nodes.len();
            if let Some((parent, branch)) = parent.and_then(|(at, branch)| Some((nodes.get_mut(at)?, branch))) {
                parent.branches.push(branch);
                parent.children.push(this);
            }
            let value = if first.len() == end {
                from += 1;
                value
            } else {
                // It belongs to a node further down.
                if let Some((_, slot)) = entries.get_mut(from) {
                    *slot = value;
                }
                None
            };
            let label = directed::<BACKWARDS>(first.get(depth..end).unwrap_or_default().into());
            nodes.push(Node { label, value, branches: Vec::new(), children: Vec::new() });

            while let Some(&branch) = entries.get(from..to).and_then(|keys| keys.first()?.0.get(end)) {
                let rest = entries.get(from..to).unwrap_or_default();
                let len = rest.iter().take_while(|(key, _)| key.get(end) == Some(&branch)).count();
                spans.push(Span { from, to: from + len, depth: end, parent: Some((this, branch)) });
                from += len;
            }
        }
        Self { nodes }
    }

    /// Calls `visit` for each key that `text` begins with (ends with), the longest first.
    pub(crate) fn visit<'t>(&'t self, text: &[u8], mut visit: impl FnMut(&'t T)) {
        let mut held: [Option<&T>; HELD_BACK] = [None; HELD_BACK];
        let mut slots = held.iter_mut();
        let mut rest = text;
        let mut next = self.nodes.first();
        while let Some(node) = next {
            let Some(after) = node.taken_from::<BACKWARDS>(rest) else { break };
            rest = after;
            if let Some(value) = &node.value {
                match slots.next() {
                    Some(slot) => *slot = Some(value),
                    None => visit(value),
                }
            }
            next = node.child_for(if BACKWARDS { rest.last() } else { rest.first() }).and_then(|at| self.nodes.get(at));
        }
        held.into_iter().rev().flatten().for_each(visit);
    }
}

impl<T> Node<T> {
    fn taken_from<'t, const BACKWARDS: bool>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        if BACKWARDS { text.strip_suffix(&*self.label) } else { text.strip_prefix(&*self.label) }
    }

    fn child_for(&self, byte: Option<&u8>) -> Option<usize> {
        let at = memchr(*byte?, &self.branches)?;
        self.children.get(at).copied()
    }
}

fn directed<const BACKWARDS: bool>(mut key: Box<[u8]>) -> Box<[u8]> {
    if BACKWARDS {
        key.reverse();
    }
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found<const BACKWARDS: bool>(keys: &[&str], text: &str) -> Vec<String> {
        let trie: Trie<String, BACKWARDS> =
            Trie::new(keys.iter().map(|key| (Box::from(key.as_bytes()), (*key).to_owned())));
        let mut found = Vec::new();
        trie.visit(text.as_bytes(), |key| found.push(key.clone()));
        found
    }

    #[test]
    fn keys_are_visited_longest_first() {
        let keys = ["", "/", "/a", "/ab/c", "/abd", "/b"];
        let check = |text, expect: &[&str]| assert_eq!(found::<false>(&keys, text), expect, "{text}");
        check("", &[""]);
        check("/ab/cd", &["/ab/c", "/a", "/", ""]);
        check("/abde", &["/abd", "/a", "/", ""]);
        check("x", &[""]);
        assert_eq!(found::<true>(&[".org", "x.org", "y.org", ".net"], "a.x.org"), ["x.org", ".org"]);
        assert!(found::<false>(&[], "/a").is_empty());
    }

    #[test]
    fn more_keys_than_are_held_back_are_all_visited() {
        let keys: Vec<_> = (0..50).map(|n| "a".repeat(n)).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        assert_eq!(found::<false>(&keys, &"a".repeat(60)).len(), 50);
    }

    proptest! {
        #[test]
        fn the_same_keys_are_found_as_by_trying_all(
            keys in prop::collection::btree_set("[ab/]{0,5}", 0..12),
            text in "[ab/]{0,8}",
        ) {
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let expect = |matches: fn(&str, &str) -> bool| {
                let mut expect: Vec<_> = keys.iter().filter(|key| matches(&text, key)).map(|key| (*key).to_owned()).collect();
                expect.sort_by_key(|key| std::cmp::Reverse(key.len()));
                expect
            };
            prop_assert_eq!(found::<false>(&keys, &text), expect(|text, key| text.starts_with(key)));
            prop_assert_eq!(found::<true>(&keys, &text), expect(|text, key| text.ends_with(key)));
        }
    }
}

//! The path that goes upstream.

use crate::{Match, path::escape};

/// The path to send upstream, percent-encoded, without a query: the service's path, and what `strip_path` leaves of
/// the request's. `path` is the one that was looked up.
///
/// As in Kong's flavour `traditional_compatible`, `path_handling` makes no difference: both values mean `v0`
/// (`router/utils.lua`, `get_upstream_uri_v0`).
pub fn upstream_path(found: &Match<'_>, path: &[u8]) -> String {
    let base = found.service.and_then(|service| service.path.as_deref()).unwrap_or("/").as_bytes();
    if found.route.strip_path {
        let matched = found.path.as_ref().map_or(1, |range| range.len());
        escape(join_stripped(base, without_leading_dots(path.get(matched..).unwrap_or_default()), path))
    } else {
        escape(join_whole(base, path))
    }
}

fn join_whole(base: &[u8], path: &[u8]) -> Vec<u8> {
    match (base, path) {
        ([.., b'/'], _) => [base, path.get(1..).unwrap_or_default()].concat(),
        (_, b"/") => base.to_vec(),
        _ => [base, path].concat(),
    }
}

/// `rest` is what is left of `path`.
fn join_stripped(base: &[u8], rest: &[u8], path: &[u8]) -> Vec<u8> {
    match (base, rest) {
        (b"/", b"") => base.to_vec(),
        // The slash at the end is the request's to decide.
        ([stem @ .., b'/'], b"") => if path.ends_with(b"/") { base } else { stem }.to_vec(),
        (_, b"") if path.len() > 1 && path.ends_with(b"/") => [base, b"/"].concat(),
        (_, b"") => base.to_vec(),
        ([stem @ .., b'/'], [b'/', ..]) => [stem, rest].concat(),
        ([.., b'/'], _) | (_, [b'/', ..]) => [base, rest].concat(),
        _ => [base, b"/", rest].concat(),
    }
}

/// A prefix that ends amid a segment may leave dots behind, which would be read as a dot segment upstream (Kong:
/// `sanitize_uri_postfix`).
fn without_leading_dots(rest: &[u8]) -> &[u8] {
    match rest {
        b"." | b".." => b"",
        [b'.', b'/', after @ ..] | [b'.', b'.', b'/', after @ ..] => after,
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rule::tests::{route, service};

    /// `matched` is how much of `path` the route's path took.
    fn check(base: Option<&str>, strip: Option<usize>, path: &str, expect: &str) {
        let mut service = service(1);
        service.path = base.map(str::to_owned);
        let mut route = route(1);
        route.strip_path = strip.is_some();
        let (route, service) = (Arc::new(route), Arc::new(service));
        let found =
            Match { route: &route, service: Some(&service), path: strip.map(|matched| 0..matched), captures: None };
        assert_eq!(upstream_path(&found, path.as_bytes()), expect, "{base:?} {strip:?} {path}");
    }

    #[test]
    fn a_kept_path_is_appended() {
        check(None, None, "/", "/");
        check(None, None, "/a/b/", "/a/b/");
        check(Some("/base"), None, "/", "/base");
        check(Some("/base"), None, "/a", "/base/a");
        check(Some("/base/"), None, "/", "/base/");
        check(Some("/base/"), None, "/a", "/base/a");
    }

    #[test]
    fn a_stripped_path_leaves_its_rest() {
        check(None, Some(2), "/a", "/");
        check(None, Some(2), "/a/", "/");
        check(None, Some(2), "/a/b", "/b");
        check(None, Some(2), "/ab", "/b");
        check(None, Some(3), "/a/b", "/b");
        check(Some("/base"), Some(2), "/a", "/base");
        check(Some("/base"), Some(2), "/a/", "/base/");
        check(Some("/base"), Some(3), "/a/", "/base/");
        check(Some("/base"), Some(2), "/ab", "/base/b");
        check(Some("/base"), Some(1), "/", "/base");
        check(Some("/base/"), Some(2), "/a", "/base");
        check(Some("/base/"), Some(2), "/a/", "/base/");
        check(Some("/base/"), Some(3), "/a/", "/base/");
        check(Some("/base/"), Some(2), "/a/b", "/base/b");
        check(Some("/base/"), Some(2), "/ab", "/base/b");
    }

    #[test]
    fn dots_left_over_are_no_segments() {
        check(Some("/base"), Some(2), "/a..", "/base");
        check(Some("/base"), Some(2), "/a./b", "/base/b");
        check(Some("/base"), Some(2), "/a../b", "/base/b");
        check(Some("/base"), Some(2), "/a.b", "/base/.b");
    }

    #[test]
    fn the_result_is_escaped() {
        check(Some("/b c"), Some(2), "/a/\u{20ac} \"%2F", "/b%20c/%E2%82%AC%20%22%2F");
    }

    #[test]
    fn a_route_without_paths_strips_the_slash() {
        let (route, service) = (Arc::new(route(1)), Arc::new(service(1)));
        let found = Match { route: &route, service: Some(&service), path: None, captures: None };
        assert_eq!(upstream_path(&found, b"/a/b"), "/a/b");
        assert_eq!(upstream_path(&Match { service: None, ..found }, b"/"), "/");
    }
}

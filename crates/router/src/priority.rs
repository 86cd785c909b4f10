//! Which rule goes first.

use std::cmp::Reverse;

use silverback_model::{Id, Route};

use crate::rule::is_regex;

const HEADERS_AT_MOST: usize = 255;
const PLAIN_HOSTS_ONLY: u64 = 1 << 60;
const REGEX_PATH: u64 = 1 << 51;
const PATH_LENGTH: u64 = 0x7_FFFF;

/// The place of a rule: ascending order is the order in which rules are tried. Rules of the same priority go by
/// their id, the highest first; the time at which a route was made plays no part.
pub(crate) type Place = (Reverse<u64>, Reverse<Id>);

pub(crate) fn place(route: &Route, paths: &[&str], id: Id) -> Place {
    (Reverse(priority(route, paths)), Reverse(id))
}

/// Kong's priority of a route with these of its paths (`router/transform.lua`, `get_priority`).
///
/// Kong means the fields to lie side by side in 64 bits: how many kinds of conditions there are, whether all hosts are
/// plain, how many headers, whether the paths are regular expressions, `regex_priority`, and the length of the paths.
/// But it shifts plain Lua numbers, and LuaJIT's shifts of those have 32 bits: the count of conditions is moved by 29
/// rather than 61, that of the headers by 20 rather than 52, and bit 31 is the sign, which fills the upper half. In
/// effect four kinds of conditions or more come first, then plain hosts, then regular expressions, and only then the
/// number of conditions. Kong's users see this order, so it is kept.
fn priority(route: &Route, paths: &[&str]) -> u64 {
    let hosts = route.hosts.as_deref();
    let headers = route.headers.as_deref().unwrap_or_default().len();
    let conditions =
        [is_set(&route.methods), is_set(&route.hosts), headers > 0, is_set(&route.snis), !paths.is_empty()];
    let plain_hosts_only = hosts.is_some_and(|hosts| !hosts.iter().any(|host| host.contains('*')));
    let first_path = paths.first().copied().unwrap_or_default();
    let regex = is_regex(first_path);

    let mut priority = shift(conditions.into_iter().filter(|&set| set).count(), 29);
    priority |= shift(headers.min(HEADERS_AT_MOST), 20);
    if plain_hosts_only {
        priority |= PLAIN_HOSTS_ONLY;
    }
    if regex {
        priority |= REGEX_PATH | widen(route.regex_priority << 19);
    } else {
        priority |= first_path.len() as u64 & PATH_LENGTH;
    }
    priority
}

fn is_set(values: &Option<Vec<String>>) -> bool {
    values.as_ref().is_some_and(|values| !values.is_empty())
}

fn shift(count: usize, by: u32) -> u64 {
    widen(i32::try_from(count).unwrap_or(i32::MAX) << by)
}

/// 32 bits to 64, sign and all.
const fn widen(bits: i32) -> u64 {
    bits as i64 as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::{headers, route, strings};

    /// `fields` is a word a field: `m` methods, `h` plain host, `w` wildcard host, `s` SNI, `x` a header.
    fn of(fields: &str, path: &str, regex_priority: i32) -> u64 {
        let mut route = route(1);
        route.regex_priority = regex_priority;
        for field in fields.chars() {
            match field {
                'm' => route.methods = strings(&["GET"]),
                'h' => route.hosts = strings(&["a"]),
                'w' => route.hosts = strings(&["*.a"]),
                's' => route.snis = strings(&["a"]),
                'x' => route.headers = headers(&[("a", &["x"])]),
                other => panic!("no such field: {other}"),
            }
        }
        let paths: Vec<_> = Some(path).filter(|path| !path.is_empty()).into_iter().collect();
        priority(&route, &paths)
    }

    /// Values that LuaJIT computes for Kong's function.
    #[test]
    fn priorities_are_those_of_kong() {
        let check = |fields, path, expect: u64| assert_eq!(of(fields, path, 0), expect, "{fields} {path}");
        check("", "/a", 0x0000_0000_2000_0002);
        check("m", "/a", 0x0000_0000_4000_0002);
        check("h", "", 0x1000_0000_2000_0000);
        check("w", "", 0x0000_0000_2000_0000);
        check("h", "/a", 0x1000_0000_4000_0002);
        check("wm", "/a", 0x0000_0000_6000_0002);
        check("", "~/a", 0x0008_0000_2000_0000);
        check("xmw", "/a", 0xffff_ffff_8010_0002);
        check("xmh", "/a", 0xffff_ffff_8010_0002);
        check("xmws", "~/a", 0xffff_ffff_a010_0000);
        assert_eq!(of("", "~/a", 5), 0x0008_0000_2028_0000);
        assert_eq!(of("", "~/a", -5), 0xffff_ffff_ffd8_0000);
        assert_eq!(of("", "~/a", 70_000), 0xffff_ffff_ab80_0000);
        assert_eq!(of("", "~/a", i32::MAX), 0xffff_ffff_fff8_0000);
        assert_eq!(of("hx", "~/a", -5), 0xffff_ffff_ffd8_0000);
        assert_eq!(of("", "/a", 9), of("", "/a", 0), "only regular expressions have a regex_priority");
    }

    #[test]
    fn headers_count_up_to_a_limit() {
        let mut route = route(1);
        let many: Vec<_> = (0..300).map(|n| (format!("h{n}"), vec!["x".to_owned()])).collect();
        route.headers = Some(many);
        assert_eq!(priority(&route, &[]), 0x2000_0000 | 0x0ff0_0000);
    }
}

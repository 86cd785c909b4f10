//! Patterns for names: those of hosts and SNIs.

/// A name, or one with something before or after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NamePattern {
    Exact(Box<[u8]>),
    /// `*.example.org`: what the name ends with.
    Suffix(Box<[u8]>),
    /// `example.*`: what the name begins with.
    Prefix(Box<[u8]>),
}

impl NamePattern {
    /// A `*` counts at either end only; the one in front is looked for first.
    pub(crate) fn new(pattern: &str) -> Self {
        if let Some(suffix) = pattern.strip_prefix('*') {
            Self::Suffix(suffix.as_bytes().into())
        } else if let Some(prefix) = pattern.strip_suffix('*') {
            Self::Prefix(prefix.as_bytes().into())
        } else {
            Self::Exact(pattern.as_bytes().into())
        }
    }

    /// The same for an SNI, where a dot at the end says nothing.
    pub(crate) fn of_sni(pattern: &str) -> Self {
        let bare = pattern.strip_suffix('.').filter(|bare| !bare.is_empty());
        Self::new(bare.unwrap_or(pattern))
    }

    /// Case counts.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => name == &**exact,
            Self::Suffix(suffix) => name.ends_with(suffix),
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// A host of a route: a name, and a port if it is not to match whatever the port.
#[derive(Clone, Debug)]
pub(crate) struct HostPattern {
    pub(crate) name: NamePattern,
    pub(crate) port: Option<i64>,
}

impl HostPattern {
    pub(crate) fn new(host: &str) -> Self {
        let (name, port) = split_port(host.as_bytes());
        // The split is at a colon: what is before it is as much UTF-8 as the whole.
        let name = host.get(..name.len()).unwrap_or(host);
        Self { name: NamePattern::new(name), port }
    }
}

/// Name and port of a Host header; all of it is the name where what follows the first colon is no number (Kong:
/// `router/transform.lua`, `split_host_port`). An address in brackets stays whole.
pub(crate) fn split_port(host: &[u8]) -> (&[u8], Option<i64>) {
    let Some(colon) = memchr::memchr(b':', host) else { return (host, None) };
    let (name, port) = host.split_at(colon);
    match port.get(1..).and_then(lua_number) {
        Some(port) => (name, Some(port)),
        None => (host, None),
    }
}

/// What Lua's `tonumber` makes of a text, as the integer that the router compares.
fn lua_number(text: &[u8]) -> Option<i64> {
    if matches!(text.len(), 1..=9) && text.iter().all(u8::is_ascii_digit) {
        return Some(text.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')));
    }
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return i64::from_str_radix(digits, 16).ok().filter(|value| *value >= 0);
    }
    // To an integer as C does it: towards zero.
    text.parse().or_else(|_| text.parse::<f64>().map(|value| value as i64)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_what_lua_takes_for_a_number() {
        let check = |host: &str, name: &str, port| assert_eq!(split_port(host.as_bytes()), (name.as_bytes(), port));
        check("a.test", "a.test", None);
        check("a.test:80", "a.test", Some(80));
        check("a.test:", "a.test:", None);
        check("a.test:8x", "a.test:8x", None);
        check("a.test:0x50", "a.test", Some(80));
        check("a.test:80.0", "a.test", Some(80));
        check("a.test:1:2", "a.test:1:2", None);
        check("[::1]:80", "[::1]:80", None);
        check("", "", None);
        check("*.a:443", "*.a", Some(443));
    }

    #[test]
    fn a_star_counts_at_the_ends() {
        let check = |pattern, name: &str, expect| {
            assert_eq!(NamePattern::of_sni(pattern).matches(name.as_bytes()), expect, "{pattern} {name}");
        };
        check("a.b", "a.b", true);
        check("a.b", "A.b", false);
        check("a.b.", "a.b", true);
        check("a.b", "a.b.", false);
        check("*.b", "a.b", true);
        check("*.b", "c.a.b", true);
        check("*.b", "b", false);
        check("*.b.", "a.b", true);
        check("a.*", "a.b", true);
        check("a.*", "a", false);
        check("*", "anything", true);
        check(".", ".", true);
    }
}

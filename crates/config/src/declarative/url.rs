//! URLs, taken apart as Lua's `socket.url` does it: whatever is not there is left out, nothing is an error.

/// The parts that a service or a check looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: Option<&'a str>,
    pub(super) host: Option<&'a str>,
    pub(super) port: Option<&'a str>,
    pub(super) path: Option<&'a str>,
}

pub(super) fn parse(text: &str) -> Url<'_> {
    let mut url = Url::default();
    let mut rest = text.split('#').next().unwrap_or(text);
    if let Some((scheme, after)) = rest.split_once(':') {
        let mut bytes = scheme.bytes();
        if bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            url.scheme = Some(scheme);
            rest = after;
        }
    }
    let mut authority = None;
    if let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        let (found, path) = after.split_at(end);
        authority = Some(found);
        rest = path;
    }
    rest = rest.split('?').next().unwrap_or(rest);
    rest = rest.split(';').next().unwrap_or(rest);
    url.path = Some(rest).filter(|path| !path.is_empty());
    if let Some(authority) = authority {
        let authority = authority.split_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port).filter(|port| !port.is_empty())),
            _ => (authority, None),
        };
        url.host = Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
            .filter(|host| !host.is_empty());
        url.port = port;
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        for (text, scheme, host, port, path) in [
            ("http://a.com:80/x?y#z", Some("http"), Some("a.com"), Some("80"), Some("/x")),
            ("https://a.com", Some("https"), Some("a.com"), None, None),
            ("http://[::1]:80/", Some("http"), Some("::1"), Some("80"), Some("/")),
            ("not a url", None, None, None, Some("not a url")),
            ("//a", None, Some("a"), None, None),
            ("http://u:p@a/b", Some("http"), Some("a"), None, Some("/b")),
        ] {
            assert_eq!(parse(text), Url { scheme, host, port, path }, "{text}");
        }
    }
}

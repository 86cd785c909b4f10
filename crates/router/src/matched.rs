//! What goes into the router, and what comes out.

use std::{ops::Range, sync::Arc};

use http::{HeaderMap, Method};
use silverback_model::{Route, Service};

/// What is known of a request when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub method: &'a Method,
    /// The Host header (or `:authority`) as it was sent, with its port; empty where there is none.
    pub host: &'a [u8],
    /// The port of the listener, mapped by `port_maps`: it counts where the Host header names none.
    pub port: u16,
    /// What [`normalize_path`](crate::normalize_path) made of the path.
    pub path: &'a [u8],
    pub headers: &'a HeaderMap,
    /// `http` or `https`: the connection's, not a forwarded one.
    pub scheme: &'a str,
    /// The server name that the client asked for in the TLS handshake.
    pub sni: Option<&'a str>,
}

/// The route that a request takes.
#[derive(Clone, Debug)]
pub struct Match<'r> {
    pub route: &'r Arc<Route>,
    pub service: Option<&'r Arc<Service>>,
    /// Which part of the path the route's path matched; `None` where the route has no paths.
    pub path: Option<Range<usize>>,
    /// What the groups of its regular expressions took; `None` where no group took anything.
    pub captures: Option<Box<Captures>>,
}

/// What the groups of a route's regular expressions took (`kong.request.get_uri_captures`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    /// By number; the first is the whole match. `None` where a group took no part while a later one did.
    pub numbered: Vec<Option<String>>,
    pub named: Vec<(String, String)>,
}

impl Match<'_> {
    /// What `strip_path` takes away: the text that the route's path matched. `None` where the route keeps the path or
    /// has none. `path` is the one that was looked up.
    pub fn prefix<'p>(&self, path: &'p [u8]) -> Option<&'p str> {
        let range = self.path.clone().filter(|_| self.route.strip_path)?;
        std::str::from_utf8(path.get(range)?).ok()
    }

    /// The value of `X-Forwarded-Prefix` where the client may not give one: [`prefix`](Self::prefix), unless that is
    /// `/`. It comes from a decoded path: there may be bytes in it that no header value can hold.
    pub fn forwarded_prefix<'p>(&self, path: &'p [u8]) -> Option<&'p str> {
        self.prefix(path).filter(|prefix| *prefix != "/")
    }
}

impl Captures {
    /// Takes over what one more regular expression captured; what it did not set stays.
    pub(crate) fn absorb(&mut self, regex: &regex::Regex, found: &regex::Captures<'_>) {
        if self.numbered.len() < found.len() {
            self.numbered.resize(found.len(), None);
        }
        for (slot, group) in self.numbered.iter_mut().zip(found.iter()) {
            if let Some(group) = group {
                *slot = Some(group.as_str().to_owned());
            }
        }
        for name in regex.capture_names().flatten() {
            let Some(group) = found.name(name) else { continue };
            match self.named.iter_mut().find(|(known, _)| known == name) {
                Some((_, value)) => group.as_str().clone_into(value),
                None => self.named.push((name.to_owned(), group.as_str().to_owned())),
            }
        }
    }

    /// Ends the list with a group that took part; `None` if that leaves no more than a whole match, for only then Kong
    /// speaks of captures.
    pub(crate) fn finish(mut self: Box<Self>) -> Option<Box<Self>> {
        let len = self.numbered.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.numbered.truncate(len);
        (self.numbered.iter().flatten().count() + self.named.len() > 1).then_some(self)
    }
}

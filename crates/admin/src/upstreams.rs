//! `/upstreams/NAME/health` and the ways to set the health of a target: `kong/api/routes/upstreams.lua`.

use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};

use crate::{Node, api::Answer};

/// Targets of one page, where the request asks for no other number, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// What the Admin API asks of the balancers. Upstreams and targets go by name (`host:port`) or id.
pub trait Upstreams: Send + Sync {
    /// The targets of an upstream with their health, in the order in which they are shown; `None` if there is no such
    /// upstream.
    fn targets(&self, upstream: &str) -> Option<Vec<Json>>;

    /// The health of an upstream as a whole.
    fn balancer(&self, upstream: &str) -> Option<Json>;

    /// Makes a target healthy or unhealthy: all its addresses, or the one that is named.
    ///
    /// # Errors
    /// There is no such target, or its health cannot be set.
    fn set_health(
        &self,
        upstream: &str,
        target: &str,
        address: Option<&str>,
        healthy: bool,
    ) -> Result<(), HealthNotSet>;
}

/// Why health was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthNotSet {
    /// There is no such upstream, or no such target of it.
    NotFound,
    /// Why, for whoever asked.
    Refused(String),
}

/// A path that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Health { upstream: String },
    Set { upstream: String, target: String, address: Option<String>, healthy: bool },
}

impl Endpoint {
    /// `path` without a slash at its end.
    pub(crate) fn find(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix("/upstreams/")?.split('/').collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return None;
        }
        let decoded = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
        let healthy = |word: &str| match word {
            "healthy" => Some(true),
            "unhealthy" => Some(false),
            _ => None,
        };
        match segments[..] {
            [upstream, "health"] => Some(Self::Health { upstream: decoded(upstream) }),
            [upstream, "targets", target, word] => Some(Self::Set {
                upstream: decoded(upstream),
                target: decoded(target),
                address: None,
                healthy: healthy(word)?,
            }),
            [upstream, "targets", target, address, word] => Some(Self::Set {
                upstream: decoded(upstream),
                target: decoded(target),
                address: Some(decoded(address)),
                healthy: healthy(word)?,
            }),
            _ => None,
        }
    }

    pub(crate) const fn methods(&self) -> &'static str {
        match self {
            Self::Health { .. } => "GET, HEAD, OPTIONS",
            Self::Set { .. } => "OPTIONS, PUT",
        }
    }

    /// Answers a request of one of the methods that do something; `None` for any other.
    pub(crate) fn answer(&self, node: &Node, method: &Method, query: Option<&str>) -> Option<Answer> {
        match (self, method) {
            (Self::Health { upstream }, &Method::GET | &Method::HEAD) => {
                Some(health(node, upstream, query.unwrap_or_default()))
            }
            (Self::Set { upstream, target, address, healthy }, &Method::PUT) => {
                let upstreams = node.upstreams()?;
                Some(match upstreams.set_health(upstream, target, address.as_deref(), *healthy) {
                    Ok(()) => Answer::empty(StatusCode::NO_CONTENT),
                    Err(HealthNotSet::NotFound) => not_found(),
                    Err(HealthNotSet::Refused(why)) => Answer::message(StatusCode::BAD_REQUEST, &why),
                })
            }
            _ => None,
        }
    }
}

fn not_found() -> Answer {
    Answer::message(StatusCode::NOT_FOUND, "Not found")
}

fn health(node: &Node, upstream: &str, query: &str) -> Answer {
    let Some(upstreams) = node.upstreams() else { return not_found() };
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    if parameter("balancer_health") == Some("1") {
        return match upstreams.balancer(upstream) {
            None => not_found(),
            Some(data) => Answer::json(StatusCode::OK, json!({ "data": data, "next": null, "node_id": node.id })),
        };
    }
    let Some(targets) = upstreams.targets(upstream) else { return not_found() };
    let size = match parameter("size").map(str::parse::<f64>) {
        None => PAGE,
        Some(Ok(size)) if size >= 0.0 => (size as usize).min(MAX_PAGE),
        Some(_) => return bad_page(9, "invalid size", "size must be a number"),
    };
    let offset = match parameter("offset").map(|offset| (offset, offset.parse::<usize>())) {
        None => 0,
        Some((_, Ok(offset))) => offset,
        Some((offset, Err(_))) => {
            return bad_page(7, "invalid offset", &format!("'{offset}' is not a valid offset: bad number"));
        }
    };
    let end = offset.saturating_add(size);
    let mut body = json!({
        "data": targets.get(offset..end.min(targets.len())).unwrap_or_default(),
        "next": null,
        "node_id": node.id,
    });
    if targets.len() > end
        && let Some(body) = body.as_object_mut()
    {
        body.insert("offset".to_owned(), end.to_string().into());
        body.insert("next".to_owned(), format!("/upstreams/{upstream}/health?offset={end}").into());
    }
    Answer::json(StatusCode::OK, body)
}

fn bad_page(code: u8, name: &str, message: &str) -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, json!({ "code": code, "name": name, "message": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let set = |target: &str, address: Option<&str>, healthy| {
            Some(Endpoint::Set {
                upstream: "up".into(),
                target: target.into(),
                address: address.map(Into::into),
                healthy,
            })
        };
        for (path, expect) in [
            ("/upstreams/up/health", Some(Endpoint::Health { upstream: "up".into() })),
            ("/upstreams/up/targets/a:80/healthy", set("a:80", None, true)),
            ("/upstreams/up/targets/%5B%3A%3A1%5D%3A80/unhealthy", set("[::1]:80", None, false)),
            ("/upstreams/up/targets/a:80/10.0.0.1:80/unhealthy", set("a:80", Some("10.0.0.1:80"), false)),
            ("/upstreams/up/targets/a:80/health", None),
            ("/upstreams/up/targets//healthy", None),
            ("/upstreams/up", None),
            ("/upstream/up/health", None),
        ] {
            assert_eq!(Endpoint::find(path), expect, "{path}");
        }
    }
}

//! What an HTTP request is hashed by (`get_value_to_hash` in `kong/runloop/balancer/init.lua`).

use http::HeaderValue;
use silverback_model::Id;
use silverback_pdk::{Exchange, variables};
use silverback_protocol::Value;

use super::balancer::{HashOn, Upstream};

/// A cookie that the answer sets, so that the client's next request goes to the same target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashCookie {
    name: String,
    value: String,
    path: String,
}

impl HashCookie {
    /// The value of the `Set-Cookie` header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let Self { name, value, path } = self;
        HeaderValue::from_str(&format!("{name}={value}; Path={path}; Same-Site=Lax; HttpOnly")).ok()
    }

    /// Whether a `Set-Cookie` header is for the same cookie.
    pub(crate) fn is_set_by(&self, header: &HeaderValue) -> bool {
        header.as_bytes().strip_prefix(self.name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
    }
}

/// The value that decides where a request goes, and the cookie that has to be set for it.
pub(crate) fn of(upstream: &Upstream, exchange: &Exchange) -> (Option<String>, Option<HashCookie>) {
    let mut cookie = None;
    let value = upstream.hash_value(|on| match on {
        HashOn::Cookie { name, path } => match variables::variable(exchange, &format!("cookie_{name}")) {
            Some(value) => Some(text(&value)),
            None => {
                let value = Id::new_v4().to_string();
                cookie = Some(HashCookie { name: name.clone(), value: value.clone(), path: path.clone() });
                Some(value)
            }
        },
        on => part(on, exchange),
    });
    (value, cookie)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn part(on: &HashOn, exchange: &Exchange) -> Option<String> {
    match on {
        HashOn::Consumer => consumer(exchange),
        HashOn::Ip => exchange.client.real_ip.map(|ip| ip.to_string()),
        HashOn::Header(name) => {
            let values: Vec<String> =
                exchange.request.headers.get_all(name.as_str()).iter().map(|value| text(value.as_bytes())).collect();
            (!values.is_empty()).then(|| values.join(", "))
        }
        HashOn::Path => Some(exchange.request.path.clone()),
        HashOn::QueryArgument(name) => {
            query_argument(exchange.request.query.as_deref().unwrap_or_default(), name, exchange.node.limits.uri_args)
        }
        HashOn::UriCapture(name) => {
            let matched = exchange.matched.as_ref()?;
            let named = matched.named_captures.iter().find(|(known, _)| known == name).map(|(_, value)| value);
            named.or_else(|| matched.captures.get(name.parse::<usize>().ok()?)).cloned()
        }
        // Looked at by the caller, who sets it where there is none.
        HashOn::Cookie { .. } => None,
    }
}

/// The id of the consumer, or of the credential where there is no consumer.
fn consumer(exchange: &Exchange) -> Option<String> {
    let id = |value: &Value| match value {
        Value::Map(fields) => fields.iter().find(|(name, _)| name == "id").and_then(|(_, id)| match id {
            Value::Text(id) => Some(text(id)),
            _ => None,
        }),
        _ => None,
    };
    id(&exchange.consumer_value()).or_else(|| id(exchange.credential.as_ref()?))
}

/// The values of an argument, decoded, sorted and put together.
fn query_argument(query: &str, name: &str, limit: usize) -> Option<String> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(limit);
    let mut values: Vec<String> = pairs
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
            // An argument without a value is `true` in Lua.
            (decoded(key) == name).then(|| value.map_or_else(|| "true".to_owned(), decoded))
        })
        .collect();
    values.sort_unstable();
    (!values.is_empty()).then(|| values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_an_argument_in_order() {
        let check = |query: &str, expect: Option<&str>| {
            assert_eq!(query_argument(query, "a b", 100).as_deref(), expect, "{query}");
        };
        check("", None);
        check("a=1", None);
        check("a+b=x", Some("x"));
        check("a%20b=2&c=9&a+b=1", Some("1,2"));
        check("a+b&a+b=", Some(",true"));
        assert_eq!(query_argument("x=1&a=2", "a", 1), None);
    }

    #[test]
    fn the_cookie_that_is_set() {
        let cookie = HashCookie { name: "sid".into(), value: "v".into(), path: "/p".into() };
        assert_eq!(cookie.header().unwrap(), "sid=v; Path=/p; Same-Site=Lax; HttpOnly");
        assert!(cookie.is_set_by(&HeaderValue::from_static("sid=other; Path=/")));
        assert!(!cookie.is_set_by(&HeaderValue::from_static("side=x")));
    }
}

//! Headers as plugins see and set them: lower-case names, a list for a repeated one, ngx_lua's escaping on the way in.

use std::{borrow::Cow, fmt::Display};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use silverback_protocol::Value;

use crate::lua;

/// All headers, at most `max` single ones (0: all).
pub(crate) fn multimap(headers: &HeaderMap, max: usize) -> Value {
    let limit = if max == 0 { usize::MAX } else { max };
    let mut map: Vec<(String, Value)> = Vec::with_capacity(headers.keys_len());
    for (name, value) in headers.iter().take(limit) {
        let value = Value::Text(Bytes::copy_from_slice(value.as_bytes()));
        match map.iter_mut().find(|(known, _)| known == name.as_str()) {
            None => map.push((name.as_str().to_owned(), value)),
            Some((_, Value::List(values))) => values.push(value),
            Some((_, single)) => *single = Value::List(vec![std::mem::take(single), value]),
        }
    }
    Value::Map(map)
}

/// The first value of a header among the first `max` single ones; the name may be in any case, with `_` for `-`.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &[u8], max: usize) -> Option<&'a HeaderValue> {
    let lower = name.to_ascii_lowercase();
    let dashed: Vec<u8> = lower.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
    let limit = if max == 0 { usize::MAX } else { max };
    let find = |wanted: &[u8]| {
        headers.iter().take(limit).find(|(name, _)| name.as_str().as_bytes() == wanted).map(|(_, value)| value)
    };
    find(&lower).or_else(|| (dashed != lower).then(|| find(&dashed)).flatten())
}

/// All values of the header that nginx's variable `$http_<variable>` stands for, joined as nginx joins them. The
/// variable's name is in lower case, with `_` for `-`.
pub(crate) fn joined(headers: &HeaderMap, variable: &str) -> Option<Bytes> {
    joined_where(headers, variable.as_bytes(), |of_name, of_variable| {
        of_name == of_variable || (of_name == b'-' && of_variable == b'_')
    })
}

/// The same for a header by its name, in any case, in which `_` and `-` are one.
pub(crate) fn joined_by_name(headers: &HeaderMap, name: &[u8]) -> Option<Bytes> {
    joined_where(headers, name, |of_name, wanted| match wanted {
        b'-' | b'_' => matches!(of_name, b'-' | b'_'),
        other => of_name == other.to_ascii_lowercase(),
    })
}

fn joined_where(headers: &HeaderMap, wanted: &[u8], same: impl Fn(u8, u8) -> bool) -> Option<Bytes> {
    let matches = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        name.len() == wanted.len() && name.iter().zip(wanted).all(|(&a, &b)| same(a, b))
    };
    let mut values = headers.iter().filter(|(name, _)| matches(name)).map(|(_, value)| value.as_bytes());
    let only = values.next()?;
    let Some(second) = values.next() else { return Some(Bytes::copy_from_slice(only)) };
    let separator: &[u8] = if wanted.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
    let mut text = only.to_vec();
    for value in std::iter::once(second).chain(values) {
        text.extend_from_slice(separator);
        text.extend_from_slice(value);
    }
    Some(Bytes::from(text))
}

/// Bytes that a header's name may hold.
const OF_NAMES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = b'!';
    while byte < 0x7f {
        bytes[byte as usize] =
            !matches!(byte, b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'[' | b'\\' | b']' | b'{' | b'}');
        byte += 1;
    }
    bytes
};

/// The bytes, with those percent-encoded that cannot be sent.
fn sendable(raw: &[u8], can_be_sent: impl Fn(u8) -> bool) -> Cow<'_, [u8]> {
    let Some(at) = raw.iter().position(|byte| !can_be_sent(*byte)) else { return Cow::Borrowed(raw) };
    let (start, rest) = raw.split_at(at);
    let mut out = start.to_vec();
    for &byte in rest {
        if can_be_sent(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    Cow::Owned(out)
}

/// A header name as ngx_lua sends it: bytes that no name may hold are percent-encoded. `None` for an empty one, which
/// cannot be sent at all.
pub(crate) fn name(raw: &[u8]) -> Option<HeaderName> {
    HeaderName::from_bytes(&sendable(raw, |byte| OF_NAMES[usize::from(byte)])).ok()
}

/// A header value as ngx_lua sends it: control bytes are percent-encoded.
pub(crate) fn value(raw: &[u8]) -> HeaderValue {
    let value = sendable(raw, |byte| (byte >= b' ' || byte == b'\t') && byte != 0x7f);
    HeaderValue::from_bytes(&value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The values that a plugin gave for a header: text, number, boolean, or a list of text. What is empty is sent as one
/// space, as in Kong. A map gives none, which removes the header.
pub(crate) fn values(given: &Value) -> Vec<HeaderValue> {
    let one = |item: &Value| {
        let text = lua::to_text(item);
        if text.is_empty() { HeaderValue::from_static(" ") } else { value(&text) }
    };
    match given {
        Value::List(items) => items.iter().map(one).collect(),
        Value::Map(_) => Vec::new(),
        single => vec![one(single)],
    }
}

/// Whose headers they are: ngx_lua treats some of a request's and some of an answer's in a way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Answer,
}

/// Headers of a request that nginx knows by name and keeps one value of.
const SINGLE_IN_REQUEST: [&str; 20] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "range",
    "referer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-real-ip",
];

/// The same for an answer. `Location` is one of them unless it is a path.
const SINGLE_IN_ANSWER: [&str; 14] = [
    "accept-ranges",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "e-tag",
    "etag",
    "expires",
    "last-modified",
    "location",
    "refresh",
    "server",
    "www-authenticate",
];

/// Whether another value takes the place of the one that is there.
fn is_replaced(headers: &HeaderMap, name: &HeaderName, side: Side) -> bool {
    match side {
        Side::Request => SINGLE_IN_REQUEST.contains(&name.as_str()),
        Side::Answer if *name == header::LOCATION => {
            headers.get_all(name).iter().next_back().is_some_and(|last| !last.as_bytes().starts_with(b"/"))
        }
        Side::Answer => SINGLE_IN_ANSWER.contains(&name.as_str()),
    }
}

/// Adds a value beside those that are there, or in their place where nginx keeps one only.
fn add_one(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue, side: Side) {
    if is_replaced(headers, name, side) {
        headers.insert(name, value);
    } else {
        headers.append(name, value);
    }
}

/// A `Content-Length` that is no number cannot be set.
fn check_length(name: &HeaderName, values: &[HeaderValue]) -> Result<(), String> {
    let is_length = |value: &HeaderValue| {
        let digits = value.as_bytes();
        digits.iter().all(u8::is_ascii_digit) && value.to_str().is_ok_and(|text| text.parse::<i64>().is_ok())
    };
    if *name == header::CONTENT_LENGTH && !values.iter().all(is_length) {
        return Err("failed to set header".to_owned());
    }
    Ok(())
}

/// Replaces a header, in its place; no values remove it. Of several values for a header that nginx keeps one of, the
/// last one counts.
///
/// # Errors
/// ngx_lua's text for a value that the header cannot have.
pub(crate) fn set(
    headers: &mut HeaderMap,
    name: &HeaderName,
    values: Vec<HeaderValue>,
    side: Side,
) -> Result<(), String> {
    check_length(name, &values)?;
    let mut values = values.into_iter();
    match values.next() {
        None => drop(headers.remove(name)),
        Some(first) => drop(headers.insert(name, first)),
    }
    values.for_each(|value| add_one(headers, name, value, side));
    Ok(())
}

/// Adds values to a header.
///
/// # Errors
/// ngx_lua's text for a value that the header cannot have.
pub(crate) fn add(
    headers: &mut HeaderMap,
    name: &HeaderName,
    values: Vec<HeaderValue>,
    side: Side,
) -> Result<(), String> {
    check_length(name, &values)?;
    values.into_iter().for_each(|value| add_one(headers, name, value, side));
    Ok(())
}

/// More headers than any message has, each value of a repeated one counted. A map of headers has room for little more
/// than twice as many names.
const MAX_HEADERS: usize = 10_000;

/// More values of one name than any message has.
const MAX_VALUES: usize = 1_000;

/// More bytes of names and values than any peer takes.
const MAX_BYTES: usize = 1024 * 1024;

/// How a call changes headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// What it gives takes the place of what there is of these names.
    Set,
    /// What it gives comes beside what there is.
    Add,
}

/// Whether there is room for what a call gives. Messages without bound would take memory without bound, and the time
/// of a worker to put them together.
///
/// # Errors
/// There is not: an error of the plugin.
pub(crate) fn room<'v>(
    headers: &HeaderMap,
    given: impl IntoIterator<Item = (HeaderName, &'v Value)>,
    change: Change,
) -> Result<(), String> {
    let mut values = headers.len();
    let mut bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    for (name, value) in given {
        let (count, length) = extent(value);
        let mut of_name = count;
        let known = headers.get_all(&name).iter();
        if change == Change::Add {
            of_name += known.count();
        } else {
            let (single, replaced) =
                known.fold((0, 0), |(single, bytes), value| (single + 1, bytes + name.as_str().len() + value.len()));
            values = values.saturating_sub(single);
            bytes = bytes.saturating_sub(replaced);
        }
        if of_name > MAX_VALUES {
            return Err(format!("there are more than {MAX_VALUES} values of the header {name}"));
        }
        values += count;
        bytes = bytes.saturating_add(count.saturating_mul(name.as_str().len())).saturating_add(length);
    }
    if values > MAX_HEADERS {
        return Err(format!("there are more than {MAX_HEADERS} headers"));
    }
    if bytes > MAX_BYTES {
        return Err(format!("the headers have more than {MAX_BYTES} bytes"));
    }
    Ok(())
}

/// How many values this gives for a header, and how many bytes they have.
fn extent(given: &Value) -> (usize, usize) {
    let length = |item: &Value| item.as_bytes().map_or(0, Bytes::len);
    match given {
        Value::List(items) => (items.len(), items.iter().map(length).sum()),
        Value::Map(_) => (0, 0),
        single => (1, length(single)),
    }
}

/// Lua's error for a header that cannot be set, or nothing.
pub(crate) fn check(name: &Value, value: &Value) -> Result<(), String> {
    if name.as_bytes().is_none() {
        let shown = String::from_utf8_lossy(&lua::to_text(name)).into_owned();
        return Err(format!("invalid header name \"{shown}\": got {}, expected string", lua::type_name(name)));
    }
    check_value(|| show(name), value, "array of string, string, number or boolean")
}

/// The same for a table of headers.
pub(crate) fn check_table(headers: &Value) -> Result<(), String> {
    match headers {
        Value::Map(entries) if entries.len() > MAX_HEADERS => Err(format!("there are more than {MAX_HEADERS} headers")),
        Value::Map(entries) => entries
            .iter()
            .filter(|(_, value)| !value.is_nil())
            .try_for_each(|(name, value)| check_value(|| name, value, "string, number, boolean or array of strings")),
        Value::List(items) if items.is_empty() => Ok(()),
        Value::List(_) => Err("invalid header name \"1\": got number, expected string".to_owned()),
        _ => Err("headers must be a table".to_owned()),
    }
}

fn check_value<N: Display>(name: impl Fn() -> N, value: &Value, expected: &str) -> Result<(), String> {
    match value {
        Value::Text(_) | Value::Binary(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Map(_) => Ok(()),
        Value::List(items) => match items.iter().find(|item| item.as_bytes().is_none()) {
            None => Ok(()),
            Some(item) => {
                let (name, given) = (name(), lua::type_name(item));
                Err(format!("invalid header value in array \"{name}\": got {given}, expected string"))
            }
        },
        Value::Nil => Err(format!("invalid header value for \"{}\": got nil, expected {expected}", name())),
    }
}

fn show(name: &Value) -> String {
    String::from_utf8_lossy(&lua::to_text(name)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", "h"), ("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn limits_count_single_values() {
        let Value::Map(all) = multimap(&sample(), 2) else { unreachable!() };
        assert_eq!(all, [("host".to_owned(), "h".into()), ("x-a".to_owned(), "1".into())]);
    }

    #[test]
    fn finds_by_any_spelling() {
        for (name, expect) in [("X-A", Some("1")), ("x_a", Some("1")), ("x-b", None), ("", None)] {
            let found = first(&sample(), name.as_bytes(), 100).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), expect);
        }
        assert_eq!(joined(&sample(), "x_a").unwrap(), "1, 2");
        assert_eq!(joined(&sample(), "cookie").unwrap(), "a=1; b=2");
        assert_eq!(joined_by_name(&sample(), b"X-A").unwrap(), "1, 2");
        assert_eq!(joined_by_name(&sample(), b"x_a").unwrap(), "1, 2");
        assert_eq!(joined_by_name(&sample(), b"Cookie").unwrap(), "a=1; b=2");
        assert_eq!(joined_by_name(&sample(), b"x"), None);
    }

    #[test]
    fn escapes_what_cannot_be_sent() {
        assert_eq!(name(b"X new:").unwrap().as_str(), "x%20new%3a");
        assert_eq!(name(b""), None);
        assert_eq!(value(b"a\r\nX-Evil: 1"), "a%0D%0AX-Evil: 1");
        assert_eq!(values(&Value::List(vec!["a".into(), "".into()])), ["a", " "]);
    }

    #[test]
    fn some_headers_have_one_value_the_last() {
        for (side, name, values, expect) in [
            (Side::Request, "x-a", &["1", "2"][..], &["1", "2"][..]),
            (Side::Request, "user-agent", &["1", "2"], &["2"]),
            (Side::Request, "accept", &["a/b", "c/d"], &["a/b", "c/d"]),
            (Side::Request, "x-forwarded-for", &["1.1.1.1", "2.2.2.2"], &["1.1.1.1", "2.2.2.2"]),
            (Side::Answer, "user-agent", &["1", "2"], &["1", "2"]),
            (Side::Answer, "content-type", &["a/b", "c/d"], &["c/d"]),
            (Side::Answer, "www-authenticate", &["Basic", "Bearer"], &["Bearer"]),
            (Side::Answer, "cache-control", &["private", "no-store"], &["private", "no-store"]),
            (Side::Answer, "location", &["http://a", "http://b"], &["http://b"]),
            (Side::Answer, "location", &["/a", "/b"], &["/a", "/b"]),
        ] {
            let name = HeaderName::from_static(name);
            let values = || values.iter().map(|value| HeaderValue::from_static(value));
            let mut headers = sample();
            set(&mut headers, &name, values().collect(), side).unwrap();
            assert!(headers.get_all(&name).iter().eq(expect), "set {name} {side:?}");
            headers.remove(&name);
            for value in values() {
                add(&mut headers, &name, vec![value], side).unwrap();
            }
            assert!(headers.get_all(&name).iter().eq(expect), "add {name} {side:?}");
        }
    }

    #[test]
    fn a_length_is_a_number() {
        for (value, good) in [("3", true), ("0", true), (" ", false), ("-1", false), ("1.5", false), ("x", false)] {
            for side in [Side::Request, Side::Answer] {
                let values = vec![HeaderValue::from_static(value)];
                assert_eq!(set(&mut sample(), &header::CONTENT_LENGTH, values, side).is_ok(), good, "{value}");
            }
        }
    }

    #[test]
    fn checks_what_is_given() {
        assert_eq!(check(&"x".into(), &Value::Int(1)), Ok(()));
        assert_eq!(
            check(&Value::Int(5), &"v".into()).unwrap_err(),
            "invalid header name \"5\": got number, expected string"
        );
        assert_eq!(
            check(&"x".into(), &Value::List(vec![Value::Int(1)])).unwrap_err(),
            "invalid header value in array \"x\": got number, expected string"
        );
        assert!(check_table(&"x".into()).is_err());
        assert!(check_table(&Value::List(vec!["a".into()])).is_err());
    }
}

//! Query strings and form bodies, read and written as ngx_lua does (`ngx.decode_args`, `ngx.encode_args`).

use bytes::Bytes;
use silverback_protocol::{Value, value::readable};

use crate::{lua, uri::hex_byte};

/// Reads `a=1&b&a=2`: repeated names become lists, a name without `=` is true, an empty name is left out. At most `max`
/// single arguments are read (0: all).
pub(crate) fn decode(text: &[u8], max: usize) -> Value {
    let mut args: Vec<(String, Value)> = Vec::new();
    let limit = if max == 0 { usize::MAX } else { max };
    let mut count = 0;
    for pair in text.split(|&byte| byte == b'&') {
        let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => (&pair[..at], Value::Text(Bytes::from(unescape(&pair[at + 1..])))),
            None => (pair, Value::Bool(true)),
        };
        let name = unescape(name);
        if name.is_empty() {
            continue;
        }
        if count == limit {
            break;
        }
        count += 1;
        insert(&mut args, readable(&name).into_owned(), value);
    }
    Value::Map(args)
}

fn insert(args: &mut Vec<(String, Value)>, name: String, value: Value) {
    match args.iter_mut().find(|(known, _)| *known == name) {
        None => args.push((name, value)),
        Some((_, Value::List(values))) => values.push(value),
        Some((_, single)) => *single = Value::List(vec![std::mem::take(single), value]),
    }
}

/// Percent-decodes; `+` is a space; what is no escape stays.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => match tail.get(..2).and_then(hex_byte) {
                Some(byte) => {
                    out.push(byte);
                    rest = tail.get(2..).unwrap_or_default();
                }
                None => out.push(b'%'),
            },
            _ => out.push(first),
        }
    }
    out
}

/// Escapes one component, as `ngx.escape_uri` does.
fn escape(text: &[u8], out: &mut String) {
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Writes a table of arguments, sorted as Kong sorts them.
///
/// # Errors
/// Lua's text for a table that holds what no argument can be.
pub(crate) fn encode_sorted(table: &Value) -> Result<String, String> {
    let entries = match table {
        Value::Map(entries) => entries.as_slice(),
        Value::List(items) if items.is_empty() => &[],
        _ => return Err("arg keys must be strings".to_owned()),
    };
    let mut parts = Vec::new();
    for (name, value) in entries {
        match value {
            Value::Nil => continue,
            value => parts.push(encode_pair(name, value)?),
        }
    }
    parts.sort_unstable();
    Ok(parts.join("&"))
}

fn encode_pair(name: &str, value: &Value) -> Result<String, String> {
    let values: Vec<&Value> = match value {
        Value::List(values) => values.iter().collect(),
        Value::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        single => vec![single],
    };
    if values.iter().any(|value| lua::is_table(value)) {
        return Err("attempt to use table as query arg value".to_owned());
    }
    let mut out = String::new();
    for value in values {
        append(&mut out, name, value);
    }
    Ok(out)
}

fn append(out: &mut String, name: &str, value: &Value) {
    if matches!(value, Value::Bool(false) | Value::Nil) {
        return;
    }
    if !out.is_empty() {
        out.push('&');
    }
    escape(name.as_bytes(), out);
    if *value != Value::Bool(true) {
        out.push('=');
        escape(&lua::to_text(value), out);
    }
}

/// A query as `ngx.req.set_uri_args` takes it: spaces and control bytes are escaped, the rest is kept.
pub(crate) fn sanitise(query: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(query.len());
    for &byte in query {
        if byte <= b' ' || byte == 0x7f {
            bytes.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Takes the arguments of this name out, and writes the rest anew as the URL standard does
/// (`application/x-www-form-urlencoded`), which is what Kong's library makes of it.
pub(crate) fn remove(query: &str, name: &[u8]) -> String {
    let mut out = String::new();
    let query = query.strip_prefix('?').unwrap_or(query);
    for pair in query.as_bytes().split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let (key, value): (&[u8], &[u8]) = match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, b""),
        };
        let key = unescape(key);
        if key == name {
            continue;
        }
        if !out.is_empty() {
            out.push('&');
        }
        escape_form(&key, &mut out);
        out.push('=');
        escape_form(&unescape(value), &mut out);
    }
    out
}

fn escape_form(text: &[u8], out: &mut String) {
    for &byte in text {
        match byte {
            b' ' => out.push('+'),
            b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Value {
        Value::List(items.iter().map(|&item| item.into()).collect())
    }

    #[test]
    fn decodes() {
        let check = |text: &str, max: usize, expect: &[(&str, Value)]| {
            let expect = expect.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            assert_eq!(decode(text.as_bytes(), max), Value::Map(expect), "{text}");
        };
        check("", 100, &[]);
        check("a=1&a=2&b&a=3", 100, &[("a", list(&["1", "2", "3"])), ("b", true.into())]);
        check("a=1&a=2&b&a=3", 2, &[("a", list(&["1", "2"]))]);
        check("a=%zz&b=%4&A=%", 100, &[("a", "%zz".into()), ("b", "%4".into()), ("A", "%".into())]);
        check("a+b=c%26d&=x&&=", 100, &[("a b", "c&d".into())]);
        check("a=1;b=2", 100, &[("a", "1;b=2".into())]);
    }

    #[test]
    fn encodes() {
        let table = Value::Map(vec![
            ("z".into(), "a b".into()),
            ("a".into(), list(&["2", "1"])),
            ("t".into(), true.into()),
            ("f".into(), false.into()),
            ("n".into(), Value::Float(1.5)),
        ]);
        assert_eq!(encode_sorted(&table).unwrap(), "&a=2&a=1&n=1.5&t&z=a%20b");
        assert!(encode_sorted(&list(&["a"])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(args in proptest::collection::btree_map("[^\\x00]{1,8}", ".{0,12}", 0..6)) {
            let table = Value::Map(args.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect());
            let query = encode_sorted(&table).unwrap();
            let Value::Map(decoded) = decode(query.as_bytes(), 0) else { unreachable!() };
            let decoded: std::collections::BTreeMap<_, _> = decoded.into_iter().collect();
            proptest::prop_assert_eq!(decoded.len(), args.len());
            for (name, value) in &args {
                proptest::prop_assert_eq!(decoded.get(name), Some(&Value::from(value.as_str())));
            }
        }

        #[test]
        fn any_bytes_are_a_query(text in proptest::collection::vec(proptest::num::u8::ANY, 0..64), max in 0..5_usize) {
            let Value::Map(args) = decode(&text, max) else { unreachable!() };
            proptest::prop_assert!(max == 0 || args.len() <= max);
            let query = sanitise(&text);
            proptest::prop_assert!(!query.bytes().any(|byte| byte <= b' '));
            remove(&query, b"a");
        }
    }

    #[test]
    fn removes() {
        assert_eq!(remove("a=1&b=x%20y&c&a=2", b"a"), "b=x+y&c=");
        assert_eq!(remove("a=1", b"a"), "");
        assert_eq!(remove("?a=1&b", b"a"), "b=");
    }
}

//! JSON as Kong's Lua reads and writes it (lua-cjson): numbers are doubles, `/` is escaped, an empty table is an object.

use bytes::Bytes;
use serde_json::Value as Json;
use silverback_protocol::Value;

use crate::lua;

/// How deep tables may be nested, in and out.
pub(crate) const MAX_DEPTH: usize = 1000;

/// How a list without elements is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyList {
    /// `[]`: the list is known to be one (it came from a JSON document, or from the configuration).
    Array,
    /// `{}`: what Lua makes of a table that a plugin sent.
    Object,
}

/// Reads a JSON document. `None` if it is none.
pub fn decode(text: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Json>(text).ok().map(|json| from_json(&json))
}

/// A JSON value as plugins see it: null is nil, whole numbers are integers.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n
            .as_i64()
            .filter(|n| n.unsigned_abs() <= 1 << 53)
            .map_or_else(|| lua::from_number(n.as_f64().unwrap_or(0.0)), Value::Int),
        Json::String(text) => Value::text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(entries) => {
            Value::Map(entries.iter().map(|(key, value)| (key.clone(), from_json(value))).collect())
        }
    }
}

/// A field of an entity, or of any JSON object that Kong keeps as a Lua table: unset fields are absent.
pub fn from_json_without_nulls(json: &Json) -> Value {
    match json {
        Json::Array(items) => Value::List(items.iter().map(from_json_without_nulls).collect()),
        Json::Object(entries) => Value::Map(
            entries
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), from_json_without_nulls(value)))
                .collect(),
        ),
        other => from_json(other),
    }
}

/// Writes a value with so many significant digits for numbers (14 is cjson's default, Kong's own encoder has 16).
///
/// # Errors
/// cjson's text: a number that JSON has not, or tables nested too deep.
pub fn encode(value: &Value, digits: usize, empty: EmptyList) -> Result<Bytes, String> {
    let mut out = Vec::with_capacity(256);
    Encoder { out: &mut out, digits, empty, lossy: false }.value(value, 0)?;
    Ok(Bytes::from(out))
}

/// For logs: what cannot be written is left out.
pub(crate) fn encode_lossy(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // What was written before the error is still worth showing.
    let _ = Encoder { out: &mut out, digits: 14, empty: EmptyList::Array, lossy: true }.value(value, 0);
    out
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    digits: usize,
    empty: EmptyList,
    lossy: bool,
}

impl Encoder<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("Cannot serialise, excessive depth ({depth})"));
        }
        match value {
            Value::Nil => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            Value::Int(n) => self.integer(*n)?,
            Value::Float(n) => self.number(*n)?,
            Value::Text(text) | Value::Binary(text) => self.string(text),
            Value::List(items) if items.is_empty() && self.empty == EmptyList::Object => {
                self.out.extend_from_slice(b"{}");
            }
            Value::List(items) => {
                self.out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    self.value(item, depth + 1)?;
                }
                self.out.push(b']');
            }
            Value::Map(entries) => {
                self.out.push(b'{');
                for (i, (key, item)) in entries.iter().enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    self.string(key.as_bytes());
                    self.out.push(b':');
                    self.value(item, depth + 1)?;
                }
                self.out.push(b'}');
            }
        }
        Ok(())
    }

    fn integer(&mut self, n: i64) -> Result<(), String> {
        let fits = u32::try_from(self.digits).is_ok_and(|digits| n.unsigned_abs() < 10_u64.pow(digits.min(15)));
        if fits {
            self.out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "Lua has doubles only")]
        self.number(n as f64)
    }

    fn number(&mut self, n: f64) -> Result<(), String> {
        if !n.is_finite() && !self.lossy {
            return Err("Cannot serialise number: must not be NaN or Infinity".to_owned());
        }
        self.out.extend_from_slice(lua::format_number(n, self.digits).as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        let mut rest = text;
        while let Some(at) = first_escaped(rest) {
            let (plain, escaped) = rest.split_at(at);
            self.out.extend_from_slice(plain);
            let [byte, after @ ..] = escaped else { break };
            rest = after;
            match byte {
                b'"' => self.out.extend_from_slice(b"\\\""),
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                b'/' => self.out.extend_from_slice(b"\\/"),
                0x08 => self.out.extend_from_slice(b"\\b"),
                0x0c => self.out.extend_from_slice(b"\\f"),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                0..0x20 | 0x7f => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => self.out.push(*byte),
            }
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
    }
}

/// The place of the first byte that is escaped. Most texts have none: they are looked at in groups.
fn first_escaped(text: &[u8]) -> Option<usize> {
    let (groups, _) = text.as_chunks::<8>();
    let is_plain = |group: &&[u8; 8]| !group.iter().fold(false, |any, byte| any | ESCAPED[usize::from(*byte)]);
    let plain = groups.iter().take_while(is_plain).count() * 8;
    let found = text.get(plain..)?.iter().position(|byte| ESCAPED[usize::from(*byte)])?;
    Some(plain + found)
}

/// The bytes that are escaped in a string.
const ESCAPED: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        bytes[byte] = byte < 0x20 || matches!(byte as u8, b'"' | b'\\' | b'/' | 0x7f);
        byte += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_as_cjson_does() {
        let value = Value::Map(vec![
            ("a/b".into(), Value::List(vec![Value::Int(1), Value::Float(1.5), Value::Nil])),
            ("e".into(), Value::List(vec![])),
            ("t".into(), Value::text("q\" \u{7f}\n")),
        ]);
        let text = encode(&value, 14, EmptyList::Object).unwrap();
        assert_eq!(text, r#"{"a\/b":[1,1.5,null],"e":{},"t":"q\" \u007f\n"}"#);
        let text = encode(&Value::List(vec![]), 14, EmptyList::Array).unwrap();
        assert_eq!(text, "[]");
        assert!(encode(&Value::Float(f64::NAN), 14, EmptyList::Object).is_err());
    }

    #[test]
    fn what_is_escaped_is_found_wherever_it_stands() {
        for length in 0..40 {
            for at in 0..length {
                let mut text = vec![b'x'; length];
                text[at] = b'"';
                let expect = format!("\"{}\\\"{}\"", "x".repeat(at), "x".repeat(length - at - 1));
                let text = Value::Text(text.into());
                assert_eq!(encode(&text, 14, EmptyList::Object).unwrap(), expect);
            }
        }
    }

    #[test]
    fn integers_have_the_digits_of_doubles() {
        for (n, digits, expect) in [
            (0, 14, "0"),
            (-7, 14, "-7"),
            (99_999_999_999_999, 14, "99999999999999"),
            (100_000_000_000_000, 14, "1e+14"),
            (-123_456_789_012_345, 14, "-1.2345678901234e+14"),
            (123_456_789_012_345, 16, "123456789012345"),
            (i64::MIN, 14, "-9.2233720368548e+18"),
        ] {
            assert_eq!(encode(&Value::Int(n), digits, EmptyList::Object).unwrap(), expect);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(texts in proptest::collection::vec(".{0,16}", 0..5), n in -1_000_000_i64..1_000_000) {
            let mut items: Vec<Value> = texts.iter().map(|text| text.as_str().into()).collect();
            items.push(n.into());
            let list = Value::List(items);
            let text = encode(&list, 14, EmptyList::Array).unwrap();
            proptest::prop_assert_eq!(decode(&text), Some(list));
        }

        #[test]
        fn any_number_is_written_as_one(n in proptest::num::f64::NORMAL) {
            let text = encode(&Value::Float(n), 16, EmptyList::Array).unwrap();
            let read: f64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
            proptest::prop_assert!(((read - n) / n).abs() < 1e-15);
        }
    }

    #[test]
    fn reads_numbers_as_lua_does() {
        assert_eq!(
            decode(b"[1,2.0,1.5,12345678901234567890]"),
            Some(Value::List(vec![
                Value::Int(1),
                Value::Int(2),
                Value::Float(1.5),
                Value::Float(12_345_678_901_234_567_890.0),
            ]))
        );
        assert_eq!(decode(b"{"), None);
    }
}

//! Lua's view of values, as far as Kong's functions show it: type names, `tostring`, `tonumber`, the length of a
//! table, and what becomes of nil inside one.

use bytes::Bytes;
use silverback_protocol::Value;

/// What Lua's `type` says of a value.
pub(crate) const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Bool(_) => "boolean",
        Value::Int(_) | Value::Float(_) => "number",
        Value::Text(_) | Value::Binary(_) => "string",
        Value::List(_) | Value::Map(_) => "table",
    }
}

/// Whether Lua takes the value for true: everything but nil and false.
pub(crate) const fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Nil | Value::Bool(false))
}

pub(crate) const fn is_table(value: &Value) -> bool {
    matches!(value, Value::List(_) | Value::Map(_))
}

/// The number that a value is; text is none.
#[expect(clippy::cast_precision_loss, reason = "Lua has doubles only")]
pub(crate) const fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        _ => None,
    }
}

/// A number as a value: an integer where it is one.
pub(crate) fn from_number(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "within the exact range")]
        return Value::Int(n as i64);
    }
    Value::Float(n)
}

/// Text of a number with so many significant digits: C's `%.<digits>g`.
pub(crate) fn format_number(n: f64, digits: usize) -> String {
    if n.is_nan() {
        return if n.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if n == 0.0 {
        return if n.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    // Most numbers are integers that all their digits fit in.
    if n.fract() == 0.0 && i32::try_from(digits).is_ok_and(|digits| n.abs() < 10_f64.powi(digits.min(15))) {
        #[expect(clippy::cast_possible_truncation, reason = "an integer of at most 15 digits")]
        return (n as i64).to_string();
    }
    let scientific = format!("{:.*e}", digits - 1, n);
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let precision = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= precision {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(precision - 1 - exponent).unwrap_or(0);
    trim_zeros(&format!("{n:.decimals$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Lua's `tostring` (14 significant digits). Tables have an address in Lua; here they are shown as JSON.
pub(crate) fn to_text(value: &Value) -> Bytes {
    match value {
        Value::Nil => Bytes::from_static(b"nil"),
        Value::Bool(true) => Bytes::from_static(b"true"),
        Value::Bool(false) => Bytes::from_static(b"false"),
        #[expect(clippy::cast_precision_loss, reason = "Lua has doubles only")]
        Value::Int(n) => Bytes::from(format_number(*n as f64, 14)),
        Value::Float(n) => Bytes::from(format_number(*n, 14)),
        Value::Text(text) | Value::Binary(text) => text.clone(),
        Value::List(_) | Value::Map(_) => Bytes::from(crate::json::encode_lossy(value)),
    }
}

/// LuaJIT's `tonumber`: decimal, exponent, hexadecimal, spaces around.
pub(crate) fn parse_number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let magnitude = if let Some(hex) = lower.strip_prefix("0x") {
        parse_hex(hex)?
    } else {
        match lower.as_str() {
            "inf" | "infinity" => f64::INFINITY,
            "nan" => f64::NAN,
            _ if lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') => lower.parse().ok()?,
            _ => return None,
        }
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn parse_hex(digits: &str) -> Option<f64> {
    let (mantissa, exponent) = match digits.split_once('p') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for c in whole.chars() {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let mut scale = 1.0 / 16.0;
    for c in fraction.chars() {
        value += f64::from(c.to_digit(16)?) * scale;
        scale /= 16.0;
    }
    Some(value * 2f64.powi(exponent))
}

/// How many of the arguments a function gets. Kong keeps them in a Lua table and unpacks it up to its length; with
/// nil inside, the length is what LuaJIT's growing of tables makes of it.
///
/// Simulates a table that is filled from 1 on: `slots` is the size of its array part (slot 0 included). No function has
/// so many arguments that a long list would be worth the effort.
pub(crate) fn argument_count(args: &[Value]) -> usize {
    const WORTH_THE_EFFORT: usize = 64;
    if args.len() > WORTH_THE_EFFORT || !args.iter().any(Value::is_nil) {
        return args.len();
    }
    let present = |key: usize| key >= 1 && args.get(key - 1).is_some_and(|value| !value.is_nil());
    let mut slots = 0;
    let mut hashed: Vec<usize> = Vec::new();
    let mut hash_size = 0;
    for key in 1..=args.len() {
        if key < slots {
            continue;
        }
        if hashed.len() < hash_size {
            hashed.push(key);
            continue;
        }
        // The table grows: every non-nil key so far counts, and the new one.
        let keys: Vec<usize> = (1..key).filter(|&k| present(k)).chain([key]).collect();
        slots = best_array_size(&keys);
        hashed = keys.into_iter().filter(|&k| k >= slots).collect();
        hash_size = hashed.len().next_power_of_two();
        if hashed.is_empty() {
            hash_size = 0;
        }
    }
    table_length(slots, hash_size > 0, present)
}

fn best_array_size(keys: &[usize]) -> usize {
    let mut bins = [0usize; 32];
    for &key in keys {
        bins[if key > 2 { (key - 1).ilog2() as usize } else { 0 }] += 1;
    }
    let (mut sum, mut size) = (0, 0);
    for (b, count) in bins.into_iter().enumerate() {
        if 2 * keys.len() <= 1 << b || sum == keys.len() {
            break;
        }
        if count > 0 {
            sum += count;
            if 2 * sum > 1 << b {
                size = (2 << b) + 1;
            }
        }
    }
    size
}

fn table_length(slots: usize, has_hash: bool, present: impl Fn(usize) -> bool) -> usize {
    let mut high = slots.saturating_sub(1);
    if high > 0 && !present(high) {
        let mut low = 0;
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if present(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return low;
    }
    if !has_hash {
        return high;
    }
    let (mut low, mut next) = (high, high + 1);
    while present(next) {
        low = next;
        next *= 2;
    }
    while next - low > 1 {
        let middle = usize::midpoint(low, next);
        if present(middle) {
            low = middle;
        } else {
            next = middle;
        }
    }
    low
}

/// A value as it is once Lua has stored it: an entry of nil is no entry, a list ends before nil at its end, and one
/// with nil inside is a table of numbers.
pub(crate) fn stored(value: Value) -> Value {
    match value {
        Value::Map(entries) => Value::Map(
            entries.into_iter().filter(|(_, value)| !value.is_nil()).map(|(key, value)| (key, stored(value))).collect(),
        ),
        Value::List(mut items) => {
            while items.last().is_some_and(Value::is_nil) {
                items.pop();
            }
            if items.iter().any(Value::is_nil) {
                let numbered = items.into_iter().enumerate().filter(|(_, item)| !item.is_nil());
                return Value::Map(numbered.map(|(i, item)| ((i + 1).to_string(), stored(item))).collect());
            }
            Value::List(items.into_iter().map(stored).collect())
        }
        other => other,
    }
}

/// Lists with more holes than this are refused, unless they are short.
const MAX_SHARE_OF_HOLES: usize = 2;
const SHORT: usize = 10;

/// A table as lua-cjson writes it: an entry of nil is no entry, a list ends before nil at its end, nil inside is null,
/// and an empty list is an object like every empty table.
///
/// # Errors
/// cjson's text for a list of nearly nothing but nil.
pub(crate) fn encodable(value: &Value) -> Result<Value, String> {
    Ok(match value {
        Value::Map(entries) => {
            let entries = entries.iter().filter(|(_, value)| !value.is_nil());
            Value::Map(entries.map(|(key, value)| Ok((key.clone(), encodable(value)?))).collect::<Result<_, String>>()?)
        }
        Value::List(items) => {
            let length = items.iter().rposition(|item| !item.is_nil()).map_or(0, |last| last + 1);
            let items = items.get(..length).unwrap_or_default();
            let present = items.iter().filter(|item| !item.is_nil()).count();
            if length > SHORT && length > present.saturating_mul(MAX_SHARE_OF_HOLES) {
                return Err("Cannot serialise table: excessively sparse array".to_owned());
            }
            if items.is_empty() {
                Value::Map(Vec::new())
            } else {
                Value::List(items.iter().map(encodable).collect::<Result<_, _>>()?)
            }
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_as_json() {
        let nil_and = |nils: usize| Value::List(vec![Value::Nil; nils].into_iter().chain([Value::Int(1)]).collect());
        for (value, text) in [
            (Value::List(vec![Value::Int(1), Value::Nil, Value::Int(3), Value::Nil]), "[1,null,3]"),
            (Value::List(vec![Value::Nil, Value::Nil]), "{}"),
            (Value::List(vec![Value::List(Vec::new())]), "[{}]"),
            (Value::Map(vec![("a".into(), Value::Nil), ("b".into(), Value::List(Vec::new()))]), r#"{"b":{}}"#),
            (nil_and(9), "[null,null,null,null,null,null,null,null,null,1]"),
        ] {
            let json = crate::json::encode(&encodable(&value).unwrap(), 14, crate::json::EmptyList::Array).unwrap();
            assert_eq!(json, text);
        }
        assert!(encodable(&nil_and(10)).is_err());
    }

    #[test]
    fn numbers_as_text() {
        for (n, digits, text) in [
            (1.0, 14, "1"),
            (1.5, 14, "1.5"),
            (-0.25, 14, "-0.25"),
            (1e15, 14, "1e+15"),
            (123_456_789_012_345.0, 14, "1.2345678901234e+14"),
            (123_456_789_012_345.0, 16, "123456789012345"),
            (0.1, 16, "0.1"),
            (1e-5, 14, "1e-05"),
            (100.0, 14, "100"),
        ] {
            assert_eq!(format_number(n, digits), text);
        }
    }

    #[test]
    fn text_as_numbers() {
        for (text, number) in [
            ("80", Some(80.0)),
            (" 80 ", Some(80.0)),
            ("80.5", Some(80.5)),
            ("0x50", Some(80.0)),
            ("1e2", Some(100.0)),
            ("-3", Some(-3.0)),
            ("abc", None),
            ("", None),
            ("80,90", None),
            ("0x", None),
            ("-", None),
        ] {
            assert_eq!(parse_number(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn nil_arguments_swallow_what_follows_as_in_luajit() {
        let one = || Value::Int(1);
        for (args, count) in [
            (vec![], 0),
            (vec![one(), one()], 2),
            (vec![Value::Nil], 0),
            (vec![Value::Nil, one()], 2),
            (vec![one(), Value::Nil, one()], 1),
            (vec![one(), Value::Nil], 1),
            (vec![Value::Nil, Value::Nil, one()], 0),
        ] {
            assert_eq!(argument_count(&args), count, "{args:?}");
        }
    }
}

//! Where Lua shows through: plugins see the effects of its one number type and of its tables, so they belong to the
//! protocol.

use crate::Value;

/// Integers up to this one are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Lua has one number type: a float without fraction is the same as the integer.
pub fn number(float: f64) -> Value {
    if float.fract() == 0.0 && float.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "in the range in which integers are exact")]
        let int = float as i64;
        Value::Int(int)
    } else {
        Value::Float(float)
    }
}

/// A number as Lua's `tostring` writes it (`%.14g`).
pub fn number_text(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // 14 significant digits, then the exponent decides the notation
    let scientific = format!("{float:.13e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if (-4..14).contains(&exponent) {
        let decimals = usize::try_from(13 - exponent).unwrap_or(0);
        let text = format!("{float:.decimals$}");
        if decimals > 0 { trim(&text) } else { text }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    }
}

/// Drops what Lua's `unpack` would not pass on from a list of arguments.
///
/// Kong fills a table item by item and passes `unpack(table)` to the function. A nil leaves a hole, and the length of
/// a table with holes depends on how LuaJIT laid it out: `exit(200, nil, headers)` loses the headers, while
/// `get_body(nil, 1)` keeps its second argument.
///
/// Of a list longer than any function's arguments, what comes before the first nil is left: to find out what LuaJIT
/// would say takes time that grows with the square of the length.
pub fn unpack(mut args: Vec<Value>) -> Vec<Value> {
    const WORTH_THE_EFFORT: usize = 64;
    if let Some(first_nil) = args.iter().position(Value::is_nil) {
        let length = if args.len() > WORTH_THE_EFFORT { first_nil } else { length(&args) };
        args.truncate(length);
    }
    args
}

/// What LuaJIT's `#` says of a table to which `items` were assigned one after the other, nils included.
///
/// LuaJIT keeps small integer keys in an array part, others in a hash part. An assignment that finds no room makes it
/// choose a new size for the array: the largest power of two that would be more than half full of non-nil items.
fn length(items: &[Value]) -> usize {
    let present = |key: usize| key >= 1 && items.get(key - 1).is_some_and(|item| !item.is_nil());
    let mut array_size = 0; // slots 0..array_size; slot 0 is never used here
    let mut hash_capacity = 0_usize;
    let mut hash_used = 0;
    for key in 1..=items.len() {
        if key < array_size {
            continue;
        }
        if hash_used < hash_capacity {
            hash_used += 1;
            continue;
        }
        // no room: count the keys whose value is not nil, and the new one
        let counted: Vec<usize> = (1..key).filter(|k| present(*k)).chain([key]).collect();
        array_size = best_array_size(&counted);
        let in_hash = counted.iter().filter(|k| **k >= array_size).count();
        hash_capacity = if in_hash == 0 { 0 } else { in_hash.next_power_of_two() };
        hash_used = in_hash;
    }
    // a border in the array part, found by bisection
    let mut high = array_size.saturating_sub(1);
    if high > 0 && !present(high) {
        let mut low = 0;
        while high - low > 1 {
            let middle = low.midpoint(high);
            if present(middle) { low = middle } else { high = middle }
        }
        return low;
    }
    if hash_capacity == 0 {
        return high;
    }
    // a border in the hash part: by doubling, then by bisection
    let mut low = high;
    high += 1;
    while present(high) {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if present(middle) { low = middle } else { high = middle }
    }
    low
}

/// The number of slots that LuaJIT gives the array part for these keys.
fn best_array_size(keys: &[usize]) -> usize {
    let total = keys.len();
    let (mut size, mut sum, mut bin) = (0, 0, 0);
    while 2 * total > 1 << bin && sum != total {
        // bin 0 holds the keys 1 and 2, bin 1 the keys 3 and 4, bin 2 those from 5 to 8
        let range = if bin == 0 { 0..=2_usize } else { (1 << bin) + 1..=2 << bin };
        let here = keys.iter().filter(|&key| range.contains(key)).count();
        sum += here;
        if here > 0 && 2 * sum > 1 << bin {
            size = (2 << bin) + 1;
        }
        bin += 1;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_lua_writes_them() {
        let check = |float: f64, expect: &str| assert_eq!(number_text(float), expect, "{float}");
        check(1.0, "1");
        check(-0.5, "-0.5");
        check(0.1, "0.1");
        check(1e14, "1e+14");
        check(99_999_999_999_999.0, "99999999999999");
        check(1e-5, "1e-05");
        check(0.0001, "0.0001");
        check(123_456.789_012_345_6, "123456.78901235");
        check(1e300, "1e+300");
        check(0.0, "0");
        check(f64::INFINITY, "inf");
    }

    #[test]
    fn integral_floats_are_integers() {
        assert_eq!(number(1.0), Value::Int(1));
        assert_eq!(number(1.5), Value::Float(1.5));
        assert_eq!(number(1e300), Value::Float(1e300));
    }

    #[test]
    fn nils_among_arguments_swallow_as_in_luajit() {
        let check = |pattern: &str, expect: usize| {
            let args = pattern.chars().map(|c| if c == '-' { Value::Nil } else { Value::Bool(true) }).collect();
            assert_eq!(unpack(args).len(), expect, "{pattern}");
        };
        check("", 0);
        check("xxx", 3);
        check("x-x", 1); // exit(200, nil, headers)
        check("-x", 2); // get_body(nil, 1)
        check("x-", 1);
        check("-", 0);
        check("--x", 0);
        check("xx-", 2);
        check(&"x".repeat(100), 100);
        check(&format!("xx-{}", "x".repeat(100)), 2);
        check(&"-".repeat(1 << 20), 0);
    }
}

//! Sizes and times as nginx writes them.

use std::time::Duration;

/// A size in bytes: a number, with `k`, `m` or `g` (either case) after it or not.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A time: a number of seconds, or numbers with units from `y` down to `ms`, the larger first (`1h30m`, `500ms`).
pub fn parse_time(text: &str) -> Option<Duration> {
    /// The units in the order in which they may follow each other.
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    let mut next = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = rest.get(..letters)?;
        rest = rest.get(letters..)?.trim_start();
        let at = if unit.is_empty() {
            // A bare number is seconds, and the last part.
            if !rest.is_empty() {
                return None;
            }
            6
        } else {
            UNITS.iter().position(|(name, _)| *name == unit)?
        };
        if at < next {
            return None;
        }
        next = at + 1;
        total = total.checked_add(number.checked_mul(UNITS.get(at)?.1)?)?;
    }
    Some(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("8k", Some(8192)),
            ("8K", Some(8192)),
            ("10m", Some(10 << 20)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("k", None),
            ("8kb", None),
            ("-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_size(text), expect, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expect) in [
            ("60", Some(60_000)),
            ("60s", Some(60_000)),
            ("1m", Some(60_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1s500ms", Some(1500)),
            ("1d", Some(86_400_000)),
            ("1M", Some(2_592_000_000)),
            ("30m1h", None),
            ("1x", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(parse_time(text).map(|time| time.as_millis()), expect, "{text}");
        }
    }
}

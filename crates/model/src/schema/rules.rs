//! The constraints of a field, in Kong's order and with Kong's texts.

use regex::Regex;
use serde_json::Value as Json;

use super::{Pattern, Validator};

/// One constraint.
#[derive(Clone, Debug)]
pub enum Rule {
    Eq(Json),
    Ne(Json),
    NotOneOf(Vec<Json>),
    OneOf(Vec<Json>),
    Gt(f64),
    Timestamp,
    Uuid,
    IsRegex,
    Between(f64, f64),
    LenEq(usize),
    LenMin(usize),
    LenMax(usize),
    StartsWith(String),
    NotMatch(Pattern),
    MatchNone(Vec<(Pattern, Option<String>)>),
    Match(Pattern),
    MatchAll(Vec<(Pattern, Option<String>)>),
    MatchAny(Vec<Pattern>, Option<String>),
    Contains(Json),
    Custom(Validator),
    /// At most one of these sets may have members in the value.
    ExclusiveSubsets(Vec<Vec<Json>>),
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        // The variants hold text, numbers and names only: their debug form tells them apart.
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Rule {
    /// Checks a value that has the right type.
    ///
    /// # Errors
    /// Kong's text.
    pub fn check(&self, value: &Json) -> Result<(), String> {
        match self {
            Self::Eq(wanted) => ensure(same(value, wanted), || format!("value must be {}", shown(wanted))),
            Self::Ne(unwanted) => ensure(!same(value, unwanted), || format!("value must not be {}", shown(value))),
            Self::NotOneOf(list) => {
                ensure(!list.iter().any(|v| same(v, value)), || format!("must not be one of: {}", listed(list)))
            }
            Self::OneOf(list) => {
                ensure(list.iter().any(|v| same(v, value)), || format!("expected one of: {}", listed(list)))
            }
            Self::Gt(limit) => ensure(value.as_f64().is_none_or(|v| v > *limit), || {
                format!("value must be greater than {}", number(*limit))
            }),
            Self::Timestamp => {
                ensure(value.as_f64().is_none_or(|v| v > 0.0), || "expected a valid timestamp".to_owned())
            }
            Self::Uuid => ensure(text(value).is_none_or(is_uuid), || "expected a valid UUID".to_owned()),
            Self::IsRegex => ensure(text(value).is_none_or(|v| Regex::new(v).is_ok()), || {
                format!("not a valid regex: {}", shown(value))
            }),
            Self::Between(low, high) => ensure(value.as_f64().is_none_or(|v| v >= *low && v <= *high), || {
                format!("value should be between {} and {}", low.trunc(), high.trunc())
            }),
            Self::LenEq(n) => ensure(length(value) == *n, || format!("length must be {n}")),
            Self::LenMin(n) => ensure(length(value) >= *n, || format!("length must be at least {n}")),
            Self::LenMax(n) => ensure(length(value) <= *n, || format!("length must be at most {n}")),
            Self::StartsWith(start) => ensure(text(value).is_none_or(|v| v.starts_with(start.as_str())), || {
                format!("should start with: {start}")
            }),
            Self::Match(pattern) => ensure(text(value).is_none_or(|v| pattern.is_match(v)), || invalid(value)),
            Self::NotMatch(pattern) => ensure(text(value).is_none_or(|v| !pattern.is_match(v)), || invalid(value)),
            Self::MatchAll(list) => each(list, value, true),
            Self::MatchNone(list) => each(list, value, false),
            Self::MatchAny(patterns, err) => {
                ensure(text(value).is_none_or(|v| patterns.iter().any(|pattern| pattern.is_match(v))), || {
                    err.clone().unwrap_or_else(|| invalid(value))
                })
            }
            Self::Contains(wanted) => {
                let found = value.as_array().is_none_or(|list| list.iter().any(|v| same(v, wanted)));
                ensure(found, || format!("expected to contain: {}", shown(wanted)))
            }
            Self::Custom(validator) => (validator.check)(value),
            Self::ExclusiveSubsets(subsets) => exclusive(subsets, value),
        }
    }
}

fn ensure(right: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(message()) }
}

fn each(list: &[(Pattern, Option<String>)], value: &Json, wanted: bool) -> Result<(), String> {
    let Some(text) = text(value) else { return Ok(()) };
    match list.iter().find(|(pattern, _)| pattern.is_match(text) != wanted) {
        None => Ok(()),
        Some((_, err)) => Err(err.clone().unwrap_or_else(|| invalid(value))),
    }
}

fn exclusive(subsets: &[Vec<Json>], value: &Json) -> Result<(), String> {
    let mut members: Vec<usize> = Vec::new();
    for item in value.as_array().into_iter().flatten() {
        if let Some(at) = subsets.iter().position(|set| set.contains(item))
            && !members.contains(&at)
        {
            members.push(at);
        }
    }
    if members.len() < 2 {
        return Ok(());
    }
    let sets: Vec<String> = members
        .into_iter()
        .filter_map(|at| subsets.get(at))
        .map(|set| format!("({})", quoted(set.iter().filter_map(Json::as_str))))
        .collect();
    Err(format!("these sets are mutually exclusive: {}", sets.join(", ")))
}

/// `'a', 'b'`
pub(super) fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
}

fn invalid(value: &Json) -> String {
    format!("invalid value: {}", shown(value))
}

fn text(value: &Json) -> Option<&str> {
    value.as_str()
}

/// Equality as Lua sees it: 1 and 1.0 are the same number.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn length(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len(),
        Json::Array(list) => list.len(),
        Json::Object(map) => map.len(),
        _ => 0,
    }
}

fn listed(values: &[Json]) -> String {
    values.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Number(n) => n.as_f64().map_or_else(|| n.to_string(), number),
        other => other.to_string(),
    }
}

fn number(value: f64) -> String {
    format!("{value}")
}

/// The textual form of a UUID, of any version and in either case.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

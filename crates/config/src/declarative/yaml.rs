//! YAML as Kong reads it (libyaml through lyaml): plain scalars follow YAML 1.1, `<<` merges maps, only the first
//! document counts.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value as Json};

/// Collections nest; this deep is deeper than any real file.
const MAX_DEPTH: usize = 200;
/// Values that aliases may multiply to.
const MAX_NODES: usize = 5_000_000;

/// Reads the first document.
///
/// # Errors
/// Line, column and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Json, String> {
    let mut loader = Loader {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        places: None,
        path: String::new(),
    };
    loader.document()
}

/// The line of every value, by its path (`services[0].routes[1].name`). For messages only: what cannot be read is
/// left out. JSON is near enough to YAML for this.
pub(super) fn lines(text: &str) -> HashMap<String, usize> {
    let mut loader = Loader {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        places: Some(HashMap::new()),
        path: String::new(),
    };
    let _ = loader.document();
    loader.places.unwrap_or_default()
}

struct Loader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Json, usize)>,
    nodes: usize,
    places: Option<HashMap<String, usize>>,
    /// Where the value being read is; kept only if places are wanted.
    path: String,
}

impl<'a> Loader<'a> {
    fn document(&mut self) -> Result<Json, String> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(Json::Null),
                other => return self.node(other, &span, 0),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(problem)) => {
                let at = problem.marker();
                Err(format!("{}:{}: {}", at.line(), at.col() + 1, problem.info()))
            }
            None => Err("the text ends in the middle of a value".to_owned()),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Json, String> {
        let at = |problem: &str| format!("{}:{}: {problem}", span.start.line(), span.start.col() + 1);
        if depth > MAX_DEPTH {
            return Err(at("is nested too deeply"));
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(at("the file holds too many values"));
        }
        if let Some(places) = &mut self.places {
            places.entry(self.path.clone()).or_insert(span.start.line());
        }
        let before = self.nodes;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let (value, size) = self.anchors.get(&anchor).ok_or_else(|| at("an alias has no anchor"))?;
                self.nodes += size;
                if self.nodes > MAX_NODES {
                    return Err(at("aliases multiply to too many values"));
                }
                return Ok(value.clone());
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = match tag.as_deref().filter(|tag| tag.is_yaml_core_schema()) {
                    Some(tag) => tagged(&tag.suffix, &text)
                        .ok_or_else(|| at(&format!("invalid '!!{}' value: '{text}'", tag.suffix)))?,
                    None if style == ScalarStyle::Plain => implicit(&text),
                    None => Json::String(text.into_owned()),
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            _ => return Err(at("a value is missing")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Json, String> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Json::Array(list));
            }
            let length = self.path.len();
            if self.places.is_some() {
                self.path.push_str(&format!("[{}]", list.len()));
            }
            list.push(self.node(event, &span, depth + 1)?);
            self.path.truncate(length);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Json, String> {
        let mut map = Map::new();
        // What was merged in gives way to what is written, wherever it stands.
        let mut merged: Vec<Map<String, Json>> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => {
                    if text == "<<" && style == ScalarStyle::Plain {
                        let (event, span) = self.next()?;
                        match self.node(event, &span, depth + 1)? {
                            Json::Object(other) => merged.push(other),
                            Json::Array(list) if list.iter().all(Json::is_object) => {
                                merged.extend(list.into_iter().filter_map(|item| match item {
                                    Json::Object(map) => Some(map),
                                    _ => None,
                                }));
                            }
                            _ => return Err(format!("{}: '<<' merges maps only", span.start.line())),
                        }
                        continue;
                    }
                    text.into_owned()
                }
                Event::Alias(anchor) => match self.anchors.get(&anchor) {
                    Some((Json::String(text), _)) => text.clone(),
                    _ => return Err(format!("{}: a key must be text", span.start.line())),
                },
                _ => return Err(format!("{}: a key must be text", span.start.line())),
            };
            let length = self.path.len();
            if self.places.is_some() {
                if !self.path.is_empty() {
                    self.path.push('.');
                }
                self.path.push_str(&key);
                if let Some(places) = &mut self.places {
                    places.insert(self.path.clone(), span.start.line());
                }
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            self.path.truncate(length);
            map.insert(key, value);
        }
        for other in merged {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Ok(Json::Object(map))
    }
}

fn tagged(tag: &str, text: &str) -> Option<Json> {
    let value = implicit(text);
    match tag {
        "str" => Some(Json::String(text.to_owned())),
        "null" => value.is_null().then_some(value),
        "bool" => value.is_boolean().then_some(value),
        "int" => value.is_i64().then_some(value),
        "float" => value.is_number().then_some(value),
        _ => Some(value),
    }
}

/// What a plain scalar means. Text that is nothing else stays text.
fn implicit(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Json::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Json::Bool(false),
        _ => {}
    }
    let starts_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '_'));
    starts_number.then(|| number(text)).flatten().map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let plain = digits.replace('_', "");
    let whole = |radix: u32, digits: &str| -> Option<Number> {
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        match i64::from_str_radix(digits, radix) {
            Ok(value) => Some(Number::from(if negative { -value } else { value })),
            // Lua's numbers are doubles: what is too long loses its last digits.
            Err(_) if radix == 10 => {
                digits.parse::<f64>().ok().and_then(|value| Number::from_f64(if negative { -value } else { value }))
            }
            Err(_) => None,
        }
    };
    if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return whole(8, &plain);
    }
    if plain.bytes().all(|b| b.is_ascii_digit()) {
        return whole(10, &plain);
    }
    if let Some(hex) = plain.strip_prefix("0x") {
        return whole(16, hex);
    }
    if let Some(binary) = plain.strip_prefix("0b") {
        return whole(2, binary);
    }
    if plain.contains(':') {
        return sexagesimal(negative, &plain);
    }
    let float_like = plain.contains(['.', 'e', 'E'])
        && plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && plain.bytes().any(|b| b.is_ascii_digit());
    let value: f64 = float_like.then(|| plain.parse().ok()).flatten()?;
    Number::from_f64(if negative { -value } else { value })
}

/// `190:20:30`, with a fraction or not: base 60.
fn sexagesimal(negative: bool, text: &str) -> Option<Number> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b.is_ascii_digit()) => (whole, Some(fraction)),
        Some(_) => return None,
        None => (text, None),
    };
    let mut total = 0i64;
    for (at, part) in whole.split(':').enumerate() {
        let value: i64 = part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))?;
        if at == 1 && value > 59 {
            return None;
        }
        total = total.checked_mul(60)?.checked_add(value)?;
    }
    let sign = if negative { -1 } else { 1 };
    match fraction {
        None => Some(Number::from(sign * total)),
        Some(fraction) => {
            let fraction: f64 = format!("0.{fraction}").parse().ok()?;
            Number::from_f64(sign as f64 * (total as f64 + fraction))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars() {
        for (text, expect) in [
            ("a", json!("a")),
            ("1", json!(1)),
            ("-1", json!(-1)),
            ("+1", json!(1)),
            ("010", json!(8)),
            ("08", json!(8)),
            ("0", json!(0)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("3.0", json!(3.0)),
            ("1.1.1", json!("1.1.1")),
            ("1.1.1.1:80", json!("1.1.1.1:80")),
            ("1:30", json!(90)),
            ("22:80", json!("22:80")),
            ("190:20:30", json!(685_230)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!("y")),
            ("~", Json::Null),
            ("", Json::Null),
            ("null", Json::Null),
            ("\"1\"", json!("1")),
            ("'on'", json!("on")),
            ("!!str 1", json!("1")),
            ("-", json!([null])),
            (".", json!(".")),
            ("2020-01-01", json!("2020-01-01")),
            ("/a", json!("/a")),
        ] {
            assert_eq!(parse(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn collections() {
        for (text, expect) in [
            ("a: 1\nb: [x, {c: d}]", json!({"a": 1, "b": ["x", {"c": "d"}]})),
            ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3", json!({"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("a: 1\n---\na: 2", json!({"a": 1})),
            ("1: a", json!({"1": "a"})),
        ] {
            assert_eq!(parse(text), Ok(expect), "{text}");
        }
        assert!(parse("a: [1").is_err());
        assert!(parse("a: *x").is_err());
        assert!(parse("{[1]: 2}").is_err());
    }

    #[test]
    fn aliases_do_not_explode() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for at in 1..12 {
            let before = at - 1;
            text.push_str(&format!("a{at}: &a{at} [{}]\n", vec![format!("*a{before}"); 10].join(",")));
        }
        assert!(parse(&text).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn places() {
        let found = lines("a:\n  - b: 1\n    c:\n      - 2\n");
        assert_eq!(found.get("a[0].c"), Some(&3));
        assert_eq!(found.get("a[0].c[0]"), Some(&4));
    }
}

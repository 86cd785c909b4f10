//! `multipart/form-data`, read as lua-multipart does.

use std::collections::HashMap;

use bytes::Bytes;
use silverback_protocol::{Value, value::readable};

/// The parts by name, each its text; a repeated name becomes a list. Nothing where there is no boundary or no part.
pub(crate) fn decode(body: &[u8], content_type: &[u8]) -> Value {
    let mut parts: Vec<(String, Value)> = Vec::new();
    // A client may send any number of parts: none is searched for among the others.
    let mut places: HashMap<String, usize> = HashMap::new();
    if let Some(boundary) = boundary(content_type) {
        for (name, text) in split(body, &boundary) {
            let value = Value::Text(text);
            match places.get(&name).and_then(|&place| parts.get_mut(place)) {
                None => {
                    places.insert(name.clone(), parts.len());
                    parts.push((name, value));
                }
                Some((_, Value::List(values))) => values.push(value),
                Some((_, single)) => *single = Value::List(vec![std::mem::take(single), value]),
            }
        }
    }
    Value::Map(parts)
}

/// The boundary that a Content-Type names, quoted or not.
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let lower = content_type.to_ascii_lowercase();
    let at = find(&lower, b"boundary=")? + b"boundary=".len();
    let rest = content_type.get(at..)?;
    let boundary = match rest.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|&byte| byte == b'"').next(),
        None => rest.split(|&byte| byte == b';' || byte.is_ascii_whitespace()).next(),
    }?;
    (!boundary.is_empty()).then(|| boundary.to_vec())
}

fn split(body: &[u8], boundary: &[u8]) -> Vec<(String, Bytes)> {
    let delimiter = [b"--", boundary].concat();
    let mut parts = Vec::new();
    let mut current: Option<Part> = None;
    for line in (Lines { rest: body }) {
        let trimmed = trim_end_of_line(line);
        let closing = trimmed.strip_prefix(delimiter.as_slice()).map(|tail| tail.trim_ascii_end());
        match closing {
            Some(b"") => {
                parts.extend(current.take().and_then(Part::finish));
                current = Some(Part::default());
            }
            Some(b"--") => {
                parts.extend(current.take().and_then(Part::finish));
                return parts;
            }
            _ => {
                if let Some(part) = &mut current {
                    part.line(line, trimmed);
                }
            }
        }
    }
    // A body that breaks off has its last part as far as it goes, its last line with its end.
    parts.extend(current.and_then(|part| Some((part.name?, Bytes::from(part.text)))));
    parts
}

#[derive(Default)]
struct Part {
    name: Option<String>,
    in_body: bool,
    text: Vec<u8>,
}

impl Part {
    fn line(&mut self, line: &[u8], trimmed: &[u8]) {
        if self.in_body {
            self.text.extend_from_slice(line);
        } else if trimmed.is_empty() {
            self.in_body = true;
        } else if let Some(name) = disposition_name(trimmed) {
            self.name = Some(name);
        }
    }

    fn finish(self) -> Option<(String, Bytes)> {
        let name = self.name?;
        let text = trim_end_of_line(&self.text);
        Some((name, Bytes::copy_from_slice(text)))
    }
}

/// The name in `Content-Disposition: form-data; name="f"`.
fn disposition_name(line: &[u8]) -> Option<String> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (header, value) = line.split_at(colon);
    if !header.trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
        return None;
    }
    let mut from = 0;
    while let Some(at) = find(value.get(from..)?, b"name=") {
        let at = from + at;
        let before = at.checked_sub(1).and_then(|i| value.get(i)).copied();
        let rest = value.get(at + b"name=".len()..)?;
        // Not the end of `filename=`.
        if matches!(before, Some(b' ' | b';' | b'\t')) {
            let name = match rest.strip_prefix(b"\"") {
                Some(quoted) => quoted.split(|&byte| byte == b'"').next(),
                None => rest.split(|&byte| byte == b';').next().map(<[u8]>::trim_ascii),
            }?;
            return Some(readable(name).into_owned());
        }
        from = at + 1;
    }
    None
}

fn trim_end_of_line(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Lines with their ends.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&byte| byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(line)
    }
}

/// Writes a table as `multipart/form-data`, its keys sorted.
///
/// # Errors
/// Kong's text for a value that is neither text nor number nor boolean.
pub(crate) fn encode(entries: &[(String, Value)], boundary: &[u8]) -> Result<Bytes, String> {
    let mut entries: Vec<_> = entries.iter().filter(|(_, value)| !value.is_nil()).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = Vec::new();
    for (name, value) in entries {
        if crate::lua::is_table(value) {
            return Err(format!("invalid value \"{name}\": got table, expected string, number or boolean"));
        }
        for piece in [b"--", boundary, b"\r\nContent-Disposition: form-data; name=\"", name.as_bytes(), b"\"\r\n\r\n"] {
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&crate::lua::to_text(value));
        out.extend_from_slice(b"\r\n");
    }
    for piece in [b"--", boundary, b"--\r\n"] {
        out.extend_from_slice(piece);
    }
    Ok(Bytes::from(out))
}

/// The boundary of a body to be written: the one that the MIME type names, or one that no value contains.
pub(crate) fn boundary_for(entries: &[(String, Value)], mime: &[u8], seed: &str) -> Vec<u8> {
    if let Some(at) = find(mime, b"boundary=") {
        let rest = mime.get(at + b"boundary=".len()..).unwrap_or_default();
        let named = match rest.strip_prefix(b"\"") {
            Some(quoted) => quoted.split(|&byte| byte == b'"').next().unwrap_or_default(),
            None => rest,
        };
        if !named.is_empty() && !contained(entries, named) {
            return named.to_vec();
        }
    }
    (0_u32..).map(|n| format!("{seed}{n}").into_bytes()).find(|own| !contained(entries, own)).unwrap_or_default()
}

fn contained(entries: &[(String, Value)], boundary: &[u8]) -> bool {
    let delimiter = [b"\n--", boundary].concat();
    entries.iter().any(|(_, value)| find(&crate::lua::to_text(value), &delimiter).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"--XX\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nvalue\r\n--XX\r\n\
        Content-Disposition: form-data; name=\"f\"\r\n\r\nsecond\r\n--XX\r\n\
        Content-Disposition: form-data; filename=\"a.txt\"; name=\"up\"\r\nContent-Type: text/plain\r\n\r\nfile\n data\r\n--XX--\r\n";

    #[test]
    fn reads_parts() {
        let expect = Value::Map(vec![
            ("f".into(), Value::List(vec!["value".into(), "second".into()])),
            ("up".into(), "file\n data".into()),
        ]);
        assert_eq!(decode(BODY, b"multipart/form-data; boundary=XX"), expect);
        assert_eq!(decode(BODY, b"multipart/form-data; boundary=\"XX\""), expect);
        assert_eq!(decode(BODY, b"multipart/form-data"), Value::Map(vec![]));
        assert_eq!(decode(b"--XX--\r\n", b"multipart/form-data; boundary=XX"), Value::Map(vec![]));
    }

    #[test]
    fn reads_what_there_is_of_a_broken_body() {
        let body = b"--XX\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nvalue\r\n";
        let expect = Value::Map(vec![("f".into(), "value\r\n".into())]);
        assert_eq!(decode(body, b"multipart/form-data; boundary=XX"), expect);
    }

    #[test]
    fn writes_parts() {
        let entries = [("b".to_owned(), true.into()), ("a".to_owned(), Value::Int(1))];
        let text = encode(&entries, b"BB").unwrap();
        assert_eq!(
            text,
            "--BB\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--BB\r\nContent-Disposition: form-data; \
             name=\"b\"\r\n\r\ntrue\r\n--BB--\r\n"
        );
        assert!(encode(&[("a".to_owned(), Value::List(vec![]))], b"BB").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(parts in proptest::collection::btree_map("[a-z]{1,6}", "[ -~\r\n]{0,20}", 0..5)) {
            let entries: Vec<_> = parts.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
            let boundary = boundary_for(&entries, b"multipart/form-data", "seed");
            let body = encode(&entries, &boundary).unwrap();
            let content_type = [b"multipart/form-data; boundary=", boundary.as_slice()].concat();
            proptest::prop_assert_eq!(decode(&body, &content_type), Value::Map(entries));
        }
    }

    #[test]
    fn a_boundary_that_a_value_contains_is_not_used() {
        let entries = [("a".to_owned(), "x\n--BB".into())];
        assert_eq!(boundary_for(&entries, b"multipart/form-data; boundary=BB", "s"), b"s0");
        assert_eq!(boundary_for(&[], b"multipart/form-data; boundary=\"B B\"", "s"), b"B B");
    }
}

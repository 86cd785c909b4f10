//! What was typed: the properties of a file and of the environment, with the place of each.
//!
//! The syntax is the one Kong reads (Penlight's `config.read`, then `kong/conf_loader`): `name = value` lines; a line
//! that begins with `#` or `;` is a comment; so is what follows a `#` that no backslash escapes; a backslash at the end
//! of a line joins the next one to it; quotes are part of the value; in names, whatever is not a letter or a digit is
//! an underscore. Lines below a `[section]` are not properties.

use std::collections::{BTreeMap, HashMap};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: String,
    pub origin: Origin,
}

/// All that was typed.
#[derive(Clone, Debug, Default)]
pub struct RawConf {
    values: HashMap<String, Entry>,
    /// Names in the order in which they first came.
    order: Vec<String>,
    /// Every `nginx_http_log_format`: nginx takes several, of different names.
    pub log_formats: Vec<Entry>,
    /// Every `nginx_stream_log_format`.
    pub stream_log_formats: Vec<Entry>,
    /// Oddities of the file that Kong passes over in silence: line and text.
    pub oddities: Vec<(usize, String)>,
}

/// The properties that may be given more than once.
pub(super) const HTTP_LOG_FORMAT: &str = "nginx_http_log_format";
pub(super) const STREAM_LOG_FORMAT: &str = "nginx_stream_log_format";

impl RawConf {
    /// Reads the text of a file. Never fails: what is no property is an oddity.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut section = None;
        for (number, line) in logical_lines(text) {
            if let Some(rest) = line.strip_prefix('[') {
                section = Some(rest.split(']').next().unwrap_or(rest).to_owned());
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                conf.oddities.push((number, format!("ignored, it is not of the form 'name = value': {}", line.trim())));
                continue;
            };
            let name: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if let Some(section) = &section {
                conf.oddities.push((number, format!("'{name}' is ignored, it stands below the section [{section}]")));
                continue;
            }
            let value = without_comment(value.trim()).replace('\r', " ").trim().to_owned();
            let entry = Entry { value, origin: Origin::Line(number) };
            if let Some(repeated) = conf.repeated(&name) {
                repeated.push(entry.clone());
            } else if let Some(Entry { origin: Origin::Line(first), .. }) = conf.values.get(&name) {
                conf.oddities.push((number, format!("'{name}' was set on line {first} already; this one counts")));
            }
            conf.set(name, entry);
        }
        conf
    }

    /// Lays the `KONG_*` variables over the file.
    pub fn overlay(&mut self, env: &BTreeMap<String, String>) {
        for (variable, value) in env {
            let Some(name) = variable.strip_prefix("KONG_") else { continue };
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_lowercase()) {
                continue;
            }
            let entry = Entry { value: value.trim().to_owned(), origin: Origin::Variable(variable.clone()) };
            let name = name.to_ascii_lowercase();
            if let Some(repeated) = self.repeated(&name) {
                repeated.push(entry.clone());
            }
            self.set(name, entry);
        }
    }

    /// Where the entries of a property are kept that may be given more than once.
    fn repeated(&mut self, name: &str) -> Option<&mut Vec<Entry>> {
        match name {
            HTTP_LOG_FORMAT => Some(&mut self.log_formats),
            STREAM_LOG_FORMAT => Some(&mut self.stream_log_formats),
            _ => None,
        }
    }

    fn set(&mut self, name: String, entry: Entry) {
        if !self.values.contains_key(&name) {
            self.order.push(name.clone());
        }
        self.values.insert(name, entry);
    }

    /// What was given for a property; an empty value unsets it.
    pub fn given(&self, name: &str) -> Option<&Entry> {
        self.values.get(name).filter(|entry| !entry.value.is_empty())
    }

    pub(crate) fn replace(&mut self, name: &str, value: String) {
        if let Some(entry) = self.values.get_mut(name) {
            entry.value = value;
        }
    }

    /// Everything that was given, in order; the environment's after the file's.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.order.iter().filter_map(|name| self.given(name).map(|entry| (name.as_str(), entry)))
    }
}

/// The lines that mean something, continued ones joined, each with the number of its last line.
fn logical_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut joined = String::new();
    let mut pending = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(continued) = line.trim_end().strip_suffix('\\') {
            joined.push_str(continued);
            continue;
        }
        joined.push_str(line);
        pending.push((at + 1, std::mem::take(&mut joined)));
    }
    pending.into_iter()
}

/// The value less its trailing comment, with `\#` turned into `#`.
fn without_comment(value: &str) -> String {
    let bytes = value.as_bytes();
    let comment =
        bytes.iter().enumerate().position(|(at, &byte)| byte == b'#' && (at == 0 || bytes.get(at - 1) != Some(&b'\\')));
    let value = match comment {
        Some(at) => value.get(..at).unwrap_or_default().trim_end(),
        None => value,
    };
    value.replace("\\#", "#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kong_reads() {
        for (text, name, expect) in [
            ("a = b", "a", Some("b")),
            ("a=b", "a", Some("b")),
            ("  a   =   b  ", "a", Some("b")),
            ("#a = b", "a", None),
            ("; a = b", "a", None),
            ("a = b # c", "a", Some("b")),
            ("a = b#c", "a", Some("b")),
            ("a = b\\#c", "a", Some("b#c")),
            ("a = b\\#c # d", "a", Some("b#c")),
            ("a = # nothing", "a", None),
            ("a =", "a", None),
            ("a = \"b c\"", "a", Some("\"b c\"")),
            ("a-b.c = d", "a_b_c", Some("d")),
            ("a = b=c", "a", Some("b=c")),
            ("a = b \\\nc", "a", Some("b c")),
            ("a = b\\\n# between\nc", "a", Some("bc")),
            ("a = 1\na = 2", "a", Some("2")),
            ("[s]\na = b", "a", None),
            ("a = b\r\nc = d\r\n", "c", Some("d")),
        ] {
            let conf = RawConf::parse(text);
            assert_eq!(conf.given(name).map(|entry| entry.value.as_str()), expect, "{text:?}");
        }
    }

    #[test]
    fn the_environment_wins_and_only_in_capitals() {
        let env = [("KONG_A", "1"), ("KONG_b", "2"), ("OTHER_C", "3"), ("KONG_", "4")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut conf = RawConf::parse("a = 0\nb = 0");
        conf.overlay(&env);
        assert_eq!(conf.given("a").map(|e| e.value.as_str()), Some("1"));
        assert_eq!(conf.given("b").map(|e| e.value.as_str()), Some("0"));
        assert_eq!(conf.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*(\n\\PC*){0,4}") {
            let _ = RawConf::parse(&text);
        }
    }
}

//! Access to what was typed by name, and the place where problems are gathered.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose};

use super::{
    properties,
    raw::{Entry, Origin, RawConf},
    units,
};

/// Gives access to values by name, defaults included, and gathers what is wrong.
pub(super) struct Reader<'a> {
    path: Option<&'a Path>,
    raw: &'a RawConf,
    problems: Vec<(Option<Origin>, String)>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(path: Option<&'a Path>, raw: &'a RawConf, problems: Vec<(Option<Origin>, String)>) -> Self {
        Self { path, raw, problems, warnings: Vec::new() }
    }

    pub(super) const fn file(&self) -> Option<&'a Path> {
        self.path
    }

    pub(super) fn take_problems(&mut self) -> Vec<(Option<Origin>, String)> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings
    }

    /// A problem of an entry that is not the one that counts for its property.
    pub(super) fn problem_at(&mut self, origin: &Origin, message: String) {
        self.problems.push((Some(origin.clone()), message));
    }

    pub(super) const fn raw(&self) -> &'a RawConf {
        self.raw
    }

    pub(super) fn given(&self, name: &str) -> Option<&'a Entry> {
        self.raw.given(name)
    }

    /// The value as text: what was given, else the default, if there is one.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given(name)
            .map(|entry| entry.value.as_str())
            .or_else(|| properties::find(name).map(|property| property.default))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).map(|text| split_list(&text)).unwrap_or_default()
    }

    /// `on` or `true`; what is neither that nor `off` or `false` is reported by the check of types.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name).as_deref(), Some("on" | "true"))
    }

    pub(super) fn problem(&mut self, name: &str, message: String) {
        let origin = self.given(name).map(|entry| entry.origin.clone());
        self.problems.push((origin, message));
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    pub(super) fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Variable(name) => name.clone(),
            Origin::Line(line) => match self.path {
                Some(path) => format!("{}:{line}", path.display()),
                None => format!("line {line}"),
            },
        }
    }

    /// An integer within limits.
    pub(super) fn integer(&mut self, name: &str, low: u64, high: u64) -> u64 {
        let Some(text) = self.text(name) else { return low };
        // Other types of value are reported by the check of types.
        let Ok(number) = text.parse::<f64>() else { return low };
        if number.fract() != 0.0 || number < low as f64 || number > high as f64 {
            let message = match high {
                u64::MAX => format!("{name} must be {low} or greater"),
                _ => format!("{name} must be an integer between {low} and {high}"),
            };
            self.problem(name, message);
            return low;
        }
        number as u64
    }

    /// An injected directive of the HTTP side: the most specific of location, server and http.
    pub(super) fn directive(&self, directive: &str) -> Option<(String, String)> {
        ["nginx_location_", "nginx_proxy_", "nginx_http_"].into_iter().find_map(|namespace| {
            let name = format!("{namespace}{directive}");
            self.given(&name).map(|entry| (name, entry.value.trim_end_matches(';').to_owned()))
        })
    }

    pub(super) fn size(&mut self, directive: &str, default: u64) -> u64 {
        let Some((name, text)) = self.directive(directive) else { return default };
        units::parse_size(&text).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a size: '{text}' (bytes, or with k, m, g)"));
            default
        })
    }

    pub(super) fn time(&mut self, directive: &str, default: Duration) -> Duration {
        let Some((name, text)) = self.directive(directive) else { return default };
        // keepalive_timeout takes a second value, which only goes into a header.
        let first = text.split_whitespace().next().unwrap_or_default();
        units::parse_time(first).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a time: '{text}' (60s, 1m, 1h30m, ...)"));
            default
        })
    }

    pub(super) fn number_of_sizes(&mut self, directive: &str, default: (usize, usize)) -> (usize, usize) {
        let Some((name, text)) = self.directive(directive) else { return default };
        let words: Vec<&str> = text.split_whitespace().collect();
        let parsed = match words[..] {
            [number, size] => {
                number.parse().ok().zip(units::parse_size(size).and_then(|size| usize::try_from(size).ok()))
            }
            _ => None,
        };
        parsed.filter(|(number, size)| *number > 0 && *size > 0).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a number and a size: '{text}' ('4 8k')"));
            default
        })
    }
}

pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Text that was given in base64 (standard or URL alphabet); `None` if it was not.
pub(super) fn from_base64(text: &str) -> Option<String> {
    let compact: String = text.split_whitespace().collect();
    let unpadded = compact.trim_end_matches('=');
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(unpadded)
        .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(unpadded))
        .ok()?;
    String::from_utf8(bytes).ok().filter(|decoded| !decoded.is_empty())
}

pub(super) fn to_base64(text: &str) -> String {
    general_purpose::STANDARD.encode(text)
}

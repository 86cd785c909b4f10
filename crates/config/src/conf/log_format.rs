//! Access logs: `PATH [FORMAT_NAME]`, and the formats that a name can mean.

use std::path::Path;

use crate::settings::{AccessLog, LogEscape, LogFormat, LogTarget};

use super::{log_variables::Variables, raw};

const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
const KONG: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" kong_request_id: "$kong_request_id""#;
const BASIC: &str = "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time";

/// Formats by name; the ones that nginx and Kong define are always there. HTTP and streams have their own.
#[derive(Debug)]
pub(super) struct Formats {
    by_name: Vec<(String, LogFormat)>,
    variables: Variables,
}

impl Formats {
    pub(super) fn http() -> Self {
        Self::with(Variables::Http, &[("combined", COMBINED), ("kong_log_format", KONG)])
    }

    pub(super) fn stream() -> Self {
        Self::with(Variables::Stream, &[("basic", BASIC)])
    }

    fn with(variables: Variables, builtin: &[(&str, &str)]) -> Self {
        let format = |text: &str| LogFormat { text: text.to_owned(), escape: LogEscape::Default };
        let by_name = builtin.iter().map(|(name, text)| ((*name).to_owned(), format(text))).collect();
        Self { by_name, variables }
    }

    /// The property that defines more of them.
    pub(super) const fn property(&self) -> &'static str {
        match self.variables {
            Variables::Http => raw::HTTP_LOG_FORMAT,
            Variables::Stream => raw::STREAM_LOG_FORMAT,
        }
    }

    /// Adds what one `nginx_http_log_format = NAME [escape=...] 'text' 'more text'` says.
    pub(super) fn define(&mut self, value: &str) -> Result<(), String> {
        let value = value.trim().trim_end_matches(';');
        let (name, rest) =
            value.split_once(char::is_whitespace).ok_or("must be of form: NAME [escape=...] 'FORMAT'")?;
        let mut words = words(rest)?;
        let mut escape = LogEscape::Default;
        if let Some(kind) = words.first().and_then(|word| word.strip_prefix("escape=")) {
            escape = match kind {
                "default" => LogEscape::Default,
                "json" => LogEscape::Json,
                "none" => LogEscape::None,
                other => return Err(format!("unknown escape '{other}' (default, json, none)")),
            };
            words.remove(0);
        }
        if words.is_empty() {
            return Err(format!("the format '{name}' has no text"));
        }
        let format = LogFormat { text: words.concat(), escape };
        check_variables(self.variables, &format.text)?;
        self.by_name.retain(|(known, _)| known != name);
        self.by_name.push((name.to_owned(), format));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&LogFormat> {
        self.by_name.iter().find(|(known, _)| known == name).map(|(_, format)| format)
    }

    /// Reads the value of a `*_access_log` property; `format` is the name that counts where the value names none.
    pub(super) fn access_log(&self, value: &str, format: &str, prefix: &Path) -> Result<AccessLog, String> {
        let mut words = value.split_whitespace();
        let target = target(words.next().unwrap_or("off"), prefix)?;
        // What follows may also be nginx's parameters (buffer=, gzip, flush=, if=), which have no counterpart.
        let name = words.next().filter(|word| !word.contains('=') && *word != "gzip").unwrap_or(format);
        let format = self.find(name).ok_or_else(|| {
            format!("there is no log format named '{name}': define it by {} = {name} '...'", self.property())
        })?;
        Ok(AccessLog { target, format: format.clone() })
    }
}

/// Where a log goes: `off`, a standard stream, or a file, relative ones below the prefix.
pub(super) fn target(path: &str, prefix: &Path) -> Result<LogTarget, String> {
    Ok(match path {
        "off" | "/dev/null" => LogTarget::Off,
        "/dev/stdout" | "/proc/self/fd/1" => LogTarget::Stdout,
        "/dev/stderr" | "/proc/self/fd/2" | "stderr" => LogTarget::Stderr,
        path if path.starts_with("syslog:") => return Err("logging to syslog is not supported".to_owned()),
        path => LogTarget::File(prefix.join(path)),
    })
}

/// Every `$name` and `${name}` must be a variable that there is; nginx refuses to start otherwise, and so a slip is seen
/// before the log that was meant is missing.
fn check_variables(variables: Variables, text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        let (name, after) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').ok_or("the closing bracket of a \"${\" is missing")?,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            }
        };
        if name.is_empty() {
            return Err("a \"$\" stands before no name".to_owned());
        }
        if !variables.has(name) {
            return Err(format!("unknown \"{name}\" variable"));
        }
        rest = after;
    }
    Ok(())
}

/// The words of an nginx directive: separated by blanks, or in single or double quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(&first) = chars.peek() else { return Ok(words) };
        let quote = (first == '\'' || first == '"').then_some(first);
        if quote.is_some() {
            chars.next();
        }
        let mut word = String::new();
        loop {
            match chars.next() {
                None if quote.is_some() => return Err("a quoted text is not closed".to_owned()),
                None => break,
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\'' | '\\')) => word.push(c),
                    Some('t') => word.push('\t'),
                    Some('r') => word.push('\r'),
                    Some('n') => word.push('\n'),
                    Some(other) => word.extend(['\\', other]),
                    None => word.push('\\'),
                },
                Some(c) if Some(c) == quote => break,
                Some(c) if quote.is_none() && c.is_whitespace() => break,
                Some(c) => word.push(c),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named() {
        let mut formats = Formats::http();
        formats.define(r#"mine escape=json '{"a":"$status",' '"b":"$uri"}'"#).unwrap();
        let log = formats.access_log("logs/a.log mine", "kong_log_format", Path::new("/p")).unwrap();
        assert_eq!(log.target, LogTarget::File("/p/logs/a.log".into()));
        assert_eq!(log.format, LogFormat { text: r#"{"a":"$status","b":"$uri"}"#.to_owned(), escape: LogEscape::Json });
        let log = formats.access_log("/dev/stdout", "kong_log_format", Path::new("/p")).unwrap();
        assert_eq!(log.target, LogTarget::Stdout);
        assert!(log.format.text.ends_with(r#"kong_request_id: "$kong_request_id""#));
        assert!(formats.access_log("a nope", "combined", Path::new("/p")).is_err());
        assert!(formats.define("x escape=yes 'a'").is_err());
        assert!(formats.define("x 'a").is_err());
        assert!(formats.define("x").is_err());
    }

    #[test]
    fn variables_must_exist() {
        for (text, expect) in [
            ("$status ${uri}x $HTTP_A-$kong_request_id", None),
            ("no variable", None),
            ("$status $nonsense", Some("unknown \"nonsense\" variable")),
            ("${statuses}", Some("unknown \"statuses\" variable")),
            ("${status", Some("the closing bracket of a \"${\" is missing")),
            ("5 $", Some("a \"$\" stands before no name")),
            ("$ $status", Some("a \"$\" stands before no name")),
        ] {
            let problem = Formats::http().define(&format!("x '{text}'")).err();
            assert_eq!(problem.as_deref(), expect, "{text}");
        }
        for formats in [Formats::http(), Formats::stream()] {
            for (name, format) in &formats.by_name {
                assert_eq!(check_variables(formats.variables, &format.text), Ok(()), "{name}");
            }
        }
        let problem = Formats::stream().define("x '$request_uri'");
        assert_eq!(problem, Err("unknown \"request_uri\" variable".to_owned()), "streams have no requests");
        assert_eq!(Formats::stream().define("x '$upstream_bytes_sent $protocol'"), Ok(()));
    }
}

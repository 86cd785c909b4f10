//! Access-log lines: an nginx `log_format` read once, filled in for each request.

use std::{cell::RefCell, io};

use silverback_config::settings::{self, LogEscape, LogTarget};
use silverback_pdk::{
    Exchange,
    variables::{self, Appended, Common},
};

/// Where access-log lines go, and what they look like.
pub(crate) struct AccessLog {
    sink: Option<silverback_log::Sink>,
    parts: Vec<Part>,
    escape: LogEscape,
    reads_response_headers: bool,
    reads_upstream_headers: bool,
}

/// A piece of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Common(Common, String),
    Variable(String),
}

impl AccessLog {
    pub(crate) fn open(settings: &settings::AccessLog) -> io::Result<Self> {
        let target = match &settings.target {
            LogTarget::Off => silverback_log::Target::Off,
            LogTarget::File(path) => silverback_log::Target::File(path.clone()),
            LogTarget::Stdout => silverback_log::Target::Stdout,
            LogTarget::Stderr => silverback_log::Target::Stderr,
        };
        let parts = parse(&settings.format.text);
        let reads = |prefix| parts.iter().any(|part| matches!(part, Part::Variable(name) if name.starts_with(prefix)));
        Ok(Self {
            sink: silverback_log::sink(&target)?,
            escape: settings.format.escape,
            reads_response_headers: reads("sent_http_"),
            reads_upstream_headers: reads("upstream_"),
            parts,
        })
    }

    /// Whether a variable of it stands for a header of the answer.
    pub(crate) const fn reads_response_headers(&self) -> bool {
        self.reads_response_headers
    }

    /// Whether a variable of it stands for a header of the upstream's answer.
    pub(crate) const fn reads_upstream_headers(&self) -> bool {
        self.reads_upstream_headers
    }

    pub(crate) fn write(&self, exchange: &Exchange) {
        /// The longest line whose room is kept for the next one.
        const KEPT: usize = 4096;
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(sink) = &self.sink else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.append_line(exchange, line);
            sink.line(&*line);
            line.shrink_to(KEPT);
        });
    }

    fn append_line(&self, exchange: &Exchange, line: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => line.extend_from_slice(text.as_bytes()),
                Part::Common(common, name) => {
                    let append = |line: &mut Vec<u8>, value: &[u8]| append(line, value, self.escape);
                    match common.append(exchange, line, append) {
                        Appended::Value => {}
                        Appended::NoValue if self.escape == LogEscape::Default => line.push(b'-'),
                        Appended::NoValue => {}
                        Appended::Unknown => self.write_variable(exchange, name, line),
                    }
                }
                Part::Variable(name) => self.write_variable(exchange, name, line),
            }
        }
    }

    fn write_variable(&self, exchange: &Exchange, name: &str, line: &mut Vec<u8>) {
        match variables::variable(exchange, name) {
            Some(value) => escape(line, value.as_ref(), self.escape),
            None if self.escape == LogEscape::Default => line.push(b'-'),
            None => {}
        }
    }
}

/// `$name` and `${name}` are variables, as nginx reads them.
fn parse(format: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, after) = match rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(split) => split,
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if name.is_empty() {
            text.push('$');
            continue;
        }
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        let name = name.to_ascii_lowercase();
        parts.push(match Common::of(&name) {
            Some(common) => Part::Common(common, name),
            None => Part::Variable(name),
        });
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// The bytes that `escape=default` escapes.
const UNSAFE: [bool; 256] = {
    let mut unsafe_bytes = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        unsafe_bytes[byte] = byte < 0x20 || byte >= 0x7f || byte == b'"' as usize || byte == b'\\' as usize;
        byte += 1;
    }
    unsafe_bytes
};

/// Makes a value safe for one line (`escape=default`) or for a JSON string (`escape=json`), as nginx does.
fn escape(line: &mut Vec<u8>, value: &[u8], how: LogEscape) {
    if value.is_empty() && how == LogEscape::Default {
        line.push(b'-');
    }
    append(line, value, how);
}

/// The same for a part of a value.
fn append(line: &mut Vec<u8>, value: &[u8], how: LogEscape) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |byte: u8| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    match how {
        LogEscape::None => line.extend_from_slice(value),
        LogEscape::Default => {
            let mut rest = value;
            while let Some(at) = rest.iter().position(|byte| UNSAFE[usize::from(*byte)]) {
                line.extend_from_slice(&rest[..at]);
                line.extend_from_slice(b"\\x");
                line.extend_from_slice(&hex(rest[at]));
                rest = &rest[at + 1..];
            }
            line.extend_from_slice(rest);
        }
        LogEscape::Json => {
            for byte in value {
                match byte {
                    b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
                    b'\n' => line.extend_from_slice(b"\\n"),
                    b'\r' => line.extend_from_slice(b"\\r"),
                    b'\t' => line.extend_from_slice(b"\\t"),
                    0x08 => line.extend_from_slice(b"\\b"),
                    0x0c => line.extend_from_slice(b"\\f"),
                    0..=0x1f => {
                        line.extend_from_slice(b"\\u00");
                        line.extend_from_slice(&hex(*byte));
                    }
                    _ => line.push(*byte),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use silverback_config::settings::LogEscape;

    use super::{Common, Part, escape, parse};

    #[test]
    fn formats_are_split_at_variables() {
        let variable = |name: &str| match Common::of(name) {
            Some(common) => Part::Common(common, name.into()),
            None => Part::Variable(name.into()),
        };
        let text = |text: &str| Part::Text(text.into());
        assert_eq!(
            parse("$remote_addr - [$time_local] \"${request}x\" $ 5$"),
            [
                variable("remote_addr"),
                text(" - ["),
                variable("time_local"),
                text("] \""),
                variable("request"),
                text("x\" $ 5$"),
            ]
        );
    }

    fn check(value: &[u8], how: LogEscape, expect: &str) {
        let mut line = Vec::new();
        escape(&mut line, value, how);
        assert_eq!(String::from_utf8_lossy(&line), expect);
    }

    #[test]
    fn values_cannot_break_a_line() {
        check(b"", LogEscape::Default, "-");
        check(b"a\"b\\c\nd\xff", LogEscape::Default, "a\\x22b\\x5Cc\\x0Ad\\xFF");
        check(b"a\"b\\c\nd\x01", LogEscape::Json, "a\\\"b\\\\c\\nd\\u0001");
        check(b"", LogEscape::Json, "");
        check(b"a\"b", LogEscape::None, "a\"b");
    }
}

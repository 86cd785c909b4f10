//! How an error-log line looks.

use std::{cell::RefCell, fmt, fmt::Write as _, process};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::{Context, Format, Level, MAX_MESSAGE};

/// The longest value of one context field, in bytes; the rest is cut.
const MAX_FIELD: usize = 2048;

/// One line, without its newline.
pub(crate) fn render(format: Format, level: Level, message: fmt::Arguments<'_>, context: Option<&Context>) -> Vec<u8> {
    let now = Timestamp::now();
    let line = match format {
        Format::Nginx => nginx(&local_time(now), process::id(), level, message, context),
        Format::Json => json(&now.to_zoned(TimeZone::system()), process::id(), level, message, context),
    };
    line.into_bytes()
}

fn nginx(time: &str, pid: u32, level: Level, message: fmt::Arguments<'_>, context: Option<&Context>) -> String {
    let mut line = format!("{time} [{}] {pid}#0: ", level.name());
    if let Some(connection) = context.and_then(|context| context.connection) {
        let _ = write!(line, "*{connection} ");
    }
    let _ = Escaped { out: &mut line, left: MAX_MESSAGE, quoted: false }.write_fmt(message);
    for field in context.into_iter().flat_map(fields) {
        let quote = if field.quoted { "\"" } else { "" };
        let _ = write!(line, ", {}: {quote}", field.name);
        let _ = Escaped { out: &mut line, left: MAX_FIELD, quoted: field.quoted }.write_str(field.value);
        line.push_str(quote);
    }
    line
}

fn json(time: &Zoned, pid: u32, level: Level, message: fmt::Arguments<'_>, context: Option<&Context>) -> String {
    let mut text = String::new();
    let _ = Cut { out: &mut text, left: MAX_MESSAGE }.write_fmt(message);
    let mut line = format!("{{\"time\":\"{}\"", time.strftime("%Y-%m-%dT%H:%M:%S.%3f%:z"));
    let _ = write!(line, ",\"level\":\"{}\",\"pid\":{pid}", level.name());
    if let Some(connection) = context.and_then(|context| context.connection) {
        let _ = write!(line, ",\"connection\":{connection}");
    }
    let _ = write!(line, ",\"message\":{}", serde_json::Value::String(text));
    for field in context.into_iter().flat_map(fields) {
        let mut value = String::new();
        let _ = Cut { out: &mut value, left: MAX_FIELD }.write_str(field.value);
        let _ = write!(line, ",\"{}\":{}", field.name, serde_json::Value::String(value));
    }
    line.push('}');
    line
}

struct Field<'a> {
    name: &'static str,
    value: &'a str,
    quoted: bool,
}

/// The fields that are known, in nginx's order; `request_id` is Kong's addition.
fn fields(context: &Context) -> impl Iterator<Item = Field<'_>> {
    [
        ("client", &context.client, false),
        ("server", &context.server, false),
        ("request", &context.request, true),
        ("host", &context.host, true),
        ("request_id", &context.request_id, true),
    ]
    .into_iter()
    .filter_map(|(name, value, quoted)| value.as_deref().map(|value| Field { name, value, quoted }))
}

/// nginx's local time, `2025/01/31 12:00:00`; rendered once a second.
fn local_time(now: Timestamp) -> String {
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now.as_second() {
            *second = now.as_second();
            *text = now.to_zoned(TimeZone::system()).strftime("%Y/%m/%d %H:%M:%S").to_string();
        }
        text.clone()
    })
}

/// Writes text with its control characters escaped, at most `left` bytes of it; a quoted one cannot end its quotes.
struct Escaped<'a> {
    out: &'a mut String,
    left: usize,
    quoted: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let before = self.out.len();
            match c {
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '"' if self.quoted => self.out.push_str("\\x22"),
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        write!(self.out, "\\x{byte:02X}")?;
                    }
                }
                c => self.out.push(c),
            }
            let written = self.out.len() - before;
            if written > self.left {
                self.out.truncate(before);
                self.left = 0;
                return Err(fmt::Error);
            }
            self.left -= written;
        }
        Ok(())
    }
}

/// Writes at most `left` bytes of a text.
struct Cut<'a> {
    out: &'a mut String,
    left: usize,
}

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(self.left);
        self.out.push_str(&text[..end]);
        self.left -= end;
        if end < text.len() {
            self.left = 0;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            connection: Some(45),
            client: Some("1.2.3.4".into()),
            server: Some("kong".into()),
            request: Some("GET /\" HTTP/1.1".into()),
            host: Some("h".into()),
            request_id: Some("0af1".into()),
            stream: false,
        }
    }

    #[test]
    fn a_line_of_a_request_looks_like_nginx_s() {
        let line =
            nginx("2025/01/31 12:00:00", 123, Level::Warn, format_args!("something {}", "odd"), Some(&context()));
        assert_eq!(
            line,
            "2025/01/31 12:00:00 [warn] 123#0: *45 something odd, client: 1.2.3.4, server: kong, \
             request: \"GET /\\x22 HTTP/1.1\", host: \"h\", request_id: \"0af1\""
        );
    }

    #[test]
    fn control_characters_cannot_make_a_second_line() {
        for (message, expect) in [
            ("a\nb", "a\\nb"),
            ("a\r\n\tb", "a\\r\\n\\tb"),
            ("\u{1b}[31m", "\\x1B[31m"),
            ("\u{85}", "\\xC2\\x85"),
            ("plain \"quoted\" é", "plain \"quoted\" é"),
        ] {
            let line = nginx("T", 1, Level::Error, format_args!("{message}"), None);
            assert_eq!(line, format!("T [error] 1#0: {expect}"));
        }
    }

    #[test]
    fn long_messages_are_cut_and_keep_their_context() {
        let long = "é".repeat(MAX_MESSAGE);
        for line in [
            nginx("T", 1, Level::Error, format_args!("{long}{long}"), Some(&context())),
            json(
                &Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC),
                1,
                Level::Error,
                format_args!("{long}"),
                Some(&context()),
            ),
        ] {
            assert!(line.len() < MAX_MESSAGE + 400, "{}", line.len());
            assert!(line.contains("0af1"));
        }
    }

    #[test]
    fn the_json_form_is_one_object() {
        let time = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        let line = json(&time, 7, Level::Notice, format_args!("a \"b\"\n"), Some(&context()));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "time": "1970-01-01T00:00:00.000+00:00", "level": "notice", "pid": 7, "connection": 45,
                "message": "a \"b\"\n", "client": "1.2.3.4", "server": "kong", "request": "GET /\" HTTP/1.1",
                "host": "h", "request_id": "0af1",
            })
        );
    }

    #[test]
    fn local_time_has_nginx_s_form() {
        let text = local_time(Timestamp::now());
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000/00/00 00:00:00");
    }
}

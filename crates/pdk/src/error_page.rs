//! Error pages: which format a client wants, the text for a status, and the page itself, as Kong 3.9 makes them
//! (`kong/error_handlers.lua`, `kong/tools/http.lua`, `kong/pdk/response.lua`). What is put into a page is escaped
//! for its format.

use std::borrow::Cow;

use bytes::Bytes;

/// The format of an error page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageFormat {
    #[default]
    Json,
    Html,
    Xml,
    Plain,
    /// No page: gRPC tells of errors in headers.
    Grpc,
}

impl PageFormat {
    /// The Content-Type of such a page; none for gRPC.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::Plain => "text/plain; charset=utf-8",
            Self::Grpc => "",
        }
    }

    /// The format whose page has this Content-Type, with or without its charset. `None` if there is no such page.
    pub fn from_content_type(content_type: &[u8]) -> Option<Self> {
        [Self::Json, Self::Html, Self::Xml, Self::Plain]
            .into_iter()
            .find(|format| {
                let whole = format.content_type().as_bytes();
                let bare = whole.split(|&byte| byte == b';').next().unwrap_or(whole);
                content_type == whole || content_type == bare
            })
            .or_else(|| (content_type == b"application/grpc" || content_type.is_empty()).then_some(Self::Grpc))
    }

    /// By the media type, in the spelling of the table of Kong (lower case); anything unknown is JSON.
    fn from_media_type(media_type: &[u8]) -> Self {
        match media_type {
            b"text/html" => Self::Html,
            b"application/xml" => Self::Xml,
            b"text/plain" | b"text/*" => Self::Plain,
            b"application/grpc" => Self::Grpc,
            _ => Self::Json,
        }
    }
}

/// `error_template_*`: the texts that replace the built-in pages. `%s` stands for the message first, then for the
/// request id; `%%` is a percent sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates {
    pub html: Option<String>,
    pub json: Option<String>,
    pub plain: Option<String>,
    pub xml: Option<String>,
}

const HTML: &str = "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n  <body>\n    <h1>Error</h1>\n    <p>%s.</p>\n    <p>request_id: %s</p>\n  </body>\n</html>\n";
const JSON: &str = "{\n  \"message\":\"%s\",\n  \"request_id\":\"%s\"\n}";
const PLAIN: &str = "%s\nrequest_id: %s\n";
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>%s</message>\n  <requestid>%s</requestid>\n</error>\n";

/// Makes a page: its Content-Type and its body.
pub fn render(
    format: PageFormat,
    _status: u16,
    message: &str,
    request_id: &str,
    templates: &Templates,
) -> (&'static str, Bytes) {
    let (own, built_in) = match format {
        PageFormat::Html => (&templates.html, HTML),
        PageFormat::Json => (&templates.json, JSON),
        PageFormat::Plain => (&templates.plain, PLAIN),
        PageFormat::Xml => (&templates.xml, XML),
        PageFormat::Grpc => return (format.content_type(), Bytes::new()),
    };
    let template = own.as_deref().unwrap_or(built_in);
    let page = fill(template, &[&escape(format, message), &escape(format, request_id)]);
    (format.content_type(), Bytes::from(page))
}

fn fill(template: &str, values: &[&str]) -> String {
    let mut values = values.iter();
    let mut page = String::with_capacity(template.len() + 128);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        page.push_str(before);
        if let Some(tail) = after.strip_prefix('s') {
            page.push_str(values.next().copied().unwrap_or_default());
            rest = tail;
        } else {
            page.push('%');
            rest = after.strip_prefix('%').unwrap_or(after);
        }
    }
    page.push_str(rest);
    page
}

fn escape(format: PageFormat, text: &str) -> Cow<'_, str> {
    match format {
        PageFormat::Plain | PageFormat::Grpc => Cow::Borrowed(text),
        PageFormat::Html | PageFormat::Xml => escape_markup(text),
        PageFormat::Json => escape_json(text),
    }
}

fn escape_markup(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn escape_json(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c == '"' || c == '\\' || c < ' ') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The format that an Accept header asks for: the media type with the highest quality, the first of equals. JSON where
/// it asks for nothing that there is. Several header lines are joined with commas.
pub fn format_for(accept: Option<&[u8]>) -> PageFormat {
    let Some(accept) = accept else { return PageFormat::Json };
    let mut best = (0, PageFormat::Json);
    for entry in accept.split(|&byte| byte == b',') {
        if let Some((media_type, quality)) = parse_entry(entry.trim_ascii())
            && quality > best.0
        {
            best = (quality, PageFormat::from_media_type(media_type));
        }
    }
    best.1
}

/// The format of an error of the proxy itself or of the upstream: by the Accept header, else the request's
/// Content-Type, else `error_default_type`.
pub fn format_of_proxy_error(accept: Option<&[u8]>, content_type: Option<&[u8]>, default_type: &str) -> PageFormat {
    let wanted = accept.or(content_type).unwrap_or(default_type.as_bytes());
    if wanted.starts_with(b"application/grpc") { PageFormat::Grpc } else { format_for(Some(wanted)) }
}

/// A media type and its quality in thousandths. As Kong's pattern has it, a name has two characters or is `*`, and
/// what follows a parameter that makes no sense is not looked at.
fn parse_entry(entry: &[u8]) -> Option<(&[u8], u32)> {
    let type_length = token_length(entry)?;
    let rest = entry.get(type_length..)?.strip_prefix(b"/")?;
    let subtype_length = token_length(rest)?;
    let media_type = entry.get(..type_length + 1 + subtype_length)?;
    let mut quality = 1000;
    let mut params = rest.get(subtype_length..).unwrap_or_default();
    while let Some(param) = params.trim_ascii_start().strip_prefix(b";") {
        let param = param.trim_ascii_start();
        if let Some((value, length)) = param.strip_prefix(b"q=").or(param.strip_prefix(b"Q=")).and_then(parse_quality) {
            quality = value;
            params = param.get(2 + length..).unwrap_or_default();
        } else if let Some(length) = token_length(param).filter(|_| !param.starts_with(b"*")) {
            let tail = param.get(length..).unwrap_or_default();
            let value = if tail.starts_with(b"=") {
                tail.iter().position(|&byte| byte == b';').unwrap_or(tail.len())
            } else {
                0
            };
            params = tail.get(value..).unwrap_or_default();
        } else {
            break;
        }
    }
    Some((media_type, quality))
}

fn token_length(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'*') {
        return Some(1);
    }
    if !text.first()?.is_ascii_alphanumeric() {
        return None;
    }
    let length = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"-!#$&^_+.".contains(byte)).count();
    (length >= 2).then_some(length)
}

/// `0.5` as 500, and how many bytes it took.
fn parse_quality(text: &[u8]) -> Option<(u32, usize)> {
    let (first, rest) = text.split_first()?;
    let whole = match first {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    let Some(fraction) = rest.strip_prefix(b".") else { return Some((whole, 1)) };
    let wanted = |byte: &&u8| if whole == 0 { byte.is_ascii_digit() } else { **byte == b'0' };
    let digits = fraction.iter().take(3).take_while(wanted).count();
    let value = fraction.iter().take(digits).chain(std::iter::repeat(&b'0')).take(3);
    Some((value.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')) + whole, 2 + digits))
}

/// Whether the gateway puts its own page in place of an answer of this status that has no body (nginx's `error_page`).
pub const fn has_page(status: u16) -> bool {
    matches!(status, 400 | 404 | 405 | 408 | 411 | 412 | 413 | 414 | 417 | 494 | 500 | 502 | 503 | 504)
}

/// What an error page says for a status.
pub fn message_for(status: u16) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        400 => "Bad request",
        401 => "Unauthorized",
        402 => "Payment required",
        403 => "Forbidden",
        404 => "Not found",
        405 => "Method not allowed",
        406 => "Not acceptable",
        407 => "Proxy authentication required",
        408 => "Request timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length required",
        412 => "Precondition failed",
        413 => "Payload too large",
        414 => "URI too long",
        415 => "Unsupported media type",
        416 => "Range not satisfiable",
        417 => "Expectation failed",
        418 => "I'm a teapot",
        421 => "Misdirected request",
        422 => "Unprocessable entity",
        423 => "Locked",
        424 => "Failed dependency",
        425 => "Too early",
        426 => "Upgrade required",
        428 => "Precondition required",
        429 => "Too many requests",
        431 => "Request header fields too large",
        451 => "Unavailable for legal reasons",
        494 => "Request header or cookie too large",
        500 => "An unexpected error occurred",
        501 => "Not implemented",
        502 => "An invalid response was received from the upstream server",
        503 => "The upstream server is currently unavailable",
        504 => "The upstream server is timing out",
        505 => "HTTP version not supported",
        506 => "Variant also negotiates",
        507 => "Insufficient storage",
        508 => "Loop detected",
        510 => "Not extended",
        511 => "Network authentication required",
        other => return Cow::Owned(format!("The upstream server responded with {other}")),
    })
}

/// The gRPC status that stands for an HTTP status.
pub const fn grpc_status(status: u16) -> u8 {
    match status {
        409 => 6,
        401 => 16,
        403 => 7,
        404 => 5,
        429 => 8,
        499 => 1,
        501 => 12,
        503 => 14,
        504 => 4,
        200..=299 => 0,
        400..=498 => 3,
        500..=599 => 13,
        _ => 2,
    }
}

/// The name of a gRPC status, sent as `grpc-message`.
pub const fn grpc_message(status: u8) -> &'static str {
    match status {
        0 => "OK",
        1 => "Canceled",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_accept() {
        use PageFormat::*;
        for (accept, format) in [
            ("", Json),
            ("garbage", Json),
            ("text/html", Html),
            ("Text/HTML", Json),
            ("*/*", Json),
            ("text/*", Plain),
            ("application/*", Json),
            ("image/png, */*", Json),
            ("image/png", Json),
            ("application/json;q=0.1, text/html;q=0.2", Html),
            ("text/html;q=0, text/plain;q=0.1", Plain),
            ("text/html;q=0.8,application/xml;q=0.9,*/*;q=0.7", Xml),
            ("text/html;level=1;q=0.3, text/plain;q=0.31", Plain),
            ("application/xml;q=1.000,text/html", Xml),
            ("application/vnd.api+json", Json),
            ("text/html;q=2", Html),
        ] {
            assert_eq!(format_for(Some(accept.as_bytes())), format, "{accept}");
        }
        assert_eq!(format_for(None), Json);
        assert_eq!(format_of_proxy_error(None, Some(b"text/html"), "text/plain"), Html);
        assert_eq!(format_of_proxy_error(None, None, "text/plain"), Plain);
        assert_eq!(format_of_proxy_error(Some(b"application/grpc"), None, "text/plain"), Grpc);
    }

    #[test]
    fn pages_escape_what_they_hold() {
        let page = |format| {
            String::from_utf8(render(format, 400, "a \"b\" <c>", "id", &Templates::default()).1.to_vec()).unwrap()
        };
        assert_eq!(page(PageFormat::Json), "{\n  \"message\":\"a \\\"b\\\" <c>\",\n  \"request_id\":\"id\"\n}");
        assert!(page(PageFormat::Html).contains("<p>a &quot;b&quot; &lt;c&gt;.</p>\n    <p>request_id: id</p>"));
        assert!(page(PageFormat::Xml).contains("<message>a &quot;b&quot; &lt;c&gt;</message>"));
        assert_eq!(page(PageFormat::Plain), "a \"b\" <c>\nrequest_id: id\n");
        assert_eq!(page(PageFormat::Grpc), "");
    }

    #[test]
    fn own_templates() {
        let templates = Templates { plain: Some("100%% %s/%s/%s %d".to_owned()), ..Templates::default() };
        assert_eq!(render(PageFormat::Plain, 400, "m", "id", &templates).1, "100% m/id/ %d");
    }

    #[test]
    fn content_types() {
        assert_eq!(PageFormat::from_content_type(b"text/html"), Some(PageFormat::Html));
        assert_eq!(PageFormat::from_content_type(b"application/xml; charset=utf-8"), Some(PageFormat::Xml));
        assert_eq!(PageFormat::from_content_type(b"image/png"), None);
    }

    #[test]
    fn statuses() {
        assert_eq!(message_for(599), "The upstream server responded with 599");
        assert_eq!(grpc_status(418), 3);
        assert_eq!(grpc_status(302), 2);
        assert_eq!(grpc_message(16), "Unauthenticated");
    }
}

//! Bodies as plugins read them: what a request's body is right now, and the three formats that Kong takes apart.

use bytes::Bytes;
use silverback_protocol::Value;

use crate::{Exchange, Need, Outcome, exchange::RequestBody, json, lua, multipart, query};

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const JSON: &str = "application/json";
pub(crate) const MULTIPART: &str = "multipart/form-data";

/// The request's body, all of it in memory; or what the call must answer instead.
pub(crate) fn request(exchange: &Exchange) -> Result<Bytes, Outcome> {
    match &exchange.request.body {
        RequestBody::None => Ok(Bytes::new()),
        RequestBody::Memory(bytes) => Ok(bytes.clone()),
        RequestBody::Unread => Err(Outcome::Need(Need::RequestBody)),
        RequestBody::File(..) => Err(Outcome::Need(Need::RequestBodyInMemory)),
        RequestBody::Failed(why) => Err(Outcome::failed(why.clone())),
    }
}

/// A body's format, found by the beginning of its MIME type as Kong does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Form,
    Json,
    Multipart,
}

impl Format {
    pub(crate) fn of(content_type: &[u8]) -> Option<Self> {
        let lower = content_type.to_ascii_lowercase();
        let mime = lower.split(|&byte| byte == b';').next().unwrap_or_default();
        if mime.starts_with(FORM.as_bytes()) {
            Some(Self::Form)
        } else if mime.starts_with(JSON.as_bytes()) {
            Some(Self::Json)
        } else if mime.starts_with(MULTIPART.as_bytes()) {
            Some(Self::Multipart)
        } else {
            None
        }
    }

    /// Takes a body apart.
    pub(crate) fn parse(self, body: &[u8], content_type: &[u8], max_args: usize) -> Outcome {
        match self {
            Self::Form => Outcome::value(query::decode(body, max_args)),
            Self::Json => match json::decode(body) {
                Some(table) if lua::is_table(&table) => Outcome::value(table),
                _ => Outcome::failed("invalid json body"),
            },
            Self::Multipart => Outcome::value(multipart::decode(body, content_type)),
        }
    }
}

/// The `max_args` that a plugin gave for a form, checked; 0 where it gave none.
pub(crate) fn max_args(given: &Value) -> Result<Option<usize>, String> {
    limit(given, "max_args")
}

/// A limit from 1 to 1000 that a plugin gave, or nothing.
///
/// # Errors
/// Kong's text, which names the argument.
pub(crate) fn limit(given: &Value, name: &str) -> Result<Option<usize>, String> {
    if given.is_nil() {
        return Ok(None);
    }
    let Some(n) = lua::number(given) else { return Err(format!("{name} must be a number")) };
    if n < 1.0 {
        return Err(format!("{name} must be >= 1"));
    }
    if n > 1000.0 {
        return Err(format!("{name} must be <= 1000"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 1000; NaN becomes 0")]
    Ok(Some(n as usize))
}

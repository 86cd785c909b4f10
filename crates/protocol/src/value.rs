//! The values that plugins and the PDK exchange: what Lua, MessagePack and `google.protobuf.Value` have in common.

use std::borrow::Cow;

use bytes::Bytes;

/// A dynamic value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text; not necessarily UTF-8 (a header's value, say). Goes out [`readable`] where the encoding wants UTF-8.
    Text(Bytes),
    /// Bytes that must arrive as they are: a body.
    Binary(Bytes),
    List(Vec<Self>),
    /// In insertion order; keys of other types come in as text.
    Map(Vec<(String, Self)>),
}

/// Bytes as text: what is not UTF-8 is read as ISO 8859-1, byte for byte, as header values were once written. Python's
/// unpacker would fail on the bytes themselves.
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|&byte| char::from(byte)));
    }
    Cow::Owned(text)
}

impl Value {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Bytes::from(text.into()))
    }

    /// The bytes of a text or binary value. Lua knows one string type for both.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The bytes of a text or binary value as UTF-8, if they are.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The field of a map; nil if there is none, or if this is no map.
    pub fn field(&self, name: &str) -> &Self {
        const NIL: &Value = &Value::Nil;
        match self {
            Self::Map(fields) => fields.iter().find(|(key, _)| key == name).map_or(NIL, |(_, value)| value),
            _ => NIL,
        }
    }

    pub const fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::text(v)
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::text(v)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Nil, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn bytes_that_are_no_text_can_be_read() {
        for (bytes, expect) in [
            (&b"plain"[..], "plain"),
            ("\u{4f60}".as_bytes(), "\u{4f60}"),
            (b"Jos\xe9", "Jos\u{e9}"),
            (b"\xff\xfe \xe4\xbd\xa0\xe4", "\u{ff}\u{fe} \u{4f60}\u{e4}"),
        ] {
            assert_eq!(readable(bytes), expect);
        }
    }
}

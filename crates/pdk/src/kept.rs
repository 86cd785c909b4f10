//! What plugins keep in an exchange until its end (`kong.ctx`, the log entry), within bounds: a handler that calls
//! without end must not fill the gateway's memory.

use silverback_protocol::Value;

/// Bytes that the plugins of one request may keep together.
const MAX_BYTES: usize = 128 * 1024 * 1024;

/// Entries of one table. They are looked up one by one.
const MAX_ENTRIES: usize = 10_000;

/// The bytes that plugins keep in one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    bytes: usize,
}

impl Kept {
    /// Counts an entry in place of another (or of none).
    ///
    /// # Errors
    /// There is no room for it: an error of the plugin.
    pub(crate) fn replace(&mut self, old: usize, new: usize) -> Result<(), String> {
        let all = self.bytes.saturating_sub(old).saturating_add(new);
        if all > MAX_BYTES {
            return Err(format!("plugins keep more than {MAX_BYTES} bytes in this request's context and log entry"));
        }
        self.bytes = all;
        Ok(())
    }

    /// An entry is no longer kept.
    pub(crate) fn remove(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Whether a table of so many entries has room for one more.
///
/// # Errors
/// It has not: an error of the plugin.
pub(crate) fn room_in(entries: usize) -> Result<(), String> {
    if entries < MAX_ENTRIES { Ok(()) } else { Err(format!("plugins keep more than {MAX_ENTRIES} entries")) }
}

/// About how many bytes of memory an entry takes.
pub(crate) fn of_entry(key: &str, value: &Value) -> usize {
    size_of::<Value>() + key.len() + weight(value)
}

/// The same, when it is put there by a call: a text keeps the whole message that it came in.
pub(crate) fn of_call(key: &str, value: &Value, args: &[Value]) -> usize {
    of_entry(key, value).max(args.iter().map(weight).sum())
}

/// About how many bytes of memory a value takes.
fn weight(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Nil | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
        Value::List(items) => items.iter().map(weight).sum(),
        Value::Map(entries) => {
            entries.iter().map(|(name, value)| size_of::<String>() + name.len() + weight(value)).sum()
        }
    };
    size_of::<Value>() + inner
}

//! How large messages of plugin servers may be, one by one and all together.
//!
//! Buffers grow as bytes come, not as a header promises. Only calls that carry a body, or something that a plugin keeps
//! or logs, may be large: a header of 256 MB is a mistake, and is found out before it is in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memmem;

/// The largest message.
pub(crate) const MESSAGE: usize = 128 * 1024 * 1024;

/// The largest message of a PDK call that carries no body.
pub(crate) const CALL: usize = 1024 * 1024;

/// The longest name of a PDK function.
pub(crate) const NAME: usize = 4096;

/// All messages beyond [`CALL`] that are being read, together.
const ALL: usize = 1024 * 1024 * 1024;

/// Where the name of a PDK function stands in a message, from its beginning.
const HEAD: usize = 512;

/// The largest message that calls this function.
pub(crate) fn of_call(method: &[u8]) -> usize {
    let functions: [&[u8]; 6] = [
        b"kong.response.exit",
        b"kong.response.error",
        b"kong.response.set_raw_body",
        b"kong.service.request.set_raw_body",
        b"kong.service.request.set_body",
        b"kong.log",
    ];
    let namespaces: [&[u8]; 2] = [b"kong.log.", b"kong.ctx."];
    let large = functions.contains(&method) || namespaces.iter().any(|prefix| method.starts_with(prefix));
    if large { MESSAGE } else { CALL }
}

/// The PDK function that a MessagePack message calls, as far as its first bytes tell.
pub(crate) fn called(message: &[u8]) -> Option<&[u8]> {
    let head = message.get(..HEAD.min(message.len()))?;
    let at = memmem::find(head, b"\xa6Method")?;
    let (marker, rest) = head.get(at + 7..)?.split_first()?;
    let name = match marker {
        0xa0..=0xbf => rest.get(..usize::from(marker & 0x1f)),
        0xd9 => rest.split_first().and_then(|(length, rest)| rest.get(..usize::from(*length))),
        _ => None,
    }?;
    name.starts_with(b"kong").then_some(name)
}

/// Bytes that are held of what all connections together may.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

static HELD: AtomicUsize = AtomicUsize::new(0);

impl Held {
    /// Holds so many bytes, if they count; whether there is room for them.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= CALL || bytes <= self.0 {
            return true;
        }
        let more = bytes - self.0;
        let all = HELD.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        self.0 = bytes;
        all <= ALL
    }

    pub(crate) fn release(&mut self) {
        if self.0 > 0 {
            HELD.fetch_sub(std::mem::take(&mut self.0), Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use silverback_protocol::{Value, msgpack::put_value};

    use super::*;

    #[test]
    fn bodies_may_be_large() {
        let check = |method: &str, expect| assert_eq!(of_call(method.as_bytes()), expect, "{method}");
        check("kong.response.exit", MESSAGE);
        check("kong.service.request.set_raw_body", MESSAGE);
        check("kong.log.err", MESSAGE);
        check("kong.ctx.shared.set", MESSAGE);
        check("kong.response.set_header", CALL);
        check("kong.service.request.set_headers", CALL);
        check("kong.logs", CALL);
    }

    #[test]
    fn the_function_is_found_in_the_first_bytes() {
        let check = |method: &str, expect: Option<&str>| {
            let call = Value::Map(vec![
                ("Method".to_owned(), method.into()),
                ("Args".to_owned(), Value::List(vec!["x".repeat(2000).as_str().into()])),
            ]);
            let data = Value::Map(vec![("Data".to_owned(), call), ("EventId".to_owned(), 7.into())]);
            let mut message = BytesMut::new();
            put_value(&Value::List(vec![1.into(), 1000.into(), Value::Nil, data]), &mut message);
            assert_eq!(called(&message), expect.map(str::as_bytes), "{method}");
        };
        check("kong.log", Some("kong.log"));
        check("kong.response.set_header", Some("kong.response.set_header"));
        check("kong.service.request.clear_header", Some("kong.service.request.clear_header"));
        check("other", None);
        assert_eq!(called(b""), None);
        assert_eq!(called(b"\xa6Method\xd9"), None);
    }

    #[test]
    fn what_is_held_is_given_back() {
        let mut held = Held::default();
        assert!(held.grow_to(CALL));
        assert_eq!(held.0, 0, "what is small does not count");
        assert!(held.grow_to(ALL / 2));
        let mut other = Held::default();
        assert!(!other.grow_to(ALL));
        other.release();
        held.release();
        assert!(other.grow_to(ALL / 2));
    }
}

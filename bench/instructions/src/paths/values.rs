//! What plugins are given and give, in the forms that every protocol carries.

use silverback_protocol::{Return, Value};

use super::requests::HEADERS;

/// A header's value.
pub(super) fn header() -> Return {
    Value::from("session=2f6c1d9a7b3e4f50; theme=dark; consent=1").into()
}

/// A table of headers.
pub(super) fn headers() -> Return {
    Value::Map(HEADERS.map(|(name, value)| (name.to_owned(), Value::from(value))).into()).into()
}

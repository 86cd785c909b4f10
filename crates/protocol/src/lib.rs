//! What plugin servers speak. Only this crate knows encodings: above it there is one [`Call`] and one [`Return`],
//! whatever the plugin's language and protocol.
//!
//! Sans-io: decoders take bytes from a buffer that somebody else fills, encoders append to one.

use std::borrow::Cow;

pub mod dump;
pub mod lua;
pub mod method;
pub mod msgpack;
pub mod protobuf;
pub mod value;

pub use value::Value;

/// A PDK call that a plugin makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `kong.request.get_path`, as the plugin wrote it.
    pub method: Cow<'static, str>,
    pub args: Vec<Value>,
}

/// What a PDK function gives back: Lua's first result, and the error text of `nil, err`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Return {
    pub value: Value,
    pub error: Option<String>,
}

impl From<Value> for Return {
    fn from(value: Value) -> Self {
        Self { value, error: None }
    }
}

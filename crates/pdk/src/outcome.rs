//! What a PDK call comes to.

use silverback_model::Id;
use silverback_protocol::{Return, Value};

/// What a PDK call comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The function's results.
    Done(Return),
    /// The call ended the request's phase (`kong.response.exit`, `kong.response.error`): the answer is in
    /// [`crate::Exchange::exit`].
    Exit,
    /// The call is an error in the plugin (wrong argument, wrong phase): Lua's `error`. The event is ended.
    Raise(String),
    /// The call is to be made again once this is there.
    Need(Need),
    /// There is no such function. MessagePack plugins get nil and go on, a Go plugin's event fails (as in Kong).
    Unknown,
}

impl Outcome {
    /// One result.
    pub fn value(value: impl Into<Value>) -> Self {
        Self::Done(Return { value: value.into(), error: None })
    }

    /// No result.
    pub fn nothing() -> Self {
        Self::Done(Return::default())
    }

    /// Lua's `nil, err`.
    pub fn failed(error: impl Into<String>) -> Self {
        Self::Done(Return { value: Value::Nil, error: Some(error.into()) })
    }

    /// Lua's `error(text)`.
    pub fn raise(text: impl Into<String>) -> Self {
        Self::Raise(text.into())
    }
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The whole request body, in [`crate::exchange::RequestBody::Memory`] or `File`.
    RequestBody,
    /// The request body, in memory even if it was spooled to a file.
    RequestBodyInMemory,
}

/// The plugin on whose behalf calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub plugin_name: String,
    /// The id of the plugin entity.
    pub plugin_id: Id,
    /// Whether the plugin wants the path of a spooled body rather than its bytes (Go plugins that run here).
    pub takes_body_files: bool,
}

//! MessagePack-RPC: requests `[0, id, method, [argument]]`, responses `[1, id, error, result]`, notifications
//! `[2, label, argument]`.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};

use super::{
    Error, decode,
    encode::{
        put_body, put_int, put_list_header, put_map_header, put_multi_map, put_text, put_uri_captures, put_value,
    },
};
use crate::{
    Call, Return, Value, lua,
    method::{Step, is_terminal},
};

/// Bytes that are kept of a server's error text.
const MAX_ERROR: usize = 4 * 1024;

/// What the gateway asks a server.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// `config` is JSON.
    StartInstance {
        plugin: &'a str,
        config: &'a str,
    },
    HandleEvent {
        instance: i64,
        phase: &'a str,
    },
    /// The result of the PDK call that the server asked for last.
    Step {
        event: i64,
        method: &'a str,
        result: &'a Return,
    },
    /// The PDK call failed: the plugin gets an error.
    StepError {
        event: i64,
        message: &'a str,
    },
}

impl Request<'_> {
    /// Appends the request.
    pub fn put(&self, id: u32, out: &mut BytesMut) {
        put_list_header(4, out);
        put_int(0, out);
        put_int(id.into(), out);
        match self {
            Self::StartInstance { plugin, config } => {
                put_text("plugin.StartInstance", out);
                put_list_header(1, out);
                put_map_header(2, out);
                put_text("Name", out);
                put_text(plugin, out);
                put_text("Config", out);
                put_text(config, out);
            }
            Self::HandleEvent { instance, phase } => {
                put_text("plugin.HandleEvent", out);
                put_list_header(1, out);
                put_map_header(2, out);
                put_text("InstanceId", out);
                put_int(*instance, out);
                put_text("EventName", out);
                put_text(phase, out);
            }
            Self::Step { event, method, result } => put_step(*event, method, &result.value, out),
            Self::StepError { event, message } => {
                put_text("plugin.StepError", out);
                put_list_header(1, out);
                put_map_header(2, out);
                put_text("EventId", out);
                put_int(*event, out);
                put_text("Data", out);
                put_text(message, out);
            }
        }
    }
}

/// A nil result leaves `Data` out, as in Kong, where a Lua table cannot hold it: JavaScript plugins see undefined,
/// typed steps the zero value.
fn put_step(event: i64, method: &str, result: &Value, out: &mut BytesMut) {
    let step = Step::of(method);
    put_text(step.rpc_method(), out);
    put_list_header(1, out);
    put_map_header(if result.is_nil() { 1 } else { 2 }, out);
    put_text("EventId", out);
    put_int(event, out);
    if result.is_nil() {
        return;
    }
    put_text("Data", out);
    match (step, method) {
        (Step::MultiMap, _) => put_multi_map(result, out),
        (_, "kong.request.get_uri_captures") => put_uri_captures(result, out),
        (_, "kong.request.get_raw_body" | "kong.response.get_raw_body" | "kong.service.response.get_raw_body") => {
            put_body(result, out);
        }
        _ => put_value(result, out),
    }
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage {
    Response(Response),
    /// go-pluginserver says its pid on connect: `serverPid`.
    Notification {
        label: String,
        argument: Value,
    },
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// That of the request.
    pub id: i64,
    /// The result, or the error's text.
    pub outcome: Result<Value, String>,
}

impl ServerMessage {
    /// Reads a complete message.
    ///
    /// # Errors
    /// It is neither a response nor a notification.
    pub fn decode(message: &Bytes) -> Result<Self, Error> {
        let Value::List(items) = decode(message)? else { return Err(Error::NotRpc("not a list")) };
        let mut items = items.into_iter();
        let kind = items.next();
        match kind {
            Some(Value::Int(1)) => {
                let (Some(Value::Int(id)), Some(error), Some(result)) = (items.next(), items.next(), items.next())
                else {
                    return Err(Error::NotRpc("a response without id, error and result"));
                };
                let outcome = if error.is_nil() { Ok(result) } else { Err(error_text(&error)) };
                Ok(Self::Response(Response { id, outcome }))
            }
            Some(Value::Int(2)) => {
                let Some(label) = items.next() else { return Err(Error::NotRpc("a notification without label")) };
                let label = label.as_str().unwrap_or_default().to_owned();
                Ok(Self::Notification { label, argument: items.next().unwrap_or_default() })
            }
            _ => Err(Error::NotRpc("neither a response nor a notification")),
        }
    }
}

/// The text, cut to what a log can bear.
fn error_text(error: &Value) -> String {
    let mut text = match error {
        Value::Text(bytes) | Value::Binary(bytes) => {
            let start = bytes.get(..MAX_ERROR).unwrap_or(bytes);
            String::from_utf8_lossy(start).into_owned()
        }
        other => {
            let mut start = Start(String::new());
            let _ = write!(start, "{other:?}"); // an error means that it is full
            start.0
        }
    };
    text.truncate(text.floor_char_boundary(MAX_ERROR));
    text
}

/// Takes text until it has enough.
struct Start(String);

impl Write for Start {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        self.0.push_str(piece);
        if self.0.len() < MAX_ERROR { Ok(()) } else { Err(std::fmt::Error) }
    }
}

impl Response {
    /// Whether the server says that it does not know the instance.
    pub fn no_such_instance(error: &str) -> bool {
        const TEXT: &str = "no plugin instance";
        error.get(..TEXT.len()).is_some_and(|start| start.eq_ignore_ascii_case(TEXT))
    }
}

/// What a server wants next for an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The handler returned.
    Done,
    /// The plugin makes a PDK call. A terminal one awaits no answer.
    Call { event: i64, call: Call, terminal: bool },
}

impl Next {
    /// Reads the result of `HandleEvent` or a step: `{EventId, Data}`.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn from_result(result: Value) -> Result<Self, Error> {
        let Value::Map(fields) = result else { return Err(Error::NotRpc("the result of an event is no map")) };
        let (mut event, mut data) = (None, Value::Nil);
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("EventId", Value::Int(id)) => event = Some(id),
                ("Data", value) => data = value,
                _ => {}
            }
        }
        match data {
            Value::Text(text) | Value::Binary(text) if text == "ret" => Ok(Self::Done),
            Value::Map(fields) => {
                let event = event.ok_or(Error::NotRpc("the result of an event has no EventId"))?;
                let (mut method, mut args) = (None, Value::Nil);
                for (key, value) in fields {
                    match key.as_str() {
                        "Method" => method = value.as_str().map(str::to_owned),
                        "Args" => args = value,
                        _ => {}
                    }
                }
                let method = method.ok_or(Error::NotRpc("a PDK call without Method"))?;
                let args = match args {
                    Value::List(items) => lua::unpack(items),
                    Value::Nil | Value::Map(_) => Vec::new(),
                    single => vec![single],
                };
                let terminal = is_terminal(&method);
                Ok(Self::Call { event, call: Call { method, args }, terminal })
            }
            _ => Err(Error::NotRpc("the result of an event has no Data")),
        }
    }
}

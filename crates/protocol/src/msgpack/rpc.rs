//! MessagePack-RPC: requests `[0, id, method, [argument]]`, responses `[1, id, error, result]`, notifications
//! `[2, label, argument]`.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};

use super::{
    Error, MAX_DEPTH,
    decode::Decoder,
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
    /// The result, encoded ([`Next::decode`], [`super::decode()`]), or the error's text.
    pub outcome: Result<Bytes, String>,
}

impl ServerMessage {
    /// Reads a complete message.
    ///
    /// # Errors
    /// It is neither a response nor a notification.
    pub fn decode(message: &Bytes) -> Result<Self, Error> {
        const DEPTH: usize = MAX_DEPTH - 1;
        let mut message = Decoder::new(message);
        let length = message.enter_list()?.ok_or(Error::NotRpc("not a list"))?;
        let kind = if length == 0 { Value::Nil } else { message.value(DEPTH)? };
        match kind {
            Value::Int(1) => {
                const INCOMPLETE: Error = Error::NotRpc("a response without id, error and result");
                if length < 4 {
                    return Err(INCOMPLETE);
                }
                let Value::Int(id) = message.value(DEPTH)? else { return Err(INCOMPLETE) };
                let is_result = message.nil()?;
                let outcome = if is_result { Ok(message.rest()) } else { Err(error_text(&message.value(DEPTH)?)) };
                Ok(Self::Response(Response { id, outcome }))
            }
            Value::Int(2) => {
                if length < 2 {
                    return Err(Error::NotRpc("a notification without label"));
                }
                let label = message.value(DEPTH)?.as_str().unwrap_or_default().to_owned();
                let argument = if length < 3 { Value::Nil } else { message.value(DEPTH)? };
                Ok(Self::Notification { label, argument })
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
    pub fn decode(result: &Bytes) -> Result<Self, Error> {
        const DEPTH: usize = MAX_DEPTH - 1;
        let mut result = Decoder::new(result);
        let fields = result.enter_map()?.ok_or(Error::NotRpc("the result of an event is no map"))?;
        let (mut event, mut data) = (None, None);
        for _ in 0..fields {
            match key(&mut result, DEPTH)? {
                Some(b"EventId") => {
                    if let Value::Int(id) = result.value(DEPTH)? {
                        event = Some(id);
                    }
                }
                Some(b"Data") => data = Data::decode(&mut result, DEPTH)?,
                _ => drop(result.value(DEPTH)?),
            }
        }
        match data {
            Some(Data::Returned) => Ok(Self::Done),
            Some(Data::Call { method, args }) => {
                let event = event.ok_or(Error::NotRpc("the result of an event has no EventId"))?;
                let method = method.ok_or(Error::NotRpc("a PDK call without Method"))?;
                let args = match args {
                    Value::List(items) => lua::unpack(items),
                    Value::Nil | Value::Map(_) => Vec::new(),
                    single => vec![single],
                };
                let terminal = is_terminal(&method);
                Ok(Self::Call { event, call: Call { method: method.into(), args }, terminal })
            }
            None => Err(Error::NotRpc("the result of an event has no Data")),
        }
    }
}

/// What `Data` says.
enum Data {
    /// `"ret"`
    Returned,
    /// `{Method, Args}`
    Call { method: Option<String>, args: Value },
}

impl Data {
    /// `None`: neither.
    fn decode(message: &mut Decoder<'_>, depth: usize) -> Result<Option<Self>, Error> {
        if let Some(text) = message.text()? {
            return Ok((text == b"ret").then_some(Self::Returned));
        }
        let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
        let Some(fields) = message.enter_map()? else { return message.value(depth).map(|_| None) };
        let (mut method, mut args) = (None, Value::Nil);
        for _ in 0..fields {
            match key(message, depth)? {
                Some(b"Method") => {
                    let text = match message.text()? {
                        Some(text) => Some(text),
                        None => message.value(depth).map(|_| None)?,
                    };
                    method = text.and_then(|text| std::str::from_utf8(text).ok()).map(str::to_owned);
                }
                Some(b"Args") => args = message.value(depth)?,
                _ => drop(message.value(depth)?),
            }
        }
        Ok(Some(Self::Call { method, args }))
    }
}

/// A map's next key, if it is a text.
fn key<'a>(message: &mut Decoder<'a>, depth: usize) -> Result<Option<&'a [u8]>, Error> {
    let text = message.text()?;
    if text.is_none() {
        message.value(depth)?;
    }
    Ok(text)
}

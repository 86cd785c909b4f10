//! The protocol `ProtoBuf:1`, which servers built with go-pdk speak: frames of a length and a message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::{Call, Return, method::Method};

mod args;
mod dynamic;
mod results;
/// The messages of the wire schema.
#[expect(unreachable_pub, reason = "generated")]
#[allow(clippy::all, clippy::use_self, reason = "generated")]
#[allow(dead_code, reason = "messages with dynamic parts are read as types of their own")]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/kong_plugin_protocol.rs"));
}

/// Items (of lists and maps) that are accepted in one message: it bounds the memory that a short message of many small
/// items takes once decoded.
pub const MAX_ITEMS: usize = 1 << 20;

/// Bytes before a frame's message: its length, u32 little-endian.
pub const HEADER: usize = 4;

/// What a server sent that the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("frame of {length} bytes, more than the {max} that are accepted")]
    FrameTooLarge { length: usize, max: usize },
    #[error("{method} was called with {length} bytes, more than the {max} that are accepted")]
    CallTooLarge { method: String, length: usize, max: usize },
    #[error("message of more than {MAX_ITEMS} items")]
    TooManyItems,
    #[error("message {message} cannot be decoded: {reason}")]
    Undecodable { message: &'static str, reason: String },
    #[error("PDK method {name:?} is not known")]
    UnknownMethod { name: String },
}

/// The length that the frame at the front of `buffer` says that it has, if that is there already.
fn announced(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk::<HEADER>().map(|header| usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX))
}

/// The message of the frame at the front of `buffer`, and what comes after it; `None` if it is not there yet.
fn split_frame(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = announced(buffer)?;
    buffer.get(HEADER..)?.split_at_checked(length)
}

/// Takes the next frame from the front of `buffer`; `None` if it is not there yet.
///
/// # Errors
/// The frame is longer than `max` bytes.
pub fn take_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Error> {
    let Some(length) = announced(buffer) else { return Ok(None) };
    if length > max {
        return Err(Error::FrameTooLarge { length, max });
    }
    Ok(has_frame(buffer).then(|| cut(buffer, length)))
}

fn cut(buffer: &mut BytesMut, length: usize) -> Bytes {
    buffer.advance(HEADER);
    buffer.split_to(length).freeze()
}

/// Whether the frame at the front of `buffer` is there.
pub fn has_frame(buffer: &[u8]) -> bool {
    split_frame(buffer).is_some()
}

/// What a handler does next, while its event runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It makes a PDK call, in two frames: [`decode_call`].
    Call { name: Bytes, args: Bytes },
    /// It has returned.
    End,
}

/// Takes what a handler does next from the front of `buffer`; `None` if it is not there yet, or not all of it.
///
/// # Errors
/// A name is longer than `max_name` bytes, or the arguments of a call are longer than `max_args` says for its name.
pub fn take_step(
    buffer: &mut BytesMut,
    max_name: usize,
    max_args: impl Fn(&[u8]) -> usize,
) -> Result<Option<Step>, Error> {
    match announced(buffer) {
        None => return Ok(None),
        Some(0) => {
            buffer.advance(HEADER);
            return Ok(Some(Step::End));
        }
        Some(length) if length > max_name => return Err(Error::FrameTooLarge { length, max: max_name }),
        Some(_) => {}
    }
    let Some((name, rest)) = split_frame(buffer) else { return Ok(None) };
    let Some(length) = announced(rest) else { return Ok(None) };
    let max = max_args(name);
    if length > max {
        return Err(Error::CallTooLarge { method: String::from_utf8_lossy(name).into_owned(), length, max });
    }
    if !has_frame(rest) {
        return Ok(None);
    }
    let name_length = name.len();
    Ok(Some(Step::Call { name: cut(buffer, name_length), args: cut(buffer, length) }))
}

/// Whether `buffer` holds no more than one frame, which need not be complete.
pub fn is_one_frame(buffer: &[u8]) -> bool {
    split_frame(buffer).is_none_or(|(_, rest)| rest.is_empty())
}

/// Appends an empty frame.
pub fn put_empty_frame(out: &mut BytesMut) {
    out.put_u32_le(0);
}

/// Appends a message as a frame.
fn put_frame(message: &impl prost::Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(HEADER + length);
    put_header(length, out);
    message.encode_raw(out);
}

/// Appends as a frame what `put` appends.
fn put_written_frame(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let begin = out.len();
    put_header(0, out);
    put(out);
    let length = out.len() - begin - HEADER;
    out[begin..begin + HEADER].copy_from_slice(&header(length).to_le_bytes());
}

/// A command to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `config` is JSON; a non-zero `__seq__` in it becomes the instance's id.
    StartInstance {
        plugin: &'a str,
        config: &'a str,
    },
    InstanceStatus {
        instance: i32,
    },
    HandleEvent {
        instance: i32,
        phase: &'a str,
    },
}

impl Command<'_> {
    /// Appends the command as a frame.
    pub fn put(&self, sequence: i64, out: &mut BytesMut) {
        use schema::rpc_call::Call as Cmd;
        let call = match *self {
            Command::HandleEvent { instance, phase } => return put_handle_event(sequence, instance, phase, out),
            Command::StartInstance { plugin, config } => Cmd::CmdStartInstance(schema::CmdStartInstance {
                name: plugin.to_owned(),
                config: Bytes::copy_from_slice(config.as_bytes()),
            }),
            Command::InstanceStatus { instance } => {
                Cmd::CmdGetInstanceStatus(schema::CmdGetInstanceStatus { instance_id: instance })
            }
        };
        put_frame(&schema::RpcCall { sequence, call: Some(call) }, out);
    }
}

/// The command that every event begins with, without the copies that a message of the schema needs: an `RpcCall` with
/// `sequence` and `cmd_handle_event`, of `instance_id` and `event_name`. What is zero is left out.
fn put_handle_event(sequence: i64, instance: i32, phase: &str, out: &mut BytesMut) {
    use prost::encoding::{WireType::LengthDelimited, encode_key, encode_varint, int32, int64};
    const HANDLE_EVENT: u32 = 36;
    let mut event = Vec::with_capacity(64);
    if instance != 0 {
        int32::encode(1, &instance, &mut event);
    }
    put_text(2, phase, &mut event);
    let mut call = Vec::with_capacity(64);
    if sequence != 0 {
        int64::encode(1, &sequence, &mut call);
    }
    encode_key(HANDLE_EVENT, LengthDelimited, &mut call);
    encode_varint(event.len() as u64, &mut call);
    put_header(call.len() + event.len(), out);
    out.put_slice(&call);
    out.put_slice(&event);
}

/// Appends a text as a field of a message; none if it is empty.
fn put_text(field: u32, text: &str, message: &mut impl BufMut) {
    use prost::encoding::{WireType::LengthDelimited, encode_key, encode_varint};
    if !text.is_empty() {
        encode_key(field, LengthDelimited, message);
        encode_varint(text.len() as u64, message);
        message.put_slice(text.as_bytes());
    }
}

/// What [`put_text`] appends.
fn text_length(field: u32, text: &str) -> usize {
    use prost::encoding::{encoded_len_varint, key_len};
    let length = text.len();
    if length == 0 { 0 } else { key_len(field) + encoded_len_varint(length as u64) + length }
}

fn put_header(length: usize, out: &mut BytesMut) {
    out.put_u32_le(header(length));
}

fn header(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A server's answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub sequence: i64,
    /// The instance's id, for the commands that answer with a status.
    pub instance: Option<i32>,
}

impl Answer {
    /// # Errors
    /// The frame is no `RpcReturn`.
    pub fn decode(frame: Bytes) -> Result<Self, Error> {
        use schema::rpc_return::Return as Ret;
        let message = schema::RpcReturn::decode(frame).map_err(undecodable("RpcReturn"))?;
        let instance = match message.r#return {
            Some(Ret::InstanceStatus(status)) => Some(status.instance_id),
            _ => None,
        };
        Ok(Self { sequence: message.sequence, instance })
    }
}

/// Reads a PDK call from its two frames: the method's name and its input message.
///
/// # Errors
/// The schema has no such method, or the arguments are not its input message.
pub fn decode_call(name: &[u8], args: Bytes) -> Result<(Call, Method), Error> {
    let method = Method::by_name(name)
        .ok_or_else(|| Error::UnknownMethod { name: String::from_utf8_lossy(name).chars().take(200).collect() })?;
    let args = args::decode(method.input, args)?;
    Ok((Call { method: method.name.into(), args }, method))
}

/// Appends the result of a PDK call as a frame: the method's output message.
pub fn put_result(method: Method, result: &Return, out: &mut BytesMut) {
    results::put(method.output, result, out);
}

fn undecodable(message: &'static str) -> impl FnOnce(prost::DecodeError) -> Error {
    move |error| Error::Undecodable { message, reason: error.to_string() }
}

#[cfg(test)]
mod tests;

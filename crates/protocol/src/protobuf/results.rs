//! From a function's result to a method's output message, as Kong wraps it (`pb_wrap` in pb_rpc.lua).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{
    dynamic::{put_items, put_struct_of_texts, put_value},
    put_empty_frame, put_frame, put_header, put_text, put_written_frame, schema, text_length,
};
use crate::{Return, Value, lua, method::Message, value::readable};

pub(super) fn put(output: Message, result: &Return, out: &mut BytesMut) {
    let value = &result.value;
    match output {
        // always a message: nil has a value of its own, a body that is not there an error
        Message::Value => put_written_frame(out, |out| put_value(value, out)),
        Message::RawBodyResult => put_frame(&raw_body(result), out),
        _ if value.is_nil() => put_empty_frame(out),
        Message::Bool => put_frame(&schema::Bool { v: !matches!(value, Value::Bool(false)) }, out),
        Message::Int => put_frame(&schema::Int { v: int32(value) }, out),
        Message::Number => put_frame(&schema::Number { v: double(value) }, out),
        Message::String => put_string(value, out),
        Message::ByteString => put_frame(&schema::ByteString { v: bytes(value) }, out),
        Message::Struct => put_written_frame(out, |out| put_struct_of_texts(value, out)),
        Message::ListValue => {
            let items = if let Value::List(items) = value { items.as_slice() } else { &[] };
            put_written_frame(out, |out| put_items(items, out));
        }
        Message::UriCapturesResult => put_frame(&uri_captures(value), out),
        Message::Route => put_frame(&route(value), out),
        Message::Service => put_frame(&service(value), out),
        Message::Consumer => put_frame(&consumer(value), out),
        Message::AuthenticatedCredential => put_frame(&credential(value), out),
        Message::MemoryStats => put_frame(&memory_stats(value), out),
        Message::Empty
        | Message::AuthenticateArgs
        | Message::ConsumerSpec
        | Message::ExitArgs
        | Message::KV
        | Message::Target => put_empty_frame(out),
    }
}

/// The message `String`, without a copy of the text.
fn put_string(value: &Value, out: &mut BytesMut) {
    let Some(bytes) = value.as_bytes() else { return put_frame(&schema::String { v: text(value) }, out) };
    let text = readable(bytes);
    put_header(text_length(1, &text), out);
    put_text(1, &text, out);
}

/// A query argument without a value is `true` and goes out as text, as numbers do.
fn text(value: &Value) -> String {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => readable(bytes).into_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => lua::number_text(*float),
        Value::Nil | Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn bytes(value: &Value) -> Bytes {
    value.as_bytes().cloned().unwrap_or_else(|| Bytes::from(text(value)))
}

#[expect(clippy::cast_possible_truncation, reason = "`as` cuts fractions off and saturates, both are wanted")]
fn int64(value: &Value) -> i64 {
    match value {
        Value::Int(int) => *int,
        Value::Float(float) => *float as i64,
        Value::Bool(truth) => i64::from(*truth),
        other => other.as_str().and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

fn int32(value: &Value) -> i32 {
    let int = int64(value);
    i32::try_from(int).unwrap_or(if int < 0 { i32::MIN } else { i32::MAX })
}

fn double(value: &Value) -> f64 {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
        Value::Int(int) => *int as f64,
        Value::Float(float) => *float,
        other => other.as_str().and_then(|text| text.parse().ok()).unwrap_or(0.0),
    }
}

fn raw_body(result: &Return) -> schema::RawBodyResult {
    use schema::raw_body_result::Kind;
    let value = &result.value;
    let path = value.field("body_filepath");
    let kind = if !path.is_nil() {
        Kind::BodyFilepath(text(path))
    } else if let Some(content) = value.as_bytes() {
        Kind::Content(content.clone())
    } else {
        Kind::Error(result.error.clone().unwrap_or_else(|| "Can't read request body".to_owned()))
    };
    schema::RawBodyResult { kind: Some(kind) }
}

/// The whole match, which MessagePack plugins get as number 0, is not among the captures here.
fn uri_captures(value: &Value) -> schema::UriCapturesResult {
    let unnamed = match value.field("unnamed") {
        Value::List(items) => items.iter().skip(1).map(bytes).collect(),
        _ => Vec::new(),
    };
    let named = match value.field("named") {
        Value::Map(fields) => fields.iter().map(|(name, item)| (name.clone(), bytes(item))).collect(),
        _ => BTreeMap::new(),
    };
    schema::UriCapturesResult { unnamed, named }
}

/// Reads fields of an entity by their names; what is absent has the type's zero value.
struct Entity<'a>(&'a Value);

impl Entity<'_> {
    fn text(&self, name: &str) -> String {
        text(self.0.field(name))
    }

    fn int(&self, name: &str) -> i32 {
        int32(self.0.field(name))
    }

    fn long(&self, name: &str) -> i64 {
        int64(self.0.field(name))
    }

    fn truth(&self, name: &str) -> bool {
        matches!(self.0.field(name), Value::Bool(true))
    }

    /// Only texts: what a Go plugin would have to see as an object (a route's headers) has no place in the message.
    fn texts(&self, name: &str) -> Vec<String> {
        match self.0.field(name) {
            Value::List(items) => items.iter().filter(|item| item.as_bytes().is_some()).map(text).collect(),
            _ => Vec::new(),
        }
    }

    /// The id of the entity that a foreign key names.
    fn reference(&self, name: &str) -> Option<String> {
        let id = self.0.field(name).field("id");
        (!id.is_nil()).then(|| text(id))
    }
}

fn route(value: &Value) -> schema::Route {
    let route = Entity(value);
    schema::Route {
        id: route.text("id"),
        created_at: route.long("created_at"),
        updated_at: route.long("updated_at"),
        name: route.text("name"),
        protocols: route.texts("protocols"),
        methods: route.texts("methods"),
        hosts: route.texts("hosts"),
        paths: route.texts("paths"),
        headers: route.texts("headers"),
        https_redirect_status_code: route.int("https_redirect_status_code"),
        regex_priority: route.int("regex_priority"),
        strip_path: route.truth("strip_path"),
        preserve_host: route.truth("preserve_host"),
        snis: route.texts("snis"),
        sources: route.texts("sources"),
        destinations: route.texts("destinations"),
        tags: route.texts("tags"),
        service: route.reference("service").map(|id| schema::ServiceKey { id }),
    }
}

fn service(value: &Value) -> schema::Service {
    let service = Entity(value);
    schema::Service {
        id: service.text("id"),
        created_at: service.long("created_at"),
        updated_at: service.long("updated_at"),
        name: service.text("name"),
        retries: service.int("retries"),
        protocol: service.text("protocol"),
        host: service.text("host"),
        port: service.int("port"),
        path: service.text("path"),
        connect_timeout: service.int("connect_timeout"),
        write_timeout: service.int("write_timeout"),
        read_timeout: service.int("read_timeout"),
        tags: service.texts("tags"),
        client_certificate: service.reference("client_certificate").map(|id| schema::CertificateKey { id }),
    }
}

fn consumer(value: &Value) -> schema::Consumer {
    let consumer = Entity(value);
    schema::Consumer {
        id: consumer.text("id"),
        created_at: consumer.long("created_at"),
        username: consumer.text("username"),
        custom_id: consumer.text("custom_id"),
        tags: consumer.texts("tags"),
    }
}

fn credential(value: &Value) -> schema::AuthenticatedCredential {
    let credential = Entity(value);
    schema::AuthenticatedCredential { id: credential.text("id"), consumer_id: credential.text("consumer_id") }
}

/// go-pdk reads the fields of both dictionaries whether they are there or not, and its process ends if they are not.
fn memory_stats(value: &Value) -> schema::MemoryStats {
    use schema::memory_stats::{LuaSharedDicts, WorkerLuaVm, lua_shared_dicts::DictStats};
    let dicts = value.field("lua_shared_dicts");
    let dict = |name: &str| {
        let stats = Entity(dicts.field(name));
        Some(DictStats { allocated_slabs: stats.long("allocated_slabs"), capacity: stats.long("capacity") })
    };
    let worker = |value| {
        let worker = Entity(value);
        WorkerLuaVm { http_allocated_gc: worker.long("http_allocated_gc"), pid: worker.long("pid") }
    };
    let workers = match value.field("workers_lua_vms") {
        Value::List(workers) => workers.iter().map(worker).collect(),
        _ => Vec::new(),
    };
    schema::MemoryStats {
        lua_shared_dicts: Some(LuaSharedDicts { kong: dict("kong"), kong_db_cache: dict("kong_db_cache") }),
        workers_lua_vms: workers,
    }
}

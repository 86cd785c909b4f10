//! A plugin server that does what an instance's configuration says. It runs in a process of its own: this test binary,
//! started with `--exact stand_in::server` and the variable `STAND_IN`.
//!
//! `config.script` is a list of actions that a handler takes: `["call", METHOD, ARG...]`, `["sleep", MS]`, `["wait for", FILE]`,
//! `["hang"]` (this handler), `["freeze"]` (all events of the server), `["die"]`, `["close"]`, `["garbage"]`,
//! `["huge"]`, `["fail", TEXT]` (MessagePack: an error as answer), `["flood"]` (MessagePack: notifications without end),
//! `["stall", MS, METHOD]` (MessagePack: a call whose answer is not read for a while), `["stray"]` (something after the
//! event's end), `["truncate"]` (half of a message, then the end), `["drip"]` (a message that comes byte by byte, for
//! ever), `["sequence"]` (an answer to what was not asked). `config.start` can be `refuse`, `hang` (this start), `freeze` (all starts), `count` (ProtoBuf:
//! the number `__seq__` is not used) or `steal` (ProtoBuf: the number of another instance is); `config.forget` is the number of events for which the instance is unknown.

use std::{
    collections::HashMap,
    env, fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde_json::{Value as Json, json};
use silverback_protocol::{
    Value,
    msgpack::{Scanner, decode, put_value},
};

/// Runs the stand-in when the process was started to be one; otherwise a test that has nothing to do.
#[test]
fn server() {
    let Ok(what) = env::var("STAND_IN") else { return };
    let (protocol, socket) = what.split_once(':').expect("PROTOCOL:SOCKET");
    if let Ok(delay) = env::var("STAND_IN_DELAY") {
        thread::sleep(Duration::from_millis(delay.parse().expect("milliseconds")));
    }
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("binds");
    eprintln!("WARN - [00:00:00] listening");
    note(&format!("pid {}", process::id()));
    for stream in listener.incoming() {
        let stream = stream.expect("accepts");
        let protobuf = protocol == "protobuf";
        thread::spawn(move || {
            note("connect");
            let end = if protobuf { protobuf::serve(stream) } else { msgpack::serve(stream) };
            note(&format!("end of connection: {}", end.err().map_or_else(|| "closed".to_owned(), |e| e.to_string())));
        });
    }
}

/// Adds a line to the journal that tests read.
fn note(line: &str) {
    let Ok(path) = env::var("STAND_IN_JOURNAL").map(PathBuf::from) else { return };
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a journal");
    file.write_all(format!("{line}\n").as_bytes()).expect("writes");
}

/// An instance's configuration and the number of events it has been asked for.
static INSTANCES: Mutex<Option<HashMap<i64, (Json, i64)>>> = Mutex::new(None);
static NEXT_INSTANCE: AtomicI64 = AtomicI64::new(0);
static NEXT_EVENT: AtomicU64 = AtomicU64::new(0);
/// Held for a moment at the start of every event, for ever by one that freezes the server.
static LOCK: Mutex<()> = Mutex::new(());
/// The same for starts.
static START_LOCK: Mutex<()> = Mutex::new(());

enum Start {
    Started(i64),
    Refused,
}

fn start(plugin: &str, config: &str, chosen: impl Fn(&Json) -> Option<i64>) -> Start {
    let config: Json = serde_json::from_str(config).expect("JSON");
    let held = START_LOCK.lock();
    if plugin.is_empty() {
        return Start::Refused;
    }
    note(&format!("start {plugin}"));
    match config["start"].as_str() {
        Some("refuse") => return Start::Refused,
        Some("freeze") => hang(),
        _ => drop(held),
    }
    if config["start"] == "hang" {
        hang();
    }
    let id = chosen(&config).unwrap_or_else(|| NEXT_INSTANCE.fetch_add(1, Ordering::SeqCst));
    INSTANCES.lock().expect("lock").get_or_insert_default().insert(id, (config, 0));
    Start::Started(id)
}

/// The script of an instance's next event; `None` if the instance is not known.
fn script(instance: i64, phase: &str) -> Option<Vec<Json>> {
    drop(LOCK.lock());
    let mut instances = INSTANCES.lock().expect("lock");
    let (config, events) = instances.get_or_insert_default().get_mut(&instance)?;
    *events += 1;
    let total = FORGOTTEN.fetch_add(1, Ordering::SeqCst);
    if total < config["forget"].as_i64().unwrap_or(0) {
        note("forgot");
        return None;
    }
    note(&format!("event {phase} {}", config["name"].as_str().unwrap_or("-")));
    Some(config["script"].as_array().cloned().unwrap_or_default())
}
static FORGOTTEN: AtomicI64 = AtomicI64::new(0);

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// What an action asks of the connection.
enum Act {
    Call { method: String, args: Vec<Json> },
    Close,
    Garbage,
    Huge,
    Flood,
    Stall(Duration, String),
    Stray,
    Truncate,
    Drip,
    Sequence,
    Fail(String),
    Nothing,
}

fn act(action: &Json) -> Act {
    let text = |at: usize| action[at].as_str().unwrap_or_default().to_owned();
    match action[0].as_str().expect("an action") {
        "call" => Act::Call { method: text(1), args: action.as_array().expect("a list")[2..].to_vec() },
        "sleep" => {
            thread::sleep(Duration::from_millis(action[1].as_u64().expect("milliseconds")));
            Act::Nothing
        }
        "hang" => hang(),
        "wait for" => {
            while !PathBuf::from(text(1)).exists() {
                thread::sleep(Duration::from_millis(5));
            }
            Act::Nothing
        }
        "freeze" => {
            let _held = LOCK.lock();
            hang()
        }
        "die" => process::exit(3),
        "close" => Act::Close,
        "garbage" => Act::Garbage,
        "huge" => Act::Huge,
        "flood" => Act::Flood,
        "stall" => Act::Stall(Duration::from_millis(action[1].as_u64().expect("milliseconds")), text(2)),
        "stray" => Act::Stray,
        "truncate" => Act::Truncate,
        "drip" => Act::Drip,
        "sequence" => Act::Sequence,
        "fail" => Act::Fail(text(1)),
        other => panic!("no action {other}"),
    }
}

/// A byte now and then, until nobody reads any more.
fn drip(stream: &mut UnixStream) -> std::io::Result<()> {
    loop {
        stream.write_all(b"x")?;
        thread::sleep(Duration::from_millis(5));
    }
}

mod msgpack {
    use super::*;

    pub(super) fn serve(mut stream: UnixStream) -> std::io::Result<()> {
        send(&mut stream, &list([2.into(), "serverPid".into(), i64::from(process::id()).into()]))?;
        let mut scanner = Scanner::new(1 << 24);
        let mut buffer = BytesMut::new();
        let mut events: HashMap<i64, std::vec::IntoIter<Json>> = HashMap::new();
        loop {
            let length = loop {
                match scanner.scan(&buffer).expect("a message") {
                    Some(length) => break length,
                    None => {
                        let mut piece = [0; 4096];
                        let read = stream.read(&mut piece)?;
                        if read == 0 {
                            return Ok(());
                        }
                        buffer.extend_from_slice(&piece[..read]);
                    }
                }
            };
            let Value::List(request) = decode(&buffer.split_to(length).freeze()).expect("a value") else {
                panic!("a request is a list")
            };
            assert!(buffer.is_empty(), "one request at a time");
            let (id, method) = (request[1].clone(), request[2].as_str().expect("a method"));
            let Value::List(args) = &request[3] else { panic!("arguments are a list") };
            let arg = &args[0];
            let number = |name| match arg.field(name) {
                Value::Int(int) => *int,
                other => panic!("{name} is {other:?}"),
            };
            let event = match method {
                "plugin.StartInstance" => {
                    let text = |name| arg.field(name).as_str().expect("text").to_owned();
                    let answer = match start(&text("Name"), &text("Config"), |_| None) {
                        Start::Started(instance) => {
                            list([1.into(), id, Value::Nil, Value::Map(vec![("Id".to_owned(), instance.into())])])
                        }
                        Start::Refused => list([1.into(), id, "I will not".into(), Value::Nil]),
                    };
                    send(&mut stream, &answer)?;
                    continue;
                }
                "plugin.HandleEvent" => {
                    let phase = arg.field("EventName").as_str().expect("text");
                    let Some(script) = script(number("InstanceId"), phase) else {
                        send(&mut stream, &list([1.into(), id, "no plugin instance".into(), Value::Nil]))?;
                        continue;
                    };
                    let event = i64::try_from(NEXT_EVENT.fetch_add(1, Ordering::SeqCst)).expect("few events");
                    events.insert(event, script.into_iter());
                    event
                }
                step => {
                    note(&format!("{step} {:?}", arg.field("Data")));
                    number("EventId")
                }
            };
            let script = events.get_mut(&event).expect("an event that runs");
            let (mut stall, mut stray) = (Duration::ZERO, false);
            let data = loop {
                let Some(action) = script.next() else { break Value::from("ret") };
                match act(&action) {
                    Act::Call { method, args } => {
                        break Value::Map(vec![
                            ("Method".to_owned(), method.into()),
                            ("Args".to_owned(), list(args.iter().map(value))),
                        ]);
                    }
                    Act::Close => return Ok(()),
                    Act::Garbage => stream.write_all(b"\xc1\xc1")?,
                    Act::Huge => stream.write_all(b"\xc6\xff\xff\xff\xff")?,
                    Act::Fail(text) => {
                        send(&mut stream, &list([1.into(), id.clone(), text.into(), Value::Nil]))?;
                    }
                    Act::Flood => loop {
                        send(&mut stream, &list([2.into(), "more".into(), Value::Nil]))?;
                    },
                    Act::Stall(time, method) => {
                        stall = time;
                        break Value::Map(vec![("Method".to_owned(), method.into())]);
                    }
                    Act::Stray => stray = true,
                    Act::Truncate => {
                        stream.write_all(b"\x94\x01\x05\xc0\xdb\x00\x00\x10\x00abc")?;
                        return Ok(());
                    }
                    Act::Drip => {
                        stream.write_all(b"\x94\x01\x05\xc0\xdb\x00\x10\x00\x00")?;
                        drip(&mut stream)?;
                    }
                    Act::Sequence => send(&mut stream, &list([1.into(), 987_654.into(), Value::Nil, Value::Nil]))?,
                    Act::Nothing => {}
                }
            };
            let result = Value::Map(vec![("EventId".to_owned(), event.into()), ("Data".to_owned(), data)]);
            send(&mut stream, &list([1.into(), id, Value::Nil, result]))?;
            if stray {
                // late, so that the connection is idle by then
                thread::sleep(Duration::from_millis(50));
                send(&mut stream, &list([1.into(), 987_654.into(), Value::Nil, Value::Nil]))?;
                note("strayed");
            }
            thread::sleep(stall);
        }
    }

    fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::List(items.into_iter().collect())
    }

    fn value(json: &Json) -> Value {
        match json {
            Json::Null => Value::Nil,
            Json::Bool(truth) => (*truth).into(),
            Json::Number(number) => number.as_f64().expect("a number").into(),
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => list(items.iter().map(value)),
            Json::Object(fields) => Value::Map(fields.iter().map(|(key, item)| (key.clone(), value(item))).collect()),
        }
    }

    fn send(stream: &mut UnixStream, message: &Value) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        put_value(message, &mut out);
        stream.write_all(&out)
    }
}

/// Written without the crate's codec, so that the two check each other.
mod protobuf {
    use super::*;

    pub(super) fn serve(mut stream: UnixStream) -> std::io::Result<()> {
        loop {
            let call = fields(&frame(&mut stream)?);
            let sequence = call.get(&1).map_or(0, Field::number);
            if let Some(Field::Bytes(command)) = call.get(&33) {
                let command = fields(command);
                let by_sequence = |config: &Json| match config["start"].as_str() {
                    Some("count") => None,
                    Some("steal") => {
                        let instances = INSTANCES.lock().expect("lock");
                        instances.as_ref().and_then(|instances| instances.keys().next().copied())
                    }
                    _ => config["__seq__"].as_i64().filter(|seq| *seq != 0),
                };
                let Start::Started(id) = start(&command[&1].text(), &command[&2].text(), by_sequence) else {
                    return Ok(());
                };
                let mut status = Vec::new();
                put_number(&mut status, 2, u64::try_from(id).expect("positive"));
                let mut answer = Vec::new();
                put_number(&mut answer, 1, sequence);
                put_bytes(&mut answer, 33, &status);
                send(&mut stream, &answer)?;
            } else if let Some(Field::Bytes(command)) = call.get(&36) {
                let command = fields(command);
                let id = i64::try_from(command.get(&1).map_or(0, Field::number)).expect("an id");
                let Some(script) = script(id, &command[&2].text()) else { return Ok(()) };
                let mut stray = false;
                for action in script {
                    match act(&action) {
                        Act::Call { method, args } => {
                            send(&mut stream, method.as_bytes())?;
                            // one text as argument, or none
                            let mut message = Vec::new();
                            if let Some(text) = args.first().and_then(Json::as_str) {
                                put_bytes(&mut message, 1, text.as_bytes());
                            } else if let Some(number) = args.first().and_then(Json::as_u64) {
                                put_number(&mut message, 1, number);
                            }
                            send(&mut stream, &message)?;
                            let answer = frame(&mut stream)?;
                            note(&format!("answer {}", json!(String::from_utf8_lossy(&answer))));
                        }
                        Act::Close => return Ok(()),
                        Act::Garbage => send(&mut stream, b"kong.no.such")?,
                        Act::Huge => stream.write_all(b"\xff\xff\xff\xff")?,
                        Act::Stray => stray = true,
                        Act::Truncate => {
                            stream.write_all(&1000_u32.to_le_bytes())?;
                            stream.write_all(b"abc")?;
                            return Ok(());
                        }
                        Act::Drip => {
                            stream.write_all(&1000_u32.to_le_bytes())?;
                            drip(&mut stream)?;
                        }
                        Act::Sequence => {
                            // the end of the event, and the answer to another command, at once
                            let mut end = 0_u32.to_le_bytes().to_vec();
                            let mut answer = Vec::new();
                            put_number(&mut answer, 1, 987_654);
                            end.extend(u32::try_from(answer.len()).expect("fits").to_le_bytes());
                            end.extend(answer);
                            stream.write_all(&end)?;
                        }
                        Act::Fail(_) | Act::Flood | Act::Stall(..) | Act::Nothing => {}
                    }
                }
                send(&mut stream, b"")?;
                let mut answer = Vec::new();
                put_number(&mut answer, 1, sequence);
                send(&mut stream, &answer)?;
                if stray {
                    // late, so that the connection is idle by then
                    thread::sleep(Duration::from_millis(50));
                    send(&mut stream, b"kong.request.get_host")?;
                    send(&mut stream, b"")?;
                    note("strayed");
                }
            } else if call.contains_key(&34) {
                note("status asked");
                return Ok(());
            }
        }
    }

    enum Field {
        Number(u64),
        Bytes(Vec<u8>),
    }

    impl Field {
        fn number(&self) -> u64 {
            match self {
                Self::Number(number) => *number,
                Self::Bytes(_) => panic!("a number is wanted"),
            }
        }

        fn text(&self) -> String {
            match self {
                Self::Bytes(bytes) => String::from_utf8(bytes.clone()).expect("UTF-8"),
                Self::Number(_) => panic!("a text is wanted"),
            }
        }
    }

    fn fields(bytes: &[u8]) -> HashMap<u64, Field> {
        let mut rest = bytes;
        let mut fields = HashMap::new();
        let varint = |rest: &mut &[u8]| {
            let (mut number, mut shift) = (0, 0);
            loop {
                let byte = rest[0];
                *rest = &rest[1..];
                number |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return number;
                }
            }
        };
        while !rest.is_empty() {
            let tag = varint(&mut rest);
            let field = match tag & 7 {
                0 => Field::Number(varint(&mut rest)),
                2 => {
                    let length = usize::try_from(varint(&mut rest)).expect("a length");
                    let bytes = rest[..length].to_vec();
                    rest = &rest[length..];
                    Field::Bytes(bytes)
                }
                other => panic!("wire type {other}"),
            };
            fields.insert(tag >> 3, field);
        }
        fields
    }

    fn put_varint(out: &mut Vec<u8>, mut number: u64) {
        while number >= 0x80 {
            out.push(u8::try_from(number & 0x7f).expect("7 bits") | 0x80);
            number >>= 7;
        }
        out.push(u8::try_from(number).expect("7 bits"));
    }

    fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
        put_varint(out, field << 3);
        put_varint(out, number);
    }

    fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
        put_varint(out, field << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend(bytes);
    }

    fn frame(stream: &mut UnixStream) -> std::io::Result<Bytes> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; usize::try_from(u32::from_le_bytes(length)).expect("fits")];
        stream.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    /// As go-pdk: the length and the message are two writes.
    fn send(stream: &mut UnixStream, message: &[u8]) -> std::io::Result<()> {
        stream.write_all(&u32::try_from(message.len()).expect("fits").to_le_bytes())?;
        stream.write_all(message)
    }
}

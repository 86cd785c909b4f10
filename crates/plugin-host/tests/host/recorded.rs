//! A recorded conversation with go-pluginserver 0.6, which cannot be installed from a registry, played back.
//!
//! tests/data/go-pluginserver.txt holds what was sent both ways; tests/data/recorder.go is the plugin. The stand-in
//! compares each message of the gateway with the recorded one, and answers as the server did.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use bytes::BytesMut;
use serde_json::json;
use silverback_plugin_host::{EventEnd, Pdk, Reply, WireProtocol};
use silverback_protocol::{
    Call, Return, Value,
    msgpack::{Scanner, decode},
};
use tempfile::TempDir;

use crate::support::{LONG, Stage, block_on};

/// Gives every call a value of the type that it has, or nil; keeps the headers that the plugin sets.
#[derive(Default)]
struct Gateway {
    nothing: bool,
    headers: Vec<(String, String)>,
    last: Option<Call>,
}

impl Pdk for Gateway {
    async fn call(&mut self, call: &Call) -> Reply {
        self.last = Some(call.clone());
        let text = |at: usize| call.args[at].as_str().expect("text").to_owned();
        if call.method == "kong.response.set_header" {
            self.headers.push((text(0), text(1)));
            return Reply::Return(Return::default());
        }
        if call.method == "kong.response.exit" {
            return Reply::Exit;
        }
        Reply::Return(if self.nothing { Value::Nil } else { answer(call) }.into())
    }
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn answer(call: &Call) -> Value {
    let list = |items: &[&str]| Value::List(items.iter().map(|item| Value::from(*item)).collect());
    match &*call.method {
        "kong.request.get_header" if call.args[0].as_str() == Some("host") => "example.test".into(),
        "kong.request.get_headers" => map(&[("host", "example.test".into()), ("x-two", list(&["1", "2"]))]),
        "kong.request.get_query" => map(&[("a", "1".into()), ("flag", true.into())]),
        "kong.request.get_port" => 8000.into(),
        "kong.request.get_http_version" => 1.1.into(),
        "kong.request.get_raw_body" => Value::Binary("body".into()),
        "kong.router.get_route" => map(&[("id", "r-1".into()), ("paths", list(&["/a"])), ("strip_path", true.into())]),
        "kong.router.get_service" => map(&[("name", "echo".into()), ("port", 80.into()), ("tags", list(&[]))]),
        "kong.client.get_consumer" => map(&[("id", "c-1".into()), ("username", "ann".into())]),
        "kong.client.get_credential" => map(&[("id", "k-1".into()), ("consumer_id", "c-1".into())]),
        "kong.node.get_memory_stats" => map(&[(
            "lua_shared_dicts",
            map(&[("kong", map(&[("allocated_slabs", 1.into()), ("capacity", 2.into())]))]),
        )]),
        _ => Value::Nil,
    }
}

#[test]
fn go_pluginserver_gets_typed_steps() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("socket");
    let player = play(&socket, "go-pluginserver.txt");
    block_on(async {
        let stage = Stage::named(WireProtocol::MsgPack, LONG, folder, None, "recorder");
        let instance = stage.instance(json!({ "message": "hello", "exit": false }));

        let mut gateway = Gateway::default();
        let end = stage.run(&instance, &mut gateway).await.unwrap();
        assert_eq!(end, EventEnd::Returned);
        let check = |gateway: &Gateway, expect: &[(&str, &str)]| {
            let headers: Vec<_> = gateway.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(headers, expect);
        };
        check(
            &gateway,
            &[
                ("x-host", "example.test <nil>"),
                ("x-missing", " null response"),
                ("x-headers", "map[host:[example.test] x-two:[1 2]] <nil>"),
                ("x-query", "map[a:[1] flag:[]] <nil>"),
                ("x-port", "8000 <nil>"),
                ("x-version", "1.1 <nil>"),
                ("x-body", "body <nil>"),
                ("x-route", "r-1 [/a] <nil>"),
                ("x-service", "echo 80 <nil>"),
                ("x-consumer", "ann <nil>"),
                ("x-credential", "k-1 <nil>"),
                ("x-stats", "2 <nil>"),
            ],
        );
        assert_eq!(gateway.last.map(|call| call.args), Some(vec!["hello".into()]));

        // nil through a typed step is a zero value, not an error
        let mut gateway = Gateway { nothing: true, ..Gateway::default() };
        let end = stage.run(&instance, &mut gateway).await.unwrap();
        assert_eq!(end, EventEnd::Returned);
        check(
            &gateway,
            &[
                ("x-host", " null response"),
                ("x-missing", " null response"),
                ("x-headers", "map[] <nil>"),
                ("x-query", "map[] <nil>"),
                ("x-port", "0 null response"),
                ("x-version", "0 null response"),
                ("x-body", " null response"),
                ("x-route", " [] <nil>"),
                ("x-service", " 0 <nil>"),
                ("x-consumer", " <nil>"),
                ("x-credential", " <nil>"),
                ("x-stats", "0 <nil>"),
            ],
        );

        let instance = stage.instance(json!({ "message": "bye", "exit": true }));
        let mut gateway = Gateway::default();
        let end = stage.run(&instance, &mut gateway).await.unwrap();
        assert_eq!(end, EventEnd::Exited);
        let exit = gateway.last.unwrap();
        let headers = map(&[("x-a", Value::List(vec!["b".into()]))]);
        assert_eq!(exit.args, [403.into(), "recorded".into(), headers]);
    });
    player.join().expect("the gateway said what was recorded");
}

/// Listens on a socket, and plays the server's part there.
fn play(socket: &Path, name: &str) -> thread::JoinHandle<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let recording = fs::read_to_string(path).unwrap();
    let connections: Vec<String> = recording.split("connection\n").skip(1).map(str::to_owned).collect();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        // one that stays open must not keep the next one waiting
        let connections: Vec<_> = connections
            .into_iter()
            .map(|lines| {
                let (stream, _) = listener.accept().unwrap();
                thread::spawn(move || play_connection(stream, &lines))
            })
            .collect();
        for connection in connections {
            connection.join().unwrap();
        }
    })
}

fn play_connection(mut stream: UnixStream, lines: &str) {
    for line in lines.lines() {
        let (side, hex) = line.split_once(' ').expect("a side and bytes");
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        match side {
            // the gateway may have gone already, when it only looked who answers
            "server" => drop(stream.write_all(&bytes)),
            "gateway" => {
                let mut scanner = Scanner::new(1 << 20);
                let mut got = BytesMut::new();
                while scanner.scan(&got).unwrap().is_none() {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    got.extend(byte);
                }
                let expect = decode(&bytes.into()).unwrap();
                assert_eq!(without_sequence(&decode(&got.freeze()).unwrap()), without_sequence(&expect));
            }
            other => panic!("no side {other}"),
        }
    }
}

/// The request as text, with the random `__seq__` of the configuration made 0.
fn without_sequence(request: &Value) -> String {
    let text = format!("{request:?}");
    let Some((before, after)) = text.split_once("__seq__\\\":") else { return text };
    format!("{before}__seq__\\\":0{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}

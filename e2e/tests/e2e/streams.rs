//! TCP, TLS and UDP on `stream_listen`.

use std::{net::SocketAddr, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use silverback_e2e::{
    Connection, Gateway, Running, StreamServer, Trial, UdpEcho, eventually, eventually_async, free_port,
    run_silverback, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
};

/// Stream listeners on ports of their own.
struct Listeners {
    tcp: u16,
    tls: u16,
    udp: u16,
    proxied: u16,
}

impl Listeners {
    fn new() -> Self {
        Self { tcp: free_port(), tls: free_port(), udp: free_port(), proxied: free_port() }
    }

    fn conf(&self) -> String {
        let Self { tcp, tls, udp, proxied } = self;
        format!(
            "stream_listen = 127.0.0.1:{tcp}, 127.0.0.1:{tls} ssl, 0.0.0.0:{udp} udp, 127.0.0.1:{proxied} proxy_protocol\n\
             proxy_stream_access_log = logs/stream.log basic"
        )
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn stream_log(gateway: &Running) -> String {
    std::fs::read_to_string(gateway.path("logs/stream.log")).unwrap_or_default()
}

/// Waits for a line of the stream access log with all of these parts.
async fn logged(gateway: &Running, parts: &[&str]) -> String {
    eventually(&format!("a line of the stream access log with {parts:?}"), || {
        stream_log(gateway).lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    })
    .await
}

/// Sends, says that this was all, and returns what comes until the end.
async fn ask(connection: &mut Connection, question: &str) -> String {
    connection.send(question).await;
    connection.finish_sending().await;
    String::from_utf8(connection.closed().await).unwrap()
}

async fn ask_tcp(port: u16, question: &str) -> String {
    ask(&mut Connection::open(at(port)).await, question).await
}

/// Waits for the first whole log entry in a file.
async fn entry(path: &Path) -> Value {
    let line = eventually(&format!("an entry in {}", path.display()), || {
        std::fs::read_to_string(path).ok()?.split_once('\n').map(|(line, _)| line.to_owned())
    })
    .await;
    serde_json::from_str(&line).unwrap()
}

/// A plugin for streams, with this configuration.
fn plugin(trial: Trial, config: Value) -> Value {
    let mut plugin = json!({ "name": trial.plugin(), "protocols": ["tcp", "tls", "udp", "tls_passthrough"] });
    plugin["config"] = config;
    plugin
}

fn with_plugin(mut service: Value, plugin: Value) -> Value {
    service["plugins"] = Value::Array(vec![plugin]);
    service
}

#[tokio::test]
async fn a_stream_goes_both_ways_and_each_half_closes_on_its_own() {
    let listeners = Listeners::new();
    let upstream = StreamServer::echo("a").await;
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .config(json!({ "services": [upstream.service("a", listeners.tcp)] }))
        .start()
        .await;
    let mut connection = Connection::open(at(listeners.tcp)).await;
    // The upstream speaks first.
    assert_eq!(connection.read_exactly(2).await, b"a:");
    connection.send("hello").await;
    assert_eq!(connection.read_exactly(5).await, b"hello");
    assert_eq!(ask(&mut connection, "bye").await, "bye");
    let line = logged(&gateway, &["127.0.0.1 ["]).await;
    let rest = line.split("] ").nth(1).unwrap();
    assert!(rest.starts_with("TCP 200 10 8 "), "{line}");
}

#[tokio::test]
async fn much_goes_both_ways_at_once() {
    const MUCH: usize = 20_000_000;
    let listeners = Listeners::new();
    let upstream = StreamServer::serving(|mut stream| async move {
        // Reads slowly at first, so that back-pressure reaches the client; writes at the same time.
        let (mut reading, mut writing) = stream.split();
        let write = async {
            let _ = writing.write_all(&vec![7; MUCH]).await;
            let _ = writing.shutdown().await;
        };
        let read = async {
            let mut total = 0;
            let mut buffer = vec![0; 65536];
            while let Ok(length @ 1..) = reading.read(&mut buffer).await {
                total += length;
            }
            total
        };
        let ((), total) = tokio::join!(write, read);
        assert_eq!(total, MUCH);
    })
    .await;
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .config(json!({ "services": [upstream.service("a", listeners.tcp)] }))
        .start()
        .await;
    let mut client = TcpStream::connect(at(listeners.tcp)).await.unwrap();
    let (mut reading, mut writing) = client.split();
    let write = async {
        writing.write_all(&vec![9; MUCH]).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        reading.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = within("much", async { tokio::join!(write, read) }).await;
    assert!(got.len() == MUCH && got.iter().all(|byte| *byte == 7));
    logged(&gateway, &[&format!("TCP 200 {MUCH} {MUCH} ")]).await;
}

#[tokio::test]
async fn routes_ask_for_sources_and_destinations() {
    let listeners = Listeners::new();
    let (near, far) = (StreamServer::echo("near").await, StreamServer::echo("far").await);
    let mut config = json!({ "services": [near.service("near", listeners.tcp), far.service("far", 1)] });
    config["services"][1]["routes"][0] =
        json!({ "name": "far", "protocols": ["tcp"], "sources": [{ "ip": "127.0.7.0/24" }] });
    let _gateway = Gateway::new().conf(&listeners.conf()).config(config).start().await;
    assert_eq!(ask_tcp(listeners.tcp, "x").await, "near:x");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.7.7:0".parse().unwrap()).unwrap();
    let mut from_far = Connection::over(socket.connect(at(listeners.tcp)).await.unwrap());
    assert_eq!(ask(&mut from_far, "x").await, "far:x");
}

#[tokio::test]
async fn a_stream_without_a_route_is_closed_and_logged() {
    let listeners = Listeners::new();
    let upstream = StreamServer::echo("a").await;
    let gateway = Gateway::new();
    let log_file = gateway.directory().join("streams.jsonl");
    let gateway = gateway
        .conf(&listeners.conf())
        .plugin_servers([Trial::Python])
        .config(json!({
            "services": [upstream.service("a", 1), {
                "name": "nowhere", "protocol": "http", "host": "127.0.0.1",
                "routes": [{ "name": "nowhere", "protocols": ["tcp"], "sources": [{ "ip": "127.0.8.8" }] }],
            }],
            "plugins": [plugin(Trial::Python, json!({ "log_file": log_file }))],
        }))
        .start()
        .await;
    assert_eq!(ask_tcp(listeners.tcp, "x").await, "");
    logged(&gateway, &["TCP 500 0 0 "]).await;
    gateway
        .logged_error(&["no Route found with those values", "client: 127.0.0.1", &at(listeners.tcp).to_string()])
        .await;
    let entry = entry(&log_file).await;
    assert_eq!((&entry["session"]["status"], entry.get("route")), (&json!(500), None));
    // A service that does not speak TCP is none.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.8.8:0".parse().unwrap()).unwrap();
    let mut connection = Connection::over(socket.connect(at(listeners.tcp)).await.unwrap());
    assert_eq!(ask(&mut connection, "x").await, "");
    logged(&gateway, &["127.0.8.8", "TCP 503 0 0 "]).await;
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn tls_streams_are_chosen_by_server_name_and_pass_a_preread_plugin() {
    let listeners = Listeners::new();
    let (one, two) = (StreamServer::echo("one").await, StreamServer::echo("two").await);
    let gateway = Gateway::new();
    let log_file = gateway.directory().join("streams.jsonl");
    let refused = plugin(Trial::Python, json!({ "exit": 403 }));
    let gateway = gateway
        .conf(&listeners.conf())
        .plugin_servers([Trial::Go, Trial::Python])
        .config(json!({ "services": [
            with_plugin(one.tls_service("one", "tcp", "tls", &["one.test"]), plugin(Trial::Go, json!({ "log_file": log_file }))),
            with_plugin(two.tls_service("two", "tcp", "tls", &["*.two.test"]), refused),
        ] }))
        .start()
        .await;
    let mut connection = Connection::open_tls(at(listeners.tls), "one.test").await;
    assert_eq!(connection.read_exactly(4).await, b"one:");
    connection.send("hello").await;
    assert_eq!(connection.read_exactly(5).await, b"hello");
    connection.finish_sending().await;
    assert_eq!(connection.closed().await, b"");
    let entry = entry(&log_file).await;
    assert_eq!(entry["session"]["tls"]["version"], "TLSv1.3", "{entry}");
    assert_eq!((&entry["session"]["received"], &entry["session"]["sent"]), (&json!(5), &json!(9)), "{entry}");
    // The plugin of the other route refuses.
    let mut connection = Connection::open_tls(at(listeners.tls), "a.two.test").await;
    connection.send("hello").await;
    assert_eq!(connection.closed().await, b"");
    logged(&gateway, &["TCP 403 0 0 "]).await;
    gateway.logged_error(&["unable to proxy stream connection, status: 403, err: told to exit"]).await;
    assert_eq!(two.accepted(), 0);
    // What is no TLS gets nowhere on such a listener.
    let mut connection = Connection::open(at(listeners.tls)).await;
    connection.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(connection.closed().await, b"");
    logged(&gateway, &["TCP 400 0 0 "]).await;
}

#[tokio::test]
async fn tls_is_passed_through_unchanged_where_the_route_says_so() {
    let listeners = Listeners::new();
    let (ended, passed) = (StreamServer::echo("ended").await, StreamServer::tls_echo("passed", "passed.test").await);
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .conf("nginx_stream_log_format = own '$ssl_preread_server_name/$ssl_server_name $status'\nproxy_stream_access_log = logs/stream.log own")
        .config(json!({ "services": [
            ended.tls_service("ended", "tcp", "tls", &["ended.test"]),
            passed.tls_service("passed", "tcp", "tls_passthrough", &["passed.test"]),
        ] }))
        .start()
        .await;
    let mut connection = Connection::open_tls(at(listeners.tls), "passed.test").await;
    assert_eq!(connection.certificate(), passed.certificate(), "the upstream's own certificate");
    assert_eq!(ask(&mut connection, "x").await, "passed(passed.test):x");
    logged(&gateway, &["passed.test/- 200"]).await;
    let mut connection = Connection::open_tls(at(listeners.tls), "ended.test").await;
    assert_ne!(connection.certificate(), passed.certificate());
    assert_eq!(ask(&mut connection, "x").await, "ended:x");
    logged(&gateway, &["-/ended.test 200"]).await;
    // A name that no route asks for: closed before any handshake.
    let stream = TcpStream::connect(at(listeners.tls)).await.unwrap();
    let mut connection = Connection::over(stream);
    connection.send(client_hello("other.test")).await;
    assert_eq!(connection.closed().await, b"");
    gateway.logged_error(&["no Route found with those values"]).await;
}

/// The first flight of a TLS client.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_tls_service_is_spoken_to_in_tls() {
    let listeners = Listeners::new();
    let upstream = StreamServer::tls_echo("secure", "secure.test").await;
    let service = |preserve: bool, verify: bool, source: &str| {
        json!({
            "name": format!("s{}", source.replace('.', "-")), "protocol": "tls", "host": "127.0.0.1", "port": upstream.port(),
            "retries": 0, "tls_verify": verify,
            "routes": [{ "protocols": ["tls"], "sources": [{ "ip": source }], "preserve_host": preserve }],
        })
    };
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .config(json!({ "services": [
            service(true, false, "127.0.0.1"), service(false, false, "127.0.9.1"), service(true, true, "127.0.9.2"),
        ] }))
        .start()
        .await;
    let mut connection = Connection::open_tls(at(listeners.tls), "client.test").await;
    assert_eq!(ask(&mut connection, "x").await, "secure(client.test):x", "the client's server name is preserved");
    let from = async |source: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(at(listeners.tls)).await.unwrap()
    };
    let mut connection = Connection::tls_over(from("127.0.9.1").await, "client.test").await;
    assert_eq!(ask(&mut connection, "x").await, "secure(none):x", "an address is no server name");
    // Its certificate is nobody's: with tls_verify, it is not spoken to.
    let mut connection = Connection::tls_over(from("127.0.9.2").await, "client.test").await;
    assert_eq!(ask(&mut connection, "x").await, "");
    logged(&gateway, &["127.0.9.2", "TCP 502 0 "]).await;
}

#[tokio::test]
async fn preread_plugins_of_each_language_decide() {
    for trial in [Trial::Go, Trial::Python, Trial::JavaScript] {
        let listeners = Listeners::new();
        let upstream = StreamServer::echo("a").await;
        let elsewhere = StreamServer::echo("elsewhere").await;
        let gateway = Gateway::new();
        let log_file = gateway.directory().join("streams.jsonl");
        let route = |source: &str, config: Value| {
            json!({
                "protocols": ["tcp"], "sources": [{ "ip": source }],
                "plugins": [plugin(trial, config)],
            })
        };
        let gateway = gateway
            .conf(&listeners.conf())
            .plugin_servers([trial])
            .config(json!({ "services": [{
                "name": "a", "protocol": "tcp", "host": "127.0.0.1", "port": upstream.port(),
                "routes": [
                    route("127.0.1.1", json!({ "log_file": log_file })),
                    route("127.0.1.2", json!({ "exit": 403 })),
                    route("127.0.1.3", json!({ "exit": 200 })),
                    route("127.0.1.4", json!({ "target": elsewhere.target() })),
                    route("127.0.1.5", json!({ "exit": 418 })),
                ],
            }] }))
            .start()
            .await;
        let ask_from = async |source: &str| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
            let stream = socket.connect(at(listeners.tcp)).await.unwrap();
            ask(&mut Connection::over(stream), "hello").await
        };
        assert_eq!(ask_from("127.0.1.1").await, "a:hello", "{trial:?}");
        let entry = entry(&log_file).await;
        assert_eq!(
            entry["session"],
            json!({ "received": 5, "sent": 7, "status": 200, "server_port": listeners.tcp }),
            "{trial:?}"
        );
        assert_eq!(entry["upstream"], json!({ "received": 7, "sent": 5 }), "{trial:?}");
        assert_eq!(entry["client_ip"], "127.0.1.1", "{trial:?}");
        let tried = &entry["tries"][0];
        assert_eq!((&tried["ip"], &tried["port"]), (&json!("127.0.0.1"), &json!(upstream.port())), "{trial:?}");
        assert_eq!(entry["service"]["name"], "a", "{trial:?}");
        assert!(entry["latencies"]["session"].is_number(), "{trial:?}: {entry}");

        assert_eq!(ask_from("127.0.1.2").await, "", "{trial:?}");
        logged(&gateway, &["127.0.1.2", "TCP 403 0 0 "]).await;
        assert_eq!(ask_from("127.0.1.3").await, "told to exit", "{trial:?}");
        logged(&gateway, &["127.0.1.3", "TCP 200 12 0 "]).await;
        assert_eq!(ask_from("127.0.1.4").await, "elsewhere:hello", "{trial:?}");
        // A status that streams do not have is a wrong call.
        assert_eq!(ask_from("127.0.1.5").await, "", "{trial:?}");
        gateway.logged_error(&["unacceptable code"]).await;
        assert_eq!((upstream.accepted(), elsewhere.accepted()), (1, 1), "{trial:?}");
    }
}

#[tokio::test]
async fn a_preread_plugin_that_fails_or_hangs_closes_the_stream() {
    for (trial, config) in [
        (Trial::Go, json!({ "fail": true })),
        (Trial::Go, json!({ "hang": true })),
        (Trial::Python, json!({ "fail": true })),
        (Trial::JavaScript, json!({ "hang": true })),
    ] {
        let listeners = Listeners::new();
        let upstream = StreamServer::echo("a").await;
        let service = with_plugin(upstream.service("a", listeners.tcp), plugin(trial, config.clone()));
        let gateway = Gateway::new()
            .conf(&listeners.conf())
            .plugin_servers([trial])
            .config(json!({ "services": [service] }))
            .start()
            .await;
        assert_eq!(ask_tcp(listeners.tcp, "hello").await, "", "{trial:?} {config}");
        logged(&gateway, &["TCP 500 0 0 "]).await;
        gateway.logged_error(&["[error]", trial.plugin(), "preread", "client: 127.0.0.1"]).await;
        assert_eq!(upstream.accepted(), 0, "{trial:?} {config}");
    }
}

#[tokio::test]
async fn a_dead_upstream_is_retried_elsewhere() {
    let listeners = Listeners::new();
    let upstream = StreamServer::echo("alive").await;
    let gateway = Gateway::new();
    let log_file = gateway.directory().join("streams.jsonl");
    let dead = free_port();
    let service = json!({
        "name": "pool", "protocol": "tcp", "host": "pool.test", "port": 1, "retries": 3,
        "routes": [{ "protocols": ["tcp"], "sources": [{ "ip": "127.0.0.1" }] }],
        "plugins": [plugin(Trial::Go, json!({ "log_file": log_file }))],
    });
    let alone = json!({
        "name": "alone", "protocol": "tcp", "host": "127.0.0.1", "port": dead, "retries": 1,
        "routes": [{ "protocols": ["tcp"], "sources": [{ "ip": "127.0.5.5" }] }],
    });
    let gateway = gateway
        .conf(&listeners.conf())
        .plugin_servers([Trial::Go])
        .config(json!({
            "services": [service, alone],
            "upstreams": [{ "name": "pool.test", "targets": [
                { "target": format!("127.0.0.1:{dead}") }, { "target": upstream.target() },
            ] }],
        }))
        .start()
        .await;
    for _ in 0..4 {
        assert_eq!(ask_tcp(listeners.tcp, "x").await, "alive:x");
    }
    let failed = eventually("an entry of a stream that was tried twice", || {
        let text = std::fs::read_to_string(&log_file).ok()?;
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut entries = entries.filter(|entry| entry["tries"].as_array().is_some_and(|tries| tries.len() == 2));
        entries.next()
    })
    .await;
    assert_eq!(failed["tries"][0]["state"], "failed");
    assert_eq!(failed["session"]["status"], 200);
    // Nobody is there at all.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.5.5:0".parse().unwrap()).unwrap();
    let mut connection = Connection::over(socket.connect(at(listeners.tcp)).await.unwrap());
    assert_eq!(ask(&mut connection, "x").await, "");
    logged(&gateway, &["127.0.5.5", "TCP 502 0 0 "]).await;
}

#[tokio::test]
async fn silence_ends_a_stream_and_either_side_may_leave() {
    let listeners = Listeners::new();
    let silent = StreamServer::sink().await;
    let mut service = silent.service("silent", listeners.tcp);
    service["read_timeout"] = json!(3000);
    let gateway = Gateway::new().conf(&listeners.conf()).config(json!({ "services": [service] })).start().await;
    let mut connection = Connection::open(at(listeners.tcp)).await;
    connection.send("abc").await;
    assert_eq!(connection.closed().await, b"");
    logged(&gateway, &["TCP 200 0 3 "]).await;
    // A client that is torn away.
    let stream = TcpStream::connect(at(listeners.tcp)).await.unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"defg").unwrap();
    eventually("the bytes get there", || silent.seen().ends_with(b"defg").then_some(())).await;
    #[expect(deprecated, reason = "an abrupt end is what is wanted")]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    logged(&gateway, &["TCP 200 0 4 "]).await;
}

#[tokio::test]
async fn udp_sessions_have_their_own_answers() {
    let listeners = Listeners::new();
    let upstream = UdpEcho::named("udp").await;
    let gateway = Gateway::new();
    let log_file = gateway.directory().join("streams.jsonl");
    let service = json!({
        "name": "udp", "protocol": "udp", "host": "127.0.0.1", "port": upstream.port(), "read_timeout": 5000,
        "routes": [{ "protocols": ["udp"], "destinations": [{ "port": listeners.udp }] }],
        "plugins": [plugin(Trial::Python, json!({ "log_file": log_file }))],
    });
    let gateway = gateway
        .conf(&listeners.conf())
        .plugin_servers([Trial::Python])
        .config(json!({ "services": [service] }))
        .start()
        .await;
    // The listener is on every address: an answer comes from the one that was asked.
    let mut clients = Vec::new();
    for (n, to) in ["127.0.0.1", "127.0.0.2", "127.0.0.1"].into_iter().enumerate() {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect((to, listeners.udp)).await.unwrap();
        client.send(format!("hello {n}").as_bytes()).await.unwrap();
        clients.push(client);
    }
    let mut buffer = [0; 65536];
    for (n, client) in clients.iter().enumerate() {
        let length = within("an answer", client.recv(&mut buffer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), format!("udp:hello {n}"));
    }
    // More in a session that is there, and a datagram as long as they come.
    clients[0].send(&[5; 60_000]).await.unwrap();
    let length = within("an answer", clients[0].recv(&mut buffer)).await.unwrap();
    assert_eq!(length, 60_004);
    logged(&gateway, &["UDP 200 60015 60007 "]).await;
    logged(&gateway, &["UDP 200 11 7 "]).await;
    let entry = eventually("the entry of the long session", || {
        let text = std::fs::read_to_string(&log_file).ok()?;
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|e| e["session"]["sent"] == 60_015)
    })
    .await;
    assert_eq!(entry["session"]["received"], 60_007);
}

#[tokio::test]
async fn udp_that_a_plugin_refuses_goes_nowhere() {
    let listeners = Listeners::new();
    let upstream = UdpEcho::named("udp").await;
    let service = json!({
        "name": "udp", "protocol": "udp", "host": "127.0.0.1", "port": upstream.port(),
        "routes": [{ "protocols": ["udp"], "destinations": [{ "port": listeners.udp }] }],
        "plugins": [plugin(Trial::Go, json!({ "exit": 200 }))],
    });
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .plugin_servers([Trial::Go])
        .config(json!({ "services": [service] }))
        .start()
        .await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(at(listeners.udp)).await.unwrap();
    client.send(b"x").await.unwrap();
    let mut buffer = [0; 100];
    let length = within("an answer", client.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"told to exit");
    logged(&gateway, &["UDP 200 12 "]).await;
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client_of_a_stream() {
    let listeners = Listeners::new();
    let upstream = StreamServer::echo("a").await;
    let mut service = upstream.service("a", listeners.proxied);
    service["routes"][0]["sources"] = json!([{ "ip": "203.0.113.7" }]);
    let gateway = Gateway::new()
        .conf(&listeners.conf())
        .conf("trusted_ips = 127.0.0.1")
        .config(json!({ "services": [service] }))
        .start()
        .await;
    let header = "PROXY TCP4 203.0.113.7 192.0.2.1 5555 80\r\n";
    assert_eq!(ask_tcp(listeners.proxied, &format!("{header}hello")).await, "a:hello");
    logged(&gateway, &["203.0.113.7 [", "TCP 200 7 5 "]).await;
    assert_eq!(ask_tcp(listeners.proxied, "hello").await, "", "a header must be there");
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_reload_is_for_new_streams_and_quit_waits_for_open_ones() {
    let listeners = Listeners::new();
    let (old, new) = (StreamServer::echo("old").await, StreamServer::echo("new").await);
    let mut gateway = Gateway::new()
        .conf(&listeners.conf())
        .config(json!({ "services": [old.service("a", listeners.tcp)] }))
        .start()
        .await;
    let mut connection = Connection::open(at(listeners.tcp)).await;
    assert_eq!(connection.read_exactly(4).await, b"old:");
    gateway.rewrite_config(&json!({ "services": [new.service("a", listeners.tcp)] }));
    gateway.signal(Signal::SIGHUP);
    eventually_async("the new route", || async { (ask_tcp(listeners.tcp, "x").await == "new:x").then_some(()) }).await;
    connection.send("still").await;
    assert_eq!(connection.read_exactly(5).await, b"still");
    gateway.signal(Signal::SIGQUIT);
    gateway.refuses_connections().await;
    assert_eq!(ask(&mut connection, "here").await, "here");
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn check_has_nothing_against_streams() {
    let listeners = Listeners::new();
    let gateway = Gateway::new().conf(&listeners.conf()).start().await;
    let conf = gateway.path("kong.conf");
    let ended = run_silverback(&["check", conf.to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(!format!("{ended:?}").contains("stream_listen"), "{ended:?}");
}

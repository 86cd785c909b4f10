//! Upgrades.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use silverback_e2e::{Gateway, Step, Trial, Upstream, WebSocketUpstream, pki::Authority, within};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways() {
    let upstream = Upstream::scripted(|_| vec![Step::send(SWITCHING), Step::EchoBytes]).await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "trial-go", "config": { "header": "X-Checked", "value": "yes" } }]);
    let gateway = Gateway::new().plugin_servers([Trial::Go]).config(config).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/chat", &UPGRADE).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("x-checked"), Some("yes"), "plugins have seen it");
    let request = upstream.request();
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert!(request.header("connection").is_some_and(|value| value.to_lowercase().ends_with("upgrade")), "{request:?}");
    for length in [1_usize, 100, 100_000] {
        let bytes: Vec<u8> = (0..length).map(|index| index as u8).collect();
        connection.send(&bytes).await;
        assert!(connection.read_exactly(length).await == bytes, "{length} bytes came back changed");
    }
    connection.finish_sending().await;
    assert_eq!(connection.closed().await, b"");
}

#[tokio::test]
async fn no_other_upgrade_reaches_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    let answer = gateway.get_with("/", &headers).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.request().header("upgrade"), None);
}

#[tokio::test]
async fn an_upstream_that_declines_the_upgrade_is_heard() {
    let upstream = Upstream::sending("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/", &UPGRADE).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
}

#[tokio::test]
async fn asking_for_an_upgrade_gets_nobody_past_a_response_plugin() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "content-digest" }]);
    let gateway = Gateway::new().plugin_servers([silverback_e2e::Language::TypeScript]).config(config).start().await;
    let answer = gateway.get_with("/", &UPGRADE).await;
    assert_eq!(answer.status, 200, "the upstream does not switch");
    assert!(answer.header("content-digest").is_some(), "{answer:?}");
}

#[tokio::test]
async fn an_upstream_that_switches_unasked_is_at_fault() {
    let upstream = Upstream::sending(SWITCHING).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    assert_eq!(gateway.get("/").await.status, 502);
}

async fn websocket(gateway: &silverback_e2e::Running) -> WebSocketStream<TcpStream> {
    let socket = TcpStream::connect(gateway.proxy()).await.unwrap();
    let (socket, answer) = within("a WebSocket", client_async("ws://chat.test/chat?room=1", socket)).await.unwrap();
    assert_eq!(answer.headers().get("sec-websocket-protocol"), None);
    socket
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    within("a message", socket.next()).await.map(Result::unwrap)
}

async fn says(socket: &mut WebSocketStream<TcpStream>, message: Message) {
    within("room for a message", socket.send(message)).await.unwrap();
}

#[tokio::test]
async fn messages_of_all_kinds_pass_intact_with_a_plugin_on_the_way() {
    let upstream = WebSocketUpstream::echo(None).await;
    let mut config = json!({ "services": [{ "name": "chat", "url": upstream.url(), "routes": [{ "paths": ["/"] }] }] });
    config["plugins"] = json!([{ "name": "trial-go", "config": { "header": "X-Checked", "value": "yes" } }]);
    let gateway = Gateway::new().plugin_servers([Trial::Go]).config(config).start().await;
    let mut socket = websocket(&gateway).await;
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::binary(Bytes::from(vec![7_u8; 200_000])),
        Message::text("ünïcödé"),
    ] {
        says(&mut socket, message.clone()).await;
        assert!(next(&mut socket).await.is_some_and(|echo| echo == message), "{} bytes", message.len());
    }
    says(&mut socket, Message::Ping(Bytes::from_static(b"p"))).await;
    assert_eq!(next(&mut socket).await, Some(Message::Pong(Bytes::from_static(b"p"))));
    says(&mut socket, Message::Close(None)).await;
    assert_eq!(next(&mut socket).await, Some(Message::Close(None)));
    gateway.logged_access(&["GET /chat?room=1 HTTP/1.1", " 101 "]).await;
}

#[tokio::test]
async fn a_websocket_goes_to_the_upstream_over_tls() {
    let tls = Authority::root("root").issue("a.test").server();
    let upstream = WebSocketUpstream::echo(Some(tls)).await;
    let config = json!({ "services": [{ "name": "chat", "url": upstream.url(), "routes": [{ "paths": ["/"] }] }] });
    let gateway = Gateway::new().config(config).start().await;
    let mut socket = websocket(&gateway).await;
    says(&mut socket, Message::text("over TLS")).await;
    assert_eq!(next(&mut socket).await, Some(Message::text("over TLS")));
}

#[tokio::test]
async fn a_websocket_on_which_nobody_speaks_is_closed_after_the_read_timeout() {
    let upstream = WebSocketUpstream::echo(None).await;
    let config = json!({ "services": [{
        "name": "chat", "url": upstream.url(), "read_timeout": 3000, "routes": [{ "paths": ["/"] }],
    }] });
    let gateway = Gateway::new().config(config).start().await;
    let mut socket = websocket(&gateway).await;
    says(&mut socket, Message::text("hello")).await;
    assert_eq!(next(&mut socket).await, Some(Message::text("hello")));
    let end = within("the end of the WebSocket", socket.next()).await;
    assert!(end.is_none_or(|end| end.is_err()), "no message");
    gateway.logged_error(&["upstream timed out (110: Connection timed out) while proxying upgraded connection"]).await;
}

#[tokio::test]
async fn a_stop_waits_for_the_websockets() {
    let upstream = WebSocketUpstream::echo(None).await;
    let config = json!({ "services": [{ "name": "chat", "url": upstream.url(), "routes": [{ "paths": ["/"] }] }] });
    let mut gateway = Gateway::new().config(config).start().await;
    let mut socket = websocket(&gateway).await;
    says(&mut socket, Message::text("before")).await;
    assert_eq!(next(&mut socket).await, Some(Message::text("before")));
    gateway.signal(nix::sys::signal::Signal::SIGQUIT);
    gateway.refuses_connections().await;
    says(&mut socket, Message::text("after")).await;
    assert_eq!(next(&mut socket).await, Some(Message::text("after")));
    assert!(gateway.runs());
    drop(socket);
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn http2_clients_cannot_open_websockets() {
    let upstream = WebSocketUpstream::echo(None).await;
    let config = json!({ "services": [{ "name": "chat", "url": upstream.url(), "routes": [{ "paths": ["/"] }] }] });
    let gateway = Gateway::new().config(config).start().await;
    let socket = TcpStream::connect(gateway.clear_http2()).await.unwrap();
    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    assert!(!requests.is_extended_connect_protocol_enabled());
    let mut request = http::Request::builder().method("CONNECT").uri("http://chat.test/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let answer = match requests.send_request(request, false) {
        Ok((answer, _)) => within("a refusal", answer).await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(upstream.connections(), 0);
    driving.abort();
}

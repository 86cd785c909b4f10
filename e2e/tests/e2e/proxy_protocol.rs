//! The PROXY protocol on listeners.

use serde_json::{Value, json};
use silverback_e2e::{Connection, Gateway, Handshake, Http2, Running, TlsClient, Upstream, eventually_async};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.2 56324 443\r\n";

/// A gateway whose clients come through a proxy, and which shows whom it takes them for.
async fn gateway(conf: &str) -> (Upstream, Running) {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    let show = ["ip", "forwarded_ip", "forwarded_port", "proxy_protocol_addr", "proxy_protocol_server_port"];
    config["plugins"] = json!([{ "name": "handshake-py", "config": { "show": show } }]);
    let gateway = Gateway::new()
        .listen_flag("proxy_protocol")
        .conf(conf)
        .plugin_servers([Handshake::Python])
        .config(config)
        .start()
        .await;
    (upstream, gateway)
}

const TRUSTING: &str = "trusted_ips = 127.0.0.1\nreal_ip_header = proxy_protocol";

fn believed() -> Value {
    json!({
        "ip": "127.0.0.1",
        "forwarded_ip": "192.0.2.7",
        "forwarded_port": 56324,
        "proxy_protocol_addr": "192.0.2.7",
        "proxy_protocol_server_port": "443"
    })
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let (_upstream, gateway) = gateway(TRUSTING).await;
    let mut connection = gateway.connect().await;
    connection.send(LINE).await;
    for _ in 0..2 {
        assert_eq!(connection.get("/", &[]).await.json(), believed());
    }
    gateway.logged_access(&["192.0.2.7 - - "]).await;
}

#[tokio::test]
async fn it_says_so_before_tls_and_http2_too() {
    let (_upstream, gateway) = gateway(TRUSTING).await;
    let client = TlsClient::new(gateway.tls()).preamble(LINE);
    let (mut connection, _) = client.connect("example.test").await.unwrap();
    assert_eq!(connection.get("/", &[]).await.json(), believed());
    let mut http2 = client.http2("example.test").await;
    assert_eq!(http2.get("https://example.test/").await.json(), believed());
    let mut http2 = Http2::open_after(gateway.clear_http2(), LINE.as_bytes()).await;
    assert_eq!(http2.get("http://example.test/").await.json(), believed());
}

#[tokio::test]
async fn version_2_is_understood_with_its_extensions() {
    let (_upstream, gateway) = gateway(TRUSTING).await;
    let addresses = [192, 0, 2, 7, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12".to_vec();
    header.extend(addresses.iter().chain(&[4, 0, 3, 1, 2, 3]));
    let mut connection = gateway.connect().await;
    connection.send(&header).await;
    assert_eq!(connection.get("/", &[]).await.json(), believed());
    // A health check of the proxy itself.
    let mut local = gateway.connect().await;
    local.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    let answer = local.get("/", &[]).await.json();
    assert_eq!((&answer["forwarded_ip"], &answer["proxy_protocol_addr"]), (&json!("127.0.0.1"), &Value::Null));
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_not_believed() {
    let (_upstream, gateway) = gateway("real_ip_header = proxy_protocol").await;
    let mut connection = gateway.connect().await;
    connection.send(LINE).await;
    let answer = connection.get("/", &[]).await.json();
    assert_eq!((&answer["forwarded_ip"], &answer["proxy_protocol_addr"]), (&json!("127.0.0.1"), &json!("192.0.2.7")));
}

#[tokio::test]
async fn a_connection_without_the_header_is_closed_without_an_answer() {
    let (upstream, gateway) = gateway(TRUSTING).await;
    for bytes in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 192.0.2.7 198.51.100.2 1 2 3\r\nGET / HTTP/1.1\r\n\r\n"]
    {
        let mut connection = Connection::open(gateway.proxy()).await;
        connection.send(bytes).await;
        assert_eq!(connection.closed().await, b"");
    }
    gateway.logged_error(&["[error]", "broken PROXY protocol header", "client: 127.0.0.1"]).await;
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let (_upstream, gateway) = gateway("nginx_http_client_header_timeout = 1s").await;
    let mut connection = gateway.connect().await;
    connection.send("PROXY TCP4").await;
    assert_eq!(connection.closed().await, b"");
    eventually_async("the next client is served", || async {
        let mut connection = gateway.connect().await;
        connection.send(LINE).await;
        (connection.get("/", &[]).await.status == 200).then_some(())
    })
    .await;
}

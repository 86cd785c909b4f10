//! What idle and slow clients cost.

use silverback_e2e::{Connection, Gateway, TlsClient, Upstream};

/// Generous: `bench/run memory` shows what it really is.
const PER_CONNECTION: usize = 48 * 1024;

#[tokio::test]
async fn a_thousand_idle_connections_hold_little_memory() {
    const COUNT: usize = 1000;
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let client = TlsClient::new(gateway.tls());
    for _ in 0..20 {
        gateway.get("/").await;
        client.connect("a.test").await.unwrap().0.get("/", &[]).await;
    }
    let before = gateway.resident_memory();
    let mut connections = Vec::new();
    for number in 0..COUNT {
        let mut connection =
            if number % 2 == 0 { gateway.connect().await } else { client.connect("a.test").await.unwrap().0 };
        assert_eq!(connection.get("/", &[]).await.status, 200);
        connections.push(connection);
    }
    let grown = gateway.resident_memory().saturating_sub(before);
    assert!(grown < COUNT * PER_CONNECTION, "{} bytes a connection", grown / COUNT);
    // They are connections still.
    for connection in connections.iter_mut().step_by(97) {
        assert_eq!(connection.get("/", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_is_served_again_after_a_rest() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connections = [gateway.connect().await, gateway.connect_tls("a.test").await];
    for body in [&b"first"[..], b"second", b"third"] {
        for connection in &mut connections {
            let answer = connection.request("POST", "/", &[], body).await;
            assert_eq!(answer.json()["body"].as_str().map(str::as_bytes), Some(body));
        }
        // Longer than a connection keeps its buffers after an answer.
        tokio::time::sleep(std::time::Duration::from_millis(1300)).await;
    }
    // A request in pieces, and one behind another.
    for connection in &mut connections {
        connection.send("GET /a HTTP/1.1\r\nHo").await;
        connection.send("st: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(connection.response().await.json()["target"], "/a");
        assert_eq!(connection.response().await.json()["target"], "/b");
    }
}

#[tokio::test]
async fn slow_clients_are_given_up() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .conf("nginx_http_client_header_timeout = 3s\nnginx_http_client_body_timeout = 3s")
        .config(upstream.behind_everything())
        .start()
        .await;
    // Nothing; a part of a head; a part of a body; the same where TLS is expected.
    let silent = async |mut connection: Connection| assert_eq!(connection.closed().await, b"");
    let told = async |mut connection: Connection, part: &str| {
        connection.send(part).await;
        assert_eq!(connection.response().await.status, 408);
        assert_eq!(connection.closed().await, b"");
    };
    let head = "GET / HTTP/1.1\r\nHost: a\r\n";
    tokio::join!(
        async { silent(Connection::open(gateway.proxy()).await).await },
        async { silent(Connection::open(gateway.tls()).await).await },
        async { told(gateway.connect().await, head).await },
        async { told(gateway.connect_tls("a.test").await, head).await },
        async { told(gateway.connect().await, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await },
    );
    assert_eq!(upstream.requests().len(), 0);
}

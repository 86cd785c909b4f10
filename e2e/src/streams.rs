//! Servers behind streams, and clients of streams.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{client::Stream, pki::Identity};

/// A server of streams. It ends when this value is dropped.
pub struct StreamServer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
    certificate: Vec<u8>,
}

impl StreamServer {
    /// Says `NAME:` before whatever it is sent, and sends that back, until the client has sent all.
    pub async fn echo(name: &'static str) -> Self {
        Self::serving(move |mut stream| async move {
            let _ = stream.write_all(format!("{name}:").as_bytes()).await;
            echo_all(stream).await;
        })
        .await
    }

    /// The same over TLS, with a certificate of its own for this server name.
    pub async fn tls_echo(name: &'static str, server_name: &str) -> Self {
        let identity = Identity::by_itself(server_name);
        let acceptor = TlsAcceptor::from(Arc::new(identity.server()));
        let mut server = Self::serving(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let asked = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let _ = stream.write_all(format!("{name}({asked}):").as_bytes()).await;
                let _ = stream.flush().await;
                echo_all(stream).await;
            }
        })
        .await;
        server.certificate = identity.der();
        server
    }

    /// Takes all that it is sent, and answers nothing.
    pub async fn sink() -> Self {
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let mut server = Self::serving(move |mut stream| {
            let kept = Arc::clone(&kept);
            async move {
                let mut buffer = vec![0; 65536];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    kept.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            }
        })
        .await;
        server.seen = seen;
        server
    }

    /// Does this with each connection.
    pub async fn serving<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream));
            }
        });
        Self { address, accepted, seen: Arc::default(), task, certificate: Vec::new() }
    }

    /// The certificate of a server that speaks TLS, as DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:PORT`.
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What a sink has taken.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    /// A TCP service with one route, which takes what comes for `port`; both have this name.
    pub fn service(&self, name: &str, port: u16) -> Value {
        json!({
            "name": name, "protocol": "tcp", "host": "127.0.0.1", "port": self.port(),
            "routes": [{ "name": name, "protocols": ["tcp"], "destinations": [{ "port": port }] }],
        })
    }

    /// A TCP service with one route for TLS, by server name.
    pub fn tls_service(&self, name: &str, protocol: &str, route_protocol: &str, snis: &[&str]) -> Value {
        json!({
            "name": name, "protocol": protocol, "host": "127.0.0.1", "port": self.port(),
            "routes": [{ "name": name, "protocols": [route_protocol], "snis": snis }],
        })
    }
}

impl Drop for StreamServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo_all(mut stream: impl Stream) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
    let _ = stream.shutdown().await;
}

/// A UDP server that sends each datagram back, `NAME:` before it. It ends when this value is dropped.
pub struct UdpEcho {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl UdpEcho {
    pub async fn named(name: &'static str) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        Self { address, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

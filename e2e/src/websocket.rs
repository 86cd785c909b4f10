//! A WebSocket server, which echoes messages.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_tungstenite::accept_async;

use crate::upstream::accepted;

/// A WebSocket server behind the gateway. It ends when this value is dropped.
pub struct WebSocketUpstream {
    address: SocketAddr,
    scheme: &'static str,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl WebSocketUpstream {
    /// Sends back each message, in clear text or over TLS.
    pub async fn echo(tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let acceptor = tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::new(tls)));
        let connections = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut sockets = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                sockets.spawn(async move {
                    let Some((stream, _)) = accepted(stream, acceptor).await else { return };
                    let Ok(mut socket) = accept_async(stream).await else { return };
                    while let Some(Ok(message)) = socket.next().await {
                        // Pings and the end are answered by the library.
                        if message.is_text() || message.is_binary() {
                            let _ = socket.send(message).await;
                        }
                    }
                });
            }
        });
        Self { address, scheme, connections, task }
    }

    /// `http://127.0.0.1:PORT`, or https.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for WebSocketUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

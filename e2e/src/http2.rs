//! An HTTP/2 client.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{TlsClient, client::Stream, within};

/// A connection on which many requests can be under way.
#[derive(Clone)]
pub struct Http2 {
    requests: SendRequest<Bytes>,
}

/// An answer over HTTP/2.
#[derive(Clone, Debug)]
pub struct Http2Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

/// A request of which only a part was sent.
pub struct Begun {
    response: h2::client::ResponseFuture,
    body: h2::SendStream<Bytes>,
}

impl Begun {
    /// The status of the answer, for which the rest is not sent.
    pub async fn status(self) -> u16 {
        let Self { response, body } = self;
        let status = within("an HTTP/2 answer", response).await.unwrap().status().as_u16();
        drop(body);
        status
    }

    /// Resets its stream. What the client's machine has not sent by then is dropped.
    pub fn reset(mut self, reason: h2::Reason) {
        self.body.send_reset(reason);
    }
}

impl Http2 {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::handshake(Box::new(within("a connection", TcpStream::connect(address)).await.unwrap())).await
    }

    /// By prior knowledge, after these bytes.
    pub async fn open_after(address: SocketAddr, preamble: &[u8]) -> Self {
        let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.write_all(preamble).await.unwrap();
        Self::handshake(Box::new(stream)).await
    }

    pub(crate) async fn open_tls(address: SocketAddr, server_name: &str) -> Self {
        TlsClient::new(address).http2(server_name).await
    }

    pub(crate) async fn handshake(stream: Box<dyn Stream>) -> Self {
        let (requests, connection) = within("an HTTP/2 handshake", h2::client::handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { requests }
    }

    /// Sends a request and returns the answer. The URI must be absolute: its host becomes `:authority`.
    pub async fn request(&mut self, request: Request<Vec<u8>>) -> Http2Response {
        within("an HTTP/2 answer", async {
            let (parts, body) = request.into_parts();
            let mut ready = self.requests.clone().ready().await.unwrap();
            let (response, mut sending) = ready.send_request(Request::from_parts(parts, ()), body.is_empty()).unwrap();
            if !body.is_empty() {
                // The flow control of the crate keeps what the peer cannot take yet.
                let _ = sending.send_data(body.into(), true);
            }
            let (parts, mut incoming) = response.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(piece) = incoming.data().await {
                let piece = piece.unwrap();
                incoming.flow_control().release_capacity(piece.len()).unwrap();
                body.extend_from_slice(&piece);
            }
            let trailers = incoming.trailers().await.unwrap().unwrap_or_default();
            Http2Response { status: parts.status.as_u16(), headers: parts.headers, body, trailers }
        })
        .await
    }

    /// Sends a request with a part of its body.
    pub async fn begin(&mut self, request: Request<Vec<u8>>) -> Begun {
        within("an HTTP/2 request", async {
            let (parts, part) = request.into_parts();
            let mut ready = self.requests.clone().ready().await.unwrap();
            let (response, mut body) = ready.send_request(Request::from_parts(parts, ()), false).unwrap();
            body.send_data(part.into(), false).unwrap();
            Begun { response, body }
        })
        .await
    }

    /// The answer to a GET.
    pub async fn get(&mut self, uri: &str) -> Http2Response {
        self.request(Request::get(uri).body(Vec::new()).unwrap()).await
    }
}

impl Http2Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

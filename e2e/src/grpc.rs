//! gRPC: a client (tonic's) that sends and takes messages as bytes, and a server that does as it is told.
//!
//! The server has these methods, of whatever service:
//! - `Echo` sends back each message as it comes.
//! - `Count` reads all messages, and answers with their number.
//! - `Repeat` reads one message, and sends it five times.
//! - `Describe` answers with what it received of the request, as JSON.
//! - `Fail` fails with status 9 and the message `as told`, before anything else.
//! - `Hang` sends one message and nothing more, until its stream is reset.
//! - `Wait` sends nothing, until its stream is reset.
//! - `Reset` sends one message and resets the stream.
//! - `Refuse` refuses the first stream of a connection, and answers as `Describe` on others.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, uri::PathAndQuery};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::{TlsOffer, eventually, eventually_async, upstream::accepted, within};

/// A gRPC server behind the gateway. It ends when this value is dropped.
pub struct GrpcUpstream {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    live: usize,
    most_live: usize,
    resets: Vec<Reason>,
    handshakes: Vec<TlsOffer>,
}

impl GrpcUpstream {
    /// In clear text, by prior knowledge.
    pub async fn start() -> Self {
        Self::listening("127.0.0.1:0", None, 100).await
    }

    /// As [`Self::start`], at this address.
    pub async fn at(address: &str) -> Self {
        Self::listening(address, None, 100).await
    }

    /// That lets a client have this many streams at a time.
    pub async fn with_max_streams(max: u32) -> Self {
        Self::listening("127.0.0.1:0", None, max).await
    }

    /// Over TLS.
    pub async fn secure(mut tls: rustls::ServerConfig) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self::listening("127.0.0.1:0", Some(tls), 100).await
    }

    async fn listening(address: &str, tls: Option<rustls::ServerConfig>, max_streams: u32) -> Self {
        // Of one that has just ended, the address may be taken for another moment.
        let listener = eventually_async("a free address", || async { TcpListener::bind(address).await.ok() }).await;
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "grpcs" } else { "grpc" };
        let acceptor = tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::new(tls)));
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, acceptor.clone(), max_streams, Arc::clone(&shared)));
            }
        });
        Self { address, scheme, seen, task }
    }

    /// `grpc://127.0.0.1:PORT`, or grpcs.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// A configuration with one service, whose only route takes every gRPC request.
    pub fn behind_everything(&self) -> Value {
        json!({ "services": [{
            "name": "grpc",
            "url": self.url(),
            "routes": [{ "name": "grpc", "protocols": ["grpc", "grpcs"], "paths": ["/"] }],
        }] })
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// The most requests that were under way at a time.
    pub fn most_live(&self) -> usize {
        self.seen.lock().unwrap().most_live
    }

    /// What clients said in their TLS handshakes.
    pub fn handshakes(&self) -> Vec<TlsOffer> {
        self.seen.lock().unwrap().handshakes.clone()
    }

    /// Waits until a request is under way.
    pub async fn is_busy(&self) {
        eventually("a request at the gRPC server", || (self.seen.lock().unwrap().live > 0).then_some(())).await;
    }

    /// Waits until a stream has been reset by the client, and says why.
    pub async fn reset(&self) -> Reason {
        eventually("a reset at the gRPC server", || self.seen.lock().unwrap().resets.first().copied()).await
    }
}

impl Drop for GrpcUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, tls: Option<tokio_rustls::TlsAcceptor>, max_streams: u32, seen: Arc<Mutex<Seen>>) {
    let _ = stream.set_nodelay(true);
    let Some((stream, handshake)) = accepted(stream, tls).await else { return };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.handshakes.extend(handshake);
        seen.connections += 1;
        seen.connections - 1
    };
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(max_streams);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut calls = tokio::task::JoinSet::new();
    let mut streams = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams += 1;
        let seen = Arc::clone(&seen);
        calls.spawn(async move {
            {
                let mut seen = seen.lock().unwrap();
                seen.live += 1;
                seen.most_live = seen.most_live.max(seen.live);
            }
            let reset = call(request, respond, number, streams == 1).await;
            let mut seen = seen.lock().unwrap();
            seen.live -= 1;
            seen.resets.extend(reset);
        });
    }
}

/// Answers one call. Gives the reason if the client reset it.
async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    is_first: bool,
) -> Option<Reason> {
    let (head, body) = request.into_parts();
    let mut messages = Messages { body, buffer: BytesMut::new() };
    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    if method == "Refuse" && is_first {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    let answer = Response::builder().header("content-type", "application/grpc").header("x-served-by", "grpc");
    if method == "Fail" {
        let answer = answer.header("grpc-status", "9").header("grpc-message", "as told").body(()).unwrap();
        respond.send_response(answer, true).unwrap();
        return None;
    }
    if method == "Wait" {
        return std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok();
    }
    let mut sending = respond.send_response(answer.body(()).unwrap(), false).ok()?;
    match method.as_str() {
        "Echo" => {
            while let Some(message) = messages.next().await? {
                sending.send_data(frame(&message), false).ok()?;
            }
        }
        "Count" => {
            let mut count = 0;
            while messages.next().await?.is_some() {
                count += 1;
            }
            sending.send_data(frame(count.to_string().as_bytes()), false).ok()?;
        }
        "Repeat" => {
            let message = messages.next().await??;
            for _ in 0..5 {
                sending.send_data(frame(&message), false).ok()?;
            }
        }
        "Hang" => {
            sending.send_data(frame(b"hanging"), false).ok()?;
            return std::future::poll_fn(|cx| sending.poll_reset(cx)).await.ok();
        }
        "Reset" => {
            sending.send_data(frame(b"resetting"), false).ok()?;
            // The message goes out first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            sending.send_reset(Reason::INTERNAL_ERROR);
            return None;
        }
        _ => {
            let mut received = Vec::new();
            while let Some(message) = messages.next().await? {
                received.push(String::from_utf8_lossy(&message).into_owned());
            }
            let headers: Vec<_> =
                head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
            let text = json!({
                "connection": connection,
                "authority": head.uri.authority().map(|authority| authority.as_str()),
                "scheme": head.uri.scheme_str(),
                "path": head.uri.path(),
                "headers": headers,
                "messages": received,
            });
            sending.send_data(frame(text.to_string().as_bytes()), false).ok()?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-trailer", HeaderValue::from_static("passed"));
    sending.send_trailers(trailers).ok()?;
    None
}

fn frame(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

/// The messages of a request.
struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    /// The next one; `Some(None)` at the end, `None` if there is none because the stream broke.
    async fn next(&mut self) -> Option<Option<Bytes>> {
        loop {
            if self.buffer.len() >= 5 {
                let length = (&self.buffer[1..5]).get_u32() as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Some(Some(self.buffer.split_to(length).freeze()));
                }
            }
            match self.body.data().await {
                None => return Some(None),
                Some(Ok(piece)) => {
                    self.body.flow_control().release_capacity(piece.len()).ok()?;
                    self.buffer.extend_from_slice(&piece);
                }
                Some(Err(_)) => return None,
            }
        }
    }
}

/// A gRPC client.
#[derive(Clone)]
pub struct GrpcClient(tonic::client::Grpc<Channel>);

impl GrpcClient {
    /// On a connection of its own, by prior knowledge.
    pub async fn open(address: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.origin("http://grpc.test".parse().unwrap());
        Self(tonic::client::Grpc::new(within("a gRPC connection", endpoint.connect()).await.unwrap()))
    }

    /// Sends one message and takes one.
    pub async fn unary(&self, method: &str, message: &str) -> Result<tonic::Response<Bytes>, Status> {
        self.unary_request(method, tonic::Request::new(Bytes::copy_from_slice(message.as_bytes()))).await
    }

    /// As [`Self::unary`], with metadata and deadline as the request says.
    pub async fn unary_request(
        &self,
        method: &str,
        request: tonic::Request<Bytes>,
    ) -> Result<tonic::Response<Bytes>, Status> {
        let mut grpc = self.0.clone();
        within("a gRPC answer", async {
            grpc.ready().await.unwrap();
            grpc.unary(request, path(method), BytesCodec).await
        })
        .await
    }

    /// Sends many messages and takes many.
    pub async fn streaming(
        &self,
        method: &str,
        messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<tonic::Response<tonic::Streaming<Bytes>>, Status> {
        let mut grpc = self.0.clone();
        within("a gRPC answer", async {
            grpc.ready().await.unwrap();
            grpc.streaming(tonic::Request::new(messages), path(method), BytesCodec).await
        })
        .await
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Service/{method}").parse().unwrap()
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

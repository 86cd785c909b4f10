//! The server behind the gateway: it keeps what it receives and answers by a script.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{client::Stream, eventually};

/// A free port of 127.0.0.1.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub version: String,
    /// In order, names as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub tls: Option<TlsOffer>,
}

/// What a client said in its TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOffer {
    pub sni: Option<String>,
    /// The certificate that it showed, DER.
    pub certificate: Option<Vec<u8>>,
    pub resumed: bool,
}

/// What an upstream does to answer.
#[derive(Clone, Debug)]
pub enum Step {
    Send(Vec<u8>),
    /// Reads the request's body, where that was not done before ([`Upstream::scripted_at_heads`]).
    TakeBody,
    /// Goes on when the gate is open.
    Wait(Gate),
    Pause(Duration),
    /// Sends back all that comes, until the end.
    EchoBytes,
    /// Closes the connection.
    Close,
}

/// A gate that a test opens.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

/// When the steps for a request begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    AtHead,
    AfterBody,
}

/// A listening upstream. It ends when this value is dropped.
pub struct Upstream {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
    scheme: &'static str,
}

#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<Received>>,
    requests: Mutex<Vec<Received>>,
    connections: Mutex<usize>,
    live: Mutex<usize>,
}

type Script = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

impl Upstream {
    /// Answers with what it received, as JSON: `{origin, method, target, headers: [[name, value]...], body}`.
    pub async fn echo() -> Self {
        Self::named("echo").await
    }

    /// As [`Self::echo`], with a name in `X-Origin` and in `origin`.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::scripted(move |request| vec![Step::Send(answer(&name, request))]).await
    }

    /// As [`Self::named`], at an address of its own (`127.0.0.2` and so on are this machine, too).
    pub async fn named_at(name: &str, address: SocketAddr) -> Self {
        let name = name.to_owned();
        Self::scripted_at(address, move |request| vec![Step::Send(answer(&name, request))]).await
    }

    /// Answers every request with these bytes.
    pub async fn sending(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::scripted(move |_| vec![Step::Send(bytes.clone())]).await
    }

    /// Answers each request by the steps that `script` gives for it.
    pub async fn scripted(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::scripted_at(ANYWHERE, script).await
    }

    /// As [`Self::scripted`], but the steps begin when a request's head is there.
    pub async fn scripted_at_heads(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::listening(ANYWHERE, None, Begin::AtHead, script).await
    }

    async fn scripted_at(address: SocketAddr, script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::listening(address, None, Begin::AfterBody, script).await
    }

    /// As [`Self::scripted`], over TLS.
    pub async fn secure(
        tls: rustls::ServerConfig,
        script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self::listening(ANYWHERE, Some(Arc::new(tls).into()), Begin::AfterBody, script).await
    }

    /// As [`Self::echo`], over TLS.
    pub async fn secure_echo(tls: rustls::ServerConfig) -> Self {
        Self::secure(tls, |request| vec![Step::Send(answer("echo", request))]).await
    }

    /// Answers with these bytes when the head of a request is there, and reads what else comes without a look at it.
    pub async fn early(bytes: &str) -> Self {
        let bytes = bytes.to_owned();
        Self::accepting(move |stream| {
            let bytes = bytes.clone();
            async move {
                let (reading, mut writing) = tokio::io::split(Box::new(stream) as Box<dyn Stream>);
                let mut reader = Reader { reading, buffer: Vec::new() };
                if reader.head().await.is_some() && writing.write_all(bytes.as_bytes()).await.is_ok() {
                    while reader.some().await.is_some() {}
                }
            }
        })
        .await
    }

    /// Closes each connection as soon as it has been accepted.
    pub async fn closing() -> Self {
        Self::accepting(|stream| async { drop(stream) }).await
    }

    async fn accepting<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *shared.connections.lock().unwrap() += 1;
                connections.spawn(serve(stream));
            }
        });
        Self { address, seen, task, scheme: "http" }
    }

    async fn listening(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        begin: Begin,
        script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (script, shared): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut count = shared.connections.lock().unwrap();
                    *count += 1;
                    *count - 1
                };
                let _ = stream.set_nodelay(true);
                let (tls, seen, script) = (tls.clone(), Arc::clone(&shared), Arc::clone(&script));
                connections.spawn(async move {
                    *seen.live.lock().unwrap() += 1;
                    if let Some((stream, tls)) = accepted(stream, tls).await {
                        serve(stream, tls, number, begin, Arc::clone(&seen), script).await;
                    }
                    *seen.live.lock().unwrap() -= 1;
                });
            }
        });
        Self { address, seen, task, scheme }
    }

    /// `http://127.0.0.1:PORT`, or https.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A configuration with one service, whose only route takes every path unchanged.
    pub fn behind_everything(&self) -> Value {
        json!({ "services": [self.service("everything", &["/"])] })
    }

    /// A service with one route; both have this name.
    pub fn service(&self, name: &str, paths: &[&str]) -> Value {
        json!({
            "name": name,
            "url": self.url(),
            "routes": [{ "name": name, "paths": paths, "strip_path": false }],
        })
    }

    /// The requests that have arrived with their bodies.
    pub fn requests(&self) -> Vec<Received> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The only request that has arrived.
    pub fn request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests that reached the upstream: {requests:?}");
        requests.remove(0)
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        *self.seen.connections.lock().unwrap()
    }

    /// How many connections are open.
    pub fn live(&self) -> usize {
        *self.seen.live.lock().unwrap()
    }

    /// Waits until the heads of this many requests have arrived.
    pub async fn heads(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} requests at the upstream"), || {
            let heads = self.seen.heads.lock().unwrap();
            (heads.len() >= count).then(|| heads.clone())
        })
        .await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    /// The value of a header, if it is there exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.all(name).as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Every value of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }
}

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl Step {
    /// Sends text.
    pub fn send(text: &str) -> Self {
        Self::Send(text.as_bytes().to_vec())
    }
}

/// The echo of a request.
fn answer(name: &str, request: &Received) -> Vec<u8> {
    let body = json!({
        "origin": name,
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": String::from_utf8_lossy(&request.body),
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Origin: {name}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let body = if request.method == "HEAD" { "" } else { &body };
    (head + body).into_bytes()
}

/// The stream with TLS done on it, and what was said in the handshake. `None` if that failed.
pub(crate) async fn accepted(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) -> Option<(Box<dyn Stream>, Option<TlsOffer>)> {
    let Some(tls) = tls else { return Some((Box::new(stream), None)) };
    let stream = tls.accept(stream).await.ok()?;
    let (_, session) = stream.get_ref();
    let handshake = TlsOffer {
        sni: session.server_name().map(str::to_owned),
        certificate: session.peer_certificates().and_then(|all| all.first()).map(|first| first.to_vec()),
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    };
    Some((Box::new(stream), Some(handshake)))
}

async fn serve(
    stream: Box<dyn Stream>,
    tls: Option<TlsOffer>,
    number: usize,
    begin: Begin,
    seen: Arc<Seen>,
    script: Arc<Script>,
) {
    let (reading, mut writing) = tokio::io::split(stream);
    let mut reader = Reader { reading, buffer: Vec::new() };
    while let Some(mut request) = reader.head().await {
        request.connection = number;
        request.tls.clone_from(&tls);
        seen.heads.lock().unwrap().push(request.clone());
        if begin == Begin::AfterBody && take_body(&mut reader, &mut request, &mut writing, &seen).await.is_none() {
            return;
        }
        for step in script(&request) {
            match step {
                Step::TakeBody => {
                    if take_body(&mut reader, &mut request, &mut writing, &seen).await.is_none() {
                        return;
                    }
                }
                Step::Send(bytes) => {
                    if writing.write_all(&bytes).await.is_err() || writing.flush().await.is_err() {
                        return;
                    }
                }
                Step::Wait(gate) => gate.passed().await,
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::EchoBytes => {
                    while let Some(bytes) = reader.some().await {
                        if writing.write_all(&bytes).await.is_err() || writing.flush().await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Step::Close => return,
            }
        }
    }
}

/// Reads a request to its end. `None` if it has none.
async fn take_body(
    reader: &mut Reader,
    request: &mut Received,
    writing: &mut WriteHalf<Box<dyn Stream>>,
    seen: &Seen,
) -> Option<()> {
    reader.body(request, writing).await?;
    seen.requests.lock().unwrap().push(request.clone());
    Some(())
}

/// Reads requests. What is not well-formed ends the connection: a gateway must not send it.
struct Reader {
    reading: ReadHalf<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

impl Reader {
    async fn head(&mut self) -> Option<Received> {
        let line = self.line().await?;
        let mut parts = line.split(' ').map(str::to_owned);
        let mut request =
            Received { method: parts.next()?, target: parts.next()?, version: parts.next()?, ..Received::default() };
        request.headers = self.fields().await?;
        Some(request)
    }

    async fn body(&mut self, request: &mut Received, writing: &mut WriteHalf<Box<dyn Stream>>) -> Option<()> {
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            writing.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = usize::from_str_radix(self.line().await?.split(';').next()?.trim(), 16).ok()?;
                if size == 0 {
                    request.trailers = self.fields().await?;
                    return Some(());
                }
                request.body.extend(self.take(size).await?);
                self.take(2).await?;
            }
        }
        if let Some(length) = request.header("content-length") {
            request.body = self.take(length.parse().ok()?).await?;
        }
        Some(())
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Some(line.into_iter().map(char::from).collect());
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn some(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    async fn fill(&mut self) -> Option<()> {
        self.buffer.reserve(16384);
        let count = self.reading.read_buf(&mut self.buffer).await.ok()?;
        (count > 0).then_some(())
    }
}

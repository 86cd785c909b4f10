//! A client that sends exactly the bytes it is told to, and takes nothing but well-formed answers.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{TlsClient, within};

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, in clear text or over TLS.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes that have come and are not used yet.
    buffer: Vec<u8>,
    /// Subject's certificate of the server, as DER, on TLS connections.
    certificate: Option<Vec<u8>>,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// In order, names as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Status codes of interim answers that came before it.
    pub interim: Vec<u16>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream), buffer: Vec::new(), certificate: None }
    }

    /// Over a stream that is there.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), certificate: None }
    }

    /// Over TLS, for HTTP/1.1; any certificate will do.
    pub async fn open_tls(address: SocketAddr, server_name: &str) -> Self {
        let (connection, agreed) = TlsClient::new(address).connect(server_name).await.unwrap();
        Self { certificate: Some(agreed.certificate), ..connection }
    }

    /// TLS over a connection that is there; any certificate will do.
    pub async fn tls_over(stream: TcpStream, server_name: &str) -> Self {
        let client = TlsClient::new(stream.peer_addr().unwrap()).protocols(&[]);
        client.connect_over(stream, server_name).await.unwrap().0
    }

    /// The certificate that the server showed, as DER.
    pub fn certificate(&self) -> &[u8] {
        self.certificate.as_deref().expect("a TLS connection")
    }

    /// Sends bytes. That the other side has closed already is no failure: what it said before counts.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("room for what is sent", self.stream.write_all(bytes.as_ref())).await;
        let _ = self.stream.flush().await;
    }

    /// Says that no more will be sent.
    pub async fn finish_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Sends a GET and returns the answer. `headers` are whole lines; without a Host among them one is added.
    pub async fn get(&mut self, path: &str, headers: &[&str]) -> Response {
        self.request("GET", path, headers, b"").await
    }

    /// Sends a request and returns the answer. A Content-Length is added if there is a body.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        self.send(request_bytes(method, path, headers, body)).await;
        self.response_to(method).await
    }

    /// The next answer, to anything but HEAD.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// The next answer, to a request with this method.
    pub async fn response_to(&mut self, method: &str) -> Response {
        within("an answer", self.read_response(method)).await.unwrap_or_else(|wrong| {
            panic!("{wrong}; what is left: {:?}", String::from_utf8_lossy(&self.buffer));
        })
    }

    /// Only the head of the next answer; its body is read with [`Self::read_exactly`] or [`Self::read_some`].
    pub async fn response_head(&mut self) -> Response {
        within("the head of an answer", self.read_head()).await.unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// The next `length` bytes.
    pub async fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        within("more bytes", self.take(length)).await.unwrap()
    }

    /// Whatever comes next; empty at the end.
    pub async fn read_some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            let _ = within("more bytes", self.fill()).await;
        }
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the server closes the connection, and returns what it sent before.
    pub async fn closed(&mut self) -> Vec<u8> {
        within("end of the connection", async { while matches!(self.fill().await, Ok(1..)) {} }).await;
        std::mem::take(&mut self.buffer)
    }

    async fn read_response(&mut self, method: &str) -> Result<Response, String> {
        let mut interim = Vec::new();
        let mut response = loop {
            let head = self.read_head().await?;
            if head.status == 101 || head.status >= 200 {
                break head;
            }
            interim.push(head.status);
        };
        response.interim = interim;
        if method == "HEAD" || matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        let lengths: Vec<_> = response.all("content-length");
        let codings: Vec<_> = response.all("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], ["chunked"]) => self.read_chunks(&mut response).await?,
            ([length], []) => {
                let length = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
                response.body = self.take(length).await?;
            }
            ([], []) => {
                if response.version == "HTTP/1.1"
                    && !response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
                {
                    return Err(format!("an answer without a length on a connection that stays: {response:?}"));
                }
                while self.fill().await? > 0 {}
                response.body = std::mem::take(&mut self.buffer);
            }
            other => return Err(format!("ambiguous length: {other:?}")),
        }
        Ok(response)
    }

    async fn read_head(&mut self) -> Result<Response, String> {
        let line = self.line().await?;
        let mut response = Response {
            status: line
                .strip_prefix("HTTP/1.1 ")
                .or_else(|| line.strip_prefix("HTTP/1.0 "))
                .and_then(|rest| rest.get(..3))
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| format!("not a status line: {line:?}"))?,
            version: line.chars().take(8).collect(),
            ..Response::default()
        };
        response.headers = self.fields().await?;
        Ok(response)
    }

    async fn fields(&mut self) -> Result<Vec<(String, String)>, String> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("not a header line: {line:?}"))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("not a header name: {name:?}"));
            }
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn read_chunks(&mut self, response: &mut Response) -> Result<(), String> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| format!("not a chunk size: {line:?}"))?;
            if size == 0 {
                response.trailers = self.fields().await?;
                return Ok(());
            }
            response.body.extend(self.take(size).await?);
            if self.take(2).await? != b"\r\n" {
                return Err("a chunk without an end".into());
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(line.into_iter().map(char::from).collect());
            }
            if self.fill().await? == 0 {
                return Err("the connection ended within an answer".into());
            }
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return Err(format!("the connection ended with {} of {length} bytes", self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn fill(&mut self) -> Result<usize, String> {
        self.buffer.reserve(16384);
        self.stream.read_buf(&mut self.buffer).await.map_err(|error| error.to_string())
    }
}

impl Response {
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

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Of the echoing upstream's answer: the values of a header that it received.
    pub fn echoed(&self, name: &str) -> Vec<String> {
        let json = self.json();
        let headers = json["headers"].as_array().unwrap_or_else(|| panic!("not an echo: {self:?}"));
        headers
            .iter()
            .filter(|pair| pair[0].as_str().is_some_and(|key| key.eq_ignore_ascii_case(name)))
            .map(|pair| pair[1].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// The bytes of a request, with a Host and a Content-Length if they are needed and not among `headers`.
pub(crate) fn request_bytes(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let named = |name: &str| {
        headers.iter().any(|line| line.split(':').next().is_some_and(|key| key.trim().eq_ignore_ascii_case(name)))
    };
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !named("host") {
        text += "Host: example.test\r\n";
    }
    if !body.is_empty() && !named("content-length") && !named("transfer-encoding") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    for line in headers {
        text += line;
        text += "\r\n";
    }
    text += "\r\n";
    [text.as_bytes(), body].concat()
}

//! Steady load on routes, and what became of each request.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Requests to a route each second.
const RATE: u32 = 40;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It reached the upstream, with the plugin's mark.
    Checked,
    /// It reached the upstream without one.
    Unchecked,
    /// The gateway answered with this status.
    Refused(u16),
    /// No answer, or a part of one.
    Broken,
    /// No answer within the time that it was given.
    Hung,
}

/// A request that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    pub(crate) answer: Answer,
}

/// Requests to one path, one after the other has begun, whatever becomes of them.
pub(crate) struct Load {
    made: Arc<Mutex<Vec<Made>>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    pub(crate) fn begin(address: SocketAddr, path: &'static str, limit: Duration) -> Self {
        let made: Arc<Mutex<Vec<Made>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (list, stopped) = (Arc::clone(&made), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let list = Arc::clone(&list);
                requests.spawn(async move {
                    let made = request(address, path, None, limit).await;
                    list.lock().unwrap().push(made);
                });
                while requests.try_join_next().is_some() {}
            }
            requests.join_all().await;
        });
        Self { made, stop, task }
    }

    /// The requests that have their answers, in the order in which they began.
    pub(crate) fn made(&self) -> Vec<Made> {
        let mut made = self.made.lock().unwrap().clone();
        made.sort_by_key(|made| made.begun);
        made
    }

    /// Begins no more requests, and waits for the last answer.
    pub(crate) async fn end(self) -> Vec<Made> {
        self.stop.store(true, Ordering::Relaxed);
        let made = Arc::clone(&self.made);
        self.task.await.unwrap();
        let mut made = made.lock().unwrap().clone();
        made.sort_by_key(|made| made.begun);
        made
    }
}

/// Makes one request on a connection of its own.
pub(crate) async fn request(address: SocketAddr, path: &str, fault: Option<&str>, limit: Duration) -> Made {
    let begun = Instant::now();
    let fault = fault.map(|fault| format!("X-Fault: {fault}\r\n")).unwrap_or_default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n{fault}\r\n");
    let answer = match tokio::time::timeout(limit, exchange(address, head.as_bytes())).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::Broken,
        Err(_) => Answer::Hung,
    };
    Made { begun, took: begun.elapsed(), answer }
}

async fn exchange(address: SocketAddr, head: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head).await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    Ok(match status {
        Some(200) if text.ends_with("\r\n\r\nchecked") => Answer::Checked,
        Some(200) if text.ends_with("\r\n\r\nunmarked") => Answer::Unchecked,
        Some(200) | None => Answer::Broken,
        Some(status) => Answer::Refused(status),
    })
}

/// An upstream that says of each request whether it was marked. It ends with the runtime.
pub(crate) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(say_whether_marked(stream));
        }
    });
    address
}

async fn say_whether_marked(mut stream: TcpStream) {
    let mut read = Vec::new();
    loop {
        while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            let marked = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("\r\nx-checked: yes\r\n");
            let body = if marked { "checked" } else { "unmarked" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
    }
}

use std::{future::poll_fn, task::Poll};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

use super::*;

const LIMITS: Limits = Limits { line: 8 * 1024, head: 32 * 1024, lines: 512, underscores: true };

/// A connection on which this has come.
async fn with(bytes: &str) -> (DuplexStream, Wire<DuplexStream>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes.as_bytes()).await.unwrap();
    (client, Wire::new(server, LIMITS, BytesMut::new()))
}

async fn head(wire: &Wire<DuplexStream>) -> Head {
    loop {
        if let Some(head) = wire.head().unwrap() {
            return head;
        }
        assert_eq!(poll_fn(|cx| wire.poll_bytes(cx)).await, Came::Bytes);
    }
}

/// What a body gives now. `None`: it has to be waited for.
async fn piece(body: &mut Body) -> Option<Result<String, String>> {
    poll_fn(|cx| {
        Poll::Ready(match body.poll_frame(cx) {
            Poll::Pending => None,
            Poll::Ready(None) => Some(Ok(String::new())),
            Poll::Ready(Some(Ok(frame))) => Some(Ok(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())),
            Poll::Ready(Some(Err(error))) => Some(Err(error.to_string())),
        })
    })
    .await
}

async fn progress(wire: &Wire<DuplexStream>) -> BodyProgress {
    poll_fn(|cx| Poll::Ready(wire.body_progress(cx))).await
}

async fn has_left(wire: &Wire<DuplexStream>) -> bool {
    poll_fn(|cx| Poll::Ready(wire.poll_left(cx).is_ready())).await
}

const UPLOAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";

#[tokio::test]
async fn a_body_is_read_as_it_comes() {
    let (mut client, wire) = with(UPLOAD).await;
    head(&wire).await;
    let mut body = wire.body().unwrap();
    assert_eq!((body.length(), piece(&mut body).await), (Some(5), None));
    client.write_all(b"hel").await.unwrap();
    assert_eq!(piece(&mut body).await, Some(Ok("hel".to_owned())));
    assert_eq!(progress(&wire).await, BodyProgress::UnderWay);
    client.write_all(b"loGET").await.unwrap();
    assert_eq!(piece(&mut body).await, Some(Ok("lo".to_owned())));
    assert_eq!((body.is_end_stream(), progress(&wire).await, wire.waiting()), (true, BodyProgress::Complete, 3));
}

#[tokio::test]
async fn a_body_says_nothing_of_the_next_request() {
    let (_client, wire) = with(&format!("{UPLOAD}hello{UPLOAD}again")).await;
    head(&wire).await;
    let mut first = wire.body().unwrap();
    assert_eq!(piece(&mut first).await, Some(Ok("hello".to_owned())));
    head(&wire).await;
    let mut second = wire.body().unwrap();
    assert_eq!((piece(&mut first).await, first.is_end_stream()), (Some(Ok(String::new())), true));
    drop(first);
    assert_eq!(progress(&wire).await, BodyProgress::UnderWay);
    assert_eq!(piece(&mut second).await, Some(Ok("again".to_owned())));
}

#[tokio::test]
async fn of_a_body_that_nobody_wants_is_read_what_has_come() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n".to_owned() + &"x".repeat(500_000);
    for (bytes, expect) in [
        (format!("{UPLOAD}hello"), BodyProgress::Complete),
        (format!("{UPLOAD}hel"), BodyProgress::Abandoned),
        (format!("{chunked}5\r\nhello\r\n0\r\n\r\n"), BodyProgress::Complete),
        (format!("{chunked}5\r\nhello0\r\n\r\n"), BodyProgress::Abandoned),
        (long, BodyProgress::Abandoned),
    ] {
        let (_client, wire) = with(&bytes).await;
        head(&wire).await;
        drop(wire.body());
        assert_eq!(progress(&wire).await, expect, "{:.80}", bytes);
    }
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on_once_and_only_if_it_is_wanted() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let (mut client, wire) = with(request).await;
    head(&wire).await;
    let mut body = wire.body().unwrap();
    for _ in 0..2 {
        assert_eq!(piece(&mut body).await, None);
    }
    let mut out = Outgoing::default();
    wire.begin_answer(&mut out);
    assert!(out.is_empty());
    drop((body, wire.take_socket()));
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "HTTP/1.1 100 Continue\r\n\r\n");

    // Not after the answer has begun, nor when the body comes of itself.
    let (mut client, wire) = with(request).await;
    head(&wire).await;
    let mut body = wire.body().unwrap();
    wire.begin_answer(&mut out);
    assert_eq!(piece(&mut body).await, None);
    drop((body, wire.take_socket()));
    client.read_to_string(&mut told).await.unwrap();
    assert_eq!(told.matches("100 Continue").count(), 1);
}

#[tokio::test]
async fn what_is_left_of_an_interim_answer_goes_before_the_answer() {
    let (mut client, server) = tokio::io::duplex(80);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let wire = Wire::new(server, LIMITS, BytesMut::from(request));
    let mut before = Outgoing::from(vec![b'.'; 70]);
    poll_fn(|cx| wire.poll_write(&mut before, cx)).await.unwrap();
    head(&wire).await;
    let mut body = wire.body().unwrap();
    assert_eq!(piece(&mut body).await, None);
    let mut out = Outgoing::default();
    wire.begin_answer(&mut out);
    assert_eq!(out.to_vec(), b"00 Continue\r\n\r\n", "ten bytes found room");
    let mut come = [0; 80];
    client.read_exact(&mut come).await.unwrap();
    assert!(come.ends_with(b"HTTP/1.1 1"));
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_unless_it_left_a_request() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (behind, expect) in [("", true), ("\r\n", true), ("GET / HT", true), (get, false)] {
        let (client, wire) = with(&format!("{get}{behind}")).await;
        head(&wire).await;
        assert!(!has_left(&wire).await);
        drop(client);
        assert_eq!(has_left(&wire).await, expect, "{behind:?}");
    }
}

/// A connection that is reset behind these bytes.
struct Reset(&'static [u8]);

impl AsyncRead for Reset {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl AsyncWrite for Reset {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_client_that_resets_its_connection_has_left_its_requests_too() {
    let requests = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let wire = Wire::new(Reset(requests), LIMITS, BytesMut::new());
    assert_eq!(poll_fn(|cx| wire.poll_bytes(cx)).await, Came::Bytes);
    wire.head().unwrap().unwrap();
    assert!(poll_fn(|cx| Poll::Ready(wire.poll_left(cx).is_ready())).await);
}

#[tokio::test]
async fn what_waits_behind_a_request_is_bounded() {
    let (mut client, wire) = with("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    head(&wire).await;
    client.write_all(&[b'x'; 500_000]).await.unwrap();
    for _ in 0..100 {
        assert!(!has_left(&wire).await);
    }
    assert!(wire.waiting() < READ_AHEAD + READ_SIZE, "{}", wire.waiting());
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_no_body() {
    for end in [true, false] {
        let (client, wire) = with(&format!("{UPLOAD}hel")).await;
        head(&wire).await;
        let mut body = wire.body().unwrap();
        assert_eq!(piece(&mut body).await, Some(Ok("hel".to_owned())));
        // The client's end, or ours.
        drop(if end { (Some(client), None) } else { (None, wire.take_socket()) });
        assert!(matches!(piece(&mut body).await, Some(Err(_))));
        assert_eq!(progress(&wire).await, BodyProgress::Abandoned);
    }
}

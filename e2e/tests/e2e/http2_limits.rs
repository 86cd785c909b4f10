//! What a hostile HTTP/2 client can make of the gateway: little. Frames are written by hand.

use std::time::Duration;

use silverback_e2e::{Connection, Gate, Gateway, Running, Step, Upstream, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// GET http://a/, with nothing that the other side has to remember.
const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
/// POST http://a/
const POST: &[u8] = b"\x83\x86\x84\x01\x01a";

/// One frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame that came: kind, flags, stream, payload.
async fn next(connection: &mut Connection) -> (u8, u8, u32, Vec<u8>) {
    let head = connection.read_exactly(9).await;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (head[3], head[4], stream, connection.read_exactly(length as usize).await)
}

/// The kinds of the whole frames in these bytes.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        kinds.push(*kind);
        bytes = rest.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
    }
    kinds
}

/// The next frame of a kind.
async fn next_of(connection: &mut Connection, kind: u8) -> (u8, u32, Vec<u8>) {
    loop {
        let (came, flags, stream, payload) = next(connection).await;
        if came == kind {
            return (flags, stream, payload);
        }
    }
}

/// A connection after its preface, with these settings.
async fn open(gateway: &Running, settings: &[u8]) -> Connection {
    let mut connection = Connection::open(gateway.clear_http2()).await;
    connection.send([PREFACE, &frame(SETTINGS, 0, 0, settings), &frame(SETTINGS, ACK, 0, &[])].concat()).await;
    connection
}

/// Whether the connection answers a GET with 200 (indexed as 8 in HPACK's table).
async fn serves(connection: &mut Connection, stream: u32) {
    connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)).await;
    loop {
        let (_, answered, block) = next_of(connection, HEADERS).await;
        if answered == stream {
            assert_eq!(block.first(), Some(&0x88), ":status 200");
            return;
        }
    }
}

/// An upstream that answers when the gate is open.
async fn gated() -> (Upstream, Gate) {
    let gate = Gate::closed();
    let opened = gate.clone();
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Wait(opened.clone()), Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")]
    })
    .await;
    (upstream, gate)
}

#[tokio::test]
async fn rapid_resets_set_little_off() {
    let (upstream, gate) = gated().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = open(&gateway, &[]).await;
    for batch in 0..40_u32 {
        let mut bytes = Vec::new();
        for number in 0..100 {
            let stream = (batch * 100 + number) * 2 + 1;
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET));
            bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        }
        connection.send(&bytes).await;
    }
    connection.closed().await;
    assert!(upstream.requests().len() <= 400, "{} of 4000 requests went on", upstream.requests().len());
    gate.open();
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn resets_of_requests_under_way_are_counted() {
    let (upstream, gate) = gated().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = open(&gateway, &[]).await;
    let mut stream = 1;
    // One after the other, each reset only when it is at the upstream.
    for sent in 1..=200 {
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)).await;
        upstream.heads(sent).await;
        connection.send(frame(RESET, 0, stream, &8_u32.to_be_bytes())).await;
        stream += 2;
    }
    // Half the limit: a hasty client is a client still.
    gate.open();
    serves(&mut connection, stream).await;
}

#[tokio::test]
async fn no_more_streams_at_a_time_than_were_announced() {
    let (upstream, gate) = gated().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = open(&gateway, &[]).await;
    let (_, _, settings) = next_of(&mut connection, SETTINGS).await;
    let announced = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).map(|setting| setting[5]);
    assert_eq!(announced, Some(128));
    for number in 0..140 {
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, GET)).await;
    }
    // REFUSED_STREAM: it may be sent again.
    let (_, stream, why) = next_of(&mut connection, RESET).await;
    assert_eq!((stream, why.as_slice()), (257, &[0, 0, 0, 7][..]));
    assert!(upstream.requests().len() <= 128);
    gate.open();
    for _ in 0..128 {
        next_of(&mut connection, HEADERS).await;
    }
    serves(&mut connection, 1001).await;
}

#[tokio::test]
async fn a_head_without_an_end_is_cut_off() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let before = gateway.resident_memory();
    let mut connection = open(&gateway, &[]).await;
    connection.send(frame(HEADERS, END_STREAM, 1, GET)).await;
    // 100,000 frames of a kilobyte each: a literal header that is not remembered.
    let header = [&b"\0\x01x\x7f\xe1\x06"[..], &[b'y'; 992]].concat();
    let flood = frame(CONTINUATION, 0, 1, &header).repeat(100);
    for _ in 0..1000 {
        connection.send(&flood).await;
    }
    let said = kinds(&connection.closed().await);
    assert!(said.contains(&GOAWAY), "{said:?}");
    let grown = gateway.resident_memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for 100 MB of a head");
    assert_eq!(upstream.requests().len(), 0);
    let mut other = open(&gateway, &[]).await;
    serves(&mut other, 1).await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = open(&gateway, &[]).await;
    // Five headers of 8000 bytes.
    let header = [&b"\0\x01x\x7f\xc1\x3d"[..], &[b'y'; 8000]].concat();
    connection.send(frame(HEADERS, END_STREAM, 1, GET)).await;
    for number in 1..=5 {
        connection.send(frame(CONTINUATION, if number == 5 { END_HEADERS } else { 0 }, 1, &header)).await;
    }
    let (_, stream, block) = next_of(&mut connection, HEADERS).await;
    assert_eq!(stream, 1);
    assert!(String::from_utf8_lossy(&block).contains("431") || block.first() != Some(&0x88), "{block:?}");
    serves(&mut connection, 3).await;
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn floods_of_settings_and_pings_cost_no_memory() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let before = gateway.resident_memory();
    let mut connection = open(&gateway, &[]).await;
    let both = [frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), frame(PING, 0, 0, b"12345678")].concat();
    let flood = both.repeat(1000);
    // Nothing of what is answered is read: the gateway must stop reading too, or say goodbye.
    let mut flooding = Box::pin(async {
        for _ in 0..2000 {
            connection.send(&flood).await;
        }
    });
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_millis(100), flooding.as_mut()).await;
        assert_eq!(gateway.get("/").await.status, 200, "others are served meanwhile");
    }
    let grown = gateway.resident_memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for 64 MB of frames");
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_little() {
    let length = 8 << 20;
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + length, b'z');
    let upstream = Upstream::sending(bytes).await;
    let gateway =
        Gateway::new().conf("nginx_http_send_timeout = 15s").config(upstream.behind_everything()).start().await;
    let before = gateway.resident_memory();
    // SETTINGS_INITIAL_WINDOW_SIZE is 1.
    let mut connection = open(&gateway, &[0, 4, 0, 0, 0, 1]).await;
    for number in 0..30 {
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, GET)).await;
    }
    upstream.heads(30).await;
    for _ in 0..30 {
        next_of(&mut connection, DATA).await;
    }
    let grown = gateway.resident_memory().saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes for 30 answers of {length}");
    // And not for ever.
    within("the end of the connection", connection.closed()).await;
}

#[tokio::test]
async fn half_a_request_is_not_waited_for() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .conf("nginx_http_client_header_timeout = 3s\nnginx_http_client_body_timeout = 3s")
        .config(upstream.behind_everything())
        .start()
        .await;
    let mut silent = open(&gateway, &[]).await;
    silent.closed().await;
    let mut half = open(&gateway, &[]).await;
    half.send(frame(HEADERS, 0, 1, GET)).await;
    half.closed().await;
    let mut body = open(&gateway, &[]).await;
    body.send(frame(HEADERS, END_HEADERS, 1, POST)).await;
    body.send(frame(DATA, 0, 1, b"some")).await;
    let (_, stream, block) = next_of(&mut body, HEADERS).await;
    assert!(stream == 1 && block.first() != Some(&0x88), "{block:?}");
    gateway.logged_access(&["\" 408 "]).await;
    assert_eq!(upstream.requests().len(), 0);
}

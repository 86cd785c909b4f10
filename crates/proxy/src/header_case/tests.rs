use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

use super::{Announced, AnswerHeads, HeaderCase, RequestLooks, respell, stand_in};
use crate::http1::spelling::Spelling;

async fn check_request(hashes: &[usize], written: &str, expect: &str) {
    let (near, mut far) = duplex(4096);
    let (mut layer, announced) = HeaderCase::requests(near);
    announced.announce_request(RequestLooks { hashes: hashes.to_vec(), ..RequestLooks::default() });
    layer.write_all(written.as_bytes()).await.unwrap();
    drop(layer);
    let mut read = String::new();
    far.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, expect);
}

#[tokio::test]
async fn names_are_spelt_as_kong_spells_them() {
    check_request(
        &[],
        "GET / HTTP/1.1\r\nX-Real-Ip: 1\r\nX-Consumer-Id: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nX-Real-IP: 1\r\nX-Consumer-ID: 2\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn values_and_other_names_stay() {
    check_request(
        &[],
        "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
        "GET /x-real-ip: HTTP/1.1\r\nX-Real-Ipx: x-real-ip:\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn targets_keep_their_hashes_and_all_else() {
    check_request(
        &[2, 5],
        "GET /a!b!! HTTP/1.1\r\nX: !\u{fffe}!\r\n\r\n!!!",
        "GET /a#b!# HTTP/1.1\r\nX: !\u{fffe}!\r\n\r\n!!!",
    )
    .await;
    check_request(&[], "GET /\u{fffe}! HTTP/1.1\r\n\r\n", "GET /\u{fffe}! HTTP/1.1\r\n\r\n").await;
    // A place that holds something else, or is not there, stays as it is.
    check_request(&[1, 900], "GET /ab HTTP/1.1\r\n\r\n", "GET /ab HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn bodies_pass_as_they_are() {
    check_request(
        &[],
        "POST / HTTP/1.1\r\nX-Real-Ip: 1\r\n\r\n\r\nx-real-ip: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nX-Real-IP: 1\r\n\r\n\r\nx-real-ip: 1\r\n\r\n",
    )
    .await;
    check_request(&[1], "\r\nx-real-ip: no!head", "\r\nx-real-ip: no!head").await;
}

#[tokio::test]
async fn a_connection_is_flushed_when_all_of_it_is_out() {
    let (near, mut far) = duplex(8);
    let (mut layer, announced) = HeaderCase::requests(near);
    assert!(announced.is_flushed());
    announced.announce_request(RequestLooks::default());
    assert!(!announced.is_flushed());
    layer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut layer).poll_flush(&mut cx).is_pending());
    assert!(!announced.is_flushed());
    let mut read = [0; 18];
    let (flushed, _) = tokio::join!(layer.flush(), far.read_exact(&mut read));
    flushed.unwrap();
    assert!(announced.is_flushed());
    // A write that is refused leaves its bytes with hyper.
    let mut refused = false;
    while !refused {
        refused = matches!(Pin::new(&mut layer).poll_write(&mut cx, b"body"), Poll::Pending);
    }
    assert!(!announced.is_flushed());
}

#[tokio::test]
async fn stand_ins_get_their_names_back() {
    let (length, connection) = (stand_in(&header::CONTENT_LENGTH), stand_in(&header::CONNECTION));
    let head = format!("end\r\nHTTP/1.1 204 No Content\r\n{length}: 1\r\n{connection}: Upgrade\r\n\r\n");
    let expect = "end\r\nHTTP/1.1 204 No Content\r\nContent-Length: 1\r\nConnection: Upgrade\r\n\r\n";
    for vectored in [false, true] {
        let (near, mut far) = duplex(4096);
        let announced = Announced::default();
        announced.announce_answer();
        announced.announce_answer();
        let mut layer = HeaderCase::answers(near, announced);
        layer.write_all(b"before").await.unwrap();
        if vectored {
            let n = layer.write_vectored(&[IoSlice::new(head.as_bytes()), IoSlice::new(b"body")]).await.unwrap();
            assert_eq!(n, head.len(), "what follows the head is not copied");
        } else {
            layer.write_all(head.as_bytes()).await.unwrap();
        }
        drop(layer);
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, format!("before{expect}"));
    }
}

#[tokio::test]
async fn heads_in_one_piece_are_corrected_as_often_as_announced() {
    let length = stand_in(&header::CONTENT_LENGTH);
    let head = |name: &str| format!("HTTP/1.1 204 No Content\r\n{name}: 0\r\n\r\n");
    let (ours, corrected) = (head(length.as_str()), head("Content-Length"));
    let (near, mut far) = duplex(4096);
    let announced = Announced::default();
    announced.announce_answer();
    announced.announce_answer();
    let mut layer = HeaderCase::answers(near, announced);
    layer.write_all(format!("{ours}{ours}{ours}").as_bytes()).await.unwrap();
    drop(layer);
    let mut read = String::new();
    far.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, format!("{corrected}{corrected}{ours}"));
}

#[tokio::test]
async fn names_of_a_request_are_written_as_they_came() {
    let (near, mut far) = duplex(4096);
    let (mut layer, announced) = HeaderCase::requests(near);
    let spelling = Spelling::of_head(b"GET / HTTP/1.1\r\nhost: a\r\nte: b\r\n\r\n");
    announced.announce_request(RequestLooks { spelling, ..RequestLooks::default() });
    layer.write_all(b"GET /host: HTTP/1.1\r\nX-Real-Ip: 1\r\nHost: a\r\nTe: b\r\n\r\nHost: ").await.unwrap();
    drop(layer);
    let mut read = String::new();
    far.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "GET /host: HTTP/1.1\r\nX-Real-IP: 1\r\nhost: a\r\nte: b\r\n\r\nHost: ");
}

/// What is remembered of an answer that comes in these pieces.
async fn seen(pieces: &[&str]) -> Spelling {
    let (near, mut far) = duplex(4096);
    let (mut layer, announced) = HeaderCase::requests(near);
    announced.announce_request(RequestLooks::default());
    for piece in pieces {
        far.write_all(piece.as_bytes()).await.unwrap();
        layer.read_exact(&mut vec![0; piece.len()]).await.unwrap();
    }
    announced.answer_spelling()
}

#[tokio::test]
async fn an_answers_names_are_seen_as_it_comes() {
    let spelt = Spelling::of_head(b"HTTP/1.1 200 OK\r\nETag: 1\r\n\r\n");
    assert_ne!(spelt, Spelling::default());
    for pieces in [
        &["HTTP/1.1 200 OK\r\nETag: 1\r\n\r\netag: body\r\n\r\n"][..],
        &["HTTP/1.1 200 OK\r\nET", "ag: 1\r", "\n\r", "\nbody"],
        &["HTTP/1.1 200 OK\nETag: 1\n\n"],
        &["HTTP/1.1 100 Continue\r\nx: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nETag: 1\r\n\r\n"],
        &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nETag: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n"],
        &["HTTP/1.1 101 Switching Protocols\r\nETag: 1\r\n\r\n", "\x01\x01a\r\n\r\n"],
    ] {
        assert_eq!(seen(pieces).await, spelt, "{pieces:?}");
    }
    assert_eq!(seen(&["HTTP/1.1 200 OK\r\nEtag: 1\r\n\r\netag: body\r\n\r\n"]).await, Spelling::default());
    assert_eq!(seen(&["HTTP/1.1 200 OK\r\netag: 1\r\n"]).await, Spelling::default());
}

#[tokio::test]
async fn names_of_an_answer_are_written_as_they_came() {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, HeaderValue::from_static("1"));
    let spelling = Spelling::of_head(b"HTTP/1.1 200 OK\r\nETag: 1\r\nx-a: 2\r\n\r\n");
    respell(&mut headers, spelling.to_value().unwrap());
    let (name, value) = headers.iter().next().unwrap();
    let line = format!("{name}: {}", value.to_str().unwrap());
    let length = stand_in(&header::CONTENT_LENGTH);
    let written = format!(
        "etag: bodyHTTP/1.1 204 No Content\r\n{line}\r\nEtag: 1\r\nX-A: 2\r\n{length}: 3\r\n\r\nEtag: bodyHTTP/1.1 200 OK\r\n{line}\r\nX-A: 2\r\n\r\nX-A: "
    );
    let expect = "etag: bodyHTTP/1.1 204 No Content\r\nETag: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nEtag: bodyHTTP/1.1 200 OK\r\nx-a: 2\r\n\r\nX-A: ";
    let (near, mut far) = duplex(4096);
    let announced = Announced::default();
    for _ in 0..3 {
        announced.announce_answer();
    }
    let mut layer = HeaderCase::answers(near, announced);
    layer.write_all(written.as_bytes()).await.unwrap();
    drop(layer);
    let mut read = String::new();
    far.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, expect);
}

#[tokio::test]
async fn lines_are_added_behind_connection() {
    for (written, expect) in [
        (
            "GET / HTTP/1.1\r\nConnection: a\r\nX: Connection: b\r\n\r\nbody",
            "GET / HTTP/1.1\r\nConnection: a\r\nA: 1\r\nX: Connection: b\r\n\r\nbody",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: a\r\nA: 1\r\n\r\n",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\n\r\n"),
        ("no head", "no head"),
    ] {
        let (near, mut far) = duplex(4096);
        let (mut layer, announced) = HeaderCase::requests(near);
        announced.announce_request(RequestLooks { lines: b"A: 1\r\n".to_vec(), ..RequestLooks::default() });
        layer.write_all(written.as_bytes()).await.unwrap();
        drop(layer);
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, expect);
    }
}

proptest! {
    /// Whatever an upstream sends, in whatever pieces: the same is seen of it.
    #[test]
    fn pieces_make_no_difference(
        sent in proptest::collection::vec(prop_oneof!["[a-zA-Z:\\-]{0,4}", Just("\r\n".to_owned()), Just("\n".to_owned()), Just("HTTP/1.1 100 \r\n\r\n".to_owned())], 0..20),
        cut in 1..9_usize,
    ) {
        let sent = sent.concat().into_bytes();
        let seen = |pieces: Vec<&[u8]>| {
            let announced = Announced::default();
            announced.announce_request(RequestLooks::default());
            let mut heads = AnswerHeads::default();
            for piece in pieces {
                heads.see(piece, &announced);
            }
            announced.answer_spelling()
        };
        prop_assert_eq!(seen(vec![&sent]), seen(sent.chunks(cut).collect()));
    }
}

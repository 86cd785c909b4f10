use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use silverback_config::settings::UpstreamKeepalive;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::LocalSet,
};

use super::{AskError, Connection, Limits, Question, Socket, Unanswered, ask};
use crate::{
    body::{FileBody, Progress, UpstreamRequestBody},
    http1::{answer_head::Head, encoder::Encoder},
    upstream::{
        answer::UpstreamResponseBody,
        pool::{Key, MAX_KEYS, Pool},
    },
};

const LIMITS: Limits = Limits { write: Duration::from_secs(5), read: Duration::from_secs(60), head: 4096 };

fn connection(room: usize) -> (Connection, DuplexStream) {
    let (near, far) = duplex(room);
    (Connection::new(Socket::Duplex(near)), far)
}

fn get() -> Question {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    Question { head, encoder: Encoder::Length(0), body: UpstreamRequestBody::Empty, is_head: false }
}

/// An upload of so many bytes.
async fn post(length: usize) -> (Question, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'x'; length]).unwrap();
    let body = FileBody::open(file.path(), length as u64).await.unwrap();
    let question = Question {
        head: format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes(),
        encoder: Encoder::Length(length as u64),
        body: UpstreamRequestBody::File(body, Progress::new(false)),
        is_head: false,
    };
    (question, file)
}

fn pool() -> (Pool, Key) {
    let limits = UpstreamKeepalive { pool_size: 1, max_requests: 0, idle_timeout: Duration::ZERO };
    (Pool::new(limits), Key { address: "127.0.0.1:1".parse().unwrap(), tls: None })
}

/// Asks and reads the whole answer; the connection goes back to the pool if it can.
async fn asked(connection: Connection, question: Question, pool: &Pool, key: &Key) -> Result<(Head, Bytes), AskError> {
    let (head, body) = ask(connection, question, LIMITS).await.map_err(|Unanswered { why, .. }| why)?;
    let body = UpstreamResponseBody::http1(body, pool.clone(), key.clone(), LIMITS.read);
    let body = body.collect().await.unwrap_or_else(|error| panic!("{error}")).to_bytes();
    Ok((head, body))
}

async fn locally(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_carries_one_request_after_another() {
    let (pool, key) = pool();
    let (mut near, mut far) = connection(4096);
    let serving = async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
        ] {
            let mut read = [0; 27];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            far.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let asking = async {
        for again in [true, true, false] {
            let (_, body) = asked(near, get(), &pool, &key).await.unwrap();
            assert_eq!(body, "ab");
            let kept = pool.take(&key);
            assert_eq!(kept.is_some(), again);
            near = kept.unwrap_or_else(|| connection(1).0);
        }
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn a_connection_on_which_something_came_or_that_ended_is_not_used_again() {
    for unasked in [&b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..], b""] {
        let (pool, key) = pool();
        let (near, mut far) = connection(4096);
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        asked(near, get(), &pool, &key).await.unwrap();
        far.write_all(unasked).await.unwrap();
        drop(far);
        assert!(pool.take(&key).is_none());
    }
    // Behind its answer at once: whose answer would that be?
    let (pool, key) = pool();
    let (near, mut far) = connection(4096);
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert_eq!(asked(near, get(), &pool, &key).await.unwrap().1, "a");
    assert!(pool.take(&key).is_none());
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_as_the_settings_say() {
    let limits = |pool_size, max_requests, idle| UpstreamKeepalive {
        pool_size,
        max_requests,
        idle_timeout: Duration::from_secs(idle),
    };
    // Of three connections, each of which has carried so many requests, after so many seconds.
    for (limits, requests, seconds, expect) in [
        (limits(5, 0, 60), 1, 0, 3),
        (limits(2, 0, 60), 5, 59, 2),
        (limits(2, 0, 60), 1, 60, 0),
        (limits(2, 0, 0), 1, 100_000, 2),
        (limits(0, 0, 60), 1, 0, 0),
        (limits(2, 3, 60), 2, 0, 2),
        (limits(2, 3, 60), 3, 0, 0),
    ] {
        let (pool, key) = (Pool::new(limits), pool().1);
        let mut upstreams = Vec::new();
        for _ in 0..3 {
            let (mut near, mut far) = connection(4096);
            for request in 1..=requests {
                far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                asked(near, get(), &pool, &key).await.unwrap();
                near = if request == requests { break } else { pool.take(&key).unwrap() };
            }
            upstreams.push(far);
        }
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let kept = std::iter::from_fn(|| pool.take(&key)).count();
        assert_eq!(kept, expect, "{limits:?}, {requests} requests, {seconds} s");
    }
}

#[tokio::test]
async fn connections_are_kept_for_so_many_servers_at_most() {
    let (pool, _) = pool();
    let key = |port: usize| Key { address: ([127, 0, 0, 1], u16::try_from(port).unwrap()).into(), tls: None };
    let mut upstreams = Vec::new();
    for port in 0..MAX_KEYS + 10 {
        let (near, mut far) = connection(64);
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        asked(near, get(), &pool, &key(port)).await.unwrap();
        upstreams.push(far);
    }
    let kept: Vec<_> = (0..upstreams.len()).filter(|port| pool.take(&key(*port)).is_some()).collect();
    assert_eq!((kept.len(), kept.last()), (MAX_KEYS, Some(&(MAX_KEYS + 9))));
}

#[tokio::test]
async fn an_upload_goes_on_while_its_answer_comes() {
    locally(Box::pin(async {
        const LENGTH: usize = 100_000;
        let (pool, key) = pool();
        let (near, mut far) = connection(1024);
        let (question, _file) = post(LENGTH).await;
        let mut left = question.head.len() + LENGTH - 1024;
        let serving = async {
            far.read_exact(&mut [0; 1024]).await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await.unwrap();
            // All of it comes, though the answer waits.
            while left > 0 {
                left -= far.read(&mut vec![0; left.min(4096)]).await.unwrap();
            }
            far.write_all(b"b").await.unwrap();
        };
        let (answer, ()) = tokio::join!(asked(near, question, &pool, &key), serving);
        assert_eq!(answer.unwrap().1, "ab");
        // Nobody knows what of the request is still on its way.
        assert!(pool.take(&key).is_none());
    }))
    .await;
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_may_have_answered() {
    locally(Box::pin(async {
        let (near, mut far) = connection(1024);
        let (question, _file) = post(100_000).await;
        let serving = async {
            far.read_exact(&mut [0; 100]).await.unwrap();
            far.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            drop(far);
        };
        let (answer, ()) = tokio::join!(ask(near, question, LIMITS), serving);
        let (head, body) = answer.map_err(|Unanswered { why, .. }| why).unwrap();
        assert_eq!((head.status.as_u16(), head.reason.as_deref()), (413, Some(&b"Too Large"[..])));
        assert!(body.into_reusable().is_none());
    }))
    .await;
}

#[tokio::test]
async fn a_connection_that_is_gone_has_sent_nothing() {
    let (near, far) = connection(1024);
    drop(far);
    let Err(Unanswered { why, sent, .. }) = ask(near, get(), LIMITS).await else { panic!("an answer") };
    assert!(matches!(why, AskError::Write(_)) && !sent, "{why}");

    let (near, mut far) = connection(1024);
    let serving = async {
        far.read_exact(&mut [0; 5]).await.unwrap();
        drop(far);
    };
    let (answer, ()) = tokio::join!(ask(near, get(), LIMITS), serving);
    let Err(Unanswered { why, sent, .. }) = answer else { panic!("an answer") };
    assert!(matches!(why, AskError::Closed) && sent, "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_may_take_its_time_between_two_pieces() {
    let late = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    for (after, expect) in [(59, true), (61, false)] {
        let (near, mut far) = connection(4096);
        let serving = async {
            late(after).await;
            // Nobody may be there any more.
            let _ = far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            far
        };
        let (answer, _far) = tokio::join!(ask(near, get(), LIMITS), serving);
        assert_eq!(answer.is_ok(), expect, "{after} s");
    }
    // A slow upload: a little every four seconds, then the answer.
    let (near, mut far) = connection(100);
    let (question, _file) = post(2000).await;
    let serving = async {
        let mut left = 2000 + 48;
        while left > 0 {
            late(4).await;
            left -= far.read(&mut vec![0; left.min(100)]).await.unwrap();
        }
        late(50).await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        far
    };
    let (answer, _far) = tokio::join!(ask(near, question, LIMITS), serving);
    assert!(answer.is_ok());
    // One that does not go on.
    let (near, _far) = connection(100);
    let (question, _file) = post(2000).await;
    let Err(Unanswered { why, sent, .. }) = ask(near, question, LIMITS).await else { panic!("an answer") };
    assert!(matches!(why, AskError::Timeout) && sent);
}

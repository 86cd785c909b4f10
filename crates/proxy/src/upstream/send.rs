//! Sends a request to an upstream: one attempt after another, never twice what must not be.

mod failure;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response};
use hyper::body::Incoming;
use silverback_pdk::exchange::{RequestBody, Try};

pub(crate) use self::failure::SendFailure;
use self::failure::{Failed, is_refused};
use super::{
    answer::{UpstreamResponseBody, Upstreamed},
    balancer::{Address, Attempts, Upstream, Upstreams},
    connect::{self, ConnectError},
    hash_input,
    health::Outcome,
    http1::{self, AskError, Limits, Question, Unanswered},
    http2::{Stream, Turn},
    pool::{Key, Pool, TlsKey},
    tls::{Asked, ClientTls, server_name},
};
use crate::{
    body::{BodyFault, ClientRequestBody, FileBody, Progress, UpstreamRequestBody},
    flight::Flight,
    forwarded::{self, Forwarded, declared_length},
    http1::{answer_head::Head, spelling::Spelling},
};

/// Bytes that an answer's head may have in any case: nginx's proxy_buffer_size is often too small for what is set in
/// cookies.
const MIN_HEAD: usize = 64 * 1024;

/// Sends the request, to another target where one fails, as often as the service's `retries` allow.
pub(crate) async fn send(
    flight: &mut Flight,
    upstreams: &Arc<Upstreams>,
    tls: &ClientTls,
    forwarded: &Forwarded,
) -> Result<Upstreamed, SendFailure> {
    let choice = &flight.exchange.upstream;
    let Some(speech) = Speech::of(&choice.scheme) else {
        return Err(SendFailure::Protocol(choice.scheme.clone().into_owned()));
    };
    let (host, port, mut retries) = (choice.host.clone(), choice.port, choice.retries);
    let limit = connect_timeout(flight);
    let worker = Rc::clone(&flight.worker);
    let upstream = upstreams.find(&host);
    let (hash, cookie) = upstream.map(|upstream| hash_input::of(upstream, &flight.exchange)).unwrap_or_default();
    flight.hash_cookie = cookie;
    let resolver = worker.shared.balancers.resolver();
    let mut attempts = Attempts::new(upstream.map(AsRef::as_ref), &host, port, resolver, hash, limit);
    let begun = flight.clock();
    let chosen = attempts.next().await;
    flight.timed(&["balancer"], begun);
    let mut address = chosen?;
    let mut started = flight.now();
    flight.exchange.timings.balancer_start = Some(started);
    let mut stale = 0;
    loop {
        flight.exchange.upstream.tries.push(Try {
            ip: address.socket.ip(),
            port: address.port,
            started,
            connect_ms: None,
            failure: None,
        });
        let failed =
            match attempt(flight, tls, speech, forwarded, &address, upstream.map(AsRef::as_ref), stale > 0).await {
                Ok(upstreamed) => {
                    attempts.report(Outcome::Status(upstreamed.status.as_u16()));
                    flight.in_use = attempts.into_use();
                    return Ok(upstreamed);
                }
                Err(failed) => failed,
            };
        if let Some(attempt) = flight.exchange.upstream.tries.last_mut() {
            attempt.failure = Some(failed.why.code());
        }
        // A body that comes from the client is there as long as nothing of it was taken.
        let whole = !matches!(flight.exchange.request.body, RequestBody::Unread);
        let is_there = whole || flight.incoming.is_some();
        let repeatable = is_there
            && (!failed.sent || (whole && is_idempotent(&flight.exchange.request.method)))
            && failed.is_error();
        if !repeatable {
            report_last(&mut attempts, &failed);
            return Err(failed.why);
        }
        if failed.reused && stale < 3 {
            // The next idle connection may be just as stale: a new one is opened. It costs no retry.
            stale += 1;
            flight.exchange.upstream.tries.pop();
            started = flight.now();
            continue;
        }
        if retries == 0 {
            report_last(&mut attempts, &failed);
            return Err(failed.why);
        }
        if !failed.was_idle()
            && let Some(outcome) = failed.why.outcome()
        {
            attempts.report(outcome);
        }
        retries -= 1;
        silverback_log::write(
            silverback_log::Level::Warn,
            format_args!("{}{} {}, trying again", failed.why, failed.why.activity(), address.socket),
            Some(&crate::surroundings::context(&flight.exchange)),
        );
        address = attempts.next().await?;
        started = flight.now();
    }
}

/// Kong counts the failure that ends a request by the status that the client gets.
fn report_last(attempts: &mut Attempts<'_>, failed: &Failed) {
    if let Some(outcome) = failed.why.outcome() {
        if !failed.was_idle() {
            attempts.report(outcome);
        }
        if outcome == Outcome::TcpFailure {
            attempts.report(Outcome::Status(failed.why.status()));
        }
    }
}

/// RFC 9110, 9.2.2, as nginx has it (`proxy_next_upstream` without `non_idempotent`).
fn is_idempotent(method: &Method) -> bool {
    *method != Method::POST && *method != Method::PATCH && method.as_str() != "LOCK"
}

/// What is spoken with the upstream, by the scheme of its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Speech {
    http2: bool,
    secure: bool,
}

impl Speech {
    fn of(scheme: &str) -> Option<Self> {
        let (http2, secure) = match scheme {
            "http" => (false, false),
            "https" => (false, true),
            "grpc" => (true, false),
            "grpcs" => (true, true),
            _ => return None,
        };
        Some(Self { http2, secure })
    }
}

async fn attempt(
    flight: &mut Flight,
    tls: &ClientTls,
    speech: Speech,
    forwarded: &Forwarded,
    address: &Address,
    upstream: Option<&Upstream>,
    fresh: bool,
) -> Result<Upstreamed, Failed> {
    let choice = &flight.exchange.upstream;
    let host = host_header(&choice.host_header, address, upstream, speech.secure);
    let key = Key { address: address.socket, tls: speech.secure.then(|| Rc::new(tls_key(flight, tls, speech, &host))) };
    let answered = if speech.http2 {
        Box::pin(over_http2(flight, tls, forwarded, &host, &key)).await?
    } else {
        over_http1(flight, tls, forwarded, &host, key, fresh).await?
    };
    flight.exchange.timings.upstream_header = Some(flight.now());
    // What went out as Host is `$upstream_host` from now on.
    flight.exchange.upstream.host_header = host;
    Ok(answered)
}

fn connect_timeout(flight: &Flight) -> Duration {
    Duration::from_millis(u64::from(flight.exchange.upstream.connect_timeout))
}

/// What is told to TLS; a part of what connections are shared by.
fn tls_key(flight: &Flight, tls: &ClientTls, speech: Speech, host: &str) -> TlsKey {
    TlsKey { server_name: server_name(host), choice: tls.choose(&Asked::of(&flight.exchange, speech.http2)) }
}

/// `fresh`: over a connection of its own.
async fn over_http1(
    flight: &mut Flight,
    tls: &ClientTls,
    forwarded: &Forwarded,
    host: &str,
    key: Key,
    fresh: bool,
) -> Result<Upstreamed, Failed> {
    let pool = flight.worker.pool.under(flight.profile.settings.upstream);
    let kept = if fresh { None } else { idle(flight, &pool, &key).await };
    let (connection, reused) = match kept {
        Some(connection) => {
            connected(flight, 0.0);
            (connection, true)
        }
        None => (open_http1(flight, tls, &key).await.map_err(Failed::unsent)?, false),
    };
    let (body, fault) = body(flight).await.map_err(unspooled)?;
    let is_head = flight.exchange.request.method == Method::HEAD;
    let (head, encoder) = forwarded::http1_head(flight, forwarded, host, &body).map_err(Failed::unsent)?;
    let limits = limits(flight);
    match http1::ask(connection, Question { head, encoder, body, is_head }, limits).await {
        Ok((head, body)) => {
            let body = UpstreamResponseBody::http1(body, pool, key, limits.read);
            let Head { status, reason, headers, spelling, .. } = head;
            Ok(Upstreamed { status, reason, headers, spelling, body })
        }
        Err(Unanswered { why, sent, body }) => {
            if let Some(UpstreamRequestBody::Client(body, _)) = body {
                flight.incoming = Some(body.into_inner());
            }
            Err(match why {
                AskError::Body => Failed { why: fault_of(&fault), sent: true, reused: false },
                AskError::Timeout => Failed { why: SendFailure::Timeout, sent: true, reused: false },
                AskError::Head(_) => Failed { why: SendFailure::Http1(why), sent: true, reused: false },
                why => Failed { why: SendFailure::Http1(why), sent, reused },
            })
        }
    }
}

/// Why a body failed.
fn fault_of(progress: &Progress) -> SendFailure {
    let fault = progress.take_fault();
    // It is shorter than its head says.
    fault.unwrap_or_else(|| BodyFault::Spool(std::io::ErrorKind::UnexpectedEof.into())).into()
}

fn limits(flight: &Flight) -> Limits {
    let choice = &flight.exchange.upstream;
    Limits {
        write: Duration::from_millis(u64::from(choice.write_timeout)),
        read: Duration::from_millis(u64::from(choice.read_timeout)),
        head: flight.profile.settings.http.proxy_buffer_size.max(MIN_HEAD),
    }
}

/// An idle connection. For a request that goes out only once, it is one that the upstream has not closed by now.
async fn idle(flight: &Flight, pool: &Pool, key: &Key) -> Option<http1::Connection> {
    let request = &flight.exchange.request;
    let only_once = !is_idempotent(&request.method) || matches!(request.body, RequestBody::Unread);
    loop {
        let mut connection = pool.take(key)?;
        if !only_once {
            return Some(connection);
        }
        // The runtime looks at its sockets before this goes on.
        tokio::task::yield_now().await;
        if connection.is_idle() {
            return Some(connection);
        }
    }
}

async fn over_http2(
    flight: &mut Flight,
    tls: &ClientTls,
    forwarded: &Forwarded,
    host: &str,
    key: &Key,
) -> Result<Upstreamed, Failed> {
    let pool = flight.worker.pool.under(flight.profile.settings.upstream);
    let (mut stream, reused) = match pool.share(key) {
        Some(stream) => (stream, true),
        None => {
            let connecting = flight.now();
            let max_head = limits(flight).head;
            let place =
                Box::pin(place(&pool, tls, key, connect_timeout(flight), max_head)).await.map_err(Failed::unsent)?;
            let took = (flight.now() - connecting) * 1000.0;
            connected(flight, took);
            (place, false)
        }
    };
    if reused {
        connected(flight, 0.0);
    }
    let (body, progress) = body(flight).await.map_err(unspooled)?;
    let request = forwarded::http2_request(flight, forwarded, host, key.tls.is_some(), body).map_err(Failed::unsent)?;
    let exchanging = stream.sender.try_send_request(request);
    match exchanged(flight, exchanging, progress, reused).await {
        Ok(response) => {
            let (head, incoming) = response.into_parts();
            let body = UpstreamResponseBody::http2(incoming, stream, limits(flight).read);
            let spelling = Spelling::default();
            Ok(Upstreamed { status: head.status, reason: None, headers: head.headers, spelling, body })
        }
        Err(failed) => {
            if matches!(failed.why, SendFailure::Timeout) {
                stream.retire();
            }
            Err(failed)
        }
    }
}

/// A place on a connection for HTTP/2. Of those that need a new one at the same time, one opens it.
async fn place(
    pool: &Pool,
    tls: &ClientTls,
    key: &Key,
    timeout: Duration,
    max_head: usize,
) -> Result<Stream, ConnectError> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        if let Some(stream) = pool.share(key) {
            return Ok(stream);
        }
        match pool.turn(key) {
            Turn::Ours(opening) => {
                let connection = connect::http2(key, tls, timeout, max_head).await?;
                let stream = pool.add(key, connection);
                drop(opening);
                return Ok(stream);
            }
            Turn::Others(opened) => {
                let opened = opened.notified();
                tokio::time::timeout_at(deadline, opened).await.map_err(|_| ConnectError::Timeout)?;
            }
        }
    }
}

async fn open_http1(flight: &mut Flight, tls: &ClientTls, key: &Key) -> Result<http1::Connection, ConnectError> {
    let connecting = flight.now();
    let connection = Box::pin(connect::http1(key, tls, connect_timeout(flight))).await?;
    let took = (flight.now() - connecting) * 1000.0;
    connected(flight, took);
    Ok(connection)
}

/// Notes how long it took to connect, in milliseconds. As nginx has it, a connection that is there takes no time.
fn connected(flight: &mut Flight, took: f64) {
    if let Some(attempt) = flight.exchange.upstream.tries.last_mut() {
        attempt.connect_ms = Some(took);
    }
}

fn unspooled(error: std::io::Error) -> Failed {
    Failed::unsent(SendFailure::Spool(error))
}

type Unsent = hyper::client::conn::TrySendError<http::Request<UpstreamRequestBody>>;

/// Waits for the head of an answer over HTTP/2. What was not sent after all is taken back.
async fn exchanged(
    flight: &mut Flight,
    answer: impl Future<Output = Result<Response<Incoming>, Unsent>>,
    progress: Progress,
    reused: bool,
) -> Result<Response<Incoming>, Failed> {
    let limits = limits(flight);
    let answered = in_time(answer, &progress, limits.write, limits.read).await;
    if let Some(Ok(response)) = answered {
        return Ok(response);
    }
    // The body's end looks like one of the stream.
    if let Some(fault) = progress.take_fault() {
        return Err(Failed { why: fault.into(), sent: true, reused: false });
    }
    let Some(Err(mut error)) = answered else {
        return Err(Failed { why: SendFailure::Timeout, sent: true, reused: false });
    };
    let unsent = error.take_message();
    let sent = unsent.is_none() && !is_refused(error.error());
    if let Some(UpstreamRequestBody::Client(body, _)) = unsent.map(http::Request::into_body) {
        flight.incoming = Some(body.into_inner());
    }
    Err(Failed { why: SendFailure::Http2(error.into_error()), sent, reused })
}

/// Waits for an answer: each piece of the body may take `write_timeout`, the answer `read_timeout` from the last piece
/// on. `None` when one of them has passed. A client that takes its time for the next piece has a limit of its own.
async fn in_time<T>(
    answer: impl Future<Output = T>,
    progress: &Progress,
    write_timeout: Duration,
    read_timeout: Duration,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let sent = progress.sent();
        let begun = if sent.waits { tokio::time::Instant::now() } else { sent.at };
        let deadline = begun + if sent.complete { read_timeout } else { write_timeout };
        match tokio::time::timeout_at(deadline, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if progress.sent() == sent && !sent.waits => return None,
            // Something was sent meanwhile, or nothing has come that could be.
            Err(_) => {}
        }
    }
}

/// The Host header: the client's where it is preserved or a plugin's, else the upstream entity's, else the target's,
/// with its port unless that is the scheme's own (Kong's `balancer.set_host_header`).
fn host_header(chosen: &str, address: &Address, upstream: Option<&Upstream>, secure: bool) -> String {
    if !chosen.is_empty() {
        return chosen.to_owned();
    }
    if let Some(host) = upstream.and_then(Upstream::host_header) {
        return host.clone();
    }
    let default_port = if secure { 443 } else { 80 };
    let mut host = String::with_capacity(address.host.len() + 8);
    if address.host.contains(':') && !address.host.starts_with('[') {
        host.extend(["[", &address.host, "]"]);
    } else {
        host.push_str(&address.host);
    }
    if address.port != default_port {
        host.push(':');
        host.push_str(&address.port.to_string());
    }
    host
}

/// The body for one attempt: what was read can be sent again, what still comes from the client only once.
async fn body(flight: &mut Flight) -> std::io::Result<(UpstreamRequestBody, Progress)> {
    let progress = Progress::new(!matches!(flight.exchange.request.body, RequestBody::File(..) | RequestBody::Unread));
    let body = match &flight.exchange.request.body {
        RequestBody::None => UpstreamRequestBody::Empty,
        // Never sent as if there were none: its length may stand in the head.
        RequestBody::Failed(why) => return Err(std::io::Error::other(why.clone())),
        RequestBody::Memory(bytes) => {
            let declared = declared_length(&flight.exchange).and_then(|length| usize::try_from(length).ok());
            whole(bytes.slice(..declared.unwrap_or(bytes.len()).min(bytes.len())))
        }
        RequestBody::File(path, length) => {
            UpstreamRequestBody::File(FileBody::open(path, *length).await?, progress.clone())
        }
        RequestBody::Unread => match flight.incoming.take() {
            Some(incoming) => UpstreamRequestBody::Client(
                ClientRequestBody::new(incoming, &flight.profile.settings.http),
                progress.clone(),
            ),
            None => UpstreamRequestBody::Empty,
        },
    };
    Ok((body, progress))
}

fn whole(bytes: Bytes) -> UpstreamRequestBody {
    if bytes.is_empty() { UpstreamRequestBody::Empty } else { UpstreamRequestBody::Whole(Some(bytes)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Address, Progress, host_header, in_time};

    const WRITE: Duration = Duration::from_secs(5);
    const READ: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time_from_the_last_piece_of_the_body_on() {
        let late = |after| tokio::time::sleep(Duration::from_secs(after));
        assert_eq!(in_time(late(59), &Progress::new(true), WRITE, READ).await, Some(()));
        assert_eq!(in_time(late(61), &Progress::new(true), WRITE, READ).await, None);
        assert_eq!(in_time(late(6), &Progress::new(false), WRITE, READ).await, None);
        // A slow upload: a piece every four seconds, and then the answer.
        let progress = Progress::new(false);
        let uploading = {
            let progress = progress.clone();
            async move {
                for piece in 1..=30 {
                    late(4).await;
                    progress.note(piece == 30);
                }
                late(50).await;
            }
        };
        assert_eq!(in_time(uploading, &progress, WRITE, READ).await, Some(()));
        // A client that takes its time, and then an upstream that takes too long.
        for (taken, expect) in [(true, Some(())), (false, None)] {
            let progress = Progress::new(false);
            let uploading = {
                let progress = progress.clone();
                async move {
                    progress.wait();
                    late(100).await;
                    progress.note(taken);
                    late(50).await;
                }
            };
            assert_eq!(in_time(uploading, &progress, WRITE, READ).await, expect);
        }
    }

    #[test]
    fn the_host_header_names_the_target() {
        let address = |host: &str, port| Address {
            socket: format!("127.0.0.1:{port}").parse().unwrap(),
            host: host.into(),
            port,
        };
        for (chosen, target, secure, expect) in [
            ("kept.test", address("a.test", 80), false, "kept.test"),
            ("", address("a.test", 80), false, "a.test"),
            ("", address("a.test", 443), true, "a.test"),
            ("", address("a.test", 443), false, "a.test:443"),
            ("", address("::1", 8000), false, "[::1]:8000"),
        ] {
            assert_eq!(host_header(chosen, &target, None, secure), expect);
        }
    }
}

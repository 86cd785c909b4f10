//! Sends a request to an upstream: one attempt after another, never twice what must not be.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response};
use hyper::body::Incoming;
use silverback_pdk::exchange::{RequestBody, Try};

use super::{
    balancer::{Address, Attempts, BalanceError, Upstream, Upstreams},
    connect::{self, ClientTls, ConnectError},
    hash_input,
    health::Outcome,
    pool::{Key, Lease, TlsKey},
};
use crate::{
    body::{BodyStalled, BodyTooLarge, ClientRequestBody, FileBody, Progress, UpstreamRequestBody},
    flight::Flight,
    forwarded::{UpstreamHead, declared_length},
    request_body::{self, BodyError},
};

/// An upstream's answer, its body still to come.
pub(crate) struct Upstreamed {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    /// For each read of its body.
    pub(crate) read_timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendFailure {
    #[error(transparent)]
    Balance(#[from] BalanceError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("upstream timed out")]
    Timeout,
    #[error("upstream prematurely closed connection or sent an invalid answer ({0})")]
    Exchange(#[source] hyper::Error),
    #[error(transparent)]
    ClientBody(BodyError),
    #[error("the request cannot be written ({0})")]
    Request(#[from] http::Error),
    #[error("the spooled body cannot be read ({0})")]
    Spool(#[source] std::io::Error),
    #[error("{0} is not supported as an upstream protocol yet")]
    Protocol(String),
}

impl SendFailure {
    /// What the gateway was doing, in nginx's words.
    pub(crate) const fn activity(&self) -> &'static str {
        match self {
            Self::Connect(_) => " while connecting to upstream",
            Self::Timeout | Self::Exchange(_) => " while reading response header from upstream",
            Self::Spool(_) | Self::ClientBody(_) => " while sending request to upstream",
            Self::Balance(_) | Self::Request(_) | Self::Protocol(_) => "",
        }
    }

    /// The status that the client gets.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::Timeout | Self::Connect(ConnectError::Timeout) => 504,
            Self::Request(_) | Self::Spool(_) | Self::Protocol(_) | Self::ClientBody(_) => 500,
            Self::Balance(_) => 503,
            Self::Connect(_) | Self::Exchange(_) => 502,
        }
    }

    /// What it says of the target's health.
    const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Timeout | Self::Connect(ConnectError::Timeout) => Some(Outcome::Timeout),
            Self::Connect(ConnectError::ServerName(_)) => None,
            Self::Connect(_) | Self::Exchange(_) => Some(Outcome::TcpFailure),
            _ => None,
        }
    }

    /// What Kong tells the client where no address could be had: status and message. `chosen`: a plugin named the host.
    pub(crate) fn no_address(&self, chosen: bool) -> (u16, String) {
        match self {
            Self::Balance(BalanceError::Resolve { error, .. }) if error.is_not_found() && !chosen => {
                (503, "name resolution failed".to_owned())
            }
            Self::Balance(BalanceError::Resolve { host, error }) => {
                (500, format!("failed the initial dns/balancer resolve for '{host}' with: {error}"))
            }
            _ => (503, BalanceError::NoTargets.to_string()),
        }
    }
}

/// How one attempt failed.
struct Failed {
    why: SendFailure,
    /// Something of the request may have reached the upstream.
    sent: bool,
    /// The connection had served before: it may have been closed while idle, which says nothing of the upstream.
    reused: bool,
}

/// Sends the request, to another target where one fails, as often as the service's `retries` allow.
pub(crate) async fn send(
    flight: &mut Flight,
    upstreams: &Arc<Upstreams>,
    tls: &ClientTls,
    head: UpstreamHead,
) -> Result<Upstreamed, SendFailure> {
    let choice = flight.exchange.upstream.clone();
    if !matches!(choice.scheme.as_str(), "http" | "https") {
        return Err(SendFailure::Protocol(choice.scheme));
    }
    let shared = Arc::clone(&flight.worker.shared);
    let upstream = upstreams.find(&choice.host);
    let (hash, cookie) = upstream.map(|upstream| hash_input::of(upstream, &flight.exchange)).unwrap_or_default();
    flight.hash_cookie = cookie;
    let mut attempts =
        Attempts::new(upstream.map(AsRef::as_ref), &choice.host, choice.port, shared.balancers.resolver(), hash);
    let mut address = attempts.next().await?;
    flight.exchange.timings.balancer_start = Some(flight.now());
    let mut retries = choice.retries;
    let mut stale = 0;
    loop {
        let started = flight.now();
        flight.exchange.upstream.tries.push(Try {
            ip: address.socket.ip().to_string(),
            port: address.port,
            started,
            connect_ms: None,
            failure: None,
        });
        let failed = match attempt(flight, tls, &head, &address, upstream.map(AsRef::as_ref)).await {
            Ok(upstreamed) => {
                attempts.report(Outcome::Status(upstreamed.response.status().as_u16()));
                flight.in_use = attempts.into_use();
                return Ok(upstreamed);
            }
            Err(failed) => failed,
        };
        if let Some(attempt) = flight.exchange.upstream.tries.last_mut() {
            attempt.failure = Some(failed.why.to_string());
        }
        // What was not sent is still there: a body that comes from the client was given back.
        let whole = flight.incoming.is_none() && !matches!(flight.exchange.request.body, RequestBody::Unread);
        let repeatable = (!failed.sent || (whole && is_idempotent(&head.method)))
            && matches!(failed.why, SendFailure::Connect(_) | SendFailure::Timeout | SendFailure::Exchange(_));
        if !repeatable {
            report_last(&mut attempts, &failed.why);
            return Err(failed.why);
        }
        if failed.reused && stale < 3 {
            // The next idle connection may be just as stale; a new one is opened soon. It costs no retry.
            stale += 1;
            flight.exchange.upstream.tries.pop();
            continue;
        }
        if retries == 0 {
            report_last(&mut attempts, &failed.why);
            return Err(failed.why);
        }
        if let Some(outcome) = failed.why.outcome() {
            attempts.report(outcome);
        }
        retries -= 1;
        silverback_log::write(
            silverback_log::Level::Warn,
            format_args!("{} while connecting to {}, trying again", failed.why, address.socket),
            Some(&crate::surroundings::context(&flight.exchange)),
        );
        address = attempts.next().await?;
    }
}

/// Kong counts the failure that ends a request by the status that the client gets.
fn report_last(attempts: &mut Attempts<'_>, why: &SendFailure) {
    if let Some(outcome) = why.outcome() {
        attempts.report(outcome);
        if outcome == Outcome::TcpFailure {
            attempts.report(Outcome::Status(why.status()));
        }
    }
}

/// RFC 9110, 9.2.2, as nginx has it (`proxy_next_upstream` without `non_idempotent`).
fn is_idempotent(method: &Method) -> bool {
    *method != Method::POST && *method != Method::PATCH && method.as_str() != "LOCK"
}

async fn attempt(
    flight: &mut Flight,
    tls: &ClientTls,
    head: &UpstreamHead,
    address: &Address,
    upstream: Option<&Upstream>,
) -> Result<Upstreamed, Failed> {
    let before = |why: SendFailure| Failed { why, sent: false, reused: false };
    let choice = &flight.exchange.upstream;
    let read_timeout = Duration::from_millis(u64::from(choice.read_timeout));
    let connect_timeout = Duration::from_millis(u64::from(choice.connect_timeout));
    let secure = choice.scheme == "https";
    let host = host_header(&choice.host_header, address, upstream, secure);
    let key = Key {
        address: address.socket,
        tls: secure.then(|| TlsKey { server_name: server_name(&host), verify: choice.tls_verify.unwrap_or(false) }),
    };
    let pool = flight.worker.pool.clone();
    let (mut connection, reused) = match pool.take(&key) {
        Some(connection) => {
            // As nginx has it: a connection that is there takes no time.
            if let Some(attempt) = flight.exchange.upstream.tries.last_mut() {
                attempt.connect_ms = Some(0.0);
            }
            (connection, true)
        }
        None => {
            let max_head = flight.profile.settings.http.proxy_buffer_size;
            let connecting = flight.now();
            let connection = Box::pin(connect::connect(&key, tls, connect_timeout, max_head))
                .await
                .map_err(|error| before(error.into()))?;
            let now = flight.now();
            if let Some(attempt) = flight.exchange.upstream.tries.last_mut() {
                attempt.connect_ms = Some((now - connecting) * 1000.0);
            }
            (connection, false)
        }
    };
    let ready = tokio::time::timeout(connect_timeout, connection.sender.ready()).await;
    match ready {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Failed { why: SendFailure::Exchange(error), sent: false, reused }),
        Err(_) => return Err(Failed { why: SendFailure::Timeout, sent: false, reused }),
    }
    let (body, progress) = body(flight).await.map_err(|error| before(SendFailure::Spool(error)))?;
    let request = head.for_attempt(&host, &flight.spelling, body).map_err(|error| before(error.into()))?;
    connection.next_is_head.announce();
    connection.served += 1;
    let write_timeout = Duration::from_millis(u64::from(flight.exchange.upstream.write_timeout));
    let answer = in_time(connection.sender.try_send_request(request), progress, write_timeout, read_timeout).await;
    let response = match answer {
        None => return Err(Failed { why: SendFailure::Timeout, sent: true, reused: false }),
        Some(Ok(response)) => response,
        Some(Err(mut error)) => {
            let unsent = error.take_message();
            let sent = unsent.is_none();
            if let Some(UpstreamRequestBody::Client(body, _)) = unsent.map(http::Request::into_body) {
                flight.incoming = Some(body.into_inner());
            }
            let error = error.into_error();
            let why = match client_fault(&error) {
                Some(fault) => SendFailure::ClientBody(fault),
                None => SendFailure::Exchange(error),
            };
            return Err(Failed { why, sent, reused });
        }
    };
    flight.exchange.timings.upstream_header = Some(flight.now());
    // What went out as Host is `$upstream_host` from now on.
    flight.exchange.upstream.host_header = host;
    Ok(Upstreamed { response, lease: Lease { pool, key, connection }, read_timeout })
}

/// Waits for an answer: each piece of the body may take `write_timeout`, the answer `read_timeout` from the last piece
/// on. `None` when one of them has passed.
async fn in_time<T>(
    answer: impl Future<Output = T>,
    progress: Progress,
    write_timeout: Duration,
    read_timeout: Duration,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let sent = progress.sent();
        let deadline = sent.at + if sent.complete { read_timeout } else { write_timeout };
        match tokio::time::timeout_at(deadline, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if progress.sent().at == sent.at => return None,
            // Something was sent meanwhile.
            Err(_) => {}
        }
    }
}

/// Whether an attempt failed because its body, which came from the client, did.
fn client_fault(error: &hyper::Error) -> Option<BodyError> {
    let source = std::error::Error::source(error)?;
    if source.is::<BodyTooLarge>() {
        return Some(BodyError::TooLarge);
    }
    if source.is::<BodyStalled>() {
        return Some(BodyError::Timeout);
    }
    // An error of the upstream's connection has hyper's own causes; one from the client's is an error of hyper itself.
    source.downcast_ref::<hyper::Error>().map(request_body::client_error)
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
    let host = if address.host.contains(':') && !address.host.starts_with('[') {
        format!("[{}]", address.host)
    } else {
        address.host.clone()
    };
    if address.port == default_port { host } else { format!("{host}:{}", address.port) }
}

/// The name that TLS asks for: the Host header without its port (`proxy_ssl_name`).
pub(crate) fn server_name(host: &str) -> String {
    let name = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']').to_owned()
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

    use super::{Address, Progress, host_header, in_time, server_name};

    const WRITE: Duration = Duration::from_secs(5);
    const READ: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time_from_the_last_piece_of_the_body_on() {
        let late = |after| tokio::time::sleep(Duration::from_secs(after));
        assert_eq!(in_time(late(59), Progress::new(true), WRITE, READ).await, Some(()));
        assert_eq!(in_time(late(61), Progress::new(true), WRITE, READ).await, None);
        assert_eq!(in_time(late(6), Progress::new(false), WRITE, READ).await, None);
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
        assert_eq!(in_time(uploading, progress, WRITE, READ).await, Some(()));
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

    #[test]
    fn tls_asks_for_the_name_alone() {
        for (host, expect) in [("a.test:8443", "a.test"), ("a.test", "a.test"), ("[::1]:8443", "::1"), ("[::1]", "::1")]
        {
            assert_eq!(server_name(host), expect);
        }
    }
}

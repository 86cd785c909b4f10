//! The way to a stream's upstream: an address by the balancer, a connection to it, another one where that fails.
//!
//! Nothing of the stream has been sent before a connection stands, TLS included: every failure may be followed by
//! another attempt, as many as the service's `retries` allow.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use silverback_log::Level;
use silverback_pdk::exchange::{Source, Try};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::client::TlsStream;

use super::session::{Refused, Routed, Session};
use crate::upstream::{
    balancer::{Address, Attempts, BalanceError, Upstream as Entity},
    connect::ConnectError,
    hash_input,
    health::Outcome,
    tls::{Asked, TlsError, server_name},
};

/// A connection to an upstream.
pub(super) enum Upstream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to the upstream of a TCP or TLS stream.
pub(super) async fn connect(session: &mut Session, routed: &Routed) -> Result<Upstream, Refused> {
    // What is passed through has its own TLS.
    let passes_through = session.exchange.stream.hello.is_some();
    let tls = session.exchange.upstream.scheme == "tls" && !passes_through;
    let chosen = session.exchange.upstream.host_header.clone();
    let choice = routed.client_tls.choose(&Asked::of(&session.exchange, false));
    attempts(session, routed, async |address, entity| {
        let socket = TcpStream::connect(address.socket).await.map_err(ConnectError::Refused)?;
        // Nagle's algorithm would hold small pieces back.
        socket.set_nodelay(true).map_err(ConnectError::Refused)?;
        if !tls {
            return Ok(Upstream::Plain(socket));
        }
        let name = tls_name(&chosen, address, entity);
        let stream = routed.client_tls.connect(&choice, &name, socket).await?;
        Ok(Upstream::Tls(Box::new(stream)))
    })
    .await
}

/// A socket for the datagrams of a UDP session.
pub(super) async fn connect_udp(session: &mut Session, routed: &Routed) -> Result<UdpSocket, Refused> {
    attempts(session, routed, async |address, _| {
        let any = match address.socket {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        let socket = UdpSocket::bind(any).await.map_err(ConnectError::Refused)?;
        socket.connect(address.socket).await.map_err(ConnectError::Refused)?;
        Ok(socket)
    })
    .await
}

async fn attempts<T>(
    session: &mut Session,
    routed: &Routed,
    connect: impl AsyncFn(&Address, Option<&Entity>) -> Result<T, ConnectError>,
) -> Result<T, Refused> {
    session.exchange.response.source = Some(Source::Service);
    let choice = session.exchange.upstream.clone();
    let limit = Duration::from_millis(u64::from(choice.connect_timeout));
    let shared = Arc::clone(&session.worker.shared);
    let entity = routed.upstreams.find(&choice.host).map(AsRef::as_ref);
    let hash = entity.and_then(|entity| hash_input::of(entity, &session.exchange).0);
    let mut attempts = Attempts::new(entity, &choice.host, choice.port, shared.balancers.resolver(), hash, limit);
    let mut retries = choice.retries;
    loop {
        let address = match attempts.next().await {
            Ok(address) => address,
            Err(error) => {
                let tried = !session.exchange.upstream.tries.is_empty();
                return Err(Refused::new(no_address(&error, tried), Level::Error, error));
            }
        };
        let started = session.now();
        session.exchange.timings.balancer_start.get_or_insert(started);
        session.exchange.upstream.tries.push(Try {
            ip: address.socket.ip(),
            port: address.port,
            started,
            connect_ms: None,
            failure: None,
        });
        let connecting = tokio::time::timeout(limit, connect(&address, entity));
        let error = match connecting.await.unwrap_or(Err(ConnectError::Timeout)) {
            Ok(connected) => {
                let took = (session.now() - started) * 1000.0;
                if let Some(attempt) = session.exchange.upstream.tries.last_mut() {
                    attempt.connect_ms = Some(took);
                }
                attempts.report(Outcome::Success);
                session.in_use = attempts.into_use();
                return Ok(connected);
            }
            Err(error) => error,
        };
        if let Some(attempt) = session.exchange.upstream.tries.last_mut() {
            attempt.failure = Some(502);
        }
        match error {
            ConnectError::Timeout => attempts.report(Outcome::Timeout),
            // That is no fault of the target's.
            ConnectError::Tls(TlsError::Name(_)) => {}
            _ => attempts.report(Outcome::TcpFailure),
        }
        if retries == 0 {
            attempts.report(Outcome::Status(502));
            let why = format!("{error} while connecting to upstream {}", address.socket);
            return Err(Refused::new(502, Level::Error, why));
        }
        retries -= 1;
        session.log(Level::Warn, format_args!("{error} while connecting to upstream {}, trying again", address.socket));
    }
}

/// The status of a stream for which there is no (further) address, as Kong's balancer gives it.
const fn no_address(error: &BalanceError, tried: bool) -> u16 {
    match error {
        _ if tried => 502,
        BalanceError::Resolve { error, .. } if !error.is_not_found() => 500,
        BalanceError::Resolve { .. } | BalanceError::NoTargets => 503,
    }
}

/// The name that TLS asks the upstream for: the client's own where it is preserved, or a plugin's; the upstream
/// entity's; the target's (Kong's `set_host_header` and `proxy_ssl_name`).
fn tls_name(chosen: &str, address: &Address, entity: Option<&Entity>) -> String {
    if !chosen.is_empty() {
        return server_name(chosen);
    }
    server_name(entity.and_then(Entity::host_header).unwrap_or(&address.host))
}

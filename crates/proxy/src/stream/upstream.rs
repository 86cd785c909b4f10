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
    balancer::{Address, Attempts, Upstream as Entity},
    connect::ConnectError,
    hash_input,
    health::Outcome,
    send::server_name,
    tls::Asked,
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
    let service = session.exchange.matched.as_ref().and_then(|matched| matched.service.as_ref());
    let choice = routed.client_tls.choose(&Asked {
        service: service.map(|service| service.id),
        upstream: &session.exchange.upstream.host,
        verify: session.exchange.upstream.tls_verify,
        depth: session
            .exchange
            .wishes
            .upstream_tls_verify_depth
            .or_else(|| service.and_then(|service| service.tls_verify_depth)),
        grpc: false,
    });
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
    let mut attempts = Attempts::new(entity, &choice.host, choice.port, shared.balancers.resolver(), hash);
    let mut retries = choice.retries;
    loop {
        let address = attempts.next().await.map_err(|error| {
            let mut refused = Refused::new(503, Level::Error, error);
            refused.status = if session.exchange.upstream.tries.is_empty() { 503 } else { 502 };
            refused
        })?;
        let started = session.now();
        session.exchange.timings.balancer_start.get_or_insert(started);
        session.exchange.upstream.tries.push(Try {
            ip: address.socket.ip().to_string(),
            port: address.port,
            started,
            connect_ms: None,
            failure: None,
        });
        let connecting = tokio::time::timeout(limit, connect(&address, entity));
        let result = connecting.await.unwrap_or(Err(ConnectError::Timeout));
        let now = session.now();
        let attempt = session.exchange.upstream.tries.last_mut();
        match result {
            Ok(connected) => {
                if let Some(attempt) = attempt {
                    attempt.connect_ms = Some((now - started) * 1000.0);
                }
                attempts.report(Outcome::Success);
                session.in_use = attempts.into_use();
                return Ok(connected);
            }
            Err(error) => {
                attempts.report(match error {
                    ConnectError::Timeout => Outcome::Timeout,
                    _ => Outcome::TcpFailure,
                });
                if let Some(attempt) = attempt {
                    attempt.failure = Some(error.to_string());
                }
                if retries == 0 {
                    let why = format_args!("{error} while connecting to upstream {}", address.socket).to_string();
                    return Err(Refused::new(502, Level::Error, why));
                }
                retries -= 1;
                session.log(
                    Level::Warn,
                    format_args!("{error} while connecting to upstream {}, trying again", address.socket),
                );
            }
        }
    }
}

/// The name that TLS asks the upstream for: the client's own where it is preserved, or a plugin's; the upstream
/// entity's; the target's (Kong's `set_host_header` and `proxy_ssl_name`).
fn tls_name(chosen: &str, address: &Address, entity: Option<&Entity>) -> String {
    if !chosen.is_empty() {
        return server_name(chosen);
    }
    server_name(entity.and_then(|entity| entity.host_header().map(String::as_str)).unwrap_or(&address.host))
}

//! Streams: TCP, TLS and UDP on `stream_listen`.
//!
//! What happens to one is what Kong's stream subsystem does: its route is found by addresses and server name, the
//! preread handlers run, it is balanced and copied both ways, and its log handlers run when it is over, however it
//! ended. A stream that may not go on is closed; its status (200, 400, 403, 500, 502, 503, as nginx has them) is for
//! the log.
//!
//! On a listener with `ssl`, the ClientHello is looked at first: the route that it leads to says whether TLS ends here
//! (`tls`) or is passed through (`tls_passthrough`).

mod datagram;
mod hello;
mod relay;
mod session;
mod udp;
mod upstream;

use std::{
    fmt,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use silverback_log::Level;
use silverback_model::Protocol;
use silverback_pdk::exchange::Subsystem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) use self::udp::listen as listen_udp;
use self::{
    relay::{Counts, Ended, Patience, relay},
    session::{Refused, Routed, Session},
    upstream::Upstream,
};
use crate::{
    connection::{From, Kind, Origin},
    linger::{SILENCE, linger},
    prefixed::Prefixed,
    proxy_protocol, surroundings,
    tls::{
        Alpn,
        handshake::{self, Secured},
    },
    worker::Worker,
};

/// For a TLS handshake: nginx's `ssl_handshake_timeout`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// nginx's `proxy_protocol_timeout`.
const PROXY_PROTOCOL_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves a TCP connection to its end.
pub(crate) async fn serve<S>(worker: Rc<Worker>, socket: S, from: From, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Arc::clone(&worker.shared);
    shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
    shared.counters.active.fetch_add(1, Ordering::Relaxed);
    let serial = shared.connection_serial.fetch_add(1, Ordering::Relaxed);
    let mut origin = Origin { from, proxied: None, serial };
    if !kind.proxy_protocol {
        serve_socket(&worker, socket, origin, kind).await;
    } else {
        match proxy_protocol::accept(socket, PROXY_PROTOCOL_TIMEOUT).await {
            Ok((socket, proxied)) => {
                origin.proxied = proxied;
                serve_socket(&worker, socket, origin, kind).await;
            }
            Err(error) => log(Level::Error, format_args!("{error}"), &origin),
        }
    }
    shared.counters.active.fetch_sub(1, Ordering::Relaxed);
}

async fn serve_socket<S>(worker: &Rc<Worker>, mut socket: S, origin: Origin, kind: Kind)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session::new(worker, &origin);
    if !kind.ssl {
        return match session.route(None) {
            Ok(routed) => proxy(session, routed, socket).await,
            Err(refused) => session.refuse(&refused),
        };
    }
    let (read, hello) = match hello::peek(&mut socket).await {
        Ok(peeked) => peeked,
        Err(error) => return session.refuse(&Refused::new(400, Level::Info, error)),
    };
    let sni = hello.server_name.clone();
    let routed = match session.route(sni.as_deref()) {
        Ok(routed) => routed,
        Err(refused) => return session.refuse(&refused),
    };
    let socket = Prefixed::new(read, socket);
    let protocols = &routed.entry.route.protocols;
    let (ends_tls, passes) = (protocols.contains(&Protocol::Tls), protocols.contains(&Protocol::TlsPassthrough));
    if ends_tls {
        match handshake::accept(worker, socket, &origin, Subsystem::Stream, Alpn::Nothing, HANDSHAKE_TIMEOUT).await {
            // The route was chosen by the name that was looked at.
            Ok(Secured { info, .. }) if info.sni != sni => {
                session.refuse(&Refused::new(400, Level::Error, "two server names in one ClientHello"));
            }
            Ok(Secured { stream, info, .. }) => {
                session.exchange.client.tls = Some(info);
                proxy(session, routed, stream).await;
            }
            Err(error) => {
                let why = format_args!("SSL handshake failed ({error})").to_string();
                session.refuse(&Refused::new(500, error.level(), why));
            }
        }
    } else if passes {
        session.exchange.stream.hello = Some(hello);
        proxy(session, routed, socket).await;
    } else {
        session.refuse(&Refused::new(500, Level::Error, "unexpected protocols in matched Route"));
    }
}

/// Takes a routed connection through preread, to its upstream and to its end.
async fn proxy<S>(mut session: Session, routed: Routed, mut client: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = match session.preread(&routed.entry).await {
        Ok(()) => None,
        Err(refused) => match refused.body {
            Some(body) if refused.status < 400 => Some((refused.status, body)),
            _ => return session.refuse(&refused),
        },
    };
    if let Some((status, body)) = body {
        let patience = session.patience().write;
        let writing = async {
            client.write_all(&body).await?;
            client.shutdown().await
        };
        let written = matches!(tokio::time::timeout(patience, writing).await, Ok(Ok(())));
        if written {
            session.exchange.response.bytes_sent = body.len() as u64;
        }
        session.finish(status);
        if written {
            linger(async |scratch: &mut [u8]| client.read(scratch).await).await;
        }
        return;
    }
    let mut upstream = match upstream::connect(&mut session, &routed).await {
        Ok(upstream) => upstream,
        Err(refused) => return session.refuse(&refused),
    };
    drop(routed);
    let patience = session.patience();
    let mut counts = Counts::default();
    let world = Arc::clone(&session.exchange.node);
    let timings = &mut session.exchange.timings;
    let first_byte = || timings.upstream_header = Some(world.surroundings.now());
    let ended = match &mut upstream {
        Upstream::Plain(upstream) => relay(&mut client, upstream, patience, &mut counts, first_byte).await,
        Upstream::Tls(upstream) => relay(&mut client, upstream.as_mut(), patience, &mut counts, first_byte).await,
    };
    drop(upstream);
    session.count(&counts);
    session.report(&ended, &counts);
    session.finish(200);
    // The upstream broke, or said all and broke then: what it said is still on its way to a client that may yet be
    // sending. An abrupt end would throw it away.
    if matches!(ended, Ended::UpstreamFailed(_))
        && matches!(tokio::time::timeout(SILENCE, client.shutdown()).await, Ok(Ok(())))
    {
        linger(async |scratch: &mut [u8]| client.read(scratch).await).await;
    }
}

fn log(level: Level, message: fmt::Arguments<'_>, origin: &Origin) {
    let context = silverback_log::Context { stream: true, ..surroundings::connection_context(origin) };
    silverback_log::write(level, message, Some(&context));
}

impl Session {
    fn patience(&self) -> Patience {
        let milliseconds = |count: u32| Duration::from_millis(u64::from(count.max(1)));
        let choice = &self.exchange.upstream;
        Patience { idle: milliseconds(choice.read_timeout), write: milliseconds(choice.write_timeout) }
    }

    fn count(&mut self, counts: &Counts) {
        self.exchange.request.length = counts.from_client;
        self.exchange.response.bytes_sent = counts.to_client;
        self.exchange.stream.upstream_received = counts.from_upstream;
        self.exchange.stream.upstream_sent = counts.to_upstream;
    }

    /// Writes how it ended, as nginx words it.
    fn report(&self, ended: &Ended, counts: &Counts) {
        let (level, how) = match ended {
            Ended::Complete => (Level::Info, "client and upstream disconnected".to_owned()),
            Ended::TimedOut => (Level::Info, "connection timed out".to_owned()),
            Ended::ClientFailed(error) => (Level::Info, format!("client disconnected ({error})")),
            Ended::UpstreamFailed(error) => (Level::Error, format!("upstream disconnected ({error})")),
        };
        let Counts { from_client, to_client, from_upstream, to_upstream } = counts;
        self.log(
            level,
            format_args!(
                "{how}, bytes from/to client:{from_client}/{to_client}, bytes from/to \
                 upstream:{from_upstream}/{to_upstream}"
            ),
        );
    }
}

//! The TLS handshake with a client: its ClientHello, the certificate phase, then the certificate.
//!
//! Independent of what is spoken afterwards: HTTP and stream listeners use the same function. The certificate phase
//! runs for every handshake, also for one that takes up an earlier session: a plugin that refuses a client must not
//! be passed by.

use std::{cell::Cell, io, rc::Rc, sync::Arc, time::Duration};

use rustls::{HandshakeKind, ProtocolVersion, ServerConnection, server::ClientHello};
use silverback_log::Level;
use silverback_model::Phase;
use silverback_pdk::exchange::{Subsystem, TlsInfo, Wishes};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    client_certificate::{self, Authorities},
    server_config::{Alpn, Variant, openssl_name},
};
use crate::{
    connection::Origin,
    generation::Generation,
    plugin_run::{self, Failed, Ran},
    request, surroundings,
    worker::Worker,
};

/// Handshakes of one worker that may wait for plugins at a time; beyond it they are refused at once.
const MAX_WAITING: usize = 1024;

/// A TLS connection, and what is known of it.
pub(crate) struct Secured<S> {
    pub(crate) stream: TlsStream<S>,
    pub(crate) info: Arc<TlsInfo>,
    /// Whether HTTP/2 was agreed on.
    pub(crate) http2: bool,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the client took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{0}")]
    Tls(#[from] io::Error),
    /// A certificate handler refused it, or did not run to its end. The reason is in the log already.
    #[error("refused in the certificate phase")]
    Refused,
    #[error("more than {MAX_WAITING} handshakes wait for plugins")]
    Crowded,
}

impl HandshakeError {
    /// How serious it is, for the error log: clients that change their minds are everyday.
    pub(crate) const fn level(&self) -> Level {
        match self {
            Self::Crowded => Level::Warn,
            Self::Timeout(_) | Self::Tls(_) | Self::Refused => Level::Info,
        }
    }
}

/// How many handshakes of a worker wait for plugins.
#[derive(Default)]
pub(crate) struct Waiting(Rc<Cell<usize>>);

struct Place(Rc<Cell<usize>>);

impl Waiting {
    fn place(&self) -> Option<Place> {
        let taken = self.0.get();
        (taken < MAX_WAITING).then(|| {
            self.0.set(taken + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Does the handshake with a client. The generation in force when the ClientHello has come is the one that decides.
/// Nothing that a certificate handler put into `kong.ctx` goes on to the connection's requests (Kong clears it, too); what it asked of the
/// handshake itself is done in it.
///
/// # Errors
/// There is no connection then; the client has had its alert. The caller logs why.
pub(crate) async fn accept<S>(
    worker: &Rc<Worker>,
    socket: S,
    origin: &Origin,
    subsystem: Subsystem,
    alpn: Alpn,
    limit: Duration,
) -> Result<Secured<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let generation = worker.shared.generation.load_full();
        let sni = start.client_hello().server_name().map(str::to_owned);
        let mut socket = start.io;
        let wishes =
            match certificate_phase(worker, &generation, origin, subsystem, &start.accepted.client_hello()).await {
                Ok(wishes) => wishes,
                Err(refusal) => {
                    refuse(&mut socket).await;
                    return Err(refusal);
                }
            };
        let variant = Variant {
            alpn,
            client_certificate: wishes.request_client_certificate,
            resumable: !wishes.disable_session_reuse,
        };
        let config = Arc::clone(generation.server_tls.config(variant));
        let authorities = generation.server_tls.authorities.clone();
        // A slow client must not hold a whole configuration.
        drop(generation);
        let start = tokio_rustls::StartHandshake::from_parts(start.accepted, socket);
        let stream = start.into_stream(config).await?;
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let info = Arc::new(describe(session, sni, &authorities));
        Ok(Secured { stream, info, http2 })
    };
    match tokio::time::timeout(limit, handshake).await {
        Ok(done) => done,
        Err(_) => Err(HandshakeError::Timeout(limit)),
    }
}

/// Runs the global plugins' certificate handlers: what they ask of the handshake.
async fn certificate_phase(
    worker: &Rc<Worker>,
    generation: &Arc<Generation>,
    origin: &Origin,
    subsystem: Subsystem,
    hello: &ClientHello<'_>,
) -> Result<Wishes, HandshakeError> {
    let globals = generation.plugins_of(subsystem).globals();
    if !globals.any(Phase::Certificate) {
        return Ok(Wishes::default());
    }
    let place = worker.handshakes.place().ok_or(HandshakeError::Crowded)?;
    let offers_tls13 = hello.cipher_suites().iter().any(|suite| is_tls13(*suite));
    let tls = TlsInfo {
        version: if offers_tls13 && generation.profile.settings.tls.tls13 { "TLSv1.3" } else { "TLSv1.2" },
        sni: hello.server_name().map(str::to_owned),
        client_verify: "NONE".to_owned(),
        ..TlsInfo::default()
    };
    let mut exchange = request::of_connection(origin, generation, subsystem, Phase::Certificate, Some(Arc::new(tls)));
    let handlers = globals.without_consumer();
    let (tell, told) = oneshot::channel();
    let running = Rc::clone(worker);
    // On its own: an exchange with a plugin server must come to its end, whether or not the client waits for it.
    worker.spawn(async move {
        let _place = place;
        for configured in handlers.iter().filter(|configured| configured.phases.contains(Phase::Certificate)) {
            match plugin_run::run(&running.plugins, exchange.as_mut(), configured, Phase::Certificate).await {
                Ran::Done => {}
                Ran::Exit => return,
                Ran::Failed(Failed { why, .. }) => {
                    let context = surroundings::context(&exchange);
                    silverback_log::write(Level::Error, format_args!("{why}"), Some(&context));
                    return;
                }
            }
        }
        // Nobody hears it when the client has gone.
        let _ = tell.send(exchange.wishes);
    });
    told.await.map_err(|_| HandshakeError::Refused)
}

fn is_tls13(suite: rustls::CipherSuite) -> bool {
    use rustls::CipherSuite;
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

/// A fatal `internal_error`, which is what OpenSSL sends when a certificate callback fails.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

async fn refuse<S: AsyncWrite + Unpin>(socket: &mut S) {
    // A client that has gone needs no alert.
    if socket.write_all(&INTERNAL_ERROR).await.is_ok() {
        let _ = socket.shutdown().await;
    }
}

fn describe(session: &ServerConnection, sni: Option<String>, authorities: &Authorities) -> TlsInfo {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let chain = session.peer_certificates().unwrap_or_default();
    TlsInfo {
        version,
        cipher: session.negotiated_cipher_suite().map(|suite| openssl_name(suite.suite())).unwrap_or_default(),
        curve: session.negotiated_key_exchange_group().and_then(|group| curve(group.name())),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        sni,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client_verify: authorities.verdict(chain),
        client_chain: client_certificate::pem(chain),
        client_certificate: chain.first().and_then(client_certificate::describe),
    }
}

const fn curve(group: rustls::NamedGroup) -> Option<&'static str> {
    use rustls::NamedGroup;
    match group {
        NamedGroup::X25519 => Some("X25519"),
        NamedGroup::secp256r1 => Some("prime256v1"),
        NamedGroup::secp384r1 => Some("secp384r1"),
        NamedGroup::secp521r1 => Some("secp521r1"),
        _ => None,
    }
}

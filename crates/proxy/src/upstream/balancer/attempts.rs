//! The attempts of one request, and what is reported of them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Balancer, Upstream, address::AddressState};
use crate::upstream::{
    dns::{ResolveError, Resolver},
    health::{CheckKind, Outcome},
};

/// Where one attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    /// The name that it was resolved from: the Host header, unless the client's is kept, and the TLS server name.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// No address can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BalanceError {
    #[error("name resolution of {host} failed: {error}")]
    Resolve { host: String, error: ResolveError },
    /// Kong: "failure to get a peer from the ring-balancer".
    #[error("failure to get a peer from the ring-balancer")]
    NoTargets,
}

/// The attempts of one request: never the same address twice while another is left.
pub(crate) struct Attempts<'a> {
    upstream: Option<&'a Upstream>,
    host: &'a str,
    port: u16,
    resolver: &'a Resolver,
    hash: String,
    /// How long to wait for addresses that are not known yet.
    limit: Duration,
    tried: Vec<Arc<AddressState>>,
    tried_sockets: Vec<SocketAddr>,
    current: Option<InUse>,
}

impl<'a> Attempts<'a> {
    /// `hash` is what [`Upstream::hash_value`] gives; only consistent hashing looks at it. `limit` is the request's
    /// connect timeout: no longer than that is waited for a name.
    pub(crate) fn new(
        upstream: Option<&'a Upstream>,
        host: &'a str,
        port: u16,
        resolver: &'a Resolver,
        hash: Option<String>,
        limit: Duration,
    ) -> Self {
        Self {
            upstream,
            host,
            port,
            resolver,
            hash: hash.unwrap_or_default(),
            limit,
            tried: Vec::new(),
            tried_sockets: Vec::new(),
            current: None,
        }
    }

    /// The address for the next attempt.
    ///
    /// # Errors
    /// The name does not resolve, or no target can take the request.
    pub(crate) async fn next(&mut self) -> Result<Address, BalanceError> {
        // The address before is free again.
        self.current = None;
        match self.upstream {
            Some(upstream) => self.next_peer(upstream).await,
            None => self.next_of_host().await,
        }
    }

    async fn next_peer(&mut self, upstream: &Upstream) -> Result<Address, BalanceError> {
        let balancer = &upstream.balancer;
        self.wait_for_addresses(balancer).await;
        let peers = balancer.peers.load();
        if !peers.is_healthy() {
            return Err(BalanceError::NoTargets);
        }
        let peer = peers.pick(balancer, &self.hash, &self.tried).ok_or(BalanceError::NoTargets)?;
        let place = peer.place().ok_or(BalanceError::NoTargets)?;
        self.tried.push(Arc::clone(&peer.address));
        self.current = Some(InUse::new(balancer, &peer.address));
        Ok(place)
    }

    /// Waits only where nothing is usable but may soon be, and never longer than the request gives a connection.
    async fn wait_for_addresses(&self, balancer: &Balancer) {
        let (nothing, circle) = {
            let peers = balancer.peers.load();
            if !peers.is_pending() {
                return;
            }
            (!peers.is_healthy(), peers.circle_begins_until())
        };
        let limit = tokio::time::Instant::now() + self.limit;
        if let Some(until) = circle {
            let whole = balancer.wait_while(|peers| peers.circle_begins_until().is_some());
            let _ = tokio::time::timeout_at(until.min(limit), whole).await;
        }
        if nothing {
            let usable = balancer.wait_while(|peers| peers.is_pending() && !peers.is_healthy());
            let _ = tokio::time::timeout_at(limit, usable).await;
        }
    }

    async fn next_of_host(&mut self) -> Result<Address, BalanceError> {
        let host = self.host;
        // A plugin may name an address and a port in one; that port counts then.
        if host.contains(':')
            && let Ok(socket) = host.parse::<SocketAddr>()
        {
            return Ok(Address { socket, host: host.to_owned(), port: socket.port() });
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let (ip, port) = match bare.parse::<IpAddr>() {
            Ok(ip) => (ip, self.port),
            Err(_) => {
                let failed = |error| BalanceError::Resolve { host: host.to_owned(), error };
                let answer = self.resolver.resolve(host, self.limit).await.map_err(failed)?;
                let mut repeated = None;
                let found = answer.in_turn().map(|(ip, port)| (ip, port.unwrap_or(self.port))).find(|(ip, port)| {
                    let tried = self.tried_sockets.contains(&SocketAddr::new(*ip, *port));
                    if tried {
                        repeated.get_or_insert((*ip, *port));
                    }
                    !tried
                });
                found.or(repeated).ok_or_else(|| failed(ResolveError::Empty))?
            }
        };
        let socket = SocketAddr::new(ip, port);
        self.tried_sockets.push(socket);
        Ok(Address { socket, host: host.to_owned(), port })
    }

    /// Reports what became of the attempt at the address that [`Attempts::next`] gave last.
    pub(crate) fn report(&mut self, outcome: Outcome) {
        if let Some(current) = &mut self.current {
            current.report(outcome);
        }
    }

    /// The address of the last attempt, to be held as long as the request is on it.
    pub(crate) fn into_use(mut self) -> Option<InUse> {
        self.current.take()
    }
}

/// A target that a request is on: it counts as busy until this is dropped.
pub(crate) struct InUse {
    balancer: Arc<Balancer>,
    address: Arc<AddressState>,
    since: Instant,
    answered: bool,
}

impl InUse {
    fn new(balancer: &Arc<Balancer>, address: &Arc<AddressState>) -> Self {
        address.begin();
        Self { balancer: Arc::clone(balancer), address: Arc::clone(address), since: Instant::now(), answered: false }
    }

    /// Tells the passive health check what became of the request.
    pub(crate) fn report(&mut self, outcome: Outcome) {
        self.answered |= matches!(outcome, Outcome::Status(_) | Outcome::Success);
        let peers = self.balancer.peers.load();
        let kind = peers.definition().map(|definition| definition.checks.passive.kind);
        // A TCP check has no eye for what HTTP says.
        if matches!(outcome, Outcome::Status(_)) && kind == Some(CheckKind::Tcp) {
            return;
        }
        drop(peers);
        self.balancer.report(&self.address, outcome, |definition| &definition.checks.passive.limits);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.address.end();
        if self.answered {
            let now = Instant::now();
            self.address.took(now.saturating_duration_since(self.since), now);
        }
    }
}

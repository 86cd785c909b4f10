//! TLS sessions that clients may take up again. They outlive generations: a reload of anything else forgets none.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets, ServerConfig, StoresServerSessions},
    ticketer::TicketRotator,
};
use silverback_config::settings::{ClientVerification, TlsSessions};

/// Clients whose sessions are kept apart: one may not be taken up again where more is asked of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Audience {
    pub(crate) stream: bool,
    /// The client was asked for a certificate.
    pub(crate) client_certificate: bool,
}

/// What decides whether sessions of before may go on: with other settings, or other authorities, they may not.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) sessions: TlsSessions,
    pub(crate) client_verification: Option<ClientVerification>,
    /// The text of the authorities' files.
    pub(crate) authorities: Vec<Vec<u8>>,
}

/// The sessions of all workers.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Option<(Terms, Stores)>>);

type Stores = HashMap<Audience, Store>;

#[derive(Clone)]
struct Store {
    cache: Arc<dyn StoresServerSessions>,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

impl Sessions {
    /// Lets the sessions of an audience be taken up again in handshakes with this configuration.
    pub(crate) fn resume(
        &self,
        config: &mut ServerConfig,
        terms: &Terms,
        audience: Audience,
    ) -> Result<(), rustls::Error> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = match current.as_mut() {
            Some((before, stores)) if before == terms => stores,
            _ => &mut current.insert((terms.clone(), Stores::new())).1,
        };
        let store = match stores.get(&audience) {
            Some(store) => store.clone(),
            None => {
                let store = Store::new(terms.sessions)?;
                stores.insert(audience, store.clone());
                store
            }
        };
        config.session_storage = store.cache;
        if let Some(tickets) = store.tickets {
            config.ticketer = tickets;
        }
        Ok(())
    }
}

/// Lets no session be taken up again.
pub(crate) fn forbid(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

impl Store {
    fn new(settings: TlsSessions) -> Result<Self, rustls::Error> {
        let tickets = if settings.tickets && !settings.timeout.is_zero() {
            // A key is used for half the time, and accepted for the whole. rustls's own keys end after 12 hours.
            let half = u32::try_from(settings.timeout.as_secs().div_ceil(2)).unwrap_or(u32::MAX);
            Some(Arc::new(TicketRotator::new(half, tickets)?) as Arc<dyn ProducesTickets>)
        } else {
            None
        };
        Ok(Self { cache: Arc::new(Cache::new(settings)), tickets })
    }
}

fn tickets() -> Result<Box<dyn ProducesTickets>, rustls::crypto::GetRandomFailed> {
    let tickets = Ticketer::new().map_err(|_| rustls::crypto::GetRandomFailed)?;
    Ok(Box::new(Keys(tickets)))
}

/// One set of keys of a [`TicketRotator`], which wants to own it.
#[derive(Debug)]
struct Keys(Arc<dyn ProducesTickets>);

impl ProducesTickets for Keys {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

/// Sessions by their ids, for clients that take no tickets. The oldest gives way.
struct Cache {
    limit: usize,
    timeout: Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    sessions: HashMap<Vec<u8>, (Instant, Vec<u8>)>,
    /// Ids in the order in which they came; those of sessions that were taken stay until it is their turn.
    order: VecDeque<Vec<u8>>,
}

impl Cache {
    fn new(settings: TlsSessions) -> Self {
        Self { limit: settings.cached, timeout: settings.timeout, kept: Mutex::default() }
    }

    fn is_fresh(&self, since: Instant) -> bool {
        since.elapsed() < self.timeout
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl StoresServerSessions for Cache {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        if self.limit == 0 {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.order.len() >= self.limit {
            if let Some(oldest) = kept.order.pop_front() {
                kept.sessions.remove(&oldest);
            }
        }
        kept.order.push_back(id.clone());
        kept.sessions.insert(id, (Instant::now(), session));
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sessions.get(id).filter(|(since, _)| self.is_fresh(*since)).map(|(_, session)| session.clone())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sessions.remove(id).filter(|(since, _)| self.is_fresh(*since)).map(|(_, session)| session)
    }

    fn can_cache(&self) -> bool {
        self.limit > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_holds_so_many_and_for_so_long() {
        let settings = TlsSessions { timeout: Duration::from_secs(60), cached: 2, tickets: false };
        let cache = Cache::new(settings);
        for id in 1..=3_u8 {
            assert!(cache.put(vec![id], vec![id]));
        }
        assert_eq!((cache.get(&[1]), cache.get(&[2]), cache.take(&[3])), (None, Some(vec![2]), Some(vec![3])));
        assert_eq!(cache.get(&[3]), None, "what was taken is gone");
        let expired = Cache::new(TlsSessions { timeout: Duration::ZERO, ..settings });
        assert!(expired.put(vec![1], vec![1]));
        assert_eq!(expired.get(&[1]), None);
        let none = Cache::new(TlsSessions { cached: 0, ..settings });
        assert!(!none.can_cache() && !none.put(vec![1], vec![1]));
    }

    #[test]
    fn sessions_go_on_while_the_terms_are_the_same() {
        let settings = TlsSessions { timeout: Duration::from_secs(60), cached: 2, tickets: true };
        let terms = Terms { sessions: settings, client_verification: None, authorities: Vec::new() };
        let audience = Audience { stream: false, client_certificate: false };
        let config = |sessions: &Sessions, terms: &Terms| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
            sessions.resume(&mut config, terms, audience).unwrap();
            config
        };
        let sessions = Sessions::default();
        let first = config(&sessions, &terms);
        let again = config(&sessions, &terms);
        assert!(Arc::ptr_eq(&first.ticketer, &again.ticketer));
        let ticket = first.ticketer.encrypt(b"session").unwrap();
        let other = config(&sessions, &Terms { authorities: vec![b"other".to_vec()], ..terms });
        assert_eq!(other.ticketer.decrypt(&ticket), None);
    }
}

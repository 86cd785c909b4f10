//! Names to addresses, answered from one cache for all workers.
//!
//! Workers only read: a look at the cache takes no lock. What is not there, or has lived its time, is asked of the
//! [`keeper`], a task of the control thread, which alone speaks with DNS servers. An answer past its time is used at
//! once while a new one is fetched (`dns_stale_ttl`), and names in use are asked again shortly before their time is
//! over, so that only the first request for a name waits.
//!
//! Behaviour as `kong/resty/dns/client.lua`; the errors' texts are its texts.

mod cache;
mod client;
mod hosts;
mod keeper;
mod lookup;
mod resolv_conf;

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use silverback_config::settings::Dns;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use self::cache::{Cache, Found};
use super::balancer::ring::ring;

/// Questions of workers that the keeper has not taken yet; more wait for room.
const QUESTIONS: usize = 1024;
/// The least that a request waits for a name, however short the time that it gives a connection.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The server said so: its code, and Kong's word for it.
    #[error("dns server error: {0} {1}")]
    Server(u16, &'static str),
    /// There is no record of the types that were asked for.
    #[error("dns client error: 101 empty record received")]
    Empty,
    #[error("recursion detected")]
    Recursion,
    /// It took longer, or would have cost more questions, than a look-up may.
    #[error("the name was not resolved in time: timeout")]
    Timeout,
    #[error("{0}")]
    Transport(String),
}

impl ResolveError {
    pub(crate) const NAME_ERROR: Self = Self::Server(3, "name error");

    /// Whether it says that there is nothing to be found, as against that nothing could be learnt.
    pub(crate) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Server(3, _) | Self::Empty)
    }
}

/// The record that an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    A,
    Aaaa,
    Srv,
}

impl RecordKind {
    /// As the Admin API shows it (`dns`).
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        }
    }
}

/// One place that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The address, or the name that an SRV record gives.
    pub(crate) host: Arc<str>,
    /// What `host` stands for; empty when the name of an SRV record does not resolve.
    pub(crate) ips: Vec<IpAddr>,
    /// Of an SRV record that names one.
    pub(crate) port: Option<u16>,
    /// Of an SRV record; at least 1.
    pub(crate) weight: Option<u16>,
}

/// What a name stands for. Of SRV records only those of the best priority.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: RecordKind,
    /// Never empty; in an order that does not change with that of the records.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Places by weight.
    ring: Vec<u16>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl Answer {
    fn new(kind: RecordKind, endpoints: Vec<Endpoint>) -> Self {
        let weights: Vec<u64> = endpoints.iter().map(|endpoint| u64::from(endpoint.weight.unwrap_or(1))).collect();
        Self { kind, ring: ring(&weights), endpoints, turn: AtomicUsize::new(0) }
    }

    /// The places in the order in which they should be tried now: each call begins with the next one.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (IpAddr, Option<u16>)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let length = self.ring.len();
        (0..length).filter_map(move |offset| {
            let place = *self.ring.get(turn.wrapping_add(offset) % length)?;
            let endpoint = self.endpoints.get(usize::from(place))?;
            // The turns of the addresses behind one name go on from round to round.
            let ip = endpoint.ips.get((turn / length) % endpoint.ips.len().max(1))?;
            Some((*ip, endpoint.port))
        })
    }

    fn is_the_same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.endpoints == other.endpoints
    }
}

type Outcome = Result<Arc<Answer>, ResolveError>;

/// A question to the keeper.
struct Ask {
    name: Arc<str>,
    /// `None`: a refresh that nobody waits for.
    tell: Option<oneshot::Sender<Outcome>>,
}

/// What answers names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Shared>);

struct Shared {
    cache: Cache,
    asks: mpsc::Sender<Ask>,
    /// The keeper's end, until it runs.
    asked: Mutex<Option<mpsc::Receiver<Ask>>>,
    /// Names that are always kept fresh: those of targets.
    watched: watch::Sender<Arc<HashSet<Arc<str>>>>,
    settings: watch::Sender<Arc<Dns>>,
    /// Watched names whose answer is another one than before.
    changed: Mutex<HashSet<Arc<str>>>,
    change: Notify,
}

impl Resolver {
    pub(crate) fn new(settings: &Dns) -> Self {
        let (asks, asked) = mpsc::channel(QUESTIONS);
        Self(Arc::new(Shared {
            cache: Cache::default(),
            asks,
            asked: Mutex::new(Some(asked)),
            watched: watch::channel(Arc::default()).0,
            settings: watch::channel(Arc::new(settings.clone())).0,
            changed: Mutex::default(),
            change: Notify::new(),
        }))
    }

    /// Starts the task that keeps the cache. It belongs to the runtime that this is called in; a second call does
    /// nothing.
    pub(crate) fn spawn(&self) {
        let asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(asked) = asked {
            tokio::spawn(keeper::run(self.clone(), asked));
        }
    }

    /// Takes over other settings: answers that are there are kept for their time.
    pub(crate) fn configure(&self, settings: &Dns) {
        self.0.settings.send_if_modified(|known| {
            let differs = **known != *settings;
            if differs {
                *known = Arc::new(settings.clone());
            }
            differs
        });
    }

    /// Sets the names that are kept fresh whether they are asked for or not.
    pub(crate) fn watch(&self, names: HashSet<Arc<str>>) {
        self.0.watched.send_replace(Arc::new(names));
    }

    /// Waits until watched names have other answers, and gives these names.
    pub(crate) async fn changed(&self) -> HashSet<Arc<str>> {
        loop {
            let change = self.0.change.notified();
            let names = std::mem::take(&mut *self.0.changed.lock().unwrap_or_else(PoisonError::into_inner));
            if !names.is_empty() {
                return names;
            }
            change.await;
        }
    }

    /// What is known of a name, without waiting; `None` if nothing is. Asks for what is missing or old.
    pub(crate) fn peek(&self, name: &str) -> Option<Outcome> {
        let name = normal(name);
        match self.0.cache.look(&name, Instant::now()) {
            Found::Fresh(outcome) => Some(outcome),
            Found::Stale { answer, refresh } => {
                if refresh {
                    self.refresh(name.into());
                }
                Some(Ok(answer))
            }
            Found::Nothing => None,
        }
    }

    /// What was last learnt of a name, without waiting: a failure counts until there is other news. `None` if it was
    /// never looked up, or so long ago that what it stood for then says nothing.
    pub(crate) fn last_known(&self, name: &str) -> Option<Outcome> {
        self.peek(name).or_else(|| {
            let state = self.0.cache.state(&normal(name))?;
            state.outcome.is_err().then(|| state.outcome.clone())
        })
    }

    /// What a name stands for. Waits only if there is nothing usable yet, and no longer than `limit`.
    ///
    /// # Errors
    /// The name does not resolve, or not in time.
    pub(crate) async fn resolve(&self, name: &str, limit: Duration) -> Outcome {
        if let Some(outcome) = self.peek(name) {
            return outcome;
        }
        let (tell, told) = oneshot::channel();
        let gone = || ResolveError::Transport("the gateway is stopping".to_owned());
        let asking = async {
            self.0.asks.send(Ask { name: normal(name).into(), tell: Some(tell) }).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())?
        };
        let answered = tokio::time::timeout(limit.max(LEAST_WAIT), asking).await;
        answered.unwrap_or(Err(ResolveError::Timeout))
    }

    /// Asks again for a name whose answer has lived its time. Lost when the keeper has too much to do: the next use of
    /// the name asks again.
    fn refresh(&self, name: Arc<str>) {
        if let Err(mpsc::error::TrySendError::Full(ask)) = self.0.asks.try_send(Ask { name, tell: None }) {
            self.0.cache.not_asked(&ask.name);
        }
    }
}

/// Names are alike whatever their case.
fn normal(name: &str) -> std::borrow::Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

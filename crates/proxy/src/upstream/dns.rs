//! Names to addresses, answered from one cache for all workers. A stale answer is used at once while a new one is
//! fetched, so that only the first request for a name waits.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// How long an answer is fresh. The system's resolver does not tell the record's own time.
const FRESH: Duration = Duration::from_secs(10);
/// How long an answer may still be used while a new one is fetched.
const STALE: Duration = Duration::from_secs(3600);
/// How long a failure is remembered.
const NEGATIVE: Duration = Duration::from_secs(1);
/// How long a look-up may take.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Look-ups at the same time.
const LOOKUPS: usize = 4;
/// Names kept; beyond it the stale ones go.
const MAX_NAMES: usize = 10_000;

/// A name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name resolution failed: {0}")]
pub(crate) struct ResolveError(String);

type Answer = Result<Arc<[IpAddr]>, ResolveError>;

#[derive(Clone)]
pub(crate) struct Resolver {
    names: Arc<Mutex<HashMap<String, Entry>>>,
    /// Look-ups under way at the same time.
    turns: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { names: Arc::default(), turns: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

struct Entry {
    answer: Option<Answer>,
    at: Instant,
    /// The look-up under way, if there is one.
    pending: Option<watch::Receiver<Option<Answer>>>,
}

impl Resolver {
    /// The addresses of a name, in the order in which the system gives them.
    ///
    /// # Errors
    /// The name does not resolve, and no earlier answer is left.
    pub(crate) async fn resolve(&self, name: &str) -> Answer {
        let mut pending = match self.look(name) {
            Look::Answer(answer) => return answer,
            Look::Pending(pending) => pending,
        };
        match pending.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err(ResolveError(name.to_owned()))),
            Err(_) => Err(ResolveError(name.to_owned())),
        }
    }

    fn look(&self, name: &str) -> Look {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(entry) = names.get_mut(name) {
            let age = now.duration_since(entry.at);
            match &entry.answer {
                Some(Ok(answer)) if age < FRESH => return Look::Answer(Ok(Arc::clone(answer))),
                Some(Err(error)) if age < NEGATIVE => return Look::Answer(Err(error.clone())),
                Some(Ok(answer)) if age < STALE => {
                    let answer = Ok(Arc::clone(answer));
                    if entry.pending.is_none() {
                        entry.pending = Some(self.fetch(name));
                    }
                    return Look::Answer(answer);
                }
                _ => {}
            }
            // One whose worker ended before its answer came will never tell.
            let alive = entry.pending.as_ref().filter(|told| told.has_changed().is_ok() || told.borrow().is_some());
            let pending = match alive {
                Some(pending) => pending.clone(),
                None => {
                    let pending = self.fetch(name);
                    entry.pending = Some(pending.clone());
                    pending
                }
            };
            return Look::Pending(pending);
        }
        if names.len() >= MAX_NAMES {
            names.retain(|_, entry| entry.pending.is_some() || now.duration_since(entry.at) < FRESH);
        }
        let pending = self.fetch(name);
        names.insert(name.to_owned(), Entry { answer: None, at: now, pending: Some(pending.clone()) });
        Look::Pending(pending)
    }

    /// Starts a look-up. It is a task of the worker that asked first; others wait for the same.
    fn fetch(&self, name: &str) -> watch::Receiver<Option<Answer>> {
        let (tell, told) = watch::channel(None);
        let name = name.to_owned();
        let (names, turns) = (Arc::clone(&self.names), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let looking = async {
                // They block threads that spooled bodies need too.
                let _turn = turns.acquire().await;
                tokio::net::lookup_host((name.as_str(), 0)).await
            };
            let answer: Answer = match tokio::time::timeout(GIVE_UP, looking).await {
                Err(_) => Err(ResolveError(format!("{name}: no answer in time"))),
                Ok(Ok(addresses)) => {
                    let mut found: Vec<IpAddr> = Vec::new();
                    for address in addresses {
                        if !found.contains(&address.ip()) {
                            found.push(address.ip());
                        }
                    }
                    if found.is_empty() { Err(ResolveError(name.clone())) } else { Ok(found.into()) }
                }
                Ok(Err(error)) => Err(ResolveError(format!("{name}: {error}"))),
            };
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = names.get_mut(&name) {
                entry.pending = None;
                // A failure does not push out an answer that can still be used.
                let keep_old = answer.is_err() && matches!(entry.answer, Some(Ok(_))) && entry.at.elapsed() < STALE;
                if !keep_old {
                    entry.answer = Some(answer.clone());
                    entry.at = Instant::now();
                }
            }
            drop(names);
            tell.send_replace(Some(answer));
        });
        told
    }
}

enum Look {
    Answer(Answer),
    Pending(watch::Receiver<Option<Answer>>),
}

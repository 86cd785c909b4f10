//! The cache: read by workers without a lock, written by the keeper alone.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{Answer, Outcome, ResolveError};

/// A new name means that one shard is copied.
const SHARDS: usize = 64;

type Shard = HashMap<Arc<str>, Arc<Entry>>;

pub(super) struct Cache {
    shards: Vec<ArcSwap<Shard>>,
    hasher: RandomState,
    began: Instant,
    /// Records of all names.
    records: AtomicUsize,
    /// Of these, those of names that are never dropped, when room was made last.
    kept: AtomicUsize,
}

/// How much there may be in the cache, besides what is never dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) names: usize,
    /// Addresses behind all names together: an answer may have thousands.
    pub(super) records: usize,
}

/// What is known of a name.
pub(super) struct Entry {
    state: ArcSwap<State>,
    /// Somebody has asked for it since it was fetched.
    used: AtomicBool,
    /// A refresh is asked for, or under way.
    asked: AtomicBool,
    /// When it was used last, in milliseconds since the cache began.
    used_at: AtomicU64,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) outcome: Outcome,
    pub(super) expires: Instant,
    /// An answer may be used until then.
    pub(super) stale_until: Instant,
}

/// What a look at the cache finds.
pub(super) enum Found {
    Fresh(Outcome),
    Stale {
        answer: Arc<Answer>,
        /// Nobody has asked for a new one yet: the finder does.
        refresh: bool,
    },
    Nothing,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::new(),
            began: Instant::now(),
            records: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
        }
    }
}

impl Cache {
    #[expect(clippy::indexing_slicing, reason = "the index is a remainder of the length")]
    fn shard(&self, name: &str) -> &ArcSwap<Shard> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.shard(name).load().get(name).cloned()
    }

    pub(super) fn look(&self, name: &str, now: Instant) -> Found {
        let shard = self.shard(name).load();
        let Some(entry) = shard.get(name) else { return Found::Nothing };
        entry.used_at.store(self.since_begin(now), Ordering::Relaxed);
        // Most of the time it is set: no need to take the cache line from the other cores.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        let state = entry.state.load();
        if now < state.expires {
            return Found::Fresh(state.outcome.clone());
        }
        match &state.outcome {
            Ok(answer) if now < state.stale_until => {
                Found::Stale { answer: Arc::clone(answer), refresh: !entry.asked.swap(true, Ordering::Relaxed) }
            }
            _ => Found::Nothing,
        }
    }

    fn since_begin(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// A refresh that was promised is not asked for after all.
    pub(super) fn not_asked(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            entry.asked.store(false, Ordering::Relaxed);
        }
    }

    /// What is stored of a name, however old.
    pub(super) fn state(&self, name: &str) -> Option<Arc<State>> {
        Some(self.entry(name)?.state.load_full())
    }

    /// Whether the name was asked for since it was stored.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| entry.used.load(Ordering::Relaxed))
    }

    /// Stores what was found; true if that is news: the name stands for something else than before, or what it stood
    /// for was too old to be used. Makes room when there is more than `capacity`, but never at the cost of what `keep`
    /// holds.
    pub(super) fn store(&self, name: &Arc<str>, state: State, capacity: Capacity, keep: impl Fn(&str) -> bool) -> bool {
        let records = state.records();
        let is_news = self.put(name, state, capacity, &keep);
        self.records.fetch_add(records, Ordering::Relaxed);
        if self.records().saturating_sub(self.kept.load(Ordering::Relaxed)) > capacity.records {
            self.make_room(capacity, keep, Some(name));
        }
        is_news
    }

    fn put(&self, name: &Arc<str>, state: State, capacity: Capacity, keep: impl Fn(&str) -> bool) -> bool {
        if let Some(entry) = self.entry(name) {
            let old = entry.state.load_full();
            let differs = !is_same(&old.outcome, &state.outcome);
            // What has not changed keeps its identity, and its turns with it.
            let state = match (&old.outcome, &state.outcome) {
                (Ok(old), Ok(_)) if !differs => State { outcome: Ok(Arc::clone(old)), ..state },
                _ => state,
            };
            entry.state.store(Arc::new(state));
            self.records.fetch_sub(old.records(), Ordering::Relaxed);
            entry.used.store(false, Ordering::Relaxed);
            entry.asked.store(false, Ordering::Relaxed);
            // A failure counts until there is other news, however old it is.
            return differs || (old.outcome.is_ok() && Instant::now() >= old.stale_until);
        }
        if self.len() >= capacity.names {
            self.make_room(capacity, keep, None);
        }
        let entry = Arc::new(Entry {
            state: ArcSwap::from_pointee(state),
            used: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            used_at: AtomicU64::new(self.since_begin(Instant::now())),
        });
        self.shard(name).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            shard.insert(Arc::clone(name), Arc::clone(&entry));
            shard
        });
        true
    }

    /// What is there is used no more.
    pub(super) fn remove(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            self.records.fetch_sub(entry.state.load().records(), Ordering::Relaxed);
        }
        self.shard(name).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            shard.remove(name);
            shard
        });
    }

    /// As [`Cache::remove`], for many: each shard is copied once.
    pub(super) fn remove_all(&self, names: &HashSet<Arc<str>>) {
        for shard in &self.shards {
            let known = shard.load();
            let dropped = known.iter().filter(|(name, _)| names.contains(*name));
            let (mut count, mut records) = (0, 0);
            for (_, entry) in dropped {
                count += 1;
                records += entry.state.load().records();
            }
            if count == 0 {
                continue;
            }
            self.records.fetch_sub(records, Ordering::Relaxed);
            shard.rcu(|shard| {
                let kept = shard.iter().filter(|(name, _)| !names.contains(*name));
                kept.map(|(name, entry)| (Arc::clone(name), Arc::clone(entry))).collect::<Shard>()
            });
        }
    }

    /// Other names than before are never dropped.
    pub(super) fn kept_has_changed(&self) {
        self.kept.store(0, Ordering::Relaxed);
    }

    pub(super) fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.shards.iter().flat_map(|shard| shard.load().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Drops a tenth of what there is too much of, beginning with what was used the longest ago; not `new`, which was just
    /// stored.
    fn make_room(&self, capacity: Capacity, keep: impl Fn(&str) -> bool, new: Option<&str>) {
        let mut ages: Vec<(u64, usize, Arc<str>)> = Vec::new();
        let (mut kept, mut own) = (0, 0);
        for shard in &self.shards {
            for (name, entry) in shard.load().iter() {
                let records = entry.state.load().records();
                if keep(name) {
                    kept += records;
                    continue;
                }
                own += records;
                if new != Some(&**name) {
                    ages.push((entry.used_at.load(Ordering::Relaxed), records, Arc::clone(name)));
                }
            }
        }
        self.kept.store(kept, Ordering::Relaxed);
        let mut names = if self.len() >= capacity.names { capacity.names / 10 + 1 } else { 0 };
        let mut records = if own > capacity.records { own - (capacity.records - capacity.records / 10) } else { 0 };
        ages.sort_unstable();
        let oldest = ages.into_iter().take_while(|(_, own, _)| {
            let wanted = names > 0 || records > 0;
            names = names.saturating_sub(1);
            records = records.saturating_sub(*own);
            wanted
        });
        self.remove_all(&oldest.map(|(_, _, name)| name).collect());
    }
}

fn is_same(old: &Outcome, new: &Outcome) -> bool {
    match (old, new) {
        (Ok(old), Ok(new)) => old.is_the_same_as(new),
        (Err(old), Err(new)) => old == new,
        _ => false,
    }
}

impl State {
    /// How much room it takes: its addresses.
    fn records(&self) -> usize {
        let answer = self.outcome.as_ref().map_or(&[][..], |answer| &answer.endpoints);
        answer.iter().map(|endpoint| endpoint.ips.len().max(1)).sum::<usize>().max(1)
    }

    pub(super) fn answer(answer: Arc<Answer>, ttl: Duration, stale: Duration, now: Instant) -> Self {
        Self { outcome: Ok(answer), expires: now + ttl, stale_until: now + ttl + stale }
    }

    pub(super) fn failure(error: ResolveError, ttl: Duration, now: Instant) -> Self {
        Self { outcome: Err(error), expires: now + ttl, stale_until: now + ttl }
    }
}

#[cfg(test)]
mod tests;

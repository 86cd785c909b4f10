//! The task that keeps the cache: it takes questions, speaks with servers, stores what they say, and asks again in
//! time. It runs on the control thread, one for all workers.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    path::Path,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use silverback_config::settings::{Dns, DnsType};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    Ask, Outcome, ResolveError, Resolver,
    cache::{Capacity, State},
    hosts::Hosts,
    lookup::{Found, Rules},
    resolv_conf::ResolvConf,
};

/// Look-ups at the same time, each of those that requests wait for and of those that keep what is known fresh; more
/// wait for their turn. Neither kind holds up the other.
const LOOKUPS: usize = 64;
/// Names that wait for their turn; a request for one more is told that it cannot be had. Names of targets have room
/// in any case.
const WAITING: usize = 4096;
/// How often the files are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// The shortest time between two look-ups of a name that nobody asks for.
const REST: Duration = Duration::from_secs(1);
/// The longest time between two look-ups of a name that is to be kept fresh and fails: Kong's `REQUERY_INTERVAL`.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Records that there may be in the cache for each name that there may be: few names stand for more than some.
const RECORDS_PER_NAME: usize = 16;
/// And in any case: some answers as large as they can be.
const LEAST_RECORDS: usize = 16 * 1024;
/// How long before its end an answer in use is asked for again, at most.
const AHEAD: Duration = Duration::from_secs(2);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Those who wait for a look-up.
type Waiters = Vec<oneshot::Sender<Outcome>>;

/// A name that is being looked up, or waits for its turn.
#[derive(Default)]
struct Wanted {
    waiters: Waiters,
    /// Its turn has come.
    begun: bool,
    /// It has a place in the queue of those that requests wait for.
    queued_for_requests: bool,
    /// It is to be kept fresh, whether a request waits for it or not.
    refresh: bool,
}

impl Wanted {
    fn wait(&mut self, tell: Option<oneshot::Sender<Outcome>>) {
        // Requests that gave up leave no more behind than there are that wait.
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.is_closed());
        }
        self.waiters.extend(tell);
    }
}

/// Who wants a look-up.
#[derive(Clone, Copy)]
enum Cause {
    Request,
    Refresh,
}

/// The look-ups of one cause.
#[derive(Default)]
struct Lane {
    running: usize,
    /// Names that wait for their turn; what has begun or ended elsewhere meanwhile is passed over.
    waiting: VecDeque<Arc<str>>,
}

/// How the look-ups of a name fail.
struct Failing {
    /// What the log tells of already.
    error: ResolveError,
    /// How often in a row.
    row: u32,
    /// Before that, nobody asks but those who need it.
    again: Instant,
}

/// A look-up that has ended, with those who wait for this one alone.
type Done = (Arc<str>, Cause, Waiters, Result<Found, ResolveError>);

struct Keeper {
    resolver: Resolver,
    files: Files,
    rules: Arc<Rules>,
    wanted: HashMap<Arc<str>, Wanted>,
    requests: Lane,
    refreshes: Lane,
    lookups: JoinSet<Done>,
    /// When to look at which name again.
    due: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    last: HashMap<Arc<str>, DnsType>,
    failing: HashMap<Arc<str>, Failing>,
}

pub(super) async fn run(resolver: Resolver, mut asked: mpsc::Receiver<Ask>) {
    let mut settings = resolver.0.settings.subscribe();
    let mut watched = resolver.0.watched.subscribe();
    watched.mark_changed();
    let files = Files::read(&settings.borrow_and_update().clone());
    let rules = Arc::new(files.rules(&resolver.0.settings.borrow().clone()));
    let mut keeper = Keeper {
        resolver,
        files,
        rules,
        wanted: HashMap::new(),
        requests: Lane::default(),
        refreshes: Lane::default(),
        lookups: JoinSet::new(),
        due: BinaryHeap::new(),
        last: HashMap::new(),
        failing: HashMap::new(),
    };
    let mut files = tokio::time::interval(LOOK_AT_FILES);
    files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = keeper.due.peek().map(|Reverse((at, _))| *at);
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(Ask { name, tell }) => keeper.ask(name, tell),
                None => return,
            },
            Some(done) = keeper.lookups.join_next(), if !keeper.lookups.is_empty() => {
                // It never fails: it does nothing but wait for another task.
                if let Ok((name, cause, waiters, found)) = done {
                    keeper.lane(cause).running -= 1;
                    keeper.looked_up(&name, waiters, found);
                    keeper.begin_waiting(cause);
                }
            }
            () = sleep_until(next) => keeper.refresh_due(),
            _ = files.tick() => keeper.look_at_files(),
            Ok(()) = settings.changed() => {
                settings.mark_unchanged();
                keeper.look_at_files();
            }
            Ok(()) = watched.changed() => {
                let names = watched.borrow_and_update().clone();
                keeper.resolver.0.cache.kept_has_changed();
                let now = Instant::now();
                for name in names.iter() {
                    // What failed some time ago may be there by now.
                    if keeper.resolver.0.cache.state(name).is_none_or(|state| now >= state.expires) {
                        keeper.ask(Arc::clone(name), None);
                    }
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Keeper {
    fn is_watched(&self, name: &str) -> bool {
        self.resolver.0.watched.borrow().contains(name)
    }

    /// Sees to it that a name is looked up: at once, with others who asked for it, or when its turn comes.
    fn ask(&mut self, name: Arc<str>, tell: Option<oneshot::Sender<Outcome>>) {
        // Many ask for a new name at the same time: what the first of them caused to be found is there by now.
        if tell.is_some()
            && let Some(state) = self.resolver.0.cache.state(&name)
            && Instant::now() < state.expires
        {
            tell.into_iter().for_each(|tell| drop(tell.send(state.outcome.clone())));
            return;
        }
        let cause = if tell.is_some() { Cause::Request } else { Cause::Refresh };
        let has_room = match cause {
            Cause::Request => self.requests.waiting.len() < WAITING,
            Cause::Refresh => self.refreshes.waiting.len() < WAITING + self.resolver.0.watched.borrow().len(),
        };
        let may_begin = self.lane(cause).running < LOOKUPS;
        // With `dns_no_sync` everybody asks for himself; a refresh has nobody to ask for.
        let alone = !self.rules.settings.coalesce && matches!(cause, Cause::Request);
        if let Some(wanted) = self.wanted.get_mut(&name) {
            if wanted.begun && alone && may_begin {
                self.spawn(name, cause, tell.into_iter().collect());
                return;
            }
            wanted.refresh |= tell.is_none();
            wanted.wait(tell);
            if wanted.begun || matches!(cause, Cause::Refresh) || wanted.queued_for_requests {
                return;
            }
            // It waits among many others that nobody waits for.
            if !may_begin {
                if has_room {
                    wanted.queued_for_requests = true;
                    self.requests.waiting.push_back(name);
                }
                return;
            }
            wanted.begun = true;
            self.spawn(name, cause, Vec::new());
        } else if may_begin {
            let waiters = tell.into_iter().collect();
            self.wanted.insert(Arc::clone(&name), Wanted { waiters, begun: true, ..Wanted::default() });
            self.spawn(name, cause, Vec::new());
        } else if has_room {
            let queued_for_requests = matches!(cause, Cause::Request);
            let (refresh, waiters) = (!queued_for_requests, tell.into_iter().collect());
            self.wanted.insert(Arc::clone(&name), Wanted { waiters, begun: false, queued_for_requests, refresh });
            self.lane(cause).waiting.push_back(name);
        } else {
            self.resolver.0.cache.not_asked(&name);
            if self.is_watched(&name) {
                self.due.push(Reverse((Instant::now() + REST, Arc::clone(&name))));
            }
            let error = ResolveError::Transport("too many names are being looked up".to_owned());
            tell.into_iter().for_each(|tell| drop(tell.send(Err(error.clone()))));
        }
    }

    fn lane(&mut self, cause: Cause) -> &mut Lane {
        match cause {
            Cause::Request => &mut self.requests,
            Cause::Refresh => &mut self.refreshes,
        }
    }

    fn begin_waiting(&mut self, cause: Cause) {
        while self.lane(cause).running < LOOKUPS
            && let Some(name) = self.lane(cause).waiting.pop_front()
        {
            let Some(wanted) = self.wanted.get_mut(&name).filter(|wanted| !wanted.begun) else { continue };
            if wanted.refresh || wanted.waiters.iter().any(|waiter| !waiter.is_closed()) {
                wanted.begun = true;
                self.spawn(name, cause, Vec::new());
            } else {
                // All who waited have given up.
                self.wanted.remove(&name);
            }
        }
    }

    fn spawn(&mut self, name: Arc<str>, cause: Cause, own: Waiters) {
        self.lane(cause).running += 1;
        let rules = Arc::clone(&self.rules);
        let last = self.last.get(&name).copied();
        let asked = Arc::clone(&name);
        // A task of its own: should it panic, its name is not looked up for ever.
        let looking = tokio::spawn(async move { rules.look_up(&asked, last).await });
        self.lookups.spawn(async move {
            let broke_off = |_| Err(ResolveError::Transport("the look-up broke off".to_owned()));
            let found = looking.await.unwrap_or_else(broke_off);
            (name, cause, own, found)
        });
    }

    /// What there may be in the cache: the names of targets are in it besides the others.
    fn capacity(&self) -> Capacity {
        let size = self.rules.settings.cache_size;
        Capacity {
            names: size.saturating_add(self.resolver.0.watched.borrow().len()),
            records: size.saturating_mul(RECORDS_PER_NAME).max(LEAST_RECORDS),
        }
    }

    fn looked_up(&mut self, name: &Arc<str>, own: Waiters, found: Result<Found, ResolveError>) {
        let settings = Arc::clone(&self.rules.settings);
        let now = Instant::now();
        let old = self.resolver.0.cache.state(name);
        let again = self.tell(name, found.as_ref().err(), now);
        let (state, outcome) = match found {
            Ok(Found { answer, ttl, by }) => {
                self.last.insert(Arc::clone(name), by);
                let answer = Arc::new(answer);
                (State::answer(Arc::clone(&answer), ttl, settings.stale_ttl, now), Ok(answer))
            }
            Err(error) => {
                let ttl = if error.is_not_found() { settings.not_found_ttl } else { settings.error_ttl };
                // What was known is better than nothing, unless the name is said not to exist any more.
                let usable = old.filter(|old| old.outcome.is_ok() && now < old.stale_until);
                match usable.filter(|_| error != ResolveError::NAME_ERROR) {
                    Some(old) => {
                        let kept = State { expires: (now + ttl).max(again).min(old.stale_until), ..(*old).clone() };
                        let outcome = kept.outcome.clone();
                        (kept, outcome)
                    }
                    None => (State::failure(error.clone(), ttl, now), Err(error)),
                }
            }
        };
        let expires = state.expires;
        let capacity = self.capacity();
        let names = self.resolver.0.watched.borrow().clone();
        let is_news = self.resolver.0.cache.store(name, state, capacity, |name| names.contains(name));
        if self.last.len().max(self.failing.len()) > capacity.names.saturating_mul(2) {
            self.last.clear();
            self.failing.clear();
        }
        self.due.push(Reverse((refresh_at(now, expires).max(again), Arc::clone(name))));
        self.bound_queue(capacity.names);
        // What was stored may have kept the identity of what was there.
        let outcome = self.resolver.0.cache.state(name).map_or(outcome, |state| state.outcome.clone());
        for tell in own.into_iter().chain(self.wanted.remove(name).unwrap_or_default().waiters) {
            let _ = tell.send(outcome.clone());
        }
        // Asked only now: whoever begins to watch looks at the cache afterwards.
        if is_news && self.is_watched(name) {
            self.tell_change(name);
        }
    }

    /// Names that were dropped from the cache leave their places in the queue behind.
    fn bound_queue(&mut self, capacity: usize) {
        if self.due.len() > capacity.saturating_mul(4).max(1024) {
            let cache = &self.resolver.0.cache;
            let mut known = HashSet::new();
            let due = std::mem::take(&mut self.due).into_sorted_vec();
            // The last place of each name is the one that counts; they come from the last to the first.
            self.due = due
                .into_iter()
                .filter(|Reverse((_, name))| cache.state(name).is_some() && known.insert(Arc::clone(name)))
                .collect();
        }
    }

    /// Writes to the log how a name is, when that is new. Returns when a name that fails is to be asked for again.
    fn tell(&mut self, name: &Arc<str>, error: Option<&ResolveError>, now: Instant) -> Instant {
        let before = self.failing.remove(name);
        let row = before.as_ref().map_or(0, |before| before.row);
        let again = now + if error.is_some() { pause(row) } else { REST };
        if let Some(error) = error {
            let failing = Failing { error: error.clone(), row: row.saturating_add(1), again };
            self.failing.insert(Arc::clone(name), failing);
        }
        if before.as_ref().map(|before| &before.error) == error {
            return again;
        }
        match error {
            Some(error) => silverback_log::write(
                silverback_log::Level::Warn,
                format_args!("querying dns for {name} failed: {error}"),
                None,
            ),
            None => silverback_log::write(
                silverback_log::Level::Notice,
                format_args!("querying dns for {name} succeeds again"),
                None,
            ),
        }
        again
    }

    fn tell_change(&self, name: &Arc<str>) {
        self.resolver.0.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(name));
        self.resolver.0.change.notify_waiters();
    }

    /// Asks again for what is in use and about to end.
    fn refresh_due(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, name))) = self.due.pop() else { break };
            let watched = self.is_watched(&name);
            let Some(state) = self.resolver.0.cache.state(&name) else {
                if watched {
                    self.ask(name, None);
                }
                continue;
            };
            // It was fetched meanwhile, or has failed, and has its own place in the queue.
            let is_fresh = refresh_at(now, state.expires) > now + REST && state.expires > now + AHEAD;
            if is_fresh || self.failing.get(&name).is_some_and(|failing| failing.again > now) {
                continue;
            }
            if watched || (self.resolver.0.cache.is_used(&name) && state.outcome.is_ok()) {
                self.ask(name, None);
            } else if now >= state.stale_until {
                self.resolver.0.cache.remove(&name);
                self.last.remove(&name);
            } else {
                self.due.push(Reverse((state.stale_until.max(now + REST), name)));
            }
        }
    }

    /// Reads again what has changed. What the hosts file says counts at once; failures are forgotten, since other
    /// servers may know better.
    fn look_at_files(&mut self) {
        let settings = self.resolver.0.settings.borrow().clone();
        if !self.files.have_changed(&settings) && settings == self.rules.settings {
            return;
        }
        self.files = Files::read(&settings);
        let rules = self.files.rules(&settings);
        if rules == *self.rules {
            return;
        }
        let old = std::mem::replace(&mut self.rules, Arc::new(rules));
        let is_outdated = |name: &Arc<str>| {
            let failed = self.resolver.0.cache.state(name).is_some_and(|state| state.outcome.is_err());
            failed || old.hosts.find(name) != self.rules.hosts.find(name)
        };
        let outdated: HashSet<_> = self.resolver.0.cache.names().into_iter().filter(is_outdated).collect();
        self.resolver.0.cache.remove_all(&outdated);
        for name in outdated {
            self.last.remove(&name);
            if self.is_watched(&name) {
                self.ask(name, None);
            }
        }
    }
}

/// How long a name is left alone that has failed so often in a row before: twice as long each time.
fn pause(row: u32) -> Duration {
    REST.saturating_mul(1 << row.min(16)).min(LONGEST_REST)
}

/// When to ask again: a little before the end, but not before some rest.
fn refresh_at(now: Instant, expires: Instant) -> Instant {
    let left = expires.saturating_duration_since(now);
    let at = expires.checked_sub(AHEAD.min(left / 10)).unwrap_or(expires);
    at.max(now + REST)
}

/// The files, and when they were changed.
struct Files {
    hosts: Arc<Hosts>,
    conf: ResolvConf,
    dates: [Option<SystemTime>; 2],
}

fn date(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl Files {
    /// Small local files, read seldom: not worth a thread.
    fn read(settings: &Dns) -> Self {
        let dates = [date(&settings.hosts_file), date(Path::new(RESOLV_CONF))];
        let hosts = std::fs::read(&settings.hosts_file).unwrap_or_default();
        let conf = std::fs::read(RESOLV_CONF).unwrap_or_default();
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            hosts: Arc::new(Hosts::parse(&String::from_utf8_lossy(&hosts))),
            conf: ResolvConf::parse(
                &String::from_utf8_lossy(&conf),
                variable("LOCALDOMAIN").as_deref(),
                variable("RES_OPTIONS").as_deref(),
            ),
            dates,
        }
    }

    fn have_changed(&self, settings: &Dns) -> bool {
        [date(&settings.hosts_file), date(Path::new(RESOLV_CONF))] != self.dates
    }

    fn rules(&self, settings: &Arc<Dns>) -> Rules {
        Rules::new(settings, Arc::clone(&self.hosts), self.conf.clone())
    }
}

#[cfg(test)]
mod tests;

//! The task that keeps the cache: it takes questions, speaks with servers, stores what they say, and asks again in
//! time. It runs on the control thread, one for all workers.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
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
    cache::State,
    hosts::Hosts,
    lookup::{Found, Rules},
    resolv_conf::ResolvConf,
};

/// Look-ups at the same time; more wait for their turn.
const LOOKUPS: usize = 64;
/// Names that wait for their turn; a request for one more is told that it cannot be had.
const WAITING: usize = 4096;
/// How often the files are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// The shortest time between two look-ups of a name that nobody asks for.
const REST: Duration = Duration::from_secs(1);
/// How long before its end an answer in use is asked for again, at most.
const AHEAD: Duration = Duration::from_secs(2);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Those who wait for a look-up.
type Waiters = Vec<oneshot::Sender<Outcome>>;

struct Keeper {
    resolver: Resolver,
    files: Files,
    rules: Arc<Rules>,
    /// Names that are being looked up.
    under_way: HashMap<Arc<str>, Waiters>,
    /// Names that wait for their turn, and those who wait for them.
    waiting: VecDeque<(Arc<str>, Waiters)>,
    lookups: JoinSet<(Arc<str>, Waiters, Result<Found, ResolveError>)>,
    /// When to look at which name again.
    due: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    last: HashMap<Arc<str>, DnsType>,
    /// Failures that the log tells of already.
    failing: HashMap<Arc<str>, ResolveError>,
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
        under_way: HashMap::new(),
        waiting: VecDeque::new(),
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
                // A look-up that panicked told nobody: its waiters were dropped with it.
                if let Ok((name, waiters, found)) = done {
                    keeper.looked_up(&name, waiters, found);
                }
                keeper.begin_waiting();
            }
            () = sleep_until(next) => keeper.refresh_due(),
            _ = files.tick() => keeper.look_at_files(),
            Ok(()) = settings.changed() => {
                settings.mark_unchanged();
                keeper.look_at_files();
            }
            Ok(()) = watched.changed() => {
                let names = watched.borrow_and_update().clone();
                for name in names.iter() {
                    if keeper.resolver.0.cache.state(name).is_none() {
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
        let known = self.under_way.get_mut(&name);
        let known =
            known.or_else(|| self.waiting.iter_mut().find(|(waiting, _)| *waiting == name).map(|(_, them)| them));
        if let Some(waiters) = known {
            // With `dns_no_sync` everybody asks for himself; a refresh has nobody to ask for.
            if self.rules.settings.coalesce || tell.is_none() {
                waiters.extend(tell);
                return;
            }
            if self.lookups.len() < LOOKUPS {
                self.spawn(name, tell.into_iter().collect());
                return;
            }
            waiters.extend(tell);
            return;
        }
        if self.lookups.len() < LOOKUPS {
            self.under_way.insert(Arc::clone(&name), tell.into_iter().collect());
            self.spawn(name, Vec::new());
        } else if self.waiting.len() < WAITING {
            self.waiting.push_back((name, tell.into_iter().collect()));
        } else {
            self.resolver.0.cache.not_asked(&name);
            let error = ResolveError::Transport("too many names are being looked up".to_owned());
            tell.into_iter().for_each(|tell| drop(tell.send(Err(error.clone()))));
        }
    }

    fn begin_waiting(&mut self) {
        while self.lookups.len() < LOOKUPS
            && let Some((name, waiters)) = self.waiting.pop_front()
        {
            self.under_way.insert(Arc::clone(&name), waiters);
            self.spawn(name, Vec::new());
        }
    }

    fn spawn(&mut self, name: Arc<str>, waiters: Waiters) {
        let rules = Arc::clone(&self.rules);
        let last = self.last.get(&name).copied();
        self.lookups.spawn(async move {
            let found = rules.look_up(&name, last).await;
            (name, waiters, found)
        });
    }

    fn looked_up(&mut self, name: &Arc<str>, own: Waiters, found: Result<Found, ResolveError>) {
        let settings = Arc::clone(&self.rules.settings);
        let now = Instant::now();
        let old = self.resolver.0.cache.state(name);
        self.tell(name, found.as_ref().err());
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
                        let kept = State { expires: (now + ttl.max(REST)).min(old.stale_until), ..(*old).clone() };
                        let outcome = kept.outcome.clone();
                        (kept, outcome)
                    }
                    None => (State::failure(error.clone(), ttl, now), Err(error)),
                }
            }
        };
        let expires = state.expires;
        let watched = self.is_watched(name);
        let names = self.resolver.0.watched.borrow().clone();
        let differs = self.resolver.0.cache.store(name, state, settings.cache_size, |name| names.contains(name));
        if self.last.len().max(self.failing.len()) > settings.cache_size.saturating_mul(2) {
            self.last.clear();
            self.failing.clear();
        }
        self.due.push(Reverse((refresh_at(now, expires), Arc::clone(name))));
        self.bound_queue(settings.cache_size);
        // What was stored may have kept the identity of what was there.
        let outcome = self.resolver.0.cache.state(name).map_or(outcome, |state| state.outcome.clone());
        for tell in own.into_iter().chain(self.under_way.remove(name).unwrap_or_default()) {
            let _ = tell.send(outcome.clone());
        }
        if watched && differs {
            self.tell_change(name);
        }
    }

    /// Names that were dropped from the cache leave their places in the queue behind.
    fn bound_queue(&mut self, cache_size: usize) {
        if self.due.len() > cache_size.saturating_mul(4).max(1024) {
            let cache = &self.resolver.0.cache;
            let mut known = std::collections::HashSet::new();
            let due = std::mem::take(&mut self.due).into_sorted_vec();
            // The last place of each name is the one that counts; they come from the last to the first.
            self.due = due
                .into_iter()
                .filter(|Reverse((_, name))| cache.state(name).is_some() && known.insert(Arc::clone(name)))
                .collect();
        }
    }

    /// Writes to the log how a name is, when that is new.
    fn tell(&mut self, name: &Arc<str>, error: Option<&ResolveError>) {
        let before = match error {
            Some(error) => self.failing.insert(Arc::clone(name), error.clone()),
            None => self.failing.remove(name),
        };
        if before.as_ref() == error {
            return;
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
            let Some(state) = self.resolver.0.cache.state(&name) else { continue };
            let watched = self.is_watched(&name);
            // It was fetched meanwhile, and has its own place in the queue.
            if refresh_at(now, state.expires) > now + REST && state.expires > now + AHEAD {
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
        for name in self.resolver.0.cache.names() {
            let Some(state) = self.resolver.0.cache.state(&name) else { continue };
            let moved = old.hosts.find(&name) != self.rules.hosts.find(&name);
            if moved || state.outcome.is_err() {
                self.resolver.0.cache.remove(&name);
                self.last.remove(&name);
                if self.is_watched(&name) {
                    self.ask(name, None);
                }
            }
        }
    }
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

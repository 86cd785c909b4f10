//! Supervises a seat of a server: starts its process, watches it, starts it again when it ends, and another one beside it
//! when it has done its share. What is done when is in [`crate::seat`]; here it is done.

mod birth;

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use silverback_config::settings::MaxMemory;
use silverback_log::Level;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use self::birth::{Start, Stillborn};
use crate::{
    ServerState, Usage,
    connection::connect,
    life::{Life, Order},
    process::Body,
    repair::Repair,
    seat::{Event, Seat, State, Step},
    server::{Server, Stop},
    socket::{Address, Need},
    usage::memory_of_machine,
};

/// How often the memory of a process is looked at.
const TICK: Duration = Duration::from_secs(1);

/// A process is not renewed for its memory before it is this old: a limit below what it needs must not keep the machine
/// busy with renewals.
const MIN_AGE: Duration = Duration::from_secs(5);

/// A process that is this old has the memory that it needs. Where no limit is set, it is measured by that.
const SETTLED: Duration = Duration::from_secs(60);

/// Instances that a process may have however few of them are asked for.
const MAX_INSTANCES: usize = 1000;

/// The least that counts as too much memory where no limit is set.
const MUCH_MEMORY: u64 = 1 << 30;

/// The factor on `start_timeout` that a server has reached at most which has not come up several times.
const MAX_PATIENCE: u32 = 16;

/// How long the events of a process may take to end that gets no new ones.
const DRAIN: Duration = Duration::from_secs(120);

/// The end of a process becomes known a little later than the end of its connections.
const EXIT_LAG: Duration = Duration::from_millis(10);

/// Pause between looks at a socket that is in doubt.
const LOOK: Duration = Duration::from_millis(20);

/// How a server's processes are started.
pub(crate) struct Launch {
    pub(crate) line: String,
    pub(crate) main_env: Vec<String>,
    /// The modules that it loads, if any.
    pub(crate) repair: Option<Repair>,
    pub(crate) address: Arc<Address>,
}

/// Supervises all seats of a server.
pub(crate) fn spawn(server: &Arc<Server>, launch: Launch) -> Vec<JoinHandle<()>> {
    let launch = Arc::new(launch);
    let seats = 0..server.seats();
    seats.map(|index| tokio::spawn(Supervisor::new(Arc::clone(server), index, Arc::clone(&launch)).run())).collect()
}

/// A process that answers.
struct Running {
    body: Body,
    life: Arc<Life>,
    /// When it answered.
    since: Instant,
    /// The memory that it had when it had settled.
    memory: Option<u64>,
}

type Coming = Pin<Box<dyn Future<Output = Result<Running, Stillborn>> + Send>>;
type Verdict = Pin<Box<dyn Future<Output = bool> + Send>>;

struct Supervisor {
    server: Arc<Server>,
    index: usize,
    launch: Arc<Launch>,
    seat: Seat,
    current: Option<Running>,
    /// The process that was begun.
    coming: Option<Coming>,
    /// How much that one is needed.
    need: watch::Sender<Need>,
    begun: Option<Result<Running, Stillborn>>,
    /// Finds out whether the socket of the current process is still there.
    doubt: Option<Verdict>,
    pause_over: Option<Instant>,
    /// Processes that get no new events.
    draining: JoinSet<()>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// For those who give orders.
    desk: mpsc::UnboundedSender<Order>,
    stop: watch::Receiver<Option<Stop>>,
    /// The factor on `start_timeout`.
    patience: u32,
    /// Why nothing runs, to be shown.
    reason: Option<String>,
    /// What became of the process that served, to be logged.
    fate: Option<String>,
}

/// What the loop of a supervisor goes on with.
enum News {
    Event(Event),
    Order(Order),
    Tick,
    /// Whether the socket that was in doubt is there.
    Verdict(bool),
    Stop(Stop),
}

impl Supervisor {
    fn new(server: Arc<Server>, index: usize, launch: Arc<Launch>) -> Self {
        let (desk, orders) = mpsc::unbounded_channel();
        let stop = server.stops();
        Self {
            seat: Seat::new(server.settings.process.restart_backoff),
            server,
            index,
            launch,
            current: None,
            coming: None,
            need: watch::Sender::new(Need::Usual),
            begun: None,
            doubt: None,
            pause_over: None,
            draining: JoinSet::new(),
            orders,
            desk,
            stop,
            patience: 1,
            reason: None,
            fate: None,
        }
    }

    async fn run(mut self) {
        self.begin();
        self.show();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let grace = loop {
            let news = tokio::select! {
                biased;
                stop = stopping(&mut self.stop) => News::Stop(stop),
                how = ended(self.current.as_mut()) => News::Event(self.lost(&how)),
                order = self.orders.recv() => match order {
                    Some(order) => News::Order(order),
                    None => continue, // this value holds a sender
                },
                there = some(self.doubt.as_mut()) => News::Verdict(there),
                result = some(self.coming.as_mut()) => News::Event(self.came(result)),
                () = until(self.pause_over) => News::Event(Event::PauseOver),
                _ = ticks.tick() => News::Tick,
            };
            let event = match news {
                News::Event(event) => Some(event),
                News::Order(order) => self.obey(order).await,
                News::Tick => self.look(),
                News::Verdict(there) => self.judge(there).await,
                News::Stop(Stop::Now(grace)) => break grace,
                News::Stop(Stop::Drained(limit)) => {
                    self.serve_the_rest(limit).await;
                    break self.server.settings.process.shutdown_grace;
                }
            };
            if let Some(event) = event {
                self.perform(event);
                if self.seat.state() == State::Ended {
                    break self.server.settings.process.shutdown_grace;
                }
            }
        };
        self.end(grace).await;
    }

    /// Does what is to be done about an event.
    fn perform(&mut self, event: Event) {
        let step = self.seat.on(event, Instant::now(), self.server.on_trial.load(Ordering::Relaxed));
        if step != Step::Nothing {
            self.pause_over = None;
        }
        match self.begun.take() {
            Some(Ok(running)) if matches!(step, Step::Admit | Step::Shift) => {
                self.server.admit(&running.life);
                self.log(Level::Notice, format_args!("ready, pid {}", running.body.process.pid));
                if let Some(old) = self.current.replace(running) {
                    self.drain(old);
                }
            }
            Some(Err(why)) => {
                self.server.restarts.fetch_add(1, Ordering::Relaxed);
                self.log(Level::Error, format_args!("{why}{}", self.next(step)));
                self.reason = Some(why.to_string());
            }
            Some(Ok(_)) | None => {} // nobody waits for it any more: it is killed
        }
        if let Some(fate) = self.fate.take() {
            self.log(Level::Error, format_args!("{fate}{}", self.next(step)));
        }
        match step {
            Step::Begin => self.begin(),
            Step::Pause(pause) => self.pause_over = Some(Instant::now() + pause),
            // what was begun to take another's place may be the only one now
            Step::Nothing if self.coming.is_some() => self.tell_need(),
            Step::Nothing | Step::Admit | Step::Shift | Step::End => {}
        }
        self.show();
    }

    fn tell_need(&self) {
        let need = if self.current.is_some() || self.server.on_trial.load(Ordering::Relaxed) {
            Need::Spare
        } else if self.seat.is_promising() {
            Need::Urgent
        } else {
            Need::Usual
        };
        self.need.send_if_modified(|before| std::mem::replace(before, need) != need);
    }

    fn show(&mut self) {
        self.server.set_hopeless(self.index, self.seat.is_hopeless());
        self.server.set_seat(self.index, self.seat.shown(), self.reason.take());
    }

    /// Begins a process.
    fn begin(&mut self) {
        self.tell_need();
        let start = Start {
            server: Arc::clone(&self.server),
            index: self.index,
            launch: Arc::clone(&self.launch),
            desk: self.desk.clone(),
            patience: self.patience,
        };
        self.coming = Some(Box::pin(start.come_up(self.need.subscribe())));
    }

    /// The process that was begun can serve, or came to nothing.
    fn came(&mut self, result: Result<Running, Stillborn>) -> Event {
        self.coming = None;
        let event = match &result {
            Ok(_) => {
                self.patience = 1;
                Event::Up
            }
            Err(why) => {
                if matches!(why, Stillborn::Silent(..)) {
                    self.patience = (self.patience * 2).min(MAX_PATIENCE);
                }
                if why.is_crash() { Event::Crashed } else { Event::Failed }
            }
        };
        self.begun = Some(result);
        event
    }

    /// The process that served has ended by itself.
    fn lost(&mut self, how: &str) -> Event {
        if let Some(running) = self.current.take() {
            let lived = running.since.elapsed().as_secs_f32();
            self.dismiss(&running);
            self.fate = Some(format!("ended ({how}) after {lived:.1} s"));
            self.server.restarts.fetch_add(1, Ordering::Relaxed);
            self.reason = Some(format!("ended ({how})"));
        }
        Event::Ended
    }

    /// What comes next, for the log: crash loops are to be seen.
    fn next(&self, step: Step) -> String {
        match step {
            Step::Begin => "; it is started again".to_owned(),
            Step::Pause(pause) => format!(
                "; that is {} times in a row, it is started again in {:.1} s",
                self.seat.row(),
                pause.as_secs_f32()
            ),
            Step::Nothing if self.current.is_some() => "; the one that it was to replace goes on serving".to_owned(),
            _ => String::new(),
        }
    }

    /// A life is over.
    fn dismiss(&mut self, running: &Running) {
        self.doubt = None;
        self.server.dismiss(&running.life);
        self.launch.address.release(&running.life.socket);
    }

    async fn obey(&mut self, order: Order) -> Option<Event> {
        let current = self.current.as_mut()?;
        match order {
            Order::Look { epoch } if epoch == current.life.epoch => {
                if let Ok(how) = timeout(EXIT_LAG, current.body.exited()).await {
                    return Some(self.lost(&how));
                }
                let life = Arc::clone(&current.life);
                let patience = self.server.deadlines.ready;
                self.doubt = Some(Box::pin(async move { timeout(patience, answers(&life)).await.is_ok() }));
                None
            }
            Order::Replace { epoch } if epoch == current.life.epoch => {
                current.body.kill().await;
                // a server that hangs now and then must not be waited for
                self.seat.forgive();
                self.server.restarts.fetch_add(1, Ordering::Relaxed);
                if let Some(running) = self.current.take() {
                    self.dismiss(&running);
                }
                Some(Event::Ended)
            }
            Order::Renew { epoch } if epoch == current.life.epoch => {
                self.log(Level::Notice, format_args!("has run max_requests events; another process takes its place"));
                Some(Event::RenewalDue)
            }
            _ => None, // of a life that is over
        }
    }

    /// The socket that was in doubt is there, or lost.
    async fn judge(&mut self, there: bool) -> Option<Event> {
        self.doubt = None;
        let running = self.current.as_mut()?;
        if there {
            running.life.set_ready();
            self.server.changed();
            return None;
        }
        running.body.kill().await;
        let socket = running.life.socket.display();
        self.fate = Some(format!("runs, but nothing answers at {socket} any more; it is killed"));
        self.server.restarts.fetch_add(1, Ordering::Relaxed);
        if let Some(running) = self.current.take() {
            self.dismiss(&running);
        }
        Some(Event::Ended)
    }

    /// Whether the current process is to be renewed: it has too much memory, or too many instances that nobody asks for,
    /// or a renewal is to be tried again.
    fn look(&mut self) -> Option<Event> {
        if self.seat.state() != State::Ready {
            return None;
        }
        if self.seat.renewal_due(Instant::now()) {
            return Some(Event::RenewalDue);
        }
        let running = self.current.as_mut().filter(|_| !self.seat.awaits_renewal())?;
        let (age, pid) = (running.since.elapsed(), running.body.process.pid);
        let usage = Usage::of_tree(pid)?;
        if age >= SETTLED && running.memory.is_none() {
            running.memory = Some(usage.memory);
        }
        let limit = limit(self.server.settings.process.max_memory, running.memory, memory_of_machine);
        let what = if limit.is_some_and(|limit| usage.memory > limit && age >= MIN_AGE) {
            format!("{} MiB of memory", usage.memory >> 20)
        } else {
            let started = running.life.instances.load(Ordering::Relaxed);
            // instances are not closed: closing one makes go-pdk drop others
            if started <= MAX_INSTANCES || started <= 4 * self.server.instances().len() {
                return None;
            }
            format!("{started} instances, most of them of configurations that are no more")
        };
        self.log(Level::Notice, format_args!("pid {pid} has {what}; another process takes its place"));
        Some(Event::RenewalDue)
    }

    /// Lets the events of a process end, then the process.
    fn drain(&mut self, running: Running) {
        self.doubt = None;
        running.life.set_draining();
        self.server.changed();
        let (server, launch, stop) = (Arc::clone(&self.server), Arc::clone(&self.launch), self.stop.clone());
        self.draining.spawn(drain(server, launch, running, stop));
    }

    /// Another server has taken the place of this one, or none will. Serves those who still hold one of its instances.
    async fn serve_the_rest(&mut self, limit: Duration) {
        if let Some(coming) = self.coming.take() {
            let _ = coming.await; // it sees the stop, and ends its process
        }
        let server = Arc::clone(&self.server);
        let unused = async {
            while server.has_instances() {
                sleep(LOOK * 5).await;
            }
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            () = unused => {}
            () = sleep(limit) => {}
            _ = stopping_now(&mut stop) => {}
            how = ended(self.current.as_mut()) => {
                self.lost(&how);
                self.fate = None;
            }
        }
        if let Some(running) = self.current.take() {
            self.drain(running);
        }
        while !self.draining.is_empty() {
            self.draining.join_next().await;
        }
    }

    /// Ends what runs, for good.
    async fn end(mut self, grace: Duration) {
        self.seat.on(Event::Stop, Instant::now(), true);
        let coming = self.coming.take();
        let begun = self.begun.take().and_then(Result::ok);
        if let Some(running) = self.current.take() {
            running.life.set_draining();
            self.server.changed();
            let (server, launch) = (Arc::clone(&self.server), Arc::clone(&self.launch));
            end(&server, &launch, running, grace).await;
        }
        drop(begun);
        if let Some(coming) = coming {
            let _ = coming.await; // it sees the stop, and ends its process
        }
        // they end as soon as they see the stop
        while self.draining.join_next().await.is_some() {}
        self.server.set_seat(self.index, ServerState::Dead, None);
    }

    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        log(&self.server, level, message);
    }
}

fn log(server: &Server, level: Level, message: fmt::Arguments<'_>) {
    silverback_log::write(level, format_args!("plugin server {} {message}", server.name()), None);
}

/// The memory at which a process is renewed that had `settled` when it had settled.
fn limit(max: MaxMemory, settled: Option<u64>, machine: impl FnOnce() -> Option<u64>) -> Option<u64> {
    match max {
        MaxMemory::Never => None,
        MaxMemory::Bytes(bytes) => Some(bytes),
        MaxMemory::Auto => {
            let quarter = machine().map_or(MUCH_MEMORY, |machine| machine / 4);
            Some(MUCH_MEMORY.min(quarter).max(settled?.saturating_mul(3)))
        }
    }
}

/// Waits until the events of a process have ended, and ends it.
async fn drain(server: Arc<Server>, launch: Arc<Launch>, running: Running, mut stop: watch::Receiver<Option<Stop>>) {
    let mut running = running;
    let mut grace = server.settings.process.shutdown_grace;
    let life = Arc::clone(&running.life);
    tokio::select! {
        () = life.idle() => {}
        () = sleep(DRAIN) => {
            log(&server, Level::Warn, format_args!("pid {}: its last events do not end", running.body.process.pid));
        }
        now = stopping_now(&mut stop) => grace = now,
        _ = running.body.exited() => {}
    }
    end(&server, &launch, running, grace).await;
}

/// Ends a process.
async fn end(server: &Arc<Server>, launch: &Launch, running: Running, grace: Duration) {
    let Running { body, life, .. } = running;
    let pid = body.process.pid;
    if body.end(grace).await {
        log(server, Level::Warn, format_args!("pid {pid} did not end when asked to; it was killed"));
    } else {
        log(server, Level::Info, format_args!("pid {pid} has ended"));
    }
    server.dismiss(&life);
    launch.address.release(&life.socket);
}

/// Waits until the socket of a life answers as it did.
async fn answers(life: &Life) {
    loop {
        if let Ok((_, identity)) = connect(life).await
            && identity == life.identity
            && identity.is_certain()
        {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Waits for the end of a process, if there is one.
async fn ended(running: Option<&mut Running>) -> String {
    match running {
        Some(running) => running.body.exited().await,
        None => std::future::pending().await,
    }
}

/// Waits for a future, if there is one.
async fn some<T>(future: Option<&mut Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the order to end.
async fn stopping(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    let stop = stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
    stop.unwrap_or(Stop::Now(Duration::ZERO))
}

/// Waits for the order to end at once; the time that a process has.
async fn stopping_now(stop: &mut watch::Receiver<Option<Stop>>) -> Duration {
    let stop = stop.wait_for(|stop| matches!(stop, Some(Stop::Now(_)))).await.ok().and_then(|stop| *stop);
    match stop {
        Some(Stop::Now(grace)) => grace,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory() {
        let machine = || Some(64 << 30);
        assert_eq!(limit(MaxMemory::Never, Some(1), machine), None);
        assert_eq!(limit(MaxMemory::Bytes(5), None, machine), Some(5));
        assert_eq!(limit(MaxMemory::Auto, None, machine), None);
        assert_eq!(limit(MaxMemory::Auto, Some(50 << 20), machine), Some(1 << 30));
        assert_eq!(limit(MaxMemory::Auto, Some(2 << 30), machine), Some(6 << 30));
        assert_eq!(limit(MaxMemory::Auto, Some(50 << 20), || Some(1 << 30)), Some(256 << 20));
    }
}

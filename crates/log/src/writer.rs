//! The writer thread and the queues before it.
//!
//! Every sink has a buffer of its own, so that lines are copied under a lock nobody else holds for long. Only the line
//! that finds its buffer empty wakes the writer, which then waits a moment for company: a busy gateway makes a
//! hundred writes a second, not one per request.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    mem,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Level, Target};

/// Bytes that may wait in one sink; lines beyond are dropped.
const QUEUE_BYTES: usize = 4 << 20;
/// From here on the writer stops waiting for more lines.
const HURRY_BYTES: usize = 256 << 10;
/// Capacity that a buffer keeps after a burst.
const KEPT_CAPACITY: usize = 512 << 10;
/// How long the first line waits for others.
const GATHER: Duration = Duration::from_millis(10);
/// How often drops are reported, at most.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long a write to a stream that would block is tried again before its lines are given up.
const BLOCKED_FOR: Duration = Duration::from_secs(1);

static WRITER: Writer = Writer {
    state: Mutex::new(State {
        running: false,
        sinks: Vec::new(),
        dirty: false,
        hurry: false,
        reopen: false,
        flushes_wanted: 0,
        flushes_done: 0,
    }),
    wake: Condvar::new(),
    flushed: Condvar::new(),
};

struct Writer {
    state: Mutex<State>,
    wake: Condvar,
    flushed: Condvar,
}

struct State {
    running: bool,
    sinks: Vec<Arc<Queue>>,
    /// Some sink has lines.
    dirty: bool,
    /// Some sink has many.
    hurry: bool,
    reopen: bool,
    flushes_wanted: u64,
    flushes_done: u64,
}

impl State {
    fn must_act_now(&self) -> bool {
        self.hurry || self.reopen || self.flushes_wanted != self.flushes_done
    }
}

/// A sink for whole lines (an access log). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Queue>);

/// Lines that were dropped since the start, of all logs.
static DROPPED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

#[derive(Debug)]
struct Queue {
    target: Target,
    waiting: Mutex<Vec<u8>>,
    /// Lines that did not fit or could not be written, not yet reported.
    dropped: AtomicU64,
    /// Touched by the writer thread only, after opening.
    out: Mutex<File>,
}

impl Sink {
    /// Hands over one line, without its newline. Never waits for the file; a line that does not fit into the queue is
    /// dropped and counted.
    pub fn line(&self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let (was_empty, waiting) = {
            let mut waiting = lock(&self.0.waiting);
            let before = waiting.len();
            if before + line.len() + 1 > QUEUE_BYTES {
                self.0.drop_lines(1);
                return;
            }
            waiting.extend_from_slice(line);
            waiting.push(b'\n');
            (before == 0, before..waiting.len())
        };
        let hurry = waiting.contains(&HURRY_BYTES);
        if was_empty || hurry {
            let mut state = lock(&WRITER.state);
            state.dirty = true;
            state.hurry |= hurry;
            drop(state);
            WRITER.wake.notify_one();
        }
    }
}

/// Finds or opens the sink of a resolved target.
pub(crate) fn open(target: Target) -> io::Result<Sink> {
    let mut state = lock(&WRITER.state);
    if let Some(queue) = state.sinks.iter().find(|queue| queue.target == target) {
        return Ok(Sink(Arc::clone(queue)));
    }
    let out = open_file(&target)?;
    if !state.running {
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        state.running = true;
    }
    let queue =
        Arc::new(Queue { target, waiting: Mutex::new(Vec::new()), dropped: AtomicU64::new(0), out: Mutex::new(out) });
    state.sinks.push(Arc::clone(&queue));
    Ok(Sink(queue))
}

pub(crate) fn reopen() {
    lock(&WRITER.state).reopen = true;
    WRITER.wake.notify_one();
}

pub(crate) fn flush(limit: Duration) {
    let mut state = lock(&WRITER.state);
    if !state.running {
        return;
    }
    state.flushes_wanted += 1;
    let ticket = state.flushes_wanted;
    WRITER.wake.notify_one();
    drop(WRITER.flushed.wait_timeout_while(state, limit, |state| state.flushes_done < ticket));
}

/// The writer thread.
fn run() {
    let mut batch = Vec::new();
    let mut last_report = None::<Instant>;
    loop {
        let (sinks, reopen, ticket) = wait_for_work();
        let mut lost = false;
        for queue in &sinks {
            if reopen {
                queue.reopen();
            }
            queue.write_out(&mut batch);
            lost |= queue.dropped.load(Ordering::Relaxed) > 0;
        }
        drop(sinks);
        if lost && last_report.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            last_report = Some(Instant::now());
            report_drops();
        }
        let mut state = lock(&WRITER.state);
        // A sink that nobody else holds any more (its log was turned off by a reload) is closed.
        state.sinks.retain(|queue| Arc::strong_count(queue) > 1 || !lock(&queue.waiting).is_empty());
        if state.flushes_done != ticket {
            state.flushes_done = ticket;
            WRITER.flushed.notify_all();
        }
    }
}

fn wait_for_work() -> (Vec<Arc<Queue>>, bool, u64) {
    let state = lock(&WRITER.state);
    let state = WRITER
        .wake
        .wait_while(state, |state| !state.dirty && !state.must_act_now())
        .unwrap_or_else(PoisonError::into_inner);
    let (mut state, _) = WRITER
        .wake
        .wait_timeout_while(state, GATHER, |state| !state.must_act_now())
        .unwrap_or_else(PoisonError::into_inner);
    state.dirty = false;
    state.hurry = false;
    (state.sinks.clone(), mem::take(&mut state.reopen), state.flushes_wanted)
}

fn report_drops() {
    let sinks = lock(&WRITER.state).sinks.clone();
    for queue in sinks {
        let dropped = queue.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            crate::write(
                Level::Alert,
                format_args!(
                    "{dropped} lines for {} were dropped: they could not be written fast enough",
                    queue.target
                ),
                None,
            );
        }
    }
}

impl Queue {
    fn write_out(&self, batch: &mut Vec<u8>) {
        batch.clear();
        batch.shrink_to(KEPT_CAPACITY);
        mem::swap(&mut *lock(&self.waiting), batch);
        if batch.is_empty() {
            return;
        }
        let written = write_all(&mut lock(&self.out), batch);
        let lost = batch.get(written..).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        self.drop_lines(lost as u64);
    }

    fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        DROPPED.fetch_add(lines, Ordering::Relaxed);
    }

    fn reopen(&self) {
        // What was handed over before the rotation belongs into the old file.
        self.write_out(&mut Vec::new());
        match open_file(&self.target) {
            Ok(file) => *lock(&self.out) = file,
            Err(error) => {
                crate::write(Level::Emerg, format_args!("cannot reopen {}: {error}", self.target), None);
            }
        }
    }
}

/// Writes as much as can be written; the number of bytes that were.
fn write_all(out: &mut File, bytes: &[u8]) -> usize {
    let mut written = 0;
    let mut blocked_since = None::<Instant>;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(n) => {
                written += n;
                blocked_since = None;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A standard stream that somebody else made non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if blocked_since.get_or_insert_with(Instant::now).elapsed() > BLOCKED_FOR {
                    break;
                }
                thread::sleep(GATHER);
            }
            Err(_) => break,
        }
    }
    written
}

fn open_file(target: &Target) -> io::Result<File> {
    match target {
        Target::Off => Err(io::Error::new(ErrorKind::InvalidInput, "the log is off")),
        Target::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Target::Stderr => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        Target::File(path) => OpenOptions::new().append(true).create(true).open(path),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

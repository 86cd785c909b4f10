//! The error log and the access logs. Whoever logs hands a line over and goes on: one writer thread owns the files,
//! its queue is bounded in bytes, what does not fit is dropped and counted, and [`flush`] empties it at exit.
//!
//! Until [`init`] is called, error-log lines of level `warn` and above go to standard error.

mod line;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

pub use writer::Sink;

/// Severity, as nginx names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warn,
    Error,
    Crit,
    Alert,
    Emerg,
}

impl Level {
    /// The name as nginx prints it between brackets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Crit => "crit",
            Self::Alert => "alert",
            Self::Emerg => "emerg",
        }
    }
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Off,
    File(PathBuf),
    Stdout,
    Stderr,
}

impl Target {
    /// The files that stand for a standard stream are that stream: it may be a socket, which cannot be opened.
    fn resolved(&self) -> Self {
        let Self::File(path) = self else { return self.clone() };
        match path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Self::Stdout,
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Self::Stderr,
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("/dev/stdout"),
            Self::Stderr => f.write_str("/dev/stderr"),
        }
    }
}

/// The form of error-log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As nginx writes them.
    #[default]
    Nginx,
    /// One JSON object a line.
    Json,
}

/// What nginx appends to an error-log line that belongs to a request.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Serial number of the client connection (`*45`).
    pub connection: Option<u64>,
    pub client: Option<String>,
    pub server: Option<String>,
    /// `GET /path HTTP/1.1`
    pub request: Option<String>,
    pub host: Option<String>,
    pub request_id: Option<String>,
    /// It is about a stream: the line goes to the error log of streams, where there is one.
    pub stream: bool,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static JSON: AtomicBool = AtomicBool::new(false);
static ERROR_LOG: RwLock<ErrorLog> = RwLock::new(ErrorLog::NotDirected);
static STREAM_ERROR_LOG: RwLock<ErrorLog> = RwLock::new(ErrorLog::NotDirected);

enum ErrorLog {
    NotDirected,
    Off,
    To(Sink),
}

/// Opens (or finds, if already open) the sink for a target; `None` for `Off`.
///
/// The writer thread starts with the first sink: a process that forks does so before.
///
/// # Errors
/// The file cannot be opened for appending, or the writer thread cannot be started.
pub fn sink(target: &Target) -> std::io::Result<Option<Sink>> {
    match target.resolved() {
        Target::Off => Ok(None),
        target => writer::open(target).map(Some),
    }
}

/// Directs the error log; lines below `level` are not written. May be called again (a reload).
///
/// # Errors
/// The file cannot be opened for appending, or the writer thread cannot be started.
pub fn init(target: &Target, level: Level) -> std::io::Result<()> {
    let opened = sink(target)?.map_or(ErrorLog::Off, ErrorLog::To);
    *ERROR_LOG.write().unwrap_or_else(PoisonError::into_inner) = opened;
    LEVEL.store(level as u8, Ordering::Relaxed);
    Ok(())
}

/// Directs the lines that are about streams elsewhere than the others. May be called again (a reload).
///
/// # Errors
/// The file cannot be opened for appending, or the writer thread cannot be started.
pub fn init_streams(target: &Target) -> std::io::Result<()> {
    let opened = sink(target)?.map_or(ErrorLog::Off, ErrorLog::To);
    *STREAM_ERROR_LOG.write().unwrap_or_else(PoisonError::into_inner) = opened;
    Ok(())
}

/// Chooses the form of error-log lines; nginx's until then.
pub fn set_format(format: Format) {
    JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// Whether lines of this level are written at all.
pub fn enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}

/// Writes one error-log line. Control characters are escaped, and the message is cut at [`MAX_MESSAGE`] bytes.
pub fn write(level: Level, message: fmt::Arguments<'_>, context: Option<&Context>) {
    if !enabled(level) {
        return;
    }
    let format = if JSON.load(Ordering::Relaxed) { Format::Json } else { Format::Nginx };
    if let Some(sink) = error_sink(context.is_some_and(|context| context.stream)) {
        sink.line(line::render(format, level, message, context));
    }
}

/// The longest message of an error-log line, in bytes; the rest is cut.
pub const MAX_MESSAGE: usize = 8192;

/// Reopens every file (SIGUSR1, after a log rotation). A file that cannot be opened keeps its old descriptor, and the
/// error log says so.
pub fn reopen() {
    writer::reopen();
}

/// Lines that were dropped since the start, of all logs, because they could not be written fast enough.
pub fn dropped() -> u64 {
    writer::dropped()
}

/// Waits until all that was handed over is written, but no longer than two seconds: a reader that does not read must
/// not keep the process from ending.
pub fn flush() {
    writer::flush(Duration::from_secs(2));
}

fn error_sink(stream: bool) -> Option<Sink> {
    if stream {
        match &*STREAM_ERROR_LOG.read().unwrap_or_else(PoisonError::into_inner) {
            ErrorLog::NotDirected => {}
            ErrorLog::Off => return None,
            ErrorLog::To(sink) => return Some(sink.clone()),
        }
    }
    match &*ERROR_LOG.read().unwrap_or_else(PoisonError::into_inner) {
        ErrorLog::NotDirected => sink(&Target::Stderr).ok().flatten(),
        ErrorLog::Off => None,
        ErrorLog::To(sink) => Some(sink.clone()),
    }
}

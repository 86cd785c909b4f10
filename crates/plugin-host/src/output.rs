//! What a server's process prints: line by line into the log, the last ones kept for the report of a failure.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use silverback_log::Level;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

/// Bytes of a line; a longer one is written in pieces.
const MAX_LINE: usize = 8 * 1024;

/// Lines kept of a process, and characters of each.
const KEPT_LINES: usize = 20;
const KEPT_CHARS: usize = 500;

/// How long a line that could still be overwritten is held back.
const SETTLE: Duration = Duration::from_millis(50);

/// A server's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) started: SystemTime,
    end: OnceLock<String>,
    lines: Mutex<VecDeque<String>>,
    /// Its pipes that have not ended.
    open_pipes: AtomicUsize,
}

impl Process {
    pub(crate) fn new(pid: u32) -> Self {
        Self {
            pid,
            started: SystemTime::now(),
            end: OnceLock::new(),
            lines: Mutex::default(),
            open_pipes: AtomicUsize::new(0),
        }
    }

    /// How it ended, if it did: `exit status 2`, `killed by SIGKILL`.
    pub(crate) fn end(&self) -> Option<&str> {
        self.end.get().map(String::as_str)
    }

    pub(crate) fn set_end(&self, end: String) {
        let _ = self.end.set(end); // it ends once
    }

    /// The last lines that it printed, oldest first.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether all that it printed has been read.
    pub(crate) fn is_silent(&self) -> bool {
        self.open_pipes.load(Ordering::Acquire) == 0
    }

    /// A pipe of it is going to be read, to its end ([`log`]).
    pub(crate) fn add_pipe(&self) {
        self.open_pipes.fetch_add(1, Ordering::Release);
    }

    fn keep(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(KEPT_CHARS).collect());
    }
}

/// Copies a pipe into the log until it ends. It was added ([`Process::add_pipe`]).
pub(crate) async fn log(server: String, process: Arc<Process>, mut pipe: impl AsyncRead + Unpin) {
    let mut screen = Screen::default();
    let mut buffer = Vec::with_capacity(MAX_LINE);
    let write = |line: Option<String>| {
        let Some(line) = line else { return };
        process.keep(&line);
        let level = level(&line).unwrap_or(Level::Notice);
        silverback_log::write(level, format_args!("[{server}:{}] {line}", process.pid), None);
    };
    loop {
        let read = pipe.read_buf(&mut buffer);
        let read = if screen.holds_a_line() {
            match timeout(SETTLE, read).await {
                Ok(read) => read,
                Err(_) => {
                    write(screen.settle());
                    continue;
                }
            }
        } else {
            read.await
        };
        if matches!(read, Ok(0) | Err(_)) {
            break;
        }
        // a process that prints without end must leave room for others on the thread
        tokio::task::yield_now().await;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &buffer) {
            let line = buffer.get(start..=end).unwrap_or_default();
            write(screen.line(&String::from_utf8_lossy(line)));
            start = end + 1;
        }
        buffer.drain(..start);
        if buffer.len() >= MAX_LINE {
            let line = std::mem::take(&mut buffer);
            write(screen.line(&String::from_utf8_lossy(&line)));
            buffer.reserve(MAX_LINE);
        }
    }
    if !buffer.is_empty() {
        write(screen.line(&String::from_utf8_lossy(&buffer)));
    }
    write(screen.settle());
    process.open_pipes.fetch_sub(1, Ordering::Release);
}

/// A terminal of one line. The logger of kong-js-pdk prints a message in steps, each of which moves the cursor back up
/// and writes the line anew; only the last one is meant to be seen.
#[derive(Default)]
pub(crate) struct Screen {
    shown: Option<String>,
}

impl Screen {
    /// A line was printed. Gives the line before it, if that stays.
    pub(crate) fn line(&mut self, raw: &str) -> Option<String> {
        let overwrites = raw.starts_with("\x1b[1A");
        let line = clean(raw);
        let line = (!line.is_empty()).then_some(line);
        let before = std::mem::replace(&mut self.shown, line);
        if overwrites { None } else { before }
    }

    fn holds_a_line(&self) -> bool {
        self.shown.is_some()
    }

    /// Nothing came for a while: the line stays.
    pub(crate) fn settle(&mut self) -> Option<String> {
        self.shown.take()
    }
}

/// A line without terminal control sequences, control characters and space around it.
pub(crate) fn clean(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // CSI: parameters, then one letter
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: up to BEL or ESC
                Some(']') => while chars.next_if(|c| !matches!(c, '\x07' | '\x1b')).is_some() {},
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

/// The level that a line shows: `WARN - [14:29:00] text` (kong-python-pdk), `DATE [INFO] text` (kong-js-pdk),
/// `ERROR:root:text`, `level=warn`, `"level":"error"`.
pub(crate) fn level(line: &str) -> Option<Level> {
    let head: String = line.chars().take(120).collect();
    let words = head.split_whitespace();
    let mut bracketed = words.clone().filter_map(|word| word.strip_prefix('[')?.split(']').next());
    if let Some(level) = bracketed.find_map(level_name) {
        return Some(level);
    }
    for key in ["level=", "\"level\":", "lvl="] {
        if let Some((_, rest)) = head.split_once(key) {
            let rest = rest.trim_start_matches([' ', '"']);
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return rest.get(..end).and_then(level_name);
        }
    }
    let first = words.clone().next()?;
    let name = first.split(':').next()?;
    // an ordinary sentence may start with "error" or "info"
    let shouted = name.bytes().all(|byte| byte.is_ascii_uppercase());
    let colon = first.contains(':');
    (shouted || colon).then(|| level_name(name)).flatten()
}

fn level_name(name: &str) -> Option<Level> {
    Some(match name.to_ascii_lowercase().as_str() {
        "debug" | "debg" | "verb" | "verbose" | "trace" => Level::Debug,
        "info" => Level::Info,
        "notice" => Level::Notice,
        "warn" | "warning" => Level::Warn,
        "error" | "err" => Level::Error,
        "crit" | "critical" | "fatal" => Level::Crit,
        "alert" => Level::Alert,
        "emerg" => Level::Emerg,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_were_printed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let check = |printed: &[u8], expect: &[&str]| {
            let process = Arc::new(Process::new(1));
            runtime.block_on(log("s".to_owned(), Arc::clone(&process), printed));
            assert_eq!(process.last_lines(), expect);
        };
        check(b"", &[]);
        check(b"one\ntwo\n\nthree", &["one", "two", "three"]);
        check(b"one\n", &["one"]);
        let long = [&[b'a'; MAX_LINE][..], b"b\nc"].concat();
        check(&long, &[&"a".repeat(KEPT_CHARS), "b", "c"]);
    }

    #[test]
    fn levels_are_recognised() {
        let check = |line: &str, expect| assert_eq!(level(line), expect, "{line}");
        check("WARN - [14:29:00] lua-style return values", Some(Level::Warn));
        check("DEBG - [14:29:00] rpc", Some(Level::Debug));
        check("CRITICAL - [14:29:00] x", Some(Level::Crit));
        check("2026-11-22T08:32:51.680Z [INFO] hello", Some(Level::Info));
        check("ERROR:root:failed", Some(Level::Error));
        check("time=x level=warn msg=y", Some(Level::Warn));
        check(r#"{"level":"error","msg":"x"}"#, Some(Level::Error));
        check("2026/11/22 08:00:00 Listening on socket", None);
        check("info about nothing", None);
        check("", None);
    }

    #[test]
    fn control_sequences_are_removed() {
        let check = |line: &str, expect: &str| assert_eq!(clean(line), expect);
        check("\x1b[1A2026Z \x1b[0m\x1b[42m\x1b[30m[INFO]\x1b[0m \x1b[32mhello x\x1b[0m\n", "2026Z [INFO] hello x");
        check("\x1b]0;title\x07text", "text");
        check("a\tb\x00c\x1b", "a bc");
    }

    #[test]
    fn what_is_overwritten_is_not_seen() {
        let mut screen = Screen::default();
        let printed = [
            "before\n",
            "DATE \x1b[0m\n",
            "\x1b[1A\x1b[K\n",
            "\x1b[1ADATE [INFO]\n",
            "\x1b[1A\x1b[K\n",
            "\x1b[1ADATE [INFO] text\n",
            "after\n",
        ];
        let mut seen: Vec<_> = printed.iter().filter_map(|line| screen.line(line)).collect();
        seen.extend(screen.settle());
        assert_eq!(seen, ["before", "DATE [INFO] text", "after"]);
    }
}

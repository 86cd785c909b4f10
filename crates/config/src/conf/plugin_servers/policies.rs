//! What `pluginserver_NAME_*` says of a server's processes and events.

use std::{path::PathBuf, time::Duration};

use crate::{
    conf::{
        reader::{Reader, split_list},
        units::parse_size,
    },
    settings::{Breaker, EventPolicy, MaxMemory, ProcessPolicy, ResourceLimit, RestartBackoff, available_cores},
};

/// What may follow `pluginserver_NAME_`, beside `socket` and the commands.
pub(super) const SUFFIXES: [&str; 19] = [
    "timeout",
    "start_timeout",
    "on_error",
    "max_inflight",
    "max_queue",
    "breaker_failures",
    "breaker_pause",
    "workers",
    "max_requests",
    "max_memory",
    "restart_backoff",
    "shutdown_grace",
    "env",
    "cwd",
    "user",
    "rlimits",
    "socket_mode",
    "repair",
    "watch",
];

/// A day: no time of a plugin server is longer.
const LONGEST: u64 = 86_400_000;

/// Processes of one server.
const MAX_WORKERS: u64 = 256;

/// The properties of one server.
pub(super) struct Policies<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// `pluginserver_NAME_`
    base: &'r str,
}

impl<'r, 'a> Policies<'r, 'a> {
    pub(super) fn new(reader: &'r mut Reader<'a>, base: &'r str) -> Self {
        Self { reader, base }
    }

    pub(super) fn events(&mut self) -> EventPolicy {
        let default = EventPolicy::default();
        let breaker = default.breaker.unwrap_or(Breaker { failures: 0, pause: Duration::ZERO });
        let failures = self.number("breaker_failures", breaker.failures.into(), 0, u32::MAX.into());
        let pause = self.milliseconds("breaker_pause", breaker.pause, 1);
        EventPolicy {
            timeout: self.milliseconds("timeout", default.timeout, 1),
            on_error: self.parsed(
                "on_error",
                default.on_error,
                "closed, open, or a phase with one of them: 'closed, response=open'",
                |text| text.parse().ok(),
            ),
            max_inflight: usize::try_from(self.number("max_inflight", default.max_inflight as u64, 0, u32::MAX.into()))
                .unwrap_or(usize::MAX),
            max_queue: usize::try_from(self.number("max_queue", default.max_queue as u64, 0, u32::MAX.into()))
                .unwrap_or(usize::MAX),
            breaker: u32::try_from(failures)
                .ok()
                .filter(|failures| *failures > 0)
                .map(|failures| Breaker { failures, pause }),
            repair: self.flag("repair", default.repair),
        }
    }

    pub(super) fn process(&mut self) -> ProcessPolicy {
        let default = ProcessPolicy::default();
        ProcessPolicy {
            workers: self.workers(default.workers),
            start_timeout: self.milliseconds("start_timeout", default.start_timeout, 1),
            max_requests: self.number("max_requests", default.max_requests, 0, u64::MAX),
            max_memory: self.parsed(
                "max_memory",
                default.max_memory,
                "a size (512m), auto, or 0 for no limit",
                max_memory,
            ),
            restart_backoff: self.parsed(
                "restart_backoff",
                default.restart_backoff,
                "the first and the longest pause in milliseconds: '100/5000'",
                restart_backoff,
            ),
            shutdown_grace: self.milliseconds("shutdown_grace", default.shutdown_grace, 0),
            env: self.parsed("env", default.env, "a list of NAME=value", env),
            cwd: self.parsed("cwd", default.cwd, "an absolute path", |text| {
                let path = PathBuf::from(text);
                path.is_absolute().then_some(Some(path))
            }),
            user: self.parsed("user", default.user, "a user, or a user and a group: 'kong', 'kong kong'", user),
            rlimits: self.parsed(
                "rlimits",
                default.rlimits,
                &format!(
                    "a list of RESOURCE=value, with a number, a size or 'unlimited'; resources: {}",
                    ResourceLimit::NAMES.join(", ")
                ),
                rlimits,
            ),
            socket_mode: self.parsed("socket_mode", default.socket_mode, "permissions in octal digits: '0660'", mode),
            watch: self.flag("watch", default.watch),
        }
    }

    fn given(&self, suffix: &str) -> Option<String> {
        let entry = self.reader.given(&format!("{}{suffix}", self.base))?;
        Some(entry.value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn problem(&mut self, suffix: &str, value: &str, wanted: &str) {
        let name = format!("{}{suffix}", self.base);
        self.reader.problem(&name, format!("{name}: '{value}' is not {wanted}"));
    }

    fn parsed<T>(&mut self, suffix: &str, default: T, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = self.given(suffix) else { return default };
        parse(&text).unwrap_or_else(|| {
            self.problem(suffix, &text, wanted);
            default
        })
    }

    fn number(&mut self, suffix: &str, default: u64, low: u64, high: u64) -> u64 {
        let wanted = match high {
            u64::MAX => format!("a whole number of at least {low}"),
            _ => format!("a whole number between {low} and {high}"),
        };
        self.parsed(suffix, default, &wanted, |text| text.parse().ok().filter(|number| (low..=high).contains(number)))
    }

    fn milliseconds(&mut self, suffix: &str, default: Duration, low: u64) -> Duration {
        let wanted = format!("a number of milliseconds between {low} and {LONGEST}");
        self.parsed(suffix, default, &wanted, |text| {
            let number = text.parse().ok().filter(|number| (low..=LONGEST).contains(number))?;
            Some(Duration::from_millis(number))
        })
    }

    fn flag(&mut self, suffix: &str, default: bool) -> bool {
        self.parsed(suffix, default, "on or off", |text| match text {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        })
    }

    fn workers(&mut self, default: usize) -> usize {
        let wanted = format!("a number of processes between 1 and {MAX_WORKERS}, or 'auto'");
        self.parsed("workers", default, &wanted, |text| {
            if text == "auto" {
                return Some(available_cores());
            }
            let number = text.parse().ok().filter(|number| (1..=MAX_WORKERS).contains(number))?;
            usize::try_from(number).ok()
        })
    }
}

fn max_memory(text: &str) -> Option<MaxMemory> {
    match text {
        "auto" => Some(MaxMemory::Auto),
        _ => parse_size(text).map(|bytes| if bytes == 0 { MaxMemory::Never } else { MaxMemory::Bytes(bytes) }),
    }
}

fn restart_backoff(text: &str) -> Option<RestartBackoff> {
    let (first, cap) = text.split_once('/')?;
    let pause = |text: &str| text.trim().parse().ok().filter(|number| (1..=LONGEST).contains(number));
    let (first, cap) = (pause(first)?, pause(cap)?);
    (first <= cap).then(|| RestartBackoff { first: Duration::from_millis(first), cap: Duration::from_millis(cap) })
}

fn env(text: &str) -> Option<Vec<(String, String)>> {
    let variable = |item: &String| {
        let (name, value) = item.split_once('=')?;
        let name = name.trim();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_name = !name.is_empty() && name.bytes().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
        (is_name && !value.contains('\0')).then(|| (name.to_owned(), value.trim().to_owned()))
    };
    split_list(text).iter().map(variable).collect()
}

/// As `nginx_user` has it.
#[expect(clippy::option_option, reason = "the outer one says whether the text can be read")]
fn user(text: &str) -> Option<Option<(String, Option<String>)>> {
    let mut words = text.split_whitespace().map(str::to_owned);
    let user = words.next()?;
    let group = words.next();
    words.next().is_none().then_some(Some((user, group)))
}

fn rlimits(text: &str) -> Option<Vec<ResourceLimit>> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for item in split_list(text) {
        let (name, value) = item.split_once('=')?;
        let resource = ResourceLimit::NAMES.into_iter().find(|known| *known == name.trim())?;
        let value = match value.trim() {
            "unlimited" | "infinity" => None,
            value => Some(parse_size(value)?),
        };
        if limits.iter().any(|limit| limit.resource == resource) {
            return None;
        }
        limits.push(ResourceLimit { resource, value });
    }
    Some(limits)
}

#[expect(clippy::option_option, reason = "the outer one says whether the text can be read")]
fn mode(text: &str) -> Option<Option<u32>> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)?;
    Some(Some(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_read() {
        let millis = Duration::from_millis;
        assert_eq!(restart_backoff("50/ 2000"), Some(RestartBackoff { first: millis(50), cap: millis(2000) }));
        assert_eq!(max_memory("auto"), Some(MaxMemory::Auto));
        assert_eq!(max_memory("0"), Some(MaxMemory::Never));
        assert_eq!(max_memory("2g"), Some(MaxMemory::Bytes(2 << 30)));
        assert_eq!(env("A=1, _B=x=y"), Some(vec![("A".into(), "1".into()), ("_B".into(), "x=y".into())]));
        assert_eq!(user("kong"), Some(Some(("kong".into(), None))));
        assert_eq!(user("kong staff"), Some(Some(("kong".into(), Some("staff".into())))));
        assert_eq!(
            rlimits("nofile=4096, as=2g, core=unlimited"),
            Some(vec![
                ResourceLimit { resource: "nofile", value: Some(4096) },
                ResourceLimit { resource: "as", value: Some(2 << 30) },
                ResourceLimit { resource: "core", value: None },
            ])
        );
        assert_eq!(mode("0660"), Some(Some(0o660)));
        assert_eq!(mode("777"), Some(Some(0o777)));
    }

    #[test]
    fn values_that_are_refused() {
        for text in ["", "100", "0/5", "5/1", "a/b", "1/2/3"] {
            assert_eq!(restart_backoff(text), None, "{text}");
        }
        for text in ["A", "=1", "1A=2", "A B=1"] {
            assert_eq!(env(text), None, "{text}");
        }
        for text in ["nofile", "files=3", "nofile=x", "nofile=1,nofile=2"] {
            assert_eq!(rlimits(text), None, "{text}");
        }
        for text in ["rw", "66", "0888", "07777"] {
            assert_eq!(mode(text), None, "{text}");
        }
        assert_eq!(user("a b c"), None);
        assert_eq!(max_memory("big"), None);
    }
}

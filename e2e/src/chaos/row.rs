//! One fault in one language under one policy.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    fault::{Fault, Injection},
    load::{self, Answer, Load, Made},
    process::{self, Peak},
};
use crate::{Chaos, Gateway, Running, Trial, eventually_async};

/// `pluginserver_NAME_timeout` of the server that goes wrong.
const EVENT: Duration = Duration::from_secs(1);
/// What a request may take at most: its event's deadline, the time that a server which starts is waited for (10 s), and a margin for
/// the machine, which may be busy with other tests. Beyond it the request counts as hung.
const LIMIT: Duration = Duration::from_secs(30);
/// How long after the last fault the route must be served as before; what takes longer is a delay.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long it is waited for what must come about; what takes longer is a problem.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a request of others may take.
const OTHERS: Duration = Duration::from_secs(1);
/// What the gateway may grow by, in bytes.
const GROWTH: u64 = 64 << 20;
/// Descriptors that may be open in the end beyond those before the fault: idle connections to plugin servers that are kept.
const DESCRIPTORS: usize = 64;
/// Requests that ask for the fault, and the pause between them.
const TIMES: usize = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// How long a server cannot start, or takes to.
const OUTAGE: Duration = Duration::from_secs(2);

/// What a failed event means for its request (`pluginserver_NAME_on_error`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Closed,
    Open,
}

impl Policy {
    pub const ALL: [Self; 2] = [Self::Closed, Self::Open];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// What a row showed.
#[derive(Debug)]
pub struct Report {
    pub fault: Fault,
    pub language: Trial,
    pub policy: Policy,
    /// Requests to the route of the faulty plugin, those that asked for the fault included.
    pub requests: usize,
    pub checked: usize,
    pub unchecked: usize,
    pub refused: usize,
    pub hung: usize,
    /// Requests of others that were not answered as always.
    pub others: usize,
    /// The longest that one of others took.
    pub others_longest: Duration,
    /// From the last fault to the first request after which all went well; `None`: not within the time watched.
    pub recovered: Option<Duration>,
    /// By how much the gateway's memory grew at most, in bytes.
    pub growth: u64,
    /// Processes that were left after a stop.
    pub left: usize,
    /// What must never be.
    pub problems: Vec<String>,
    /// What took longer than it should: a machine that is busy with other things can cause it too.
    pub delays: Vec<String>,
}

impl Report {
    /// The names of the columns.
    pub fn heading() -> String {
        format!(
            "{:<21} {:<10} {:<7} {:>8} {:>8} {:>9} {:>8} {:>5} {:>7} {:>8} {:>9} {:>9} {:>5}  {}",
            "fault",
            "language",
            "policy",
            "requests",
            "checked",
            "unchecked",
            "refused",
            "hung",
            "others",
            "longest",
            "recovered",
            "growth",
            "left",
            "verdict"
        )
    }

    /// Nothing is wrong with it.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.delays.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recovered =
            self.recovered.map_or_else(|| "never".to_owned(), |recovered| format!("{:.1} s", recovered.as_secs_f32()));
        write!(
            f,
            "{:<21} {:<10} {:<7} {:>8} {:>8} {:>9} {:>8} {:>5} {:>7} {:>6.1} s {:>9} {:>6} MB {:>5}  {}",
            self.fault.name(),
            format!("{:?}", self.language),
            self.policy.name(),
            self.requests,
            self.checked,
            self.unchecked,
            self.refused,
            self.hung,
            self.others,
            self.others_longest.as_secs_f32(),
            recovered,
            self.growth >> 20,
            self.left,
            if self.is_clean() {
                "clean".to_owned()
            } else {
                [&self.problems[..], &self.delays[..]].concat().join("; ")
            }
        )
    }
}

/// Runs a row.
pub async fn row(fault: Fault, language: Trial, policy: Policy) -> Report {
    let victim = Chaos(language);
    let neighbour = Chaos(match language {
        Trial::Go => Trial::Python,
        Trial::Python => Trial::JavaScript,
        Trial::JavaScript => Trial::Go,
    });
    let upstream = load::upstream().await;
    let gateway = Gateway::new();
    let directory = gateway.directory().to_owned();
    let prelude = format!(
        "[ -e '{0}/ends-at-start' ] && exit 3\n[ -e '{0}/starts-slowly' ] && sleep {1}",
        directory.display(),
        OUTAGE.as_secs()
    );
    let key = victim.plugin().replace('-', "_");
    let mut gateway = gateway
        .plugin_servers([victim.after(prelude), neighbour.into()])
        .conf(&format!(
            "pluginserver_{key}_timeout = {}\npluginserver_{key}_on_error = {}\nupstream_keepalive_pool_size = 8",
            EVENT.as_millis(),
            policy.name()
        ))
        .config(config(fault, victim, neighbour, &upstream.to_string()))
        .start()
        .await;
    let pid = gateway.pid();
    let begin = |path| Load::begin(gateway.proxy(), path, LIMIT);
    for path in ["/victim", "/neighbour"] {
        eventually_checked(&gateway, path).await;
    }
    let (victims, neighbours, plain) = (begin("/victim"), begin("/neighbour"), begin("/plain"));
    steady(&victims, Instant::now()).await;
    let (memory, descriptors) = (process::resident(pid), process::descriptors(pid));
    let peak = Peak::watch(pid);

    let asked = inject(fault, victim, &gateway).await;
    let last = Instant::now();
    steady(&victims, last).await;
    let left_open = level(pid, descriptors + DESCRIPTORS).await;
    let mut of_victim = victims.end().await;
    let others: Vec<Made> = neighbours.end().await.into_iter().chain(plain.end().await).collect();
    let growth = peak.highest().saturating_sub(memory);
    drop(peak);
    let zombies = process::zombies(pid);

    gateway.signal(Signal::SIGTERM);
    gateway.exit_status().await;
    let part = directory.display().to_string();
    let left = left_behind(&part).await;

    let recovered = recovery(&of_victim, last);
    of_victim.extend(asked);
    let count = |wanted: fn(Answer) -> bool| of_victim.iter().filter(|made| wanted(made.answer)).count();
    let mut report = Report {
        fault,
        language,
        policy,
        requests: of_victim.len(),
        checked: count(|answer| answer == Answer::Checked),
        unchecked: count(|answer| answer == Answer::Unchecked),
        refused: count(|answer| matches!(answer, Answer::Refused(_) | Answer::Broken)),
        hung: count(|answer| answer == Answer::Hung),
        others: others.iter().filter(|made| !matches!(made.answer, Answer::Checked | Answer::Unchecked)).count(),
        others_longest: others.iter().map(|made| made.took).max().unwrap_or_default(),
        recovered,
        growth,
        left,
        problems: Vec::new(),
        delays: Vec::new(),
    };
    let broken = count(|answer| answer == Answer::Broken);
    let holding = |checks: &[(bool, String)]| {
        checks.iter().filter(|(holds, _)| *holds).map(|(_, text)| text.clone()).collect::<Vec<_>>()
    };
    report.problems = holding(&[
        (policy == Policy::Closed && report.unchecked > 0, format!("{} passed unchecked", report.unchecked)),
        (policy == Policy::Open && report.refused > 0, format!("{} refused by an open policy", report.refused)),
        (broken > 0, format!("{broken} without an answer")),
        (report.hung > 0, format!("{} hung", report.hung)),
        (report.others > 0, format!("{} of others failed", report.others)),
        (recovered.is_none(), "did not recover".to_owned()),
        (growth > GROWTH, format!("grew by {} MB", growth >> 20)),
        (left_open > descriptors + DESCRIPTORS, format!("{left_open} descriptors, {descriptors} before")),
        (zombies > 0, format!("{zombies} zombies")),
        (left > 0, format!("{left} processes left")),
    ]);
    report.delays = holding(&[
        (recovered.is_some_and(|recovered| recovered > RECOVERY), "recovered late".to_owned()),
        (report.others_longest > OTHERS, "others waited".to_owned()),
    ]);
    report
}

fn config(fault: Fault, victim: Chaos, neighbour: Chaos, upstream: &str) -> Value {
    let route = |name: &str, plugins: Value| json!({ "name": name, "paths": [format!("/{name}")], "plugins": plugins });
    let first = if fault == Fault::RaisesFirst { "raise" } else { "nothing" };
    json!({ "services": [{
        "name": "upstream",
        "url": format!("http://{upstream}"),
        "routes": [
            route("victim", json!([{ "name": victim.plugin() }])),
            route("first", json!([{ "name": victim.plugin(), "config": { "first": first } }])),
            route("refused", json!([{ "name": victim.plugin(), "config": { "refuse": true } }])),
            route("neighbour", json!([{ "name": neighbour.plugin() }])),
            route("plain", json!([])),
        ],
    }] })
}

/// Brings the fault about, and returns the requests that asked for it.
async fn inject(fault: Fault, victim: Chaos, gateway: &Running) -> Vec<Made> {
    // While there is none, nobody has the number.
    let process = || Pid::from_raw(gateway.plugin_server_pids(victim.process()).last().copied().unwrap_or(i32::MAX));
    let socket = gateway.path(victim.socket());
    let flag = |name: &str| gateway.path(name);
    match fault.injection() {
        Injection::Header(name) => ask(gateway, "/victim", Some(name)).await,
        Injection::First => ask(gateway, "/first", None).await,
        Injection::Refused => ask(gateway, "/refused", None).await,
        Injection::Signal(signal) => {
            for _ in 0..TIMES {
                // The process before may still be about to be replaced.
                let _ = kill(process(), signal);
                tokio::time::sleep(PAUSE).await;
            }
            Vec::new()
        }
        Injection::EndsAtStart => {
            fs::write(flag("ends-at-start"), "").unwrap();
            let _ = kill(process(), Signal::SIGKILL);
            tokio::time::sleep(OUTAGE).await;
            fs::remove_file(flag("ends-at-start")).unwrap();
            Vec::new()
        }
        Injection::StartsSlowly => {
            fs::write(flag("starts-slowly"), "").unwrap();
            let _ = kill(process(), Signal::SIGKILL);
            tokio::time::sleep(OUTAGE).await;
            fs::remove_file(flag("starts-slowly")).unwrap();
            Vec::new()
        }
        Injection::RemoveSocket => {
            fs::remove_file(socket).unwrap();
            Vec::new()
        }
        Injection::ForbidSocket => {
            fs::set_permissions(socket, fs::Permissions::from_mode(0o0)).unwrap();
            Vec::new()
        }
    }
}

/// Makes the requests that ask for a fault, whether or not the one before has its answer.
async fn ask(gateway: &Running, path: &'static str, fault: Option<&'static str>) -> Vec<Made> {
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..TIMES {
        requests.spawn(load::request(gateway.proxy(), path, fault, LIMIT));
        tokio::time::sleep(PAUSE).await;
    }
    requests.join_all().await
}

async fn eventually_checked(gateway: &Running, path: &str) {
    eventually_async(&format!("{path} is served"), || async {
        let made = load::request(gateway.proxy(), path, None, LIMIT).await;
        (made.answer == Answer::Checked).then_some(())
    })
    .await;
}

/// A route is served again when this many requests in a row were.
const IN_A_ROW: usize = 40;

/// Waits until the last requests that began after `since` all passed checked, or the time for that is over.
async fn steady(load: &Load, since: Instant) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let made = load.made();
        let after: Vec<_> = made.iter().filter(|made| made.begun >= since).collect();
        if after.len() >= IN_A_ROW && after.iter().rev().take(IN_A_ROW).all(|made| made.answer == Answer::Checked) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a process, still under load, has no more than so many descriptors open, or the time for that is over: what a burst
/// left behind is closed when it has not been used for a while. How many there are then.
async fn level(pid: i32, enough: usize) -> usize {
    let until = Instant::now() + PATIENCE;
    while process::descriptors(pid) > enough && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process::descriptors(pid)
}

/// The time from `since` to the begin of the first request from which on all passed checked.
fn recovery(made: &[Made], since: Instant) -> Option<Duration> {
    let after: Vec<_> = made.iter().filter(|made| made.begun >= since).collect();
    match after.iter().rposition(|made| made.answer != Answer::Checked) {
        None => Some(Duration::ZERO),
        Some(last) => after.get(last + 1).map(|made| made.begun - since),
    }
}

/// The processes that are left of a gateway that has ended; those that are about to end are waited for.
async fn left_behind(part: &str) -> usize {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = process::naming(part);
        if left.is_empty() || Instant::now() > until {
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            return left.len();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

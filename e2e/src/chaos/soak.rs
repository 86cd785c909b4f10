//! A long mixture of faults under load.

use std::{
    fmt,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    fault::{Fault, Injection},
    load::{self, Answer, Load},
    process,
};
use crate::{Chaos, Gateway, Trial};

/// Longer than a request may take: an event's deadline, the wait for a server that starts, and a margin.
const LIMIT: Duration = Duration::from_secs(20);
/// What the gateway may grow by after it has warmed up, in bytes.
const GROWTH: u64 = 64 << 20;
/// Between two faults, in milliseconds.
const PAUSE: std::ops::Range<u64> = 500..4000;

/// What a soak showed.
#[derive(Debug, Default)]
pub struct Soaked {
    pub faults: usize,
    pub requests: usize,
    pub checked: usize,
    pub refused: usize,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, requests, checked, refused, problems } = self;
        write!(f, "{faults} faults, {requests} requests through plugins: {checked} checked, {refused} refused; ")?;
        f.write_str(&if problems.is_empty() { "clean".to_owned() } else { problems.join("; ") })
    }
}

/// Load on a plugin in each language for `time`, while faults chosen by `seed` befall their servers, which fail closed.
pub async fn soak(time: Duration, seed: u64) -> Soaked {
    const LANGUAGES: [(Trial, &str); 3] =
        [(Trial::Go, "/chaos-go"), (Trial::Python, "/chaos-py"), (Trial::JavaScript, "/chaos-js")];
    let upstream = load::upstream().await;
    let route = |name: &str| json!({ "name": name, "paths": [format!("/{name}")] });
    let routes: Vec<_> = LANGUAGES
        .iter()
        .map(|(language, _)| {
            let plugin = Chaos(*language).plugin();
            let mut route = route(plugin);
            route["plugins"] = json!([{ "name": plugin }]);
            route
        })
        .chain([route("plain")])
        .collect();
    let conf: Vec<_> = LANGUAGES
        .iter()
        .map(|(language, _)| format!("pluginserver_{}_timeout = 2000", Chaos(*language).plugin().replace('-', "_")))
        .collect();
    let mut gateway = Gateway::new()
        .plugin_servers(LANGUAGES.map(|(language, _)| Chaos(language)))
        .conf(&conf.join("\n"))
        .config(json!({ "services": [{ "name": "s", "url": format!("http://{upstream}"), "routes": routes }] }))
        .start()
        .await;
    let pid = gateway.pid();
    let loads = LANGUAGES.map(|(_, path)| Load::begin(gateway.proxy(), path, LIMIT));
    let plain = Load::begin(gateway.proxy(), "/plain", LIMIT);

    let mut soaked = Soaked::default();
    let mut random = Random(seed);
    let begun = Instant::now();
    let mut warm = None;
    let mut asked = tokio::task::JoinSet::new();
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(PAUSE.start + random.below(PAUSE.end - PAUSE.start))).await;
        if warm.is_none() && begun.elapsed() > time / 5 {
            warm = Some(process::resident(pid));
        }
        let (language, path) = LANGUAGES[random.below(3) as usize];
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        match fault.injection() {
            Injection::Header(name) => {
                asked.spawn(load::request(gateway.proxy(), path, Some(name), LIMIT));
            }
            Injection::Signal(signal) => {
                if let Some(pid) = gateway.plugin_server_pids(Chaos(language).process()).last() {
                    // It may have ended in this moment.
                    let _ = kill(Pid::from_raw(*pid), signal);
                }
            }
            _ => {}
        }
        soaked.faults += 1;
    }
    let mut made = asked.join_all().await;
    for load in loads {
        made.extend(load.end().await);
    }
    let plain = plain.end().await;
    let memory = process::resident(pid);
    gateway.signal(Signal::SIGTERM);
    gateway.exit_status().await;

    let count = |wanted: fn(Answer) -> bool| made.iter().filter(|made| wanted(made.answer)).count();
    soaked.requests = made.len();
    soaked.checked = count(|answer| answer == Answer::Checked);
    soaked.refused = count(|answer| matches!(answer, Answer::Refused(_)));
    let grown = memory.saturating_sub(warm.unwrap_or(memory));
    let failures = [
        (count(|answer| answer == Answer::Unchecked), "passed unchecked"),
        (count(|answer| answer == Answer::Hung), "hung"),
        (count(|answer| answer == Answer::Broken), "without an answer"),
        (plain.iter().filter(|made| made.answer != Answer::Unchecked).count(), "of the route without a plugin failed"),
        (if grown > GROWTH { (grown >> 20) as usize } else { 0 }, "MB of growth"),
        (usize::from(soaked.checked * 2 < soaked.requests), "times less than half were served"),
    ];
    soaked.problems =
        failures.iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}")).collect();
    soaked
}

/// What befalls a server at random.
const FAULTS: [Fault; 12] = [
    Fault::Killed,
    Fault::Stopped,
    Fault::Raises,
    Fault::Exits,
    Fault::Hangs,
    Fault::Spins,
    Fault::EndlessCalls,
    Fault::ClosedMidCall,
    Fault::GarbageBytes,
    Fault::TruncatedFrame,
    Fault::WrongSequence,
    Fault::OversizedFrame,
];

/// SplitMix64: the same faults for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

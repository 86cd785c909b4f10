//! What a failing plugin costs: its request, or not, as its policies say; never another one.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use silverback_e2e::{Gateway, Running, Trial, Upstream, eventually_async};

const TRIALS: [Trial; 3] = [Trial::Go, Trial::Python, Trial::JavaScript];

/// A service at `/NAME` with the plugin.
fn service(upstream: &Upstream, trial: Trial, name: &str, config: &Value) -> Value {
    let mut service = upstream.service(name, &[&format!("/{name}")]);
    service["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
    service
}

/// The gateway with one server, these lines about it (`timeout = 5`), and these services beside `/checked`, whose plugin
/// sets a header, and `/free`, which has none.
async fn gateway(upstream: &Upstream, trial: Trial, conf: &[&str], services: &[Value]) -> Running {
    let mut all = services.to_vec();
    all.push(service(upstream, trial, "checked", &json!({ "header": "X-Checked", "value": "yes" })));
    all.push(upstream.service("free", &["/free"]));
    let name = trial.plugin().replace('-', "_");
    let lines: Vec<_> = conf.iter().map(|line| format!("pluginserver_{name}_{line}")).collect();
    Gateway::new().plugin_servers([trial]).conf(&lines.join("\n")).config(json!({ "services": all })).start().await
}

fn passed(upstream: &Upstream, path: &str) -> bool {
    upstream.requests().iter().any(|request| request.target.starts_with(path))
}

async fn neighbours_are_served(gateway: &Running) {
    let answer = gateway.get_from_replaced("/checked").await;
    assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")));
    assert_eq!(gateway.get("/free").await.status, 200);
}

#[tokio::test]
async fn a_handler_that_raises_denies_its_request_unless_its_policy_is_open() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let first = json!({ "fault": "raise first" });
        let later = json!({ "header": "X-Before", "value": "1", "fail": true });
        let mut open_first = service(&upstream, trial, "open-first", &first);
        let mut open_later = service(&upstream, trial, "open-later", &later);
        for service in [&mut open_first, &mut open_later] {
            service["plugins"][0]["on_error"] = "open".into();
        }
        let services = [
            service(&upstream, trial, "closed-first", &first),
            service(&upstream, trial, "closed-later", &later),
            open_first,
            open_later,
        ];
        let gateway = gateway(&upstream, trial, &[], &services).await;
        for path in ["/closed-first", "/closed-later"] {
            assert_eq!(gateway.get(path).await.status, 500, "{trial:?} {path}");
            assert!(!passed(&upstream, path), "{trial:?} {path}");
            neighbours_are_served(&gateway).await;
        }
        for path in ["/open-first", "/open-later"] {
            assert_eq!(gateway.get(path).await.status, 200, "{trial:?} {path}");
            assert!(passed(&upstream, path), "{trial:?} {path}");
        }
        gateway.logged_error(&[trial.plugin(), "failed in access", "the request goes on"]).await;
        neighbours_are_served(&gateway).await;
    }
}

#[tokio::test]
async fn the_policy_of_a_server_can_name_phases() {
    let upstream = Upstream::echo().await;
    let failing = json!({ "fault": "raise first" });
    let mut strict = service(&upstream, Trial::Python, "strict", &failing);
    strict["plugins"][0]["on_error"] = "closed".into();
    let services = [service(&upstream, Trial::Python, "lenient", &failing), strict];
    let gateway = gateway(&upstream, Trial::Python, &["on_error = closed, access=open"], &services).await;
    assert_eq!(gateway.get("/lenient").await.status, 200);
    assert_eq!(gateway.get("/strict").await.status, 500, "the plugin's own policy wins");
}

#[tokio::test]
async fn a_plugin_may_have_a_timeout_of_its_own() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let mut hasty = service(&upstream, trial, "hasty", &json!({ "delay_ms": 600_000 }));
        hasty["plugins"][0]["timeout"] = 300.into();
        let patient = service(&upstream, trial, "patient", &json!({ "delay_ms": 1500 }));
        let gateway = gateway(&upstream, trial, &["timeout = 120000"], &[hasty, patient]).await;
        let answer = gateway.get("/hasty").await;
        assert_eq!(answer.status, 500, "{trial:?}");
        gateway.logged_error(&[trial.plugin(), "its handler did not end within 0.3 s"]).await;
        assert_eq!(gateway.get("/patient").await.status, 200, "{trial:?}");
    }
}

#[tokio::test]
async fn wrong_policies_of_a_plugin_are_told() {
    let upstream = Upstream::echo().await;
    let mut wrong = service(&upstream, Trial::Go, "wrong", &json!({}));
    wrong["plugins"][0]["timeout"] = 0.into();
    wrong["plugins"][0]["on_error"] = "ajar".into();
    let gateway = gateway(&upstream, Trial::Go, &[], &[]).await;
    gateway.rewrite_config(&json!({ "services": [wrong] }));
    let ended = gateway.command(&["reload"]).await;
    assert_ne!(ended.status, Some(0));
    let text = format!("{ended:?}");
    assert!(text.contains("value should be between 1 and 86400000"), "{text}");
    assert!(text.contains("expected closed, open, or a phase with one of them"), "{text}");
    neighbours_are_served(&gateway).await;
}

#[tokio::test]
async fn a_handler_that_calls_the_pdk_for_ever_meets_its_deadline() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let looping = service(&upstream, trial, "looping", &json!({ "fault": "loop" }));
        let gateway = gateway(&upstream, trial, &["timeout = 1500"], &[looping]).await;
        assert_eq!(gateway.get("/looping").await.status, 500, "{trial:?}");
        gateway.logged_error(&[trial.plugin(), "did not end within 1.5 s"]).await;
        neighbours_are_served(&gateway).await;
    }
}

#[tokio::test]
async fn a_handler_that_ends_its_process_costs_its_own_request() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let ending = service(&upstream, trial, "ending", &json!({ "fault": "exit process" }));
        let gateway = gateway(&upstream, trial, &[], &[ending]).await;
        for _ in 0..2 {
            assert_eq!(gateway.get("/ending").await.status, 500, "{trial:?}");
            neighbours_are_served(&gateway).await;
        }
        assert!(!passed(&upstream, "/ending"));
        gateway.logged_error(&[trial.plugin(), "its process ended (exit status 3)"]).await;
    }
}

/// The most memory that the gateway has had, in bytes.
fn peak(gateway: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn values_that_are_far_too_large_cost_no_memory() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let services = ["large header", "large exit"]
            .map(|fault| service(&upstream, trial, &fault.replace(' ', "-"), &json!({ "fault": fault })));
        let gateway = gateway(&upstream, trial, &["timeout = 600000"], &services).await;
        neighbours_are_served(&gateway).await;
        let before = peak(&gateway);
        for path in ["/large-header", "/large-exit"] {
            assert_eq!(gateway.get(path).await.status, 500, "{trial:?} {path}");
            neighbours_are_served(&gateway).await;
        }
        let grown = peak(&gateway).saturating_sub(before);
        assert!(grown < 32 << 20, "{trial:?}: {} MB", grown >> 20);
        gateway.logged_error(&[trial.plugin(), "kong.response.set_header was called with more than 1 MB"]).await;
    }
}

#[tokio::test]
async fn events_beyond_the_limits_of_a_server_get_503_at_once() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let directory = tempfile::tempdir().unwrap();
        let waiting = |name: &str| json!({ "wait_for": directory.path().join(name) });
        let mut open = service(&upstream, trial, "open", &waiting("open"));
        open["plugins"][0]["on_error"] = "open".into();
        let services = [service(&upstream, trial, "slow", &waiting("slow")), open];
        let gateway = gateway(&upstream, trial, &["max_inflight = 1", "max_queue = 1"], &services).await;
        neighbours_are_served(&gateway).await;
        // Three at a time; the first answer, and those that come when the plugin may go on.
        let three = async |name: &str| {
            let path = format!("/{name}");
            let mut answers: FuturesUnordered<_> = (0..3).map(|_| gateway.get(&path)).collect();
            let first = answers.next().await.unwrap();
            std::fs::write(directory.path().join(name), "").unwrap();
            (first, answers.map(|answer| answer.status).collect::<Vec<_>>().await)
        };
        let (refused, others) = three("slow").await;
        assert_eq!((refused.status, others), (503, vec![200, 200]), "{trial:?}: one runs, one waits, one is refused");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.json()["message"], "Service unavailable");
        gateway.logged_error(&[trial.plugin(), "there is no room for more"]).await;
        // an open policy lets pass what cannot be run
        let (refused, others) = three("open").await;
        assert_eq!((refused.status, others), (200, vec![200, 200]), "{trial:?}");
        gateway.logged_error(&[trial.plugin(), "there is no room for more", "the request goes on"]).await;
    }
}

#[tokio::test]
async fn what_fails_again_and_again_fails_at_once_and_denies_no_neighbour() {
    for trial in TRIALS {
        let upstream = Upstream::echo().await;
        let mut hanging = service(&upstream, trial, "hanging", &json!({ "delay_ms": 600_000 }));
        hanging["plugins"][0]["timeout"] = 500.into();
        let conf = ["breaker_failures = 2", "breaker_pause = 3600000"];
        let gateway = gateway(&upstream, trial, &conf, &[hanging]).await;
        for _ in 0..2 {
            assert_eq!(gateway.get("/hanging").await.status, 500, "{trial:?}");
            neighbours_are_served(&gateway).await;
        }
        gateway.logged_error(&[trial.plugin(), "fails again and again"]).await;
        for _ in 0..3 {
            assert_eq!(gateway.get("/hanging").await.status, 500, "{trial:?}");
        }
        gateway.logged_error(&[trial.plugin(), "it failed 2 times in a row: it is not tried now"]).await;
        let deadlines = gateway.error_log().lines().filter(|line| line.contains("did not end within")).count();
        assert!(deadlines <= 3, "{trial:?}: two events, and the report of the breaker: {deadlines}");
        neighbours_are_served(&gateway).await;
        assert!(!passed(&upstream, "/hanging"));
    }
}

#[tokio::test]
async fn a_plugin_that_works_again_is_found_out() {
    for (trial, process) in [(Trial::Go, "trial-go"), (Trial::Python, "trial.py")] {
        let upstream = Upstream::echo().await;
        let conf = ["breaker_failures = 2", "breaker_pause = 100", "timeout = 3000"];
        let gateway = gateway(&upstream, trial, &conf, &[]).await;
        neighbours_are_served(&gateway).await;
        let pid = *gateway.plugin_server_pids(process).last().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let answers = tokio::join!(gateway.get("/checked"), gateway.get("/checked"), gateway.get("/checked"));
        assert_eq!((answers.0.status, answers.1.status, answers.2.status), (500, 500, 500), "{trial:?}");
        assert_eq!(gateway.get("/free").await.status, 200);
        eventually_async("an answer of the server that replaced it", || async {
            let answer = gateway.get("/checked").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            (answer.status == 200).then(|| assert_eq!(answer.header("x-checked"), Some("yes")))
        })
        .await;
        gateway.logged_error(&[trial.plugin(), "works again"]).await;
    }
}

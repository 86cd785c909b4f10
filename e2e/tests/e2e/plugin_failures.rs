//! What a plugin does wrong never lets a request pass unchecked, and never touches another request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use silverback_e2e::{Connection, Gate, Gateway, Step, Trial, Upstream, eventually, within};

/// A service at `/checked` with this plugin, and one at `/free` without.
fn checked_and_free(upstream: &Upstream, trial: Trial, config: &Value) -> Value {
    let mut checked = upstream.service("checked", &["/checked"]);
    checked["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
    json!({ "services": [checked, upstream.service("free", &["/free"])] })
}

/// Kills the plugin's server again and again under load: every 200 must carry its header, and the server must come back.
async fn survives_kills(trial: Trial, process: &str) {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([trial])
        .config(checked_and_free(&upstream, trial, &json!({ "header": "X-Checked", "value": "yes" })))
        .start()
        .await;
    assert_eq!(gateway.get("/checked").await.header("x-checked"), Some("yes"));

    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (address, stop) = (gateway.proxy(), Arc::clone(&stop));
        load.spawn(async move {
            let (mut passed, mut refused) = (0_u32, 0_u32);
            let mut connection = Connection::open(address).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.get("/checked", &[]).await;
                match answer.status {
                    200 => {
                        assert_eq!(answer.header("x-checked"), Some("yes"), "a request skipped its plugin");
                        passed += 1;
                    }
                    500 => refused += 1,
                    other => panic!("status {other}: {answer:?}"),
                }
                if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    connection = Connection::open(address).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (passed, refused)
        });
    }
    for _ in 0..3 {
        let old = eventually("a plugin server", || gateway.plugin_server_pids(process).last().copied()).await;
        kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        let answered = async {
            // The next answer with the header comes from the server that replaced it.
            loop {
                let answer = gateway.get("/checked").await;
                if answer.status == 200 {
                    assert_eq!(answer.header("x-checked"), Some("yes"));
                    if gateway.plugin_server_pids(process).iter().any(|pid| *pid != old) {
                        return;
                    }
                }
            }
        };
        within("a restarted plugin server", answered).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut passed = 0;
    while let Some(result) = load.join_next().await {
        passed += result.unwrap().0;
    }
    assert!(passed > 0, "no request passed");
}

#[tokio::test]
async fn a_killed_go_server_is_replaced_and_no_request_skips_its_plugin() {
    survives_kills(Trial::Go, "trial-go").await;
}

#[tokio::test]
async fn a_killed_python_server_is_replaced_and_no_request_skips_its_plugin() {
    survives_kills(Trial::Python, "trial.py").await;
}

#[tokio::test]
async fn a_killed_javascript_server_is_replaced_and_no_request_skips_its_plugin() {
    survives_kills(Trial::JavaScript, "kong-js-pluginserver").await;
}

#[tokio::test]
async fn a_request_waits_for_the_server_of_its_plugin_while_other_routes_serve() {
    let mut trials = vec![Trial::Go, Trial::Python, Trial::JavaScript];
    while let Some(trial) = trials.pop() {
        let upstream = Upstream::echo().await;
        let gateway = Gateway::new();
        let go_ahead = gateway.directory().join("go-ahead");
        let gateway = gateway
            .plugin_servers([trial.held_until(&go_ahead)])
            .config(checked_and_free(&upstream, trial, &json!({ "header": "X-Checked", "value": "yes" })))
            .start()
            .await;
        let mut waiting = gateway.connect().await;
        waiting.send("GET /checked HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for _ in 0..5 {
            assert_eq!(gateway.get("/free").await.status, 200);
        }
        std::fs::write(&go_ahead, "").unwrap();
        let answer = waiting.response().await;
        if answer.status == 500 {
            // It waits for ten seconds, which a busy machine may need for the start.
            gateway.logged_error(&["was not ready within 10 s"]).await;
            trials.push(trial);
            continue;
        }
        assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")), "{trial:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_gets_500_after_its_deadline_and_others_go_on() {
    for trial in [Trial::Go, Trial::Python, Trial::JavaScript] {
        let upstream = Upstream::echo().await;
        let config =
            checked_and_free(&upstream, trial, &json!({ "header": "X-Checked", "value": "yes", "hang": true }));
        let gateway = Gateway::new().plugin_servers([trial]).config(config).start().await;
        let mut hanging = gateway.connect().await;
        let begun = Instant::now();
        hanging.send("GET /checked HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(gateway.get("/free").await.status, 200);
        let answer = hanging.response().await;
        assert_eq!(answer.status, 500, "{trial:?}: {answer:?}");
        assert!(begun.elapsed().as_secs() >= 5, "the deadline is 10 s; this came after {:?}", begun.elapsed());
        assert!(upstream.requests().iter().all(|request| request.target != "/checked"), "it must not pass");
        gateway.logged_error(&[trial.plugin()]).await;
    }
}

#[tokio::test]
async fn a_handler_that_crashes_gets_500_and_the_next_request_is_served() {
    for trial in [Trial::Go, Trial::Python] {
        let upstream = Upstream::echo().await;
        let mut config = checked_and_free(&upstream, trial, &json!({ "header": "X-Checked", "value": "yes" }));
        let mut failing = upstream.service("failing", &["/failing"]);
        failing["plugins"] =
            json!([{ "name": trial.plugin(), "config": { "header": "X-Before", "value": "1", "fail": true } }]);
        config["services"].as_array_mut().unwrap().push(failing);
        let gateway = Gateway::new().plugin_servers([trial]).config(config).start().await;
        let answer = gateway.get("/failing").await;
        assert_eq!(answer.status, 500, "{trial:?}");
        assert!(upstream.requests().is_empty());
        let answer = gateway.get_from_replaced("/checked").await;
        assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")), "{trial:?}");
    }
}

#[tokio::test]
async fn the_log_phase_runs_for_a_client_that_went_away() {
    for trial in [Trial::Go, Trial::Python, Trial::JavaScript] {
        // It has no answer by the time that it is seen to be gone.
        let upstream = Upstream::scripted(|_| vec![Step::Wait(Gate::closed())]).await;
        let gateway = Gateway::new();
        let log = gateway.directory().join("log");
        let config = checked_and_free(&upstream, trial, &json!({ "delay_ms": 300, "log_file": log }));
        let gateway = gateway.plugin_servers([trial]).config(config).start().await;
        let mut connection = gateway.connect().await;
        connection.send("GET /checked/gone HTTP/1.1\r\nHost: a\r\n\r\n").await;
        drop(connection);
        eventually("the log phase", || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("/checked/gone"))
        })
        .await;
        gateway.logged_access(&["GET /checked/gone", " 499 "]).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_refuses_only_the_requests_that_need_it() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let never = gateway.directory().join("never");
    let gateway = gateway
        .plugin_servers([Trial::Go.held_until(&never)])
        .config(checked_and_free(&upstream, Trial::Go, &json!({})))
        .start()
        .await;
    assert_eq!(gateway.get("/free").await.status, 200);
    assert_eq!(gateway.get("/checked").await.status, 500);
    assert!(upstream.requests().iter().all(|request| !request.target.starts_with("/checked")));
}

#[tokio::test]
async fn no_request_waits_for_a_server_that_crashes_at_its_start_until_it_comes_up() {
    let config = json!({ "header": "X-Checked", "value": "yes" });
    for (policy, status) in [("closed", 500), ("open", 200)] {
        let upstream = Upstream::echo().await;
        let gateway = Gateway::new();
        let good = gateway.directory().join("good");
        let gateway = gateway
            .plugin_servers([Trial::Go.crashing_until(&good)])
            .conf(&format!("pluginserver_trial_go_on_error = {policy}"))
            .config(checked_and_free(&upstream, Trial::Go, &config))
            .start()
            .await;
        // More of them than the breaker lets through: each is told why.
        for _ in 0..30 {
            assert_eq!(gateway.get("/checked").await.status, status, "{policy}");
        }
        gateway.logged_error(&["does not come up, again and again", "exit status 1"]).await;
        let log = gateway.error_log();
        assert!(!log.contains("was not ready within"), "a request waited as long as it could: {log}");
        assert_eq!(gateway.get("/free").await.status, 200);
        std::fs::write(&good, "").unwrap();
        within("the server", async {
            while gateway.get("/checked").await.header("x-checked") != Some("yes") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert_eq!(gateway.get("/checked").await.status, 200);
    }
}

#[tokio::test]
async fn header_bytes_that_are_not_utf8_break_no_plugin() {
    for trial in [Trial::Go, Trial::Python, Trial::JavaScript] {
        let upstream = Upstream::echo().await;
        let config = checked_and_free(&upstream, trial, &json!({ "header": "X-Checked", "value": "yes" }));
        let gateway = Gateway::new().plugin_servers([trial]).config(config).start().await;
        let mut connection = gateway.connect().await;
        connection.send(b"GET /checked HTTP/1.1\r\nHost: a\r\nX-Odd: caf\xe9\r\n\r\n").await;
        let answer = connection.response().await;
        assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")), "{trial:?}");
        assert_eq!(upstream.request().header("x-odd"), Some("caf\u{e9}"), "the upstream gets the bytes as they came");
    }
}

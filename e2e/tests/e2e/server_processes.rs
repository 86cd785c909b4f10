//! The processes of plugin servers: several beside each other, and new ones in the place of those that have done their
//! share.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use silverback_e2e::{Gateway, Running, Trial, Upstream, eventually, within};

use crate::load::Load;

const SERVERS: [(Trial, &str, &str); 3] = [
    (Trial::Go, "bin/trial-go", "trial_go"),
    (Trial::Python, "trial.py", "trial_py"),
    (Trial::JavaScript, "kong-js-pluginserver", "trial_js"),
];

/// A gateway with this plugin at `/checked`, and settings of its server.
async fn with_settings(upstream: &Upstream, trial: Trial, settings: &[String]) -> Running {
    let mut checked = upstream.service("checked", &["/checked"]);
    let config: Value = json!({ "header": "X-Checked", "value": "yes" });
    checked["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
    let gateway = Gateway::new().plugin_servers([trial]).conf(&settings.join("\n"));
    gateway.config(json!({ "services": [checked] })).start().await
}

#[tokio::test]
async fn a_hung_process_is_replaced_while_its_peers_serve() {
    for (trial, process, name) in SERVERS {
        let upstream = Upstream::echo().await;
        let settings = [format!("pluginserver_{name}_workers = 2"), format!("pluginserver_{name}_timeout = 3000")];
        let gateway = with_settings(&upstream, trial, &settings).await;
        let pids = || gateway.plugin_server_pids(process);
        eventually("two processes that are ready", || {
            let ready = gateway.error_log().matches(&format!("plugin server {} ready", trial.plugin())).count();
            (ready == 2 && pids().len() == 2).then_some(())
        })
        .await;
        let stopped = pids()[0];
        kill(Pid::from_raw(stopped), Signal::SIGSTOP).unwrap();
        let mut served = 0;
        within("another process", async {
            while pids().contains(&stopped) || pids().len() < 2 {
                let answer = gateway.get("/checked").await;
                match answer.status {
                    200 => served += 1,
                    // what the hung process was given
                    500 => {}
                    other => panic!("{trial:?}: {other}"),
                }
            }
        })
        .await;
        assert!(served > 0, "{trial:?}: its peer did not serve");
        assert_eq!(gateway.get_from_replaced("/checked").await.status, 200, "{trial:?}");
    }
}

#[tokio::test]
async fn a_process_that_has_run_max_requests_is_replaced_without_a_failed_request() {
    for (trial, process, name) in SERVERS {
        let upstream = Upstream::echo().await;
        let gateway = with_settings(&upstream, trial, &[format!("pluginserver_{name}_max_requests = 50")]).await;
        let load = Load::start(gateway.proxy(), "/checked", "x-checked");
        let mut seen = std::collections::BTreeSet::new();
        eventually("three processes, one after the other", || {
            seen.extend(gateway.plugin_server_pids(process));
            (seen.len() >= 3).then_some(())
        })
        .await;
        load.goes_on().await;
        load.stop().await;
        gateway.logged_error(&["has run max_requests events"]).await;
    }
}

#[tokio::test]
async fn a_process_with_too_much_memory_is_replaced_without_a_failed_request() {
    let upstream = Upstream::echo().await;
    let (trial, process, name) = SERVERS[1];
    let gateway = with_settings(&upstream, trial, &[format!("pluginserver_{name}_max_memory = 1m")]).await;
    let load = Load::start(gateway.proxy(), "/checked", "x-checked");
    let first = gateway.plugin_server_pids(process);
    eventually("another process", || (gateway.plugin_server_pids(process) != first).then_some(())).await;
    load.goes_on().await;
    load.stop().await;
    gateway.logged_error(&["MiB of memory; another process takes its place"]).await;
}

#[tokio::test]
async fn processes_get_their_circumstances() {
    let upstream = Upstream::echo().await;
    let settings = [
        "pluginserver_trial_py_cwd = /tmp".to_owned(),
        "pluginserver_trial_py_env = TRIAL_MARK=1".to_owned(),
        "pluginserver_trial_py_rlimits = nofile=256, core=0".to_owned(),
        "pluginserver_trial_py_socket_mode = 0600".to_owned(),
    ];
    let gateway = with_settings(&upstream, Trial::Python, &settings).await;
    assert_eq!(gateway.get("/checked").await.status, 200);
    let pid = *gateway.plugin_server_pids("trial.py").last().unwrap();
    let of = |name: &str| format!("/proc/{pid}/{name}");
    assert_eq!(std::fs::read_link(of("cwd")).unwrap().to_str(), Some("/tmp"));
    let environment = std::fs::read(of("environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"TRIAL_MARK=1"));
    let limits = std::fs::read_to_string(of("limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("256"));
    let socket = gateway.path("trial-py.sock");
    assert!(socket.is_symlink());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

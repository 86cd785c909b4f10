//! New plugin servers take the place of old ones, and no request notices.
//!
//! `SILVERBACK_UPGRADES` is how many upgrades in a row each of the first three tests makes.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use silverback_e2e::{Connection, Gateway, Running, Trial, Upstream, eventually, eventually_async};

use crate::load::Load;

/// How many upgrades are made in a row.
fn turns() -> usize {
    std::env::var("SILVERBACK_UPGRADES").ok().and_then(|number| number.parse().ok()).unwrap_or(2)
}

/// A service at `/checked` with this plugin.
fn checked(upstream: &Upstream, trial: Trial, config: &Value) -> Value {
    let mut checked = upstream.service("checked", &["/checked"]);
    checked["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
    json!({ "services": [checked] })
}

/// A gateway whose plugin can be exchanged, and what its process is known by.
async fn exchangeable(upstream: &Upstream, trial: Trial, conf: &str) -> Running {
    let gateway = Gateway::new();
    let plugins = gateway.directory().join("plugins");
    trial.install(&plugins, "0", "");
    gateway
        .plugin_servers([trial.installed_in(&plugins)])
        .conf(conf)
        .config(checked(upstream, trial, &json!({ "header": "X-Checked", "value": "yes" })))
        .start()
        .await
}

/// Exchanges the plugin and reloads, again and again, under load.
async fn survives_upgrades(trial: Trial, process: &str) {
    let upstream = Upstream::echo().await;
    let gateway = exchangeable(&upstream, trial, "").await;
    let load = Load::start(gateway.proxy(), "/checked", "x-checked");
    for turn in 1..=turns() {
        load.goes_on().await;
        let old = gateway.plugin_server_pids(process);
        trial.install(&gateway.path("plugins"), &turn.to_string(), "");
        let ended = gateway.command(&["reload"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        if trial != Trial::Go {
            let answer = gateway.get("/checked").await;
            assert_eq!(answer.header("x-checked"), Some(format!("yes{turn}").as_str()));
        }
        eventually("one new process in the place of the old one", || {
            let new = gateway.plugin_server_pids(process);
            (new.len() == 1 && new != old).then_some(())
        })
        .await;
    }
    load.goes_on().await;
    assert!(load.stop().await > 0);
}

#[tokio::test]
async fn a_go_server_is_upgraded_under_load_without_a_failed_request() {
    survives_upgrades(Trial::Go, "plugins/trial-go").await;
}

#[tokio::test]
async fn a_python_server_is_upgraded_under_load_without_a_failed_request() {
    survives_upgrades(Trial::Python, "plugins/trial.py").await;
}

#[tokio::test]
async fn a_javascript_server_is_upgraded_under_load_without_a_failed_request() {
    survives_upgrades(Trial::JavaScript, "--sock-name").await;
}

#[tokio::test]
async fn a_watched_script_is_upgraded_when_it_changes() {
    let upstream = Upstream::echo().await;
    let gateway = exchangeable(&upstream, Trial::Python, "pluginserver_trial_py_watch = on").await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.get("/checked", &[]).await.header("x-checked"), Some("yes0"));
    Trial::Python.install(&gateway.path("plugins"), "1", "");
    eventually_async("the new script", || async {
        let answer = gateway.get("/checked").await;
        assert_eq!(answer.status, 200);
        (answer.header("x-checked") == Some("yes1")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_come_up_is_taken_back_and_the_old_one_goes_on() {
    let upstream = Upstream::echo().await;
    let gateway = exchangeable(&upstream, Trial::Python, "").await;
    let load = Load::start(gateway.proxy(), "/checked", "x-checked");
    let broken = "import sys\nif '--dump' not in sys.argv: sys.exit('no such module')\n";
    Trial::Python.install(&gateway.path("plugins"), "1", broken);
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("trial-py does not come up"), "{ended:?}");
    gateway.logged_error(&["the old one stays", "trial-py does not come up"]).await;
    assert_eq!(gateway.get("/checked").await.header("x-checked"), Some("yes0"));
    // the next one is fine
    Trial::Python.install(&gateway.path("plugins"), "2", "");
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(gateway.get("/checked").await.header("x-checked"), Some("yes2"));
    load.stop().await;
}

#[tokio::test]
async fn a_server_that_ends_before_it_takes_over_is_taken_back_and_the_old_one_goes_on() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let plugins = gateway.directory().join("plugins");
    let trials = [Trial::Python, Trial::JavaScript];
    trials.iter().for_each(|trial| trial.install(&plugins, "0", ""));
    let services = trials.map(|trial| {
        let path = format!("/{}", trial.plugin());
        let mut service = upstream.service(trial.plugin(), &[&path]);
        service["plugins"] = json!([{ "name": trial.plugin(), "config": { "header": "X-Checked", "value": "yes" } }]);
        service
    });
    let servers = trials.map(|trial| trial.installed_in(&plugins));
    let gateway = gateway.plugin_servers(servers).config(json!({ "services": services })).start().await;

    // the one is up, and ends while the other one, which waits for that, starts
    let ended = gateway.path("ended").display().to_string();
    let python = format!(
        "import os, sys, threading\n\
         def end():\n    open({ended:?}, 'w').close()\n    os._exit(3)\n\
         if '--dump' not in sys.argv: threading.Timer(2, end).start()\n"
    );
    let javascript = format!(
        "const wait = new Int32Array(new SharedArrayBuffer(4))\n\
         while (!process.argv.some((word) => word.includes('dump')) && !require('fs').existsSync({ended:?})) \
         Atomics.wait(wait, 0, 0, 50)\n"
    );
    Trial::Python.install(&gateway.path("plugins"), "1", &python);
    Trial::JavaScript.install(&gateway.path("plugins"), "1", &javascript);
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("trial-py does not come up"), "{ended:?}");
    for trial in trials {
        let answer = gateway.get(&format!("/{}", trial.plugin())).await;
        assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes0")), "{trial:?}");
    }
}

#[tokio::test]
async fn quit_is_obeyed_while_a_new_server_starts() {
    let upstream = Upstream::echo().await;
    let mut gateway = exchangeable(&upstream, Trial::Python, "").await;
    let hangs = "import sys, time\nif '--dump' not in sys.argv: time.sleep(3600)\n";
    Trial::Python.install(&gateway.path("plugins"), "1", hangs);
    gateway.signal(Signal::SIGHUP);
    eventually("a second process", || (gateway.plugin_server_pids("plugins/trial.py").len() == 2).then_some(())).await;
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(gateway.exit_status().await, Some(0));
    assert!(gateway.error_log().contains("SIGQUIT received while reloading"));
    eventually("the end of the processes", || gateway.plugin_server_pids("plugins/trial.py").is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn a_plain_reload_leaves_servers_alone_and_reload_plugins_starts_them_anew() {
    let upstream = Upstream::echo().await;
    let gateway = exchangeable(&upstream, Trial::Go, "").await;
    let pids = || gateway.plugin_server_pids("plugins/trial-go");
    let old = pids();
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    assert_eq!(pids(), old);
    assert_eq!(gateway.command(&["reload", "--plugins"]).await.status, Some(0));
    eventually("another process", || (pids().len() == 1 && pids() != old).then_some(())).await;
    assert_eq!(gateway.get("/checked").await.status, 200);
}

#[tokio::test]
async fn a_reload_takes_changed_settings_and_lets_removed_servers_end() {
    let upstream = Upstream::echo().await;
    let gateway = exchangeable(&upstream, Trial::Go, "").await;
    let conf = gateway.path("kong.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let reload = async |text: &str| {
        std::fs::write(&conf, text).unwrap();
        let ended = gateway.command(&["reload", "-c", conf.to_str().unwrap()]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
    };
    reload(&format!("{text}pluginserver_trial_go_workers = 3\n")).await;
    eventually("three processes", || (gateway.plugin_server_pids("plugins/trial-go").len() == 3).then_some(())).await;
    let mut connection = Connection::open(gateway.proxy()).await;
    assert_eq!(connection.get("/checked", &[]).await.header("x-checked"), Some("yes"));

    gateway.rewrite_config(&json!({ "services": [upstream.service("free", &["/free"])] }));
    // what a file does not name stays as it was
    let without: String = text
        .lines()
        .map(|line| match line.split_once(" =") {
            Some(("plugins", _)) => "plugins = bundled\n".to_owned(),
            Some(("pluginserver_names", _)) => "pluginserver_names =\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    reload(&without).await;
    assert_eq!(connection.get("/free", &[]).await.status, 200);
    eventually("the end of the servers", || gateway.plugin_server_pids("plugins/trial-go").is_empty().then_some(()))
        .await;
}

//! The command line.

use serde_json::json;
use silverback_e2e::{Gateway, Upstream, eventually, run_silverback};

#[tokio::test]
async fn a_daemon_starts_is_healthy_and_stops() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().daemon().config(upstream.behind_everything()).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    let ended = gateway.command(&["health"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let ended = gateway.command(&["stop"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    gateway.refuses_connections().await;
    let ended = gateway.command(&["health"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!((ended.stdout + &ended.stderr).contains("not running"));
}

#[tokio::test]
async fn a_daemon_quits_gracefully() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().daemon().config(upstream.behind_everything()).start().await;
    let ended = gateway.command(&["quit"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    gateway.refuses_connections().await;
}

#[tokio::test]
async fn a_second_start_in_the_same_prefix_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().daemon().config(upstream.behind_everything()).start().await;
    let conf = gateway.path("kong.conf");
    let ended = run_silverback(&["start", "-c", conf.to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Error:") && ended.stderr.contains("already running"), "{ended:?}");
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_daemon_reloads() {
    let upstream = Upstream::echo().await;
    let gateway =
        Gateway::new().daemon().config(json!({ "services": [upstream.service("old", &["/old"])] })).start().await;
    gateway.rewrite_config(&json!({ "services": [upstream.service("new", &["/new"])] }));
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    silverback_e2e::within("the new configuration", async { while gateway.get("/new").await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_reload_changes_how_many_connections_to_upstreams_are_kept() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(upstream.behind_everything()).start().await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(upstream.connections(), 1);
    let conf = gateway.path("kong.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text + "upstream_keepalive_pool_size = 0\n").unwrap();
    let ended = gateway.command(&["reload", "-c", conf.to_str().unwrap()]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    // The one that was kept may serve a last time.
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert!(upstream.connections() >= 3, "{}", upstream.connections());
}

#[tokio::test]
async fn a_restart_is_a_new_process() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().daemon().config(upstream.behind_everything()).start().await;
    let old = gateway.pid();
    let conf = gateway.path("kong.conf");
    let ended = gateway.command(&["restart", "-c", conf.to_str().unwrap()]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_ne!(gateway.pid(), old);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_start_of_a_daemon() {
    let upstream = Upstream::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run_silverback(
        &["start", "-p", directory.path().to_str().unwrap()],
        &[
            ("KONG_DATABASE", "off"),
            ("KONG_PROXY_LISTEN", &address),
            ("KONG_ADMIN_LISTEN", "off"),
            ("KONG_STATUS_LISTEN", "off"),
            ("KONG_DECLARATIVE_CONFIG_STRING", &{
                let mut config = upstream.behind_everything();
                config["_format_version"] = json!("3.0");
                config.to_string()
            }),
        ],
    )
    .await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Error:") && ended.stderr.contains(&address), "{ended:?}");
}

#[tokio::test]
async fn wrong_properties_are_reported_all_at_once_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("kong.conf");
    let text = format!(
        "prefix = {}\ndatabase = oracle\nlog_level = loud\nproxy_listen = nowhere\n",
        directory.path().display()
    );
    std::fs::write(&conf, text).unwrap();
    let ended = run_silverback(&["check", conf.to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.starts_with("Error: "), "{ended:?}");
    for part in ["kong.conf:2: database", "kong.conf:3: log_level", "kong.conf:4: proxy_listen"] {
        assert!(ended.stderr.contains(part), "{part} is missing: {ended:?}");
    }
}

#[tokio::test]
async fn check_accepts_a_good_file() {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("kong.conf");
    std::fs::write(&conf, format!("prefix = {}\ndatabase = off\n", directory.path().display())).unwrap();
    let ended = run_silverback(&["check", conf.to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!((ended.stdout + &ended.stderr).contains("valid"));
}

#[tokio::test]
async fn a_declarative_file_can_be_checked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kong.yml");
    let prefix = directory.path().to_str().unwrap();
    for (text, status) in [
        ("_format_version: \"3.0\"\nservices:\n- name: a\n  url: http://a.example\n", 0),
        ("_format_version: \"3.0\"\nservices:\n- name: a\n  url: http://a.example\n  colour: red\n", 1),
        ("services: []\n", 1),
    ] {
        std::fs::write(&file, text).unwrap();
        let ended = run_silverback(
            &["config", "parse", file.to_str().unwrap()],
            &[("KONG_DATABASE", "off"), ("KONG_PREFIX", prefix)],
        )
        .await;
        assert_eq!(ended.status, Some(status), "{text}: {ended:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_is_not_enabled_may_not_be_configured() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().to_str().unwrap();
    let config = json!({ "_format_version": "3.0", "plugins": [{ "name": "no-such-plugin" }] }).to_string();
    let ended = run_silverback(
        &["start", "-p", prefix],
        &[
            ("KONG_DATABASE", "off"),
            ("KONG_PROXY_LISTEN", "off"),
            ("KONG_ADMIN_LISTEN", "off"),
            ("KONG_DECLARATIVE_CONFIG_STRING", &config),
        ],
    )
    .await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no-such-plugin"), "{ended:?}");
}

#[tokio::test]
async fn version_is_printed() {
    let ended = run_silverback(&["version"], &[]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(!ended.stdout.trim().is_empty());
}

#[tokio::test]
async fn an_unknown_command_is_an_error() {
    let ended = run_silverback(&["fly"], &[]).await;
    assert_ne!(ended.status, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_daemon_leaves_its_files_where_tools_look_for_them() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().daemon().config(upstream.behind_everything()).start().await;
    for name in ["pids/nginx.pid", ".kong_env", "logs/access.log", "logs/error.log"] {
        eventually(name, || gateway.path(name).exists().then_some(())).await;
    }
    let ended = gateway.command(&["stop"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    eventually("end of the pid file", || (!gateway.path("pids/nginx.pid").exists()).then_some(())).await;
}

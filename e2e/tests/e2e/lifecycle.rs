//! Stopping, reloading, reopening.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use silverback_e2e::{Connection, Gate, Gateway, Step, Trial, Upstream, eventually, within};

/// An upstream that answers when the gate is open.
async fn gated(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::scripted(move |_| {
        vec![Step::Wait(gate.clone()), Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")]
    })
    .await
}

#[tokio::test]
async fn quit_finishes_what_is_under_way() {
    let gate = Gate::closed();
    let upstream = gated(&gate).await;
    let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connections.push(connection);
    }
    upstream.heads(50).await;
    gateway.signal(Signal::SIGQUIT);
    gateway.refuses_connections().await;
    gate.open();
    for connection in &mut connections {
        let answer = connection.response().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        assert_eq!(connection.closed().await, b"");
    }
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn quit_drops_nothing_that_was_accepted() {
    let upstream = Upstream::echo().await;
    let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    // Connections that wait in the accept queue, with their request sent, when the signal comes.
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connections.push(connection);
    }
    gateway.signal(Signal::SIGQUIT);
    for connection in &mut connections {
        assert_eq!(connection.response().await.status, 200);
    }
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn quit_tells_every_client_that_asks_on_before_it_closes_its_connection() {
    let upstream = Upstream::echo().await;
    for _ in 0..3 {
        let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
        let (asked, mut asking) = tokio::sync::mpsc::channel(1);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (mut connection, asked) = (gateway.connect().await, asked.clone());
            clients.spawn(async move {
                loop {
                    // Panics where the connection ends without an answer.
                    let answer = connection.get("/", &[]).await;
                    assert_eq!(answer.status, 200);
                    let _ = asked.try_send(());
                    if answer.header("connection") == Some("close") {
                        assert_eq!(connection.closed().await, b"");
                        return;
                    }
                    // Its connection is idle for a moment.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        for _ in 0..100 {
            asking.recv().await.unwrap();
        }
        gateway.signal(Signal::SIGQUIT);
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        assert_eq!(gateway.exit_status().await, Some(0));
    }
}

#[tokio::test]
async fn quit_closes_idle_connections() {
    let upstream = Upstream::echo().await;
    let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut idle = gateway.connect().await;
    idle.get("/", &[]).await;
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(idle.closed().await, b"");
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn quit_ends_after_its_limit() {
    let gate = Gate::closed();
    let upstream = gated(&gate).await;
    let mut gateway = Gateway::new()
        .conf("nginx_main_worker_shutdown_timeout = 1s")
        .config(upstream.behind_everything())
        .start()
        .await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.heads(1).await;
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn term_stops_at_once() {
    let gate = Gate::closed();
    let upstream = gated(&gate).await;
    let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.heads(1).await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.exit_status().await, Some(0));
}

#[tokio::test]
async fn the_plugin_servers_end_with_the_gateway() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGKILL] {
        let upstream = Upstream::echo().await;
        let mut gateway = Gateway::new()
            .plugin_servers([Trial::Go, Trial::Python])
            .config(upstream.behind_everything())
            .start()
            .await;
        assert_eq!(gateway.plugin_server_pids("trial").len(), 2);
        gateway.signal(signal);
        gateway.exit_status().await;
        eventually(&format!("end of the plugin servers after {signal}"), || {
            gateway.plugin_server_pids("trial").is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_reload_changes_the_configuration_without_closing_a_connection() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(json!({ "services": [upstream.service("old", &["/old"])] })).start().await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.get("/old", &[]).await.status, 200);
    assert_eq!(connection.get("/new", &[]).await.status, 404);
    gateway.rewrite_config(&json!({ "services": [upstream.service("new", &["/new"])] }));
    gateway.signal(Signal::SIGHUP);
    within("the new configuration", async { while connection.get("/new", &[]).await.status != 200 {} }).await;
    assert_eq!(connection.get("/old", &[]).await.status, 404);
}

#[tokio::test]
async fn a_reload_under_load_fails_no_request() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (address, stop) = (gateway.proxy(), Arc::clone(&stop));
        load.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(connection.get("/", &[]).await.status, 200);
                count += 1;
            }
            count
        });
    }
    for turn in 0..5 {
        let mut config = upstream.behind_everything();
        let path = format!("/turn-{turn}");
        config["services"].as_array_mut().unwrap().push(json!({
            "name": "turn", "url": upstream.url(), "routes": [{ "name": "turn", "paths": [path], "strip_path": true }],
        }));
        gateway.rewrite_config(&config);
        gateway.signal(Signal::SIGHUP);
        // With its path stripped it is the new route that answers.
        within("the new configuration", async { while gateway.get(&path).await.json()["target"] != "/" {} }).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(count) = load.join_next().await {
        assert!(count.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_reload_with_a_bad_file_changes_nothing_and_says_why() {
    let upstream = Upstream::echo().await;
    let mut gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for text in ["{ this is no configuration", "{\"_format_version\": \"3.0\", \"services\": [{\"name\": 7}]}", ""] {
        let before = gateway.error_log().len();
        gateway.rewrite_config_text(text);
        gateway.signal(Signal::SIGHUP);
        eventually("a complaint in the log", || gateway.error_log()[before..].contains("[error]").then_some(())).await;
        assert_eq!(gateway.get("/").await.status, 200, "{text:?}");
    }
    assert!(gateway.runs());
}

#[tokio::test]
async fn usr1_reopens_the_logs() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    gateway.get("/before").await;
    gateway.logged_access(&["/before"]).await;
    std::fs::rename(gateway.path("logs/access.log"), gateway.path("logs/access.log.1")).unwrap();
    gateway.signal(Signal::SIGUSR1);
    eventually("a new access log", || gateway.path("logs/access.log").exists().then_some(())).await;
    gateway.get("/after").await;
    gateway.logged_access(&["/after"]).await;
    let old = std::fs::read_to_string(gateway.path("logs/access.log.1")).unwrap();
    assert!(old.contains("/before") && !old.contains("/after"));
}

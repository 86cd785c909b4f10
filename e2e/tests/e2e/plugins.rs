//! Plugins in every language, running in unmodified plugin servers.

use serde_json::{Value, json};
use silverback_e2e::{
    Gateway,
    Language::{Go, JavaScript, Python, TypeScript},
    PluginServer, Trial, Upstream, eventually,
};

/// One service for every path, with these plugins.
fn with_plugins(upstream: &Upstream, plugins: Value) -> Value {
    let mut config = upstream.behind_everything();
    config["plugins"] = plugins;
    config
}

#[tokio::test]
async fn a_go_plugin_adds_its_header() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Go])
        .config(with_plugins(
            &upstream,
            json!([{ "name": "tenant", "config": { "default": "public", "forward": true } }]),
        ))
        .start()
        .await;
    let answer = gateway.get_with("/", &["X-Tenant: acme"]).await;
    assert_eq!((answer.status, answer.header("x-tenant")), (200, Some("acme")));
    assert_eq!(answer.echoed("x-tenant"), ["acme"]);
    let answer = gateway.get("/").await;
    assert_eq!(answer.header("x-tenant"), Some("public"), "the default of the configuration");
}

#[tokio::test]
async fn a_go_plugin_can_answer_instead_of_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Go])
        .config(with_plugins(&upstream, json!([{ "name": "tenant" }])))
        .start()
        .await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/json")));
    assert_eq!(answer.json()["message"], "the tenant is missing: send X-Tenant");
    assert!(upstream.requests().is_empty());
    let answer = connection.get("/", &["X-Tenant: acme"]).await;
    assert_eq!(answer.status, 200, "the connection stays usable, and so does the plugin");
}

#[tokio::test]
async fn a_python_plugin_adds_its_header() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Python])
        .config(with_plugins(&upstream, json!([{ "name": "stamp", "config": { "environment": "production" } }])))
        .start()
        .await;
    let answer = gateway.get("/").await;
    let stamp = answer.header("x-stamp").expect("the default of the schema names the header");
    assert!(stamp.starts_with("production; at="), "{stamp}");
    assert_eq!(answer.echoed("x-stamp"), [stamp]);
    gateway.logged_error(&["stamped a request that ended with status 200"]).await;
}

#[tokio::test]
async fn a_javascript_plugin_adds_its_header_or_refuses() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([JavaScript])
        .config(with_plugins(
            &upstream,
            json!([{ "name": "quota-label", "config": { "plans": { "free": 60, "gold": 12000 } } }]),
        ))
        .start()
        .await;
    let answer = gateway.get_with("/", &["X-Plan: gold"]).await;
    assert_eq!(answer.header("x-quota"), Some("gold; limit=12000; unit=minute"));
    let answer = gateway.get_with("/", &["X-Plan: platinum"]).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["message"], "there is no plan \"platinum\"");
}

#[tokio::test]
async fn a_typescript_plugin_sees_the_whole_answer_of_the_upstream() {
    let upstream =
        Upstream::sending("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world").await;
    let gateway = Gateway::new()
        .plugin_servers([TypeScript])
        .config(with_plugins(&upstream, json!([{ "name": "content-digest" }])))
        .start()
        .await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.header("content-digest"), Some("sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:"));
}

#[tokio::test]
async fn four_languages_work_on_one_request() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Go, Python, JavaScript, TypeScript])
        .config(with_plugins(
            &upstream,
            json!([
                { "name": "tenant", "config": { "default": "public" } },
                { "name": "stamp" },
                { "name": "quota-label" },
                { "name": "content-digest" },
            ]),
        ))
        .start()
        .await;
    let mut connection = gateway.connect().await;
    for _ in 0..20 {
        let answer = connection.get("/", &[]).await;
        for name in ["x-tenant", "x-stamp", "x-quota", "content-digest"] {
            assert!(answer.header(name).is_some(), "{name} is missing: {answer:?}");
        }
    }
}

#[tokio::test]
async fn plugins_run_in_the_order_of_their_priorities() {
    let upstream = Upstream::echo().await;
    let traced = |name: &str| json!({ "name": name, "config": { "trace": name } });
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go.priority(5), Trial::Python.priority(50), Trial::JavaScript.priority(-5)])
        .config(with_plugins(&upstream, json!([traced("trial-js"), traced("trial-go"), traced("trial-py")])))
        .start()
        .await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.echoed("x-trace"), ["trial-py", "trial-go", "trial-js"]);
}

#[tokio::test]
async fn a_plugin_runs_with_the_configuration_closest_to_the_request() {
    let upstream = Upstream::echo().await;
    let plugin = |value: &str| json!([{ "name": "trial-go", "config": { "header": "X-From", "value": value } }]);
    let mut config = json!({
        "services": [upstream.service("with", &["/route", "/service"]), upstream.service("without", &["/global"])],
        "plugins": plugin("global"),
    });
    config["services"][0]["plugins"] = plugin("service");
    config["services"][0]["routes"] = json!([
        { "name": "route", "paths": ["/route"], "plugins": plugin("route") },
        { "name": "service", "paths": ["/service"] },
    ]);
    let gateway = Gateway::new().plugin_servers([Trial::Go]).config(config).start().await;
    for scope in ["route", "service", "global"] {
        let answer = gateway.get(&format!("/{scope}")).await;
        assert_eq!(answer.header("x-from"), Some(scope));
    }
}

#[tokio::test]
async fn a_plugin_that_exits_keeps_later_plugins_from_running_but_not_its_log() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let log = gateway.directory().join("log");
    let gateway = gateway
        .plugin_servers([Trial::Go.priority(20), Trial::Python.priority(10)])
        .config(with_plugins(
            &upstream,
            json!([
                { "name": "trial-go", "config": { "exit": 418, "log_file": log } },
                { "name": "trial-py", "config": { "header": "X-Later", "value": "ran" } },
            ]),
        ))
        .start()
        .await;
    let answer = gateway.get("/tea").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-later")), (418, "told to exit", None));
    eventually("the log phase", || std::fs::read_to_string(&log).ok().filter(|text| text == "418 /tea\n")).await;
}

#[tokio::test]
async fn exits_leave_plugin_servers_usable() {
    for trial in [Trial::Go, Trial::Python, Trial::JavaScript] {
        let upstream = Upstream::echo().await;
        let gateway = Gateway::new()
            .plugin_servers([trial])
            .config(with_plugins(&upstream, json!([{ "name": trial.plugin(), "config": { "exit": 403 } }])))
            .start()
            .await;
        let mut connection = gateway.connect().await;
        for _ in 0..50 {
            assert_eq!(connection.get("/", &[]).await.status, 403, "{trial:?}");
        }
    }
}

#[tokio::test]
async fn the_start_up_summary_names_servers_plugins_and_phases() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([PluginServer::from(Go), Python.into()])
        .config(upstream.behind_everything())
        .start()
        .await;
    let text = gateway.error_log();
    for part in ["tenant", "stamp", "access"] {
        assert!(text.contains(part), "{part} is missing in the summary");
    }
}

#[tokio::test]
async fn many_requests_share_one_plugin_server() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go, Trial::JavaScript, Trial::Python])
        .config(with_plugins(
            &upstream,
            json!([
                { "name": "trial-go", "config": { "header": "X-Go", "value": "1", "delay_ms": 5 } },
                { "name": "trial-js", "config": { "header": "X-Js", "value": "1", "delay_ms": 5 } },
                { "name": "trial-py", "config": { "header": "X-Py", "value": "1" } },
            ]),
        ))
        .start()
        .await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let mut connection = gateway.connect().await;
        tasks.spawn(async move {
            for turn in 0..20 {
                let path = format!("/{number}/{turn}");
                let answer = connection.get(&path, &[]).await;
                assert_eq!(answer.json()["target"], path);
                for name in ["x-go", "x-js", "x-py"] {
                    assert_eq!(answer.header(name), Some("1"), "{name}: {answer:?}");
                }
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
}

//! What operators see: metrics, states of plugin servers, timings of one request.

use std::collections::HashMap;

use serde_json::{Value, json};
use silverback_e2e::{Dns, Gateway, Language, Running, Trial, Upstream, eventually_async};

/// A service for every path, with a trial plugin.
fn tried(upstream: &Upstream, trial: Trial, config: &Value) -> Value {
    let mut services = upstream.behind_everything();
    services["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
    services
}

/// What `/metrics` says, by name and labels as they are written, read by a parser of somebody else.
async fn scrape(gateway: &Running) -> HashMap<String, f64> {
    let answer = gateway.status("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    let scrape = prometheus_parse::Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    assert!(scrape.docs.contains_key("kong_http_requests_total"), "{:?}", scrape.docs);
    let mut values = HashMap::new();
    for sample in scrape.samples {
        let mut labels: Vec<_> = sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labels.sort();
        let value = match sample.value {
            prometheus_parse::Value::Counter(value)
            | prometheus_parse::Value::Gauge(value)
            | prometheus_parse::Value::Untyped(value) => value,
            prometheus_parse::Value::Histogram(buckets) => {
                assert!(buckets.windows(2).all(|pair| pair[0].count <= pair[1].count), "{buckets:?}");
                buckets.last().map_or(0.0, |bucket| bucket.count)
            }
            prometheus_parse::Value::Summary(_) => panic!("there are no summaries"),
        };
        values.insert(format!("{} {}", sample.metric, labels.join(" ")), value);
    }
    values
}

#[tokio::test]
async fn metrics_tell_of_requests_and_of_plugins() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go])
        .config(tried(&upstream, Trial::Go, &json!({ "header": "X-Checked", "value": "yes" })))
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let values = eventually_async("metrics of three requests", || async {
        let values = scrape(&gateway).await;
        (values.get("kong_http_requests_total code=200 source=service") == Some(&3.0)).then_some(values)
    })
    .await;
    let plugin = "phase=access plugin=trial-go server=trial-go";
    for (metric, expect) in [
        (format!("silverback_plugin_events_total outcome=returned {plugin}"), 3.0),
        (format!("silverback_plugin_events_total outcome=closed {plugin}"), 0.0),
        (format!("silverback_plugin_event_duration_ms {plugin}"), 3.0),
        (format!("silverback_plugin_events_in_flight {plugin}"), 0.0),
        ("kong_request_latency_ms ".to_owned(), 3.0),
        ("silverback_plugin_server_state server=trial-go state=ready".to_owned(), 1.0),
        ("silverback_plugin_server_restarts_total server=trial-go".to_owned(), 0.0),
        ("silverback_plugin_server_breaker_state server=trial-go state=closed".to_owned(), 1.0),
        ("silverback_log_lines_dropped_total ".to_owned(), 0.0),
    ] {
        assert_eq!(values.get(&metric), Some(&expect), "{metric} in {values:#?}");
    }
    assert!(values[&format!("silverback_plugin_pdk_calls_total {plugin}")] >= 3.0);
    let memory = values.iter().find(|(name, _)| name.starts_with("silverback_plugin_process_memory_bytes "));
    assert!(memory.is_some_and(|(_, bytes)| *bytes > 100_000.0), "{values:#?}");
}

#[tokio::test]
async fn metrics_tell_the_health_of_every_target() {
    let (well, ill) = (Upstream::echo().await, Upstream::named("ill").await);
    let targets = |targets: &[&str]| targets.iter().map(|target| json!({ "target": target })).collect::<Vec<_>>();
    let config = json!({
        "services": [{ "name": "s", "host": "checked", "routes": [{ "name": "r", "paths": ["/"] }] }],
        "upstreams": [
            { "name": "checked", "targets": targets(&[&well.target(), &ill.target(), "gone.invalid:80"]),
              "healthchecks": { "passive": { "unhealthy": { "http_failures": 1 } } } },
            { "name": "unchecked", "targets": targets(&["127.0.0.1:9"]) },
        ],
    });
    let dns = Dns::start().await;
    let gateway = Gateway::new().conf(&dns.conf()).config(config).start().await;
    let health = async |upstream: &str, target: &str, address: &str| {
        let values = scrape(&gateway).await;
        let states = ["healthchecks_off", "healthy", "unhealthy", "dns_error"].into_iter().filter(|state| {
            let labels = format!("address={address} state={state} subsystem=http target={target} upstream={upstream}");
            values[&format!("kong_upstream_target_health {labels}")] > 0.0
        });
        states.collect::<Vec<_>>().join(",")
    };
    let (well, ill) = (well.target(), ill.target());
    let path = format!("/upstreams/checked/targets/{ill}/unhealthy");
    assert_eq!(health("checked", &well, &well).await, "healthy");
    assert_eq!(health("checked", &ill, &ill).await, "healthy");
    assert_eq!(health("checked", "gone.invalid:80", "").await, "dns_error");
    assert_eq!(health("unchecked", "127.0.0.1:9", "127.0.0.1:9").await, "healthchecks_off");
    assert_eq!(gateway.admin_request("PUT", &path).await.status, 204);
    assert_eq!(health("checked", &ill, &ill).await, "unhealthy");
    assert_eq!(scrape(&gateway).await["silverback_upstream_addresses_left_out "], 0.0);
}

#[tokio::test]
async fn a_failed_event_is_counted_by_its_cause() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go])
        .config(tried(&upstream, Trial::Go, &json!({ "fail": true })))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.status, 500);
    let failed = "silverback_plugin_events_total outcome=closed phase=access plugin=trial-go server=trial-go";
    eventually_async("a counted failure and a restart", || async {
        let values = scrape(&gateway).await;
        let restarted = values["silverback_plugin_server_restarts_total server=trial-go"] >= 1.0;
        (values.get(failed) == Some(&1.0) && restarted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn status_shows_plugin_servers_and_ready_names_those_that_are_not() {
    let upstream = Upstream::echo().await;
    for (conf, status) in [("", 200), ("status_ready_plugin_servers = on", 503)] {
        let gateway = Gateway::new().conf(conf);
        let gate = gateway.directory().join("gate");
        let gateway = gateway
            .plugin_servers([Trial::Go.held_until(&gate), Language::Python.into()])
            .config(tried(&upstream, Trial::Go, &json!({})))
            .start()
            .await;
        let answer = eventually_async("one server that is not ready", || async {
            let answer = gateway.status("/status/ready").await;
            (answer.json()["plugin_servers_not_ready"] == json!(["trial-go"])).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, status);
        let servers = gateway.status("/status").await.json()["plugin_servers"].clone();
        assert_eq!((&servers[0]["name"], &servers[0]["state"]), (&json!("trial-go"), &json!("starting")));
        assert_eq!((&servers[1]["plugins"], &servers[1]["state"]), (&json!(["stamp"]), &json!("ready")));
        assert!(servers[1]["processes"][0]["pid"].is_u64(), "{servers}");

        std::fs::write(&gate, "").unwrap();
        eventually_async("both servers ready", || async {
            let answer = gateway.status("/status/ready").await;
            (answer.status == 200 && answer.json() == json!({ "message": "ready" })).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_on_this_machine_gets_the_timings_of_its_request() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go])
        .config(tried(&upstream, Trial::Go, &json!({ "header": "X-Checked", "value": "yes", "log_file": "/dev/null" })))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.header("x-kong-request-debug-output"), None);

    let asked = ["X-Kong-Request-Debug: *", "X-Kong-Request-Debug-Log: true", "X-Kong-Request-Debug-Token: x"];
    let answer = gateway.get_with("/", &asked).await;
    assert_eq!(answer.status, 200);
    for name in ["x-kong-request-debug", "x-kong-request-debug-log", "x-kong-request-debug-token"] {
        assert_eq!(answer.echoed(name), Vec::<String>::new(), "{name} goes no further");
    }
    let output: Value = serde_json::from_str(answer.header("x-kong-request-debug-output").unwrap()).unwrap();
    assert_eq!(output["request_id"].as_str(), answer.header("x-kong-request-id"));
    let child = &output["child"];
    for phase in ["rewrite", "access", "balancer", "upstream", "header_filter"] {
        assert!(child[phase]["total_time"].is_number(), "{phase} in {output}");
    }
    assert!(child["access"]["child"]["router"]["total_time"].is_number(), "{output}");
    let plugin = child["access"]["child"]["plugins"]["child"]["trial-go"]["child"].as_object().unwrap();
    assert!(plugin.values().all(|run| run["total_time"].is_number()), "{output}");
    assert!(child["upstream"]["child"]["time_to_first_byte"]["total_time"].is_number(), "{output}");
    assert!(output["total_time_without_upstream"].is_number(), "{output}");

    let id = answer.header("x-kong-request-id").unwrap().to_owned();
    let line = gateway.logged_error(&["[request-debug] output: ", "while logging request, client", &id]).await;
    let logged = line.split("output: ").nth(1).unwrap().split(" while logging request").next().unwrap();
    let logged: Value = serde_json::from_str(logged).unwrap();
    assert!(logged["child"]["log"]["child"]["plugins"]["child"]["trial-go"].is_object(), "{logged}");
    assert!(logged["child"]["upstream"]["child"]["streaming"].is_object(), "{logged}");
}

#[tokio::test]
async fn a_client_elsewhere_needs_the_token() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .conf("trusted_ips = 127.0.0.1\nnginx_proxy_real_ip_header = X-Real-IP")
        .config(upstream.behind_everything())
        .start()
        .await;
    let token = std::fs::read_to_string(gateway.path(".request_debug_token")).unwrap();
    gateway.logged_error(&["[request-debug] token for request debugging: ", &token]).await;
    for (given, told) in [(token.as_str(), true), ("wrong", false)] {
        let given = format!("X-Kong-Request-Debug-Token: {given}");
        let answer = gateway.get_with("/", &["X-Real-IP: 10.1.2.3", "X-Kong-Request-Debug: *", &given]).await;
        assert_eq!(answer.header("x-kong-request-debug-output").is_some(), told, "{given}");
    }

    gateway.command(&["reload"]).await;
    assert_ne!(std::fs::read_to_string(gateway.path(".request_debug_token")).unwrap(), token, "a new one");

    let gateway = Gateway::new().conf("request_debug = off").config(upstream.behind_everything()).start().await;
    assert!(!gateway.path(".request_debug_token").exists());
    let answer = gateway.get_with("/", &["X-Kong-Request-Debug: *"]).await;
    assert_eq!(answer.header("x-kong-request-debug-output"), None);
    assert_eq!(answer.echoed("x-kong-request-debug"), ["*"], "a header like any other");
}

#[tokio::test]
async fn who_may_debug_is_told_which_plugin_failed_and_why() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .plugin_servers([Trial::Go])
        .config(tried(&upstream, Trial::Go, &json!({ "fail": true })))
        .start()
        .await;
    let answer = gateway.get_with("/", &["X-Kong-Request-Debug: *"]).await;
    assert_eq!(answer.status, 500);
    let output: Value = serde_json::from_str(answer.header("x-kong-request-debug-output").unwrap()).unwrap();
    let failure = &output["plugin_failures"][0];
    assert_eq!((&failure["plugin"], &failure["phase"]), (&json!("trial-go"), &json!("access")));
    assert!(failure["pid"].is_u64() && failure["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{failure}");
    assert!(failure["last_output"].to_string().contains("told to fail"), "{failure}");
}

#[tokio::test]
async fn kong_debug_names_the_route_and_the_service() {
    let upstream = Upstream::echo().await;
    for (conf, told) in [("allow_debug_header = on", true), ("", false)] {
        let mut service = upstream.service("orders", &["/orders"]);
        service["routes"][0]["name"] = json!("to-orders");
        let gateway = Gateway::new().conf(conf).config(json!({ "services": [service] })).start().await;
        let answer = gateway.get_with("/orders", &["Kong-Debug: 1"]).await;
        assert_eq!(answer.header("kong-route-name"), told.then_some("to-orders"));
        assert_eq!(answer.header("kong-service-name"), told.then_some("orders"));
        assert_eq!(answer.header("kong-route-id").is_some(), told);
        assert_eq!(answer.header("kong-service-id").is_some(), told);
        assert_eq!(gateway.get("/orders").await.header("kong-route-id"), None);
    }
}

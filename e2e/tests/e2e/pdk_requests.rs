//! What the PDK tells and does across a whole request: bodies, authentication, log, secrets.

use serde_json::{Value, json};
use silverback_e2e::{Calls, Gateway, Running, Step, Trial, Upstream, eventually};

const LANGUAGES: [&str; 3] = ["go", "py", "js"];

const SERVERS: [Calls; 3] = [Calls::Go, Calls::Python, Calls::JavaScript];

const ANN: &str = "11111111-1111-4111-8111-111111111111";

/// The calls plugin of a language, whose answers go to a file of this name.
fn calls(gateway: &Gateway, language: &str, file: &str, calls: &Value) -> Value {
    let config = json!({ "calls": calls.to_string(), "file": gateway.directory().join(file) });
    json!({ "name": format!("calls-{language}"), "config": config })
}

/// A route for each language, `/go`, `/py` and `/js`, whose plugin makes these calls.
fn routes(gateway: &Gateway, list: &Value) -> Vec<Value> {
    let route = |language: &str| {
        json!({
            "name": language,
            "paths": [format!("/{language}")],
            "plugins": [calls(gateway, language, &format!("{language}.calls"), list)],
        })
    };
    LANGUAGES.map(route).to_vec()
}

/// The lines of a file of answers, once there are so many of a phase: for each the results of its calls.
async fn answers(gateway: &Running, file: &str, phase: &str, count: usize) -> Vec<Vec<Value>> {
    let path = gateway.path(file);
    eventually(&format!("{count} lines of {phase} in {file}"), || {
        let text = std::fs::read_to_string(&path).ok()?;
        let lines: Vec<Vec<Value>> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["phase"] == phase)
            .map(|line| line["answers"].as_array().into_iter().flatten().map(|answer| answer[1].clone()).collect())
            .collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

/// Bytes without any pattern.
fn random_bytes(length: usize) -> Vec<u8> {
    use ring::rand::SecureRandom;
    let mut bytes = vec![0; length];
    ring::rand::SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn plugins_in_every_language_read_a_large_upload_as_it_was_sent() {
    let upstream = Upstream::scripted(|request| {
        let digest = sha256(&request.body);
        vec![Step::send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{digest}", digest.len()))]
    })
    .await;
    let gateway = Gateway::new();
    let routes = routes(&gateway, &json!({ "access": [["kong.request.get_raw_body"]] }));
    let gateway = gateway
        .plugin_servers(SERVERS)
        .config(json!({ "services": [{ "name": "digest", "url": upstream.url(), "routes": routes }] }))
        .start()
        .await;
    let body = random_bytes(30_000_000);
    let digest = sha256(&body);
    for language in LANGUAGES {
        let path = format!("/{language}");
        let answer = gateway.connect().await.request("POST", &path, &[], &body).await;
        assert_eq!(answer.text(), digest, "the upstream's, with a length, {language}");

        let mut connection = gateway.connect().await;
        connection
            .send(format!("POST {path} HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n\r\n"))
            .await;
        for piece in body.chunks(100_000) {
            connection.send(format!("{:x}\r\n", piece.len())).await;
            connection.send(piece).await;
            connection.send("\r\n").await;
        }
        connection.send("0\r\n\r\n").await;
        assert_eq!(connection.response().await.text(), digest, "the upstream's, chunked, {language}");

        let request = http::Request::post(format!("http://example.test{path}")).body(body.clone()).unwrap();
        let answer = gateway.http2().await.request(request).await;
        assert_eq!(String::from_utf8_lossy(&answer.body), digest, "the upstream's, over HTTP/2, {language}");

        for read in answers(&gateway, &format!("{language}.calls"), "access", 3).await {
            assert_eq!(read, [json!({ "sha256": digest, "length": body.len() })], "{language}");
        }
    }
}

#[tokio::test]
async fn binary_bodies_stay_as_they_are_in_every_language() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let routes = routes(&gateway, &json!({ "access": [["kong.request.get_raw_body"]] }));
    let gateway = gateway
        .plugin_servers(SERVERS)
        .config(json!({ "services": [{ "name": "echo", "url": upstream.url(), "routes": routes }] }))
        .start()
        .await;
    for language in LANGUAGES {
        let body = b"\x00\xff\xfe\r\n\x80";
        let answer = gateway.connect().await.request("POST", &format!("/{language}"), &[], body).await;
        assert_eq!(answer.status, 200, "{language}");
        let read = answers(&gateway, &format!("{language}.calls"), "access", 1).await;
        assert_eq!(read, [[json!({ "base64": "AP/+DQqA" })]], "{language}");
    }
    assert!(upstream.requests().iter().all(|request| request.body == b"\x00\xff\xfe\r\n\x80"));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_slow_plugin_still_has_its_log_entry() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let go_on = gateway.directory().join("go-on");
    let list = json!({
        "access": [["kong.ctx.shared.set", "seen", "in access"], ["kong.log.notice", "at work"], ["wait_for", go_on]],
        "log": [["kong.response.get_status"], ["kong.ctx.shared.get", "seen"], ["kong.request.get_path"], ["kong.log.serialize"]],
    });
    let routes = routes(&gateway, &list);
    let gateway = gateway
        .conf("nginx_worker_processes = 1")
        .plugin_servers(SERVERS)
        .config(json!({ "services": [{ "name": "echo", "url": upstream.url(), "routes": routes }] }))
        .start()
        .await;
    for language in LANGUAGES {
        let mut connection = gateway.connect().await;
        connection.send(format!("GET /{language} HTTP/1.1\r\nHost: example.test\r\n\r\n")).await;
        // The plugin has to be at it before its client is gone.
        gateway.logged_error(&["at work", &format!("calls-{language}")]).await;
        drop(connection);
        // The one worker sees it go before it answers those that come later.
        for _ in 0..2 {
            assert_eq!(gateway.get("/elsewhere").await.status, 404);
        }
        std::fs::write(&go_on, "").unwrap();
        let logged = answers(&gateway, &format!("{language}.calls"), "log", 1).await;
        let path = format!("/{language}");
        assert_eq!(logged[0][..3], [json!(499), json!("in access"), json!(path)], "{language}");
        let entry: Value = serde_json::from_str(logged[0][3].as_str().unwrap()).unwrap();
        assert_eq!((&entry["response"]["status"], &entry["route"]["name"]), (&json!(499), &json!(language)));
        gateway.logged_access(&[&format!("\"GET {path} HTTP/1.1\" 499")]).await;
        std::fs::remove_file(&go_on).unwrap();
    }
    assert!(upstream.requests().is_empty(), "nobody waits for an answer");
}

#[tokio::test]
async fn a_slow_logger_delays_no_other() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    let go_on = gateway.directory().join("go-on");
    config["plugins"] = json!([
        calls(&gateway, "py", "slow", &json!({ "log": [["wait_for", go_on]] })),
        calls(&gateway, "js", "quick", &json!({ "log": [["kong.response.get_status"]] })),
    ]);
    let gateway = gateway.plugin_servers(SERVERS).config(config).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(answers(&gateway, "quick", "log", 1).await, [[json!(200)]]);
    assert!(!gateway.path("slow").exists(), "it is still at it");
    std::fs::write(go_on, "").unwrap();
    answers(&gateway, "slow", "log", 1).await;
}

#[tokio::test]
async fn requests_that_ended_early_or_were_refused_are_logged_too() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let mut config = json!({ "services": [upstream.service("echo", &["/"])] });
    config["services"][0]["routes"][0]["hosts"] = json!(["example.test"]);
    config["plugins"] = Value::Array(
        LANGUAGES
            .map(|language| {
                let list = json!({ "log": [["kong.response.get_status"], ["kong.response.get_source"]] });
                calls(&gateway, language, &format!("{language}.calls"), &list)
            })
            .to_vec(),
    );
    let gateway =
        gateway.plugin_servers(SERVERS).conf("nginx_http_client_max_body_size = 1k").config(config).start().await;
    let lines = [
        ("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n", 200, "service"),
        ("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", 404, "error"),
        ("GET / HTTP/1.1\r\nHost: example.test\r\nContent-Length: 2000\r\n\r\n", 413, "error"),
        ("GET / HTTP/1.1\r\nHost: example.test\r\nHost: other.test\r\n\r\n", 400, "error"),
        ("GET /%zz HTTP/1.1\r\nHost: example.test\r\n\r\n", 400, "error"),
        ("TRACE / HTTP/1.1\r\nHost: example.test\r\n\r\n", 405, "error"),
    ];
    for (number, (request, status, source)) in lines.into_iter().enumerate() {
        let mut connection = gateway.connect().await;
        connection.send(request).await;
        assert_eq!(connection.response().await.status, status);
        for language in LANGUAGES {
            let logged = answers(&gateway, &format!("{language}.calls"), "log", number + 1).await;
            assert_eq!(logged[number], [json!(status), json!(source)], "{request:?} in {language}");
        }
    }
}

#[tokio::test]
async fn plugins_that_authenticate_change_which_configurations_of_later_ones_apply() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let consumer = json!({ "id": ANN, "username": "ann" });
    let list = json!({ "access": [["kong.client.authenticate", consumer, { "id": "c-1" }]] });
    let mut routes = routes(&gateway, &list);
    routes.push(json!({ "name": "nobody", "paths": ["/nobody"] }));
    let trial = |value: &str| json!({ "name": "trial-go", "config": { "header": "X-For", "value": value } });
    let config = json!({
        "services": [{ "name": "echo", "url": upstream.url(), "routes": routes }],
        "consumers": [{ "id": ANN, "username": "ann", "plugins": [trial("ann")] }],
        "plugins": [trial("everyone")],
    });
    let gateway = gateway
        .plugin_servers(SERVERS.map(silverback_e2e::PluginServer::from))
        .plugin_servers([Trial::Go.priority(-10)])
        .config(config)
        .start()
        .await;
    assert_eq!(gateway.get("/nobody").await.header("x-for"), Some("everyone"));
    for language in LANGUAGES {
        assert_eq!(gateway.get(&format!("/{language}")).await.header("x-for"), Some("ann"), "{language}");
    }
}

#[tokio::test]
async fn plugins_see_whom_key_auth_authenticated() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let list = json!({ "access": [["kong.client.get_consumer"], ["kong.client.get_credential"], ["kong.client.load_consumer", "ann", true]] });
    let routes = routes(&gateway, &list);
    let gateway = gateway
        .plugin_servers(SERVERS)
        .config(json!({
            "services": [{ "name": "echo", "url": upstream.url(), "routes": routes }],
            "consumers": [{ "id": ANN, "username": "ann", "keyauth_credentials": [{ "key": "anns-key" }] }],
            "plugins": [{ "name": "key-auth" }],
        }))
        .start()
        .await;
    for language in LANGUAGES {
        let path = format!("/{language}");
        assert_eq!(gateway.get(&path).await.status, 401, "{language}");
        assert_eq!(gateway.get_with(&path, &["apikey: anns-key"]).await.status, 200, "{language}");
        let seen = &answers(&gateway, &format!("{language}.calls"), "access", 1).await[0];
        assert_eq!((&seen[0]["id"], &seen[0]["username"]), (&json!(ANN), &json!("ann")), "{language}");
        assert!(seen[1]["id"].as_str().is_some_and(|id| id.len() == 36), "{language}: {seen:?}");
        assert_eq!(seen[2]["id"], json!(ANN), "{language}");
    }
}

#[tokio::test]
async fn secrets_in_the_configuration_of_a_plugin_are_in_no_log() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let secret = "a-very-secret-word";
    let list =
        json!({ "access": [["kong.vault.get", "{vault://env/calls-hidden}"], ["kong.request.set_no_such_thing"]] });
    let mut config = upstream.behind_everything();
    let mut plugin = calls(&gateway, "py", "py.calls", &list);
    plugin["config"]["calls"] = json!("{vault://env/calls-list}");
    config["plugins"] = json!([plugin, calls(&gateway, "js", "js.calls", &json!({ "access": [["kong.no.such"]] }))]);
    let gateway = gateway
        .plugin_servers(SERVERS)
        .conf("log_level = debug")
        .environment("CALLS_HIDDEN", secret)
        .environment("CALLS_LIST", &list.to_string())
        .config(config)
        .start()
        .await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(answers(&gateway, "py.calls", "access", 1).await[0][0], json!(secret), "the plugin has it");
    gateway.logged_error(&["could not find pdk method: kong.request.set_no_such_thing"]).await;
    assert!(!gateway.error_log().contains(secret));
    assert!(!gateway.error_log().contains("calls-hidden}"), "nor what the reference stood for");
    assert!(!gateway.admin("/").await.text().contains(secret));
}

#[tokio::test]
async fn a_plugin_reads_a_body_while_others_are_served() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let routes = routes(&gateway, &json!({ "access": [["kong.request.get_raw_body"]] }));
    let gateway = gateway
        .plugin_servers(SERVERS)
        .config(json!({ "services": [{ "name": "echo", "url": upstream.url(), "routes": routes }] }))
        .start()
        .await;
    let mut slow = gateway.connect().await;
    slow.send("POST /py HTTP/1.1\r\nHost: example.test\r\nContent-Length: 4\r\n\r\nha").await;
    for language in LANGUAGES {
        assert_eq!(gateway.get(&format!("/{language}")).await.status, 200, "{language}");
    }
    slow.send("lf").await;
    assert_eq!(slow.response().await.json()["body"], "half");
}

#[tokio::test]
async fn a_plugin_that_asks_for_a_body_that_is_too_large_gets_its_client_413() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"] = routes(&gateway, &json!({ "access": [["kong.request.get_raw_body"]] })).into();
    let gateway =
        gateway.conf("nginx_http_client_max_body_size = 1k").plugin_servers(SERVERS).config(config).start().await;
    for language in LANGUAGES {
        let mut connection = gateway.connect().await;
        connection.send(format!("POST /{language} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
        connection.send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048))).await;
        assert_eq!(connection.response().await.status, 413, "{language}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_stops_sending_the_body_that_a_plugin_asked_for_gets_408() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"] = routes(&gateway, &json!({ "access": [["kong.request.get_raw_body"]] })).into();
    let gateway =
        gateway.conf("nginx_http_client_body_timeout = 1s").plugin_servers(SERVERS).config(config).start().await;
    for language in LANGUAGES {
        let mut connection = gateway.connect().await;
        connection.send(format!("POST /{language} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")).await;
        assert_eq!(connection.response().await.status, 408, "{language}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn bodies_that_plugins_read_have_their_room() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let mut config = upstream.behind_everything();
    let read = json!(["kong.request.get_raw_body", 1_000_000]);
    config["services"][0]["routes"] = routes(&gateway, &json!({ "access": [read, read] })).into();
    let conf = "buffered_proxying_max_size = 100k\nbuffered_proxying_total_size = 100k";
    let gateway = gateway.conf(conf).plugin_servers(SERVERS).config(config).start().await;
    for language in ["py", "js"] {
        let mut connection = gateway.connect().await;
        let path = format!("/{language}");
        for _ in 0..3 {
            let answer = connection.request("POST", &path, &[], "x".repeat(50_000).as_bytes()).await;
            assert_eq!(answer.status, 200, "{language}");
            assert_eq!(answer.json()["body"], "x".repeat(50_000), "{language}");
        }
        let answer = connection.request("POST", &path, &[], "x".repeat(52_000).as_bytes()).await;
        assert_eq!(answer.status, 413, "{language}");
    }
    gateway.logged_error(&["52000 bytes is too large for a plugin to read", "buffered_proxying_total_size"]).await;
}

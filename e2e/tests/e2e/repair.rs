//! Faults of stock plugin servers that the gateway repairs, each as a request or another process on the server's socket sees
//! it. With `repair = off` they are as Kong has them.

use bytes::{Bytes, BytesMut};
use serde_json::{Value as Json, json};
use silverback_e2e::{Gateway, Running, Trial, Upstream, within};
use silverback_protocol::{
    Return, Value,
    msgpack::{Request, Scanner, decode},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

const BOTH: [Trial; 2] = [Trial::Python, Trial::JavaScript];

/// The gateway with one server and a service at `/NAME` for each plugin configuration, beside `/checked`, whose plugin sets a
/// header.
async fn gateway(upstream: &Upstream, trial: Trial, conf: &str, services: &[(&str, Json)]) -> Running {
    let mut all = services.to_vec();
    all.push(("checked", json!({ "header": "X-Checked", "value": "yes" })));
    let services: Vec<_> = all
        .into_iter()
        .map(|(name, config)| {
            let mut service = upstream.service(name, &[&format!("/{name}")]);
            service["plugins"] = json!([{ "name": trial.plugin(), "config": config }]);
            service
        })
        .collect();
    Gateway::new().plugin_servers([trial]).conf(conf).config(json!({ "services": services })).start().await
}

fn pids(gateway: &Running, trial: Trial) -> Vec<i32> {
    gateway.plugin_server_pids(match trial {
        Trial::Go => "trial-go",
        Trial::Python => "trial.py",
        Trial::JavaScript => "kong-js-pluginserver",
    })
}

/// What a test does must leave the server's process alone, and serving.
async fn same_server(gateway: &Running, trial: Trial, before: &[i32]) {
    let answer = gateway.get("/checked").await;
    assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")), "{trial:?}");
    assert_eq!(pids(gateway, trial), before, "{trial:?}: the process is another one");
}

/// A connection to the socket of a plugin server.
struct Rpc {
    stream: UnixStream,
    input: BytesMut,
    number: u32,
}

impl Rpc {
    async fn open(gateway: &Running, trial: Trial) -> Self {
        let stream = UnixStream::connect(gateway.path(&format!("{}.sock", trial.plugin()))).await.unwrap();
        Self { stream, input: BytesMut::new(), number: 0 }
    }

    fn encoded(&mut self, request: &Request<'_>) -> Bytes {
        self.number += 1;
        let mut out = BytesMut::new();
        request.put(self.number, &mut out);
        out.freeze()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next answer: its error and its result. `None`: the connection has ended.
    async fn answer(&mut self) -> Option<(Value, Value)> {
        let mut scanner = Scanner::new(1 << 28);
        let read = async {
            loop {
                if let Some(length) = scanner.scan(&self.input).unwrap() {
                    let Value::List(answer) = decode(&self.input.split_to(length).freeze()).unwrap() else {
                        panic!("an answer is a list")
                    };
                    return Some((answer[2].clone(), answer[3].clone()));
                }
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        within("an answer", read).await
    }

    async fn call(&mut self, request: &Request<'_>) -> Option<(Value, Value)> {
        let bytes = self.encoded(request);
        self.send(&bytes).await;
        self.answer().await
    }

    /// Starts an instance with this configuration, and gives its number.
    async fn start(&mut self, trial: Trial, config: &Json) -> i64 {
        let config = config.to_string();
        let request = Request::StartInstance { plugin: trial.plugin(), config: &config };
        let (_, status) = self.call(&request).await.unwrap();
        let Value::Int(id) = status.field("Id") else { panic!("{status:?}") };
        *id
    }

    /// Whether the server has an entry of this event.
    async fn knows(&mut self, event: i64) -> bool {
        let result = Return::default();
        let step = Request::Step { event, method: "kong.response.exit", result: &result };
        let (error, _) = self.call(&step).await.unwrap();
        !error.as_str().is_some_and(|error| error.contains("not found"))
    }

    async fn access(&mut self, instance: i64) -> (Value, Value) {
        self.call(&Request::HandleEvent { instance, phase: "access" }).await.unwrap()
    }
}

fn event(result: &Value) -> i64 {
    let Value::Int(event) = result.field("EventId") else { panic!("{result:?}") };
    *event
}

fn method(result: &Value) -> Option<&str> {
    result.field("Data").field("Method").as_str()
}

#[tokio::test]
async fn a_javascript_handler_that_throws_fails_its_event() {
    let faults = [
        ("first", json!({ "fault": "raise first" })),
        ("later", json!({ "header": "X-Before", "value": "1", "fail": true })),
        ("forgotten", json!({ "fault": "forget a promise" })),
        ("timer", json!({ "fault": "throw in a timer" })),
    ];
    let upstream = Upstream::echo().await;
    let running = gateway(&upstream, Trial::JavaScript, "", &faults).await;
    let before = pids(&running, Trial::JavaScript);
    for (name, _) in &faults {
        assert_eq!(running.get(&format!("/{name}")).await.status, 500, "{name}");
    }
    assert!(upstream.requests().is_empty());
    running.logged_error(&["failed in access: its handler threw Error: told to fail"]).await;
    same_server(&running, Trial::JavaScript, &before).await;

    let stock = gateway(&upstream, Trial::JavaScript, "pluginserver_trial_js_repair = off", &faults).await;
    assert_eq!(stock.get("/first").await.status, 200, "without repair it looks like success, as in Kong");
}

#[tokio::test]
async fn a_python_handler_that_raises_is_answered_at_once() {
    let faults = [
        ("first", json!({ "fault": "raise first" })),
        ("later", json!({ "header": "X-Before", "value": "1", "fail": true })),
        ("exit", json!({ "fault": "sys.exit" })),
    ];
    let upstream = Upstream::echo().await;
    let running = gateway(&upstream, Trial::Python, "pluginserver_trial_py_timeout = 86400000", &faults).await;
    let before = pids(&running, Trial::Python);
    for (name, _) in &faults {
        assert_eq!(running.get(&format!("/{name}")).await.status, 500, "{name}");
    }
    assert!(upstream.requests().is_empty());
    running.logged_error(&["failed in access: its handler raised RuntimeError: told to fail"]).await;
    running.logged_error(&["failed in access: its handler raised SystemExit: 3"]).await;
    same_server(&running, Trial::Python, &before).await;
}

#[tokio::test]
async fn a_handler_that_hangs_before_its_first_call_holds_no_other_back() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[("hanging", json!({ "hang": true }))]).await;
        let before = pids(&running, trial);
        let mut hanging = running.connect().await;
        hanging.send("GET /hanging HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // when its deadline has come, the server has shown that it works, and stays
        assert_eq!(hanging.response().await.status, 500, "{trial:?}");
        same_server(&running, trial, &before).await;
    }
}

#[tokio::test]
async fn a_handler_whose_call_was_wrong_does_not_run_on() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let faults = [
            ("caught", json!({ "fault": "catch", "file": file })),
            ("exited", json!({ "fault": "call after exit", "file": file })),
        ];
        let running = gateway(&upstream, trial, "", &faults).await;
        assert_eq!(running.get("/caught").await.status, 500, "{trial:?}");
        assert_eq!(running.get("/exited").await.status, 403, "{trial:?}");
        // the events of this connection come after theirs: what they do has been done
        for _ in 0..20 {
            assert_eq!(running.get("/checked").await.status, 200);
        }
        assert!(!file.exists(), "{trial:?}");
    }
}

#[tokio::test]
async fn requests_may_come_together_or_in_pieces() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[]).await;
        let before = pids(&running, trial);
        let mut rpc = Rpc::open(&running, trial).await;
        let instance = rpc.start(trial, &json!({})).await;
        let one = rpc.encoded(&Request::HandleEvent { instance, phase: "access" });
        let two = rpc.encoded(&Request::HandleEvent { instance, phase: "access" });
        rpc.send(&[&one[..], &two[..]].concat()).await;
        for _ in 0..2 {
            assert_eq!(rpc.answer().await.unwrap().1.field("Data"), &Value::from("ret"), "{trial:?}");
        }
        for byte in one.iter() {
            rpc.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(rpc.answer().await.unwrap().1.field("Data"), &Value::from("ret"), "{trial:?}");
        same_server(&running, trial, &before).await;
    }
}

#[tokio::test]
async fn a_large_result_is_read_in_linear_time() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[]).await;
        let mut rpc = Rpc::open(&running, trial).await;
        let instance = rpc.start(trial, &json!({ "header": "X-A", "value": "b" })).await;
        let (_, called) = rpc.access(instance).await;
        // 100 MB in pieces of 64 KB: read anew with each piece, they would be 80 GB
        let result = Return::from(Value::Binary(vec![b'x'; 100 << 20].into()));
        let step = Request::Step { event: event(&called), method: "kong.response.set_header", result: &result };
        assert_eq!(rpc.call(&step).await.unwrap().1.field("Data"), &Value::from("ret"), "{trial:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_in_an_event_ends_no_process() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[]).await;
        let before = pids(&running, trial);
        // gone while the handler runs, and in the middle of what the server has to say
        for (config, speaks) in
            [(json!({ "delay_ms": 200 }), false), (json!({ "header": "X-A", "value": "b".repeat(5 << 20) }), true)]
        {
            let mut rpc = Rpc::open(&running, trial).await;
            let instance = rpc.start(trial, &config).await;
            let request = rpc.encoded(&Request::HandleEvent { instance, phase: "access" });
            rpc.send(&request).await;
            if speaks {
                within("the beginning of an answer", rpc.stream.readable()).await.unwrap();
            }
            drop(rpc);
        }
        // a handler that waits for its step is let go when the connection ends
        let mut rpc = Rpc::open(&running, trial).await;
        let instance = rpc.start(trial, &json!({ "header": "X-A", "value": "b" })).await;
        let (_, called) = rpc.access(instance).await;
        assert_eq!(method(&called), Some("kong.response.set_header"), "{trial:?}");
        drop(rpc);
        // a server that answers has seen the end before
        let mut rpc = Rpc::open(&running, trial).await;
        for _ in 0..50 {
            let (error, _) = rpc.access(-1).await;
            assert!(error.as_str().is_some_and(|error| error.starts_with("no plugin instance")), "{error:?}");
        }
        let result = Return::default();
        let step = Request::Step { event: event(&called), method: "kong.response.set_header", result: &result };
        let (error, _) = rpc.call(&step).await.unwrap();
        assert!(error.as_str().is_some_and(|error| error.contains("not found")), "{trial:?}: {error:?}");
        same_server(&running, trial, &before).await;
    }
}

#[tokio::test]
async fn no_entry_of_an_event_stays_behind() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[]).await;
        let mut rpc = Rpc::open(&running, trial).await;
        for config in [json!({}), json!({ "exit": 403 })] {
            let instance = rpc.start(trial, &config).await;
            let (_, result) = rpc.access(instance).await;
            let result_of_step = Return::default();
            let step = Request::Step { event: event(&result), method: "kong.response.exit", result: &result_of_step };
            let (error, _) = rpc.call(&step).await.unwrap();
            assert!(error.as_str().is_some_and(|error| error.contains("not found")), "{trial:?} {config}: {error:?}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_or_no_message_end_no_process() {
    for trial in BOTH {
        let upstream = Upstream::echo().await;
        let running = gateway(&upstream, trial, "", &[]).await;
        let before = pids(&running, trial);
        let mut rpc = Rpc::open(&running, trial).await;
        let instance = rpc.start(trial, &json!({ "header": "X-A", "value": "b" })).await;
        let (_, called) = rpc.access(instance).await;
        // [0, 9, "plugin.Step", [{"EventId": id, "Data": "\xff\xfe"}]]
        let mut step = b"\x94\x00\x09\xabplugin.Step\x91\x82\xa7EventId".to_vec();
        step.push(u8::try_from(event(&called)).unwrap());
        step.extend(b"\xa4Data\xa2\xff\xfe");
        rpc.send(&step).await;
        let (error, result) = rpc.answer().await.expect("an answer");
        assert_eq!((&error, result.field("Data")), (&Value::Nil, &Value::from("ret")), "{trial:?}");

        let mut garbage = Rpc::open(&running, trial).await;
        garbage.send(b"\xc1\xc1\xc1").await;
        assert_eq!(garbage.answer().await, None, "{trial:?}");
        same_server(&running, trial, &before).await;
    }
}

#[tokio::test]
async fn what_python_loads_at_its_start_is_still_loaded() {
    let upstream = Upstream::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let loaded = directory.path().join("loaded");
    let script = format!("open({:?}, 'a').write('x')\n", loaded.display().to_string());
    std::fs::write(directory.path().join("sitecustomize.py"), script).unwrap();
    let mut service = upstream.service("failing", &["/failing"]);
    service["plugins"] = json!([{ "name": "trial-py", "config": { "fault": "raise first" } }]);
    let running = Gateway::new()
        .plugin_servers([Trial::Python])
        .environment("PYTHONPATH", &directory.path().display().to_string())
        .config(json!({ "services": [service] }))
        .start()
        .await;
    assert_eq!(running.get("/failing").await.status, 500);
    running.logged_error(&["its handler raised RuntimeError"]).await;
    // once by the query command, which is not repaired, and once by the server
    assert_eq!(std::fs::read_to_string(loaded).unwrap(), "xx");
}

#[tokio::test]
async fn the_end_of_a_worker_that_had_not_begun_is_noticed() {
    let upstream = Upstream::echo().await;
    let service = |name: &str, config: Json| {
        let mut service = upstream.service(name, &[&format!("/{name}")]);
        service["plugins"] = json!([{ "name": "trial-py", "config": config }]);
        service
    };
    let services = [
        service("failing", json!({ "fault": "exit worker" })),
        service("checked", json!({ "header": "X-Checked", "value": "yes" })),
    ];
    let running = Gateway::new()
        .plugin_servers([Trial::Python.multiprocessing()])
        .conf("pluginserver_trial_py_timeout = 86400000")
        .config(json!({ "services": services }))
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(running.get("/failing").await.status, 500);
    }
    running.logged_error(&["failed in access: the process of its handler ended"]).await;
    let answer = running.get("/checked").await;
    assert_eq!((answer.status, answer.header("x-checked")), (200, Some("yes")));
}

#[tokio::test]
async fn thousands_of_javascript_events_leave_no_entry_behind() {
    let upstream = Upstream::echo().await;
    let running = gateway(&upstream, Trial::JavaScript, "", &[]).await;
    let before = pids(&running, Trial::JavaScript);
    let mut rpc = Rpc::open(&running, Trial::JavaScript).await;
    let silent = rpc.start(Trial::JavaScript, &json!({})).await;
    let exits = rpc.start(Trial::JavaScript, &json!({ "exit": 403 })).await;
    let mut events = Vec::new();
    for _ in 0..1500 {
        events.push(event(&rpc.access(silent).await.1));
        events.push(event(&rpc.access(exits).await.1));
    }
    for event in events {
        assert!(!rpc.knows(event).await, "event {event}");
    }
    same_server(&running, Trial::JavaScript, &before).await;
}

#[tokio::test]
async fn what_events_leave_in_an_unrepaired_javascript_server_goes_with_its_process() {
    let upstream = Upstream::echo().await;
    let conf = "pluginserver_trial_js_repair = off\npluginserver_trial_js_max_requests = 100";
    let running = gateway(&upstream, Trial::JavaScript, conf, &[("refused", json!({ "exit": 403 }))]).await;
    let before = pids(&running, Trial::JavaScript);
    let mut rpc = Rpc::open(&running, Trial::JavaScript).await;
    let exits = rpc.start(Trial::JavaScript, &json!({ "exit": 403 })).await;
    let left = event(&rpc.access(exits).await.1);
    assert!(rpc.knows(left).await, "the entry stays, as in Kong");
    drop(rpc);
    let replaced = async {
        while pids(&running, Trial::JavaScript).iter().any(|pid| before.contains(pid)) {
            assert_eq!(running.get("/refused").await.status, 403);
        }
    };
    within("another process", replaced).await;
    assert_eq!(running.get("/refused").await.status, 403);
}

//! Both APIs over their sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde_json::{Value as Json, json};
use silverback_admin::{Configured, HealthNotSet, Loaded, Node, Statistics, Upstreams, bind, spawn};
use silverback_config::{Settings, load_text};
use silverback_model::Catalogue;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

struct Apis {
    dir: TempDir,
    node: Arc<Node>,
}

impl Apis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = format!(
            "prefix = {0}\nadmin_listen = unix:{0}/admin.sock\nstatus_listen = unix:{0}/status.sock\n\
             admin_access_log = {0}/access.log\nplugins = off\n",
            dir.path().display()
        );
        let settings: Arc<Settings> = Arc::new(load_text(None, &conf, &BTreeMap::new()).unwrap().settings);
        let listeners = bind(&settings).unwrap();
        let loaded = Loaded { settings, catalogue: Arc::new(Catalogue::default()), configured: None };
        let statistics = || Statistics { total_requests: 7, ..Statistics::default() };
        let node = Arc::new(Node::new("the-id".to_owned(), "the-host".to_owned(), loaded, statistics));
        spawn(listeners, &node).unwrap();
        Self { dir, node }
    }

    fn socket(&self, api: &str) -> PathBuf {
        self.dir.path().join(format!("{api}.sock"))
    }

    fn configure(&self, hash: &str, empty: bool) {
        let mut loaded = Loaded::clone(&self.node.loaded());
        loaded.configured = Some(Configured { hash: hash.to_owned(), empty, plugins: vec!["key-auth".to_owned()] });
        self.node.set_loaded(loaded);
    }

    /// Status, head in lower case, body.
    async fn ask(&self, api: &str, request: &str, body: &str) -> (u16, String, Json) {
        let mut stream = UnixStream::connect(self.socket(api)).await.unwrap();
        let length = body.len();
        let request =
            format!("{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if body.is_empty() { Json::Null } else { serde_json::from_str(body).unwrap() };
        (status, head.to_ascii_lowercase(), body)
    }
}

#[tokio::test]
async fn each_api_answers_its_own_paths() {
    let apis = Apis::start();
    for (api, request, expect) in [
        ("admin", "GET /", 200),
        ("admin", "GET /?x=1", 200),
        ("admin", "GET /status", 200),
        ("admin", "GET /status/", 200),
        ("admin", "HEAD /status", 200),
        ("admin", "OPTIONS /", 204),
        ("admin", "GET /status/ready", 404),
        ("admin", "GET /routes", 404),
        ("admin", "POST /", 405),
        ("admin", "DELETE /status", 405),
        ("status", "GET /", 404),
        ("status", "GET /status", 200),
        ("status", "GET /status/ready", 503),
        ("status", "PUT /status/ready", 405),
        ("status", "GET /status?unit=x", 400),
    ] {
        let (status, head, body) = apis.ask(api, request, "").await;
        assert_eq!(status, expect, "{api} {request}");
        match status {
            404 => assert_eq!(body, json!({ "message": "Not found" })),
            405 => assert_eq!(body, json!({ "message": "Method not allowed" })),
            _ => {}
        }
        if status != 204 {
            assert!(head.contains("content-type: application/json; charset=utf-8"), "{head}");
        }
        let cors = head.contains("access-control-allow-credentials: true");
        assert_eq!(cors, api == "admin", "{head}");
        assert!(head.contains("x-kong-admin-latency: "), "{head}");
    }
}

#[tokio::test]
async fn the_node_describes_itself() {
    let apis = Apis::start();
    apis.configure("abc", false);
    let (_, _, body) = apis.ask("admin", "GET /", "").await;
    assert_eq!(body["version"], "3.9.3");
    assert_eq!(body["node_id"], "the-id");
    assert_eq!(body["hostname"], "the-host");
    assert_eq!(body["configuration"]["database"], "off");
    assert_eq!(body["plugins"], json!({ "available_on_server": {}, "enabled_in_cluster": ["key-auth"] }));

    let (_, _, body) = apis.ask("status", "GET /status", "").await;
    assert_eq!(body["server"]["total_requests"], 7);
    assert_eq!(body["configuration_hash"], "abc");
}

#[tokio::test]
async fn readiness_follows_the_configuration_and_draining() {
    let apis = Apis::start();
    let (status, _, body) = apis.ask("status", "GET /status/ready", "").await;
    assert_eq!(status, 503);
    assert!(body["message"].as_str().unwrap().starts_with("router builds not yet complete"), "{body}");

    apis.configure("0", true);
    let (status, _, body) = apis.ask("status", "GET /status/ready", "").await;
    let message = "no configuration available (empty configuration present)";
    assert_eq!((status, body), (503, json!({ "message": message })));

    apis.configure("abc", false);
    let (status, _, body) = apis.ask("status", "GET /status/ready", "").await;
    assert_eq!((status, body), (200, json!({ "message": "ready" })));

    let (status, _, _) = apis.ask("status", "POST /status/ready", "status=other").await;
    assert_eq!(status, 400);
    let (status, _, _) = apis.ask("status", "POST /status/ready", &"x".repeat(100_000)).await;
    assert_eq!(status, 413);
    let (status, _, _) = apis.ask("status", "POST /status/ready", "status=draining").await;
    assert_eq!(status, 204);
    let (status, _, body) = apis.ask("status", "GET /status/ready", "").await;
    assert_eq!((status, body), (503, json!({ "message": "draining" })));
}

/// One upstream, `up`, with three targets.
struct OneUpstream;

impl Upstreams for OneUpstream {
    fn targets(&self, upstream: &str) -> Option<Vec<Json>> {
        (upstream == "up").then(|| (1..=3).map(|n| json!({ "n": n })).collect())
    }

    fn balancer(&self, upstream: &str) -> Option<Json> {
        (upstream == "up").then(|| json!({ "health": "HEALTHY" }))
    }

    fn set_health(
        &self,
        upstream: &str,
        target: &str,
        address: Option<&str>,
        healthy: bool,
    ) -> Result<(), HealthNotSet> {
        match (upstream, target, address, healthy) {
            ("up", "[::1]:80", None, true) | ("up", "t:80", Some("10.0.0.1:80"), false) => Ok(()),
            ("up", "unchecked:80", ..) => Err(HealthNotSet::Refused("why".to_owned())),
            _ => Err(HealthNotSet::NotFound),
        }
    }
}

#[tokio::test]
async fn health_of_upstreams() {
    let apis = Apis::start();
    assert_eq!(apis.ask("admin", "GET /upstreams/up/health", "").await.0, 404);
    apis.node.set_upstreams(OneUpstream);
    for (api, request, status, body) in [
        (
            "admin",
            "GET /upstreams/up/health",
            200,
            json!({ "data": [{ "n": 1 }, { "n": 2 }, { "n": 3 }], "next": null, "node_id": "the-id" }),
        ),
        (
            "admin",
            "GET /upstreams/up/health?size=2",
            200,
            json!({
                "data": [{ "n": 1 }, { "n": 2 }], "offset": "2", "next": "/upstreams/up/health?offset=2", "node_id": "the-id",
            }),
        ),
        (
            "admin",
            "GET /upstreams/up/health?offset=2",
            200,
            json!({ "data": [{ "n": 3 }], "next": null, "node_id": "the-id" }),
        ),
        ("admin", "GET /upstreams/up/health?offset=99", 200, json!({ "data": [], "next": null, "node_id": "the-id" })),
        (
            "admin",
            "GET /upstreams/up/health?balancer_health=1",
            200,
            json!({ "data": { "health": "HEALTHY" }, "next": null, "node_id": "the-id" }),
        ),
        ("admin", "GET /upstreams/down/health", 404, json!({ "message": "Not found" })),
        ("admin", "PUT /upstreams/up/targets/%5B::1%5D:80/healthy", 204, Json::Null),
        ("admin", "PUT /upstreams/up/targets/t:80/10.0.0.1:80/unhealthy", 204, Json::Null),
        ("admin", "PUT /upstreams/up/targets/unchecked:80/healthy", 400, json!({ "message": "why" })),
        ("admin", "PUT /upstreams/up/targets/t:80/healthy", 404, json!({ "message": "Not found" })),
        ("admin", "PUT /upstreams/up/health", 405, json!({ "message": "Method not allowed" })),
        ("admin", "OPTIONS /upstreams/up/targets/t:80/healthy", 204, Json::Null),
        ("status", "GET /upstreams/up/health", 404, json!({ "message": "Not found" })),
    ] {
        let (found, _, answer) = apis.ask(api, request, "").await;
        assert_eq!((found, answer), (status, body), "{request}");
    }
    assert_eq!(apis.ask("admin", "GET /upstreams/up/health?size=x", "").await.0, 400);
}

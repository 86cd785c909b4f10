//! HTTP/2, by prior knowledge and over TLS.

use http::Request;
use serde_json::json;
use silverback_e2e::{Connection, Gateway, Http2, Trial, Upstream};

async fn serves_many_requests(mut client: Http2, scheme: &str) {
    let answer = client.get(&format!("{scheme}://example.test/first?a=1")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["target"], "/first?a=1");
    assert_eq!(answer.header("connection"), None);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut client = client.clone();
        let uri = format!("{scheme}://example.test/{number}");
        tasks.spawn(async move {
            let body = vec![b'x'; number * 100];
            let answer = client.request(Request::post(uri).body(body).unwrap()).await;
            assert_eq!(answer.json()["target"], format!("/{number}"));
            assert_eq!(answer.json()["body"].as_str().map(str::len), Some(number * 100));
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
}

#[tokio::test]
async fn clients_with_prior_knowledge_are_served() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    serves_many_requests(gateway.http2().await, "http").await;
}

#[tokio::test]
async fn http_1_clients_are_served_on_the_same_port() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = Connection::open(gateway.clear_http2()).await;
    for path in ["/first", "/second"] {
        assert_eq!(connection.get(path, &[]).await.json()["target"], path);
    }
}

#[tokio::test]
async fn tls_clients_agree_on_http2() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    serves_many_requests(gateway.http2_tls("example.test").await, "https").await;
}

#[tokio::test]
async fn the_upstream_gets_http_1_1_with_the_authority_as_host() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["preserve_host"] = json!(true);
    let gateway = Gateway::new().config(config).start().await;
    let answer = gateway.http2().await.get("http://example.test/").await;
    assert_eq!(answer.status, 200);
    let request = upstream.request();
    assert_eq!((request.version.as_str(), request.header("host")), ("HTTP/1.1", Some("example.test")));
}

#[tokio::test]
async fn plugins_run_for_http2_as_well() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "trial-go", "config": { "header": "X-Checked", "value": "yes" } }]);
    let gateway = Gateway::new().plugin_servers([Trial::Go]).config(config).start().await;
    let mut client = gateway.http2_tls("example.test").await;
    for _ in 0..10 {
        assert_eq!(client.get("https://example.test/").await.header("x-checked"), Some("yes"));
    }
}

#[tokio::test]
async fn an_unknown_path_gets_404_over_http2() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(json!({ "services": [upstream.service("a", &["/a"])] })).start().await;
    let answer = gateway.http2().await.get("http://example.test/b").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["message"], "no Route matched with those values");
}

#[tokio::test]
async fn large_answers_arrive_whole_over_http2() {
    let length = 3_000_000;
    let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "z".repeat(length));
    let upstream = Upstream::sending(bytes).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.http2_tls("example.test").await.get("https://example.test/").await;
    assert_eq!((answer.body.len(), answer.body.iter().all(|byte| *byte == b'z')), (length, true));
}

#[tokio::test]
async fn a_body_that_a_client_gives_up_is_not_taken_for_a_whole_one() {
    for buffering in [true, false] {
        let upstream = Upstream::echo().await;
        let mut config = upstream.behind_everything();
        config["services"][0]["routes"][0]["request_buffering"] = json!(buffering);
        let gateway = Gateway::new().config(config).start().await;
        let mut client = gateway.http2().await;
        for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
            let request = Request::post("http://example.test/part").body(b"part".to_vec()).unwrap();
            let begun = client.begin(request).await;
            // Answered behind the part, which has arrived then.
            assert_eq!(client.get("http://example.test/between").await.status, 200);
            begun.reset(reason);
        }
        assert_eq!(client.get("http://example.test/after").await.status, 200);
        let whole: Vec<_> = upstream.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(whole, ["/between", "/between", "/after"], "buffering: {buffering}");
    }
}

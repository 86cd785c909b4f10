//! The gateway's own answers, in the format that the client asks for.

use serde_json::json;
use silverback_e2e::{Gateway, Running, Upstream, free_port};

async fn with_dead_upstream() -> Running {
    let config = json!({ "services": [{
        "name": "dead", "url": format!("http://127.0.0.1:{}", free_port()), "routes": [{ "paths": ["/dead"] }],
    }] });
    Gateway::new().config(config).start().await
}

#[tokio::test]
async fn the_format_follows_accept() {
    let gateway = with_dead_upstream().await;
    let message = "An invalid response was received from the upstream server";
    for (accept, content_type) in [
        ("application/json", "application/json; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("application/xml", "application/xml; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("*/*", "application/json; charset=utf-8"),
        ("text/html;q=0.1, application/json;q=0.9", "application/json; charset=utf-8"),
        ("image/png", "application/json; charset=utf-8"),
    ] {
        let answer = gateway.get_with("/dead", &[&format!("Accept: {accept}")]).await;
        assert_eq!((answer.status, answer.header("content-type")), (502, Some(content_type)), "{accept}");
        assert!(answer.text().contains(message), "{accept}: {}", answer.text());
        let id = answer.header("x-kong-request-id").expect("a request id");
        assert!(answer.text().contains(id), "{accept}: {}", answer.text());
    }
}

#[tokio::test]
async fn without_accept_the_format_follows_the_content_type_or_the_default() {
    let gateway = with_dead_upstream().await;
    let answer = gateway.get_with("/dead", &["Content-Type: text/html"]).await;
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let answer = gateway.get("/dead").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn no_route_is_404_as_json() {
    let gateway = with_dead_upstream().await;
    let answer = gateway.get("/nowhere").await;
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json; charset=utf-8")));
    assert_eq!(answer.json()["message"], "no Route matched with those values");
    assert_eq!(answer.json()["request_id"].as_str(), answer.header("x-kong-request-id"));
}

#[tokio::test]
async fn a_route_without_a_service_is_503() {
    let gateway = Gateway::new().config(json!({ "routes": [{ "name": "lonely", "paths": ["/"] }] })).start().await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (503, Some("no Service found with those values")));
}

#[tokio::test]
async fn error_answers_leave_the_connection_usable() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(json!({ "services": [upstream.service("a", &["/a"])] })).start().await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.get("/b", &[]).await.status, 404);
    assert_eq!(connection.request("POST", "/b", &[], b"a body that nobody reads").await.status, 404);
    assert_eq!(connection.get("/a", &[]).await.status, 200);
}

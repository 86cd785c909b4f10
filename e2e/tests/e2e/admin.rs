//! The Admin and Status APIs, as far as they exist.

use serde_json::json;
use silverback_e2e::{Gateway, Upstream};

#[tokio::test]
async fn the_admin_api_tells_who_it_is() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.admin("/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json; charset=utf-8")));
    for key in ["version", "hostname", "node_id", "configuration", "plugins"] {
        assert!(!answer.json()[key].is_null(), "{key} is missing: {}", answer.text());
    }
}

#[tokio::test]
async fn status_counts_requests() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for answer in [gateway.admin("/status").await, gateway.status("/status").await] {
        assert_eq!(answer.status, 200);
        assert!(answer.json()["server"]["total_requests"].is_u64(), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_configured_gateway_is_ready() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.status("/status/ready").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (200, Some("ready")));
}

#[tokio::test]
async fn a_gateway_without_configuration_is_not_ready() {
    let gateway = Gateway::new().config(json!({})).start().await;
    assert_eq!(gateway.status("/status/ready").await.status, 503);
}

#[tokio::test]
async fn what_does_not_exist_is_404_as_json() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for answer in [gateway.admin("/nothing").await, gateway.status("/nothing").await] {
        assert_eq!((answer.status, answer.json()["message"].as_str()), (404, Some("Not found")));
    }
}

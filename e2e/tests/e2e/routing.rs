//! Which route takes a request.

use serde_json::{Value, json};
use silverback_e2e::{Gateway, Response, Running, Upstream};

/// A gateway whose routes each have a service of their own, named as the upstream's answer shows it in the path.
async fn with_routes(upstream: &Upstream, routes: &[Value]) -> Running {
    let services: Vec<_> = routes
        .iter()
        .map(|route| {
            let name = route["name"].as_str().unwrap();
            json!({ "name": name, "url": format!("{}/{name}", upstream.url()), "routes": [route] })
        })
        .collect();
    Gateway::new().config(json!({ "services": services })).start().await
}

/// The route that answered.
fn route(answer: &Response) -> String {
    match answer.status {
        200 => answer.json()["target"].as_str().unwrap().split(['/', '?']).nth(1).unwrap().to_owned(),
        status => status.to_string(),
    }
}

#[tokio::test]
async fn longer_paths_and_regexes_win_as_in_kong() {
    let upstream = Upstream::echo().await;
    let gateway = with_routes(
        &upstream,
        &[
            json!({ "name": "short", "paths": ["/api"] }),
            json!({ "name": "long", "paths": ["/api/users"] }),
            json!({ "name": "regex", "paths": ["~/api/users/\\d+$"] }),
        ],
    )
    .await;
    for (path, expected) in [
        ("/api", "short"),
        ("/apix", "short"),
        ("/api/users", "long"),
        ("/api/users/7", "regex"),
        ("/api/users/x", "long"),
        ("/", "404"),
    ] {
        assert_eq!(route(&gateway.get(path).await), expected, "{path}");
    }
}

#[tokio::test]
async fn hosts_methods_and_headers_are_matched() {
    let upstream = Upstream::echo().await;
    let gateway = with_routes(
        &upstream,
        &[
            json!({ "name": "exact", "hosts": ["shop.example"] }),
            json!({ "name": "wild", "hosts": ["*.example"] }),
            json!({ "name": "posts", "methods": ["POST"], "hosts": ["post.example"] }),
            json!({ "name": "beta", "hosts": ["shop.example"], "headers": { "x-version": ["beta"] } }),
        ],
    )
    .await;
    assert_eq!(route(&gateway.get_with("/", &["Host: shop.example"]).await), "exact");
    assert_eq!(route(&gateway.get_with("/", &["Host: shop.example:8000"]).await), "exact");
    assert_eq!(route(&gateway.get_with("/", &["Host: other.example"]).await), "wild");
    assert_eq!(route(&gateway.get_with("/", &["Host: example"]).await), "404");
    assert_eq!(route(&gateway.get_with("/", &["Host: shop.example", "X-Version: beta"]).await), "beta");
    let answer = gateway.connect().await.request("POST", "/", &["Host: post.example"], b"").await;
    assert_eq!(route(&answer), "posts");
}

#[tokio::test]
async fn paths_are_normalised_before_they_are_matched() {
    let upstream = Upstream::echo().await;
    let gateway = with_routes(
        &upstream,
        &[json!({ "name": "secret", "paths": ["/secret"] }), json!({ "name": "open", "paths": ["/open"] })],
    )
    .await;
    for (path, expected) in [
        ("/open/../secret", "secret"),
        ("/open/%2e%2e/secret", "secret"),
        ("/open/./x", "open"),
        ("//secret", "secret"),
        ("/%73ecret", "secret"),
        ("/../secret", "400"),
    ] {
        assert_eq!(route(&gateway.get(path).await), expected, "{path}");
    }
}

#[tokio::test]
async fn a_route_for_https_only_asks_for_it_or_redirects() {
    let upstream = Upstream::echo().await;
    let gateway = with_routes(
        &upstream,
        &[
            json!({ "name": "upgrade", "paths": ["/upgrade"], "protocols": ["https"] }),
            json!({ "name": "redirect", "paths": ["/redirect"], "protocols": ["https"], "https_redirect_status_code": 308 }),
        ],
    )
    .await;
    let answer = gateway.get("/upgrade").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (426, Some("Please use HTTPS protocol")));
    assert_eq!(answer.header("upgrade"), Some("TLS/1.2, HTTP/1.1"));
    let answer = gateway.get_with("/redirect/x?y=1", &["Host: shop.example"]).await;
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://shop.example/redirect/x?y=1")));
    let answer = gateway.connect_tls("shop.example").await.get("/upgrade", &[]).await;
    assert_eq!(route(&answer), "upgrade");
}

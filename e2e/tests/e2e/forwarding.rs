//! What the upstream and the client learn about each other, and about the gateway.

use serde_json::json;
use silverback_e2e::{Gateway, Upstream};

#[tokio::test]
async fn the_upstream_learns_who_asks() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/p?q=1", &["Host: shop.example:8000"]).await;
    let port = gateway.proxy().port().to_string();
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", port.as_str()),
        ("x-forwarded-path", "/p"),
        ("host", upstream.target().as_str()),
    ] {
        assert_eq!(answer.echoed(name), [value], "{name}");
    }
    assert_eq!(answer.echoed("x-kong-request-id").len(), 1);
    assert!(answer.echoed("via")[0].starts_with("1.1 "));
}

#[tokio::test]
async fn an_untrusted_client_cannot_say_who_it_is() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let claims = [
        "X-Forwarded-For: 10.9.8.7",
        "X-Real-IP: 10.9.8.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /evil",
    ];
    let answer = gateway.get_with("/", &claims).await;
    assert_eq!(answer.echoed("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(answer.echoed("x-forwarded-for"), ["10.9.8.7, 127.0.0.1"]);
    assert_eq!(answer.echoed("x-forwarded-proto"), ["http"]);
    assert_eq!(answer.echoed("x-forwarded-host"), ["example.test"]);
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new()
        .conf("trusted_ips = 127.0.0.0/8\nreal_ip_header = X-Forwarded-For\nreal_ip_recursive = on")
        .config(upstream.behind_everything())
        .start()
        .await;
    let claims = [
        "X-Forwarded-For: 9.9.9.9, 203.0.113.7, 127.0.0.5",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Port: 443",
    ];
    let answer = gateway.get_with("/", &claims).await;
    assert_eq!(answer.echoed("x-real-ip"), ["203.0.113.7"]);
    assert_eq!(answer.echoed("x-forwarded-proto"), ["https"]);
    assert_eq!(answer.echoed("x-forwarded-host"), ["shop.example"]);
    assert_eq!(answer.echoed("x-forwarded-port"), ["443"]);
}

#[tokio::test]
async fn the_client_learns_about_the_gateway() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get("/").await;
    for name in ["x-kong-upstream-latency", "x-kong-proxy-latency"] {
        assert!(answer.header(name).is_some_and(|value| value.parse::<u32>().is_ok()), "{name}: {answer:?}");
    }
    assert!(answer.header("via").is_some_and(|value| value.starts_with("1.1 ")), "{answer:?}");
    assert_eq!(answer.header("x-kong-request-id").map(str::len), Some(32));
    let answer = gateway.connect().await.request("BREW", "/", &[], b"").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn headers_can_be_turned_off() {
    let upstream = Upstream::echo().await;
    let gateway =
        Gateway::new().conf("headers = off\nheaders_upstream = off").config(upstream.behind_everything()).start().await;
    let answer = gateway.get("/").await;
    for name in ["x-kong-upstream-latency", "x-kong-proxy-latency", "via", "x-kong-request-id"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert!(answer.echoed("x-kong-request-id").is_empty());
}

#[tokio::test]
async fn the_path_of_the_service_and_that_of_the_request_are_joined() {
    let upstream = Upstream::echo().await;
    let config = json!({ "services": [{
        "name": "s",
        "url": format!("{}/base", upstream.url()),
        "routes": [
            { "name": "strips", "paths": ["/strip"], "strip_path": true },
            { "name": "keeps", "paths": ["/keep"], "strip_path": false },
        ],
    }] });
    let gateway = Gateway::new().config(config).start().await;
    for (path, target) in [
        ("/strip/x?y=1", "/base/x?y=1"),
        ("/strip", "/base"),
        ("/keep/x", "/base/keep/x"),
        ("/keep/a%20b", "/base/keep/a%20b"),
    ] {
        assert_eq!(gateway.get(path).await.json()["target"], target, "{path}");
    }
}

#[tokio::test]
async fn a_prefix_that_nobody_stripped_cannot_be_claimed() {
    let upstream = Upstream::echo().await;
    // The route of this configuration strips nothing.
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/p", &["X-Forwarded-Prefix: /evil"]).await;
    assert_eq!(answer.echoed("x-forwarded-prefix"), Vec::<&str>::new());
}

#[tokio::test]
async fn bytes_that_no_uri_may_hold_arrive_encoded() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET /a<b>?q=<c>|d HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.response().await.status, 200);
    assert_eq!(upstream.request().target, "/a%3Cb%3E?q=%3Cc%3E%7Cd");
}

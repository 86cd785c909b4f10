//! TLS towards upstreams: names, verification, client certificates.

use serde_json::{Value, json};
use silverback_e2e::{
    Connection, Gateway, Running, Step, Upstream,
    pki::{Authority, Identity},
};

const ROOT: &str = "2f8ac9b4-6f3b-4a07-8fb8-1d2c4d4ac3f1";
const OWN: &str = "7b0f6e0c-0a43-4d3b-9b3e-0e8a2b5b8f02";
const OTHER: &str = "9c1b2a4e-7a35-49b1-8a44-5d9c0c1d7a03";

/// One service with TLS, whose route keeps the client's Host, which is the name that TLS asks for.
fn service(upstream: &Upstream) -> Value {
    json!({
        "name": "secure",
        "url": upstream.url(),
        "retries": 0,
        "routes": [{ "name": "secure", "paths": ["/"], "preserve_host": true }],
    })
}

fn with(mut service: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        service[name] = value.clone();
    }
    service
}

fn ca(authority: &Authority) -> Value {
    json!([{ "id": ROOT, "cert": authority.pem() }])
}

fn certificate(id: &str, identity: &Identity) -> Value {
    json!({ "id": id, "cert": identity.cert, "key": identity.key })
}

/// The certificate that the gateway showed last.
fn shown(upstream: &Upstream) -> Option<Vec<u8>> {
    upstream.requests().last().unwrap().tls.clone().unwrap().certificate
}

async fn status_for(gateway: &Running, host: &str) -> u16 {
    gateway.get_with("/", &[&format!("Host: {host}"), "Accept: application/json"]).await.status
}

#[tokio::test]
async fn a_certificate_is_not_verified_unless_asked_for() {
    let upstream = Upstream::secure_echo(Authority::root("unknown").issue("else.test").server()).await;
    let gateway = Gateway::new().config(json!({ "services": [service(&upstream)] })).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 200);
    let tls = upstream.request().tls.unwrap();
    assert_eq!((tls.sni.as_deref(), tls.certificate), (Some("a.test"), None));
}

#[tokio::test]
async fn an_address_is_not_asked_for_by_name() {
    let upstream = Upstream::secure_echo(Authority::root("root").issue("127.0.0.1").server()).await;
    let mut service = service(&upstream);
    service["routes"][0]["preserve_host"] = json!(false);
    let gateway = Gateway::new().config(json!({ "services": [service] })).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(upstream.request().tls.unwrap().sni, None);
}

#[tokio::test]
async fn a_verified_upstream_has_the_right_authority_and_name() {
    let root = Authority::root("root");
    let upstream = Upstream::secure_echo(root.below("middle").issue("a.test").server()).await;
    let service = with(service(&upstream), &json!({ "tls_verify": true, "ca_certificates": [ROOT] }));
    let gateway = Gateway::new().config(json!({ "services": [service], "ca_certificates": ca(&root) })).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 200);
    let answer = gateway.get_with("/", &["Host: b.test", "Accept: application/json"]).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["message"], "An invalid response was received from the upstream server");
    gateway
        .logged_error(&[
            "[error]",
            "upstream SSL certificate does not match \"b.test\" while SSL handshaking to upstream",
        ])
        .await;
    assert_eq!(upstream.requests().len(), 1, "nothing is sent to an upstream that could be anybody");
}

#[tokio::test]
async fn an_unknown_authority_gets_502_and_a_line_in_the_log() {
    let upstream = Upstream::secure_echo(Authority::root("unknown").issue("a.test").server()).await;
    let service = with(service(&upstream), &json!({ "tls_verify": true, "ca_certificates": [ROOT] }));
    let config = json!({ "services": [service], "ca_certificates": ca(&Authority::root("root")) });
    let gateway = Gateway::new().config(config).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 502);
    gateway.logged_error(&["upstream SSL certificate verify error: (20:unable to get local issuer certificate)"]).await;
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_chain_may_be_as_long_as_the_service_says() {
    let root = Authority::root("root");
    let upstream = Upstream::secure_echo(root.below("one").below("two").issue("a.test").server()).await;
    for (depth, status) in [(json!(null), 502), (json!(1), 502), (json!(2), 200)] {
        let service = with(
            service(&upstream),
            &json!({ "tls_verify": true, "tls_verify_depth": depth, "ca_certificates": [ROOT] }),
        );
        let config = json!({ "services": [service], "ca_certificates": ca(&root) });
        let gateway = Gateway::new().config(config).start().await;
        assert_eq!(status_for(&gateway, "a.test").await, status, "{depth}");
        if status == 502 {
            gateway.logged_error(&["upstream SSL certificate verify error: (22:certificate chain too long)"]).await;
        }
    }
}

#[tokio::test]
async fn without_authorities_of_its_own_a_service_trusts_those_of_the_settings() {
    let root = Authority::root("root");
    let upstream = Upstream::secure_echo(root.issue("a.test").server()).await;
    let service = with(service(&upstream), &json!({ "tls_verify": true }));
    // An authority that no service names is trusted by none.
    let config = json!({ "services": [service], "ca_certificates": ca(&root) });
    let gateway = Gateway::new().config(config.clone()).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 502);
    let gateway = Gateway::new();
    let trusted = gateway.directory().join("trusted.pem");
    std::fs::write(&trusted, root.pem()).unwrap();
    let conf = format!("lua_ssl_trusted_certificate = system,{}", trusted.display());
    let gateway = gateway.conf(&conf).config(config).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 200);
}

#[tokio::test]
async fn injected_directives_verify_where_services_say_nothing() {
    let upstream = Upstream::secure_echo(Authority::root("unknown").issue("a.test").server()).await;
    let lax = with(service(&upstream), &json!({ "tls_verify": false }));
    for (service, status) in [(service(&upstream), 502), (lax, 200)] {
        let gateway = Gateway::new()
            .conf("nginx_proxy_proxy_ssl_verify = on")
            .config(json!({ "services": [service] }))
            .start()
            .await;
        assert_eq!(status_for(&gateway, "a.test").await, status);
    }
}

#[tokio::test]
async fn the_gateway_shows_the_certificate_of_the_service_else_of_the_upstream_else_its_own() {
    let root = Authority::root("clients");
    let [of_service, of_upstream, of_gateway] = ["service", "upstream", "gateway"].map(|name| root.issue(name));
    let server = Authority::root("root").issue("a.test").server_for_clients_of(&root);
    let upstream = Upstream::secure_echo(server).await;
    for (names, expect) in
        [(["service", "upstream"], &of_service), (["", "upstream"], &of_upstream), (["", ""], &of_gateway)]
    {
        let mut service = service(&upstream);
        service.as_object_mut().unwrap().remove("url");
        service["protocol"] = json!("https");
        service["host"] = json!("balanced");
        let mut entity = json!({ "name": "balanced", "targets": [{ "target": upstream.target() }] });
        if names[0] == "service" {
            service["client_certificate"] = json!({ "id": OWN });
        }
        if names[1] == "upstream" {
            entity["client_certificate"] = json!({ "id": OTHER });
        }
        let gateway = Gateway::new();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| gateway.directory().join(name));
        std::fs::write(&cert, &of_gateway.cert).unwrap();
        std::fs::write(&key, &of_gateway.key).unwrap();
        let gateway = gateway
            .conf(&format!(
                "client_ssl = on\nclient_ssl_cert = {}\nclient_ssl_cert_key = {}",
                cert.display(),
                key.display()
            ))
            .config(json!({
                "services": [service],
                "upstreams": [entity],
                "certificates": [certificate(OWN, &of_service), certificate(OTHER, &of_upstream)],
            }))
            .start()
            .await;
        assert_eq!(status_for(&gateway, "a.test").await, 200);
        assert_eq!(shown(&upstream), Some(expect.der()), "{names:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_in_vain_is_a_bad_gateway() {
    let server = Authority::root("root").issue("a.test").server_for_clients_of(&Authority::root("clients"));
    let upstream = Upstream::secure_echo(server).await;
    let gateway = Gateway::new().config(json!({ "services": [service(&upstream)] })).start().await;
    assert_eq!(status_for(&gateway, "a.test").await, 502);
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn connections_are_not_shared_by_what_is_verified_and_what_is_not() {
    let root = Authority::root("root");
    let upstream = Upstream::secure_echo(root.issue("a.test").server()).await;
    let strict = with(service(&upstream), &json!({ "tls_verify": true, "ca_certificates": [ROOT] }));
    let mut lax = with(service(&upstream), &json!({ "name": "lax" }));
    lax["routes"] = json!([{ "name": "lax", "paths": ["/lax"], "preserve_host": true }]);
    let gateway = Gateway::new()
        .conf("nginx_worker_processes = 1")
        .config(json!({ "services": [strict, lax], "ca_certificates": ca(&root) }))
        .start()
        .await;
    let mut connection = gateway.connect().await;
    for path in ["/", "/", "/lax", "/lax", "/"] {
        assert_eq!(connection.get(path, &["Host: a.test"]).await.status, 200);
    }
    assert_eq!(connection.get("/", &["Host: b.test"]).await.status, 502);
    let used: Vec<_> = upstream.requests().iter().map(|request| request.connection).collect();
    assert_eq!(used, [0, 0, 1, 1, 0]);
}

#[tokio::test]
async fn sessions_are_resumed() {
    let upstream = Upstream::secure(Authority::root("root").issue("a.test").server(), |_| {
        vec![Step::send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), Step::Close]
    })
    .await;
    let gateway = Gateway::new()
        .conf("nginx_worker_processes = 1")
        .config(json!({ "services": [service(&upstream)] }))
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(status_for(&gateway, "a.test").await, 200);
    }
    let resumed: Vec<_> = upstream.requests().iter().map(|request| request.tls.clone().unwrap().resumed).collect();
    assert_eq!(resumed, [false, true, true]);
}

#[tokio::test]
async fn a_body_without_a_length_may_end_without_a_goodbye() {
    let bytes = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it";
    for (bytes, expect) in [(bytes.to_owned(), true), (bytes.replace("close", "close\r\nContent-Length: 10"), false)] {
        let server = Authority::root("root").issue("a.test").server();
        let upstream = Upstream::secure(server, move |_| vec![Step::send(&bytes), Step::Close]).await;
        let gateway = Gateway::new().config(json!({ "services": [service(&upstream)] })).start().await;
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        if expect {
            assert_eq!(connection.response().await.text(), "all of it");
        } else {
            assert!(connection.closed().await.ends_with(b"\r\n\r\nall of it"));
            gateway.logged_error(&["upstream prematurely closed connection while reading upstream"]).await;
        }
    }
}

#[tokio::test]
async fn a_reload_changes_the_certificate_for_new_connections() {
    let root = Authority::root("clients");
    let [first, second] = ["first", "second"].map(|name| root.issue(name));
    let upstream = Upstream::secure_echo(Authority::root("root").issue("a.test").server_for_clients_of(&root)).await;
    let config = |identity: &Identity| {
        let service = with(service(&upstream), &json!({ "client_certificate": { "id": OWN } }));
        json!({ "services": [service], "certificates": [certificate(OWN, identity)] })
    };
    let gateway = Gateway::new().config(config(&first)).start().await;
    let mut connection = Connection::open(gateway.proxy()).await;
    assert_eq!(connection.get("/", &["Host: a.test"]).await.status, 200);
    assert_eq!(shown(&upstream), Some(first.der()));
    gateway.rewrite_config(&config(&second));
    let reloaded = gateway.command(&["reload"]).await;
    assert_eq!(reloaded.status, Some(0), "{reloaded:?}");
    silverback_e2e::eventually_async("the new certificate", || async {
        assert_eq!(status_for(&gateway, "a.test").await, 200);
        (shown(&upstream) == Some(second.der())).then_some(())
    })
    .await;
    // The client's connection has lived through it.
    assert_eq!(connection.get("/", &["Host: a.test"]).await.status, 200);
    assert_eq!(shown(&upstream), Some(second.der()));
}

//! Names of services and targets, answered by a DNS server whose answers change.

use std::net::SocketAddr;

use serde_json::{Value, json};
use silverback_e2e::{Dns, Gateway, Response, Running, Upstream, eventually, eventually_async, free_port};

/// A service at a host and port.
fn service(host: &str, port: u16) -> Value {
    json!({ "services": [{
        "name": "s", "host": host, "port": port, "retries": 1, "connect_timeout": 3000,
        "routes": [{ "name": "r", "paths": ["/"] }],
    }] })
}

/// A service whose upstream has one target.
fn target(target: &str) -> Value {
    json!({
        "services": [{ "name": "s", "host": "balanced", "routes": [{ "name": "r", "paths": ["/"] }] }],
        "upstreams": [{ "name": "balanced", "targets": [{ "target": target }] }],
    })
}

/// Two upstreams on one port, at 127.0.0.1 and 127.0.0.2.
async fn two_on_one_port() -> (Upstream, Upstream, u16) {
    let port = free_port();
    let at = |last| SocketAddr::from(([127, 0, 0, last], port));
    (Upstream::named_at("one", at(1)).await, Upstream::named_at("two", at(2)).await, port)
}

fn origin(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-origin").unwrap_or_default().to_owned()
}

/// Waits until answers come from there; none of those before may fail.
async fn comes_from(gateway: &Running, expect: &str) {
    eventually_async(&format!("an answer from {expect}"), || async {
        (origin(&gateway.get("/").await) == expect).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_is_followed_to_another_address() {
    let (_one, _two, port) = two_on_one_port().await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 1, &["127.0.0.1"]);
    let gateway = Gateway::new().conf(&dns.conf()).config(service("svc.test", port)).start().await;
    assert_eq!(origin(&gateway.get("/").await), "one");
    dns.addresses("svc.test", 1, &["127.0.0.2"]);
    comes_from(&gateway, "two").await;
}

#[tokio::test]
async fn a_target_is_followed_to_another_address() {
    let (_one, _two, port) = two_on_one_port().await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 1, &["127.0.0.1"]);
    let gateway = Gateway::new().conf(&dns.conf()).config(target(&format!("svc.test:{port}"))).start().await;
    assert_eq!(origin(&gateway.get("/").await), "one");
    dns.addresses("svc.test", 1, &["127.0.0.2"]);
    comes_from(&gateway, "two").await;
}

#[tokio::test]
async fn the_addresses_of_a_name_share_the_requests() {
    let (one, two, port) = two_on_one_port().await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1", "127.0.0.2"]);
    for config in [service("svc.test", port), target(&format!("svc.test:{port}"))] {
        let gateway = Gateway::new().conf(&dns.conf()).config(config).start().await;
        let before = (one.requests().len(), two.requests().len());
        for _ in 0..20 {
            gateway.get("/").await;
        }
        assert_eq!((one.requests().len() - before.0, two.requests().len() - before.1), (10, 10));
    }
}

#[tokio::test]
async fn srv_records_give_ports_weights_and_priorities() {
    let (a, b, c) = (Upstream::named("a").await, Upstream::named("b").await, Upstream::named("c").await);
    let dns = Dns::start().await;
    dns.addresses("host.test", 3600, &["127.0.0.1"]);
    dns.services(
        "svc.test",
        3600,
        &[(1, 30, a.port(), "host.test"), (1, 10, b.port(), "host.test"), (2, 100, c.port(), "host.test")],
    );
    for config in [service("svc.test", 1), target("svc.test:1")] {
        let gateway = Gateway::new().conf(&dns.conf()).config(config).start().await;
        let before = (a.requests().len(), b.requests().len());
        for _ in 0..40 {
            origin(&gateway.get("/").await);
        }
        assert_eq!((a.requests().len() - before.0, b.requests().len() - before.1), (30, 10));
    }
    assert_eq!(c.requests().len(), 0);
    // The port that the record gives is that of the Host header, too.
    assert_eq!(a.requests()[0].header("host"), Some(format!("svc.test:{}", a.port()).as_str()));
}

#[tokio::test]
async fn the_records_of_a_service_may_name_it_to_the_upstream() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("node.test", 3600, &["127.0.0.1"]);
    dns.services("svc.test", 3600, &[(1, 1, a.port(), "node.test")]);
    let mut config = target("svc.test:1");
    config["upstreams"][0]["use_srv_name"] = json!(true);
    let gateway = Gateway::new().conf(&dns.conf()).config(config).start().await;
    origin(&gateway.get("/").await);
    assert_eq!(a.request().header("host"), Some(format!("node.test:{}", a.port()).as_str()));
}

#[tokio::test]
async fn a_name_may_stand_for_another() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.alias("svc.test", 3600, "other.test");
    dns.addresses("other.test", 3600, &["127.0.0.1"]);
    let gateway = Gateway::new().conf(&dns.conf()).config(service("svc.test", a.port())).start().await;
    assert_eq!(origin(&gateway.get("/").await), "a");
    assert_eq!(a.request().header("host"), Some(format!("svc.test:{}", a.port()).as_str()));
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_503_and_remembered() {
    let dns = Dns::start().await;
    let conf = format!("{}\ndns_not_found_ttl = 3600", dns.conf());
    let gateway = Gateway::new()
        .conf(&conf)
        .environment("RES_OPTIONS", "timeout:20 attempts:1")
        .config(service("none.test", 80))
        .start()
        .await;
    for _ in 0..3 {
        let answer = gateway.get_with("/", &["Accept: application/json"]).await;
        assert_eq!((answer.status, answer.json()["message"].as_str()), (503, Some("name resolution failed")));
    }
    assert_eq!(dns.questions("none.test", "A"), 1);
    gateway.logged_error(&["none.test", "dns server error: 3 name error"]).await;
}

#[tokio::test]
async fn a_server_that_fails_is_500_and_asked_again() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1"]);
    dns.fails(true);
    let conf = format!("{}\ndns_error_ttl = 0.1", dns.conf());
    let gateway = Gateway::new().conf(&conf).config(service("svc.test", a.port())).start().await;
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.json()["message"],
        "failed the initial dns/balancer resolve for 'svc.test' with: dns server error: 2 server failure"
    );
    dns.fails(false);
    eventually_async("an answer", || async { (gateway.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn a_target_without_an_address_is_503() {
    let dns = Dns::start().await;
    let gateway = Gateway::new().conf(&dns.conf()).config(target("none.test:80")).start().await;
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    let message = answer.json()["message"].as_str().map(str::to_owned);
    assert_eq!((answer.status, message.as_deref()), (503, Some("failure to get a peer from the ring-balancer")));
    let health = gateway.admin("/upstreams/balanced/health").await.json();
    assert_eq!(health["data"][0]["health"], "DNS_ERROR");
    assert_eq!(health["data"][0]["data"]["dns"], "dns server error: 3 name error");
    assert_eq!(health["data"][0]["data"]["addresses"], json!({}));
}

#[tokio::test]
async fn an_old_answer_serves_while_no_server_answers() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 1, &["127.0.0.1"]);
    let gateway = Gateway::new().conf(&dns.conf()).config(service("svc.test", a.port())).start().await;
    assert_eq!(origin(&gateway.get("/").await), "a");
    dns.answers(false);
    let asked = dns.questions("svc.test", "A");
    // It is asked again and again, in vain, and no request waits for it.
    eventually_async("another question", || async {
        assert_eq!(origin(&gateway.get("/").await), "a");
        (dns.questions("svc.test", "A") >= asked + 3).then_some(())
    })
    .await;
    assert_eq!(origin(&gateway.get("/").await), "a");
}

#[tokio::test]
async fn an_answer_that_was_cut_short_is_fetched_over_tcp() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1"]);
    dns.truncates(true);
    let gateway = Gateway::new().conf(&dns.conf()).config(service("svc.test", a.port())).start().await;
    assert_eq!(origin(&gateway.get("/").await), "a");
    assert!(dns.over_tcp() > 0);
}

#[tokio::test]
async fn a_server_that_is_down_is_passed_over() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1"]);
    let conf = dns.conf().replace("dns_resolver = ", &format!("dns_resolver = 127.0.0.1:{},", free_port()));
    let gateway = Gateway::new().conf(&conf).config(service("svc.test", a.port())).start().await;
    assert_eq!(origin(&gateway.get("/").await), "a");
}

#[tokio::test]
async fn many_requests_for_a_new_name_ask_once() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1"]);
    dns.answers(false);
    let gateway = Gateway::new()
        .conf(&format!("{}\ndns_order = A", dns.conf()))
        .environment("RES_OPTIONS", "timeout:20 attempts:1")
        .config(service("svc.test", a.port()))
        .start()
        .await;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        connections.push(connection);
    }
    eventually("a question", || (dns.questions("svc.test", "A") > 0).then_some(())).await;
    dns.answers(true);
    for connection in &mut connections {
        assert_eq!(origin(&connection.response().await), "a");
    }
    assert_eq!(dns.questions("svc.test", "A"), 1);
}

#[tokio::test]
async fn short_names_are_looked_for_in_the_search_domains() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.two.test", 3600, &["127.0.0.1"]);
    let gateway = Gateway::new()
        .conf(&dns.conf())
        .environment("LOCALDOMAIN", "one.test two.test")
        .config(service("svc", a.port()))
        .start()
        .await;
    assert_eq!(origin(&gateway.get("/").await), "a");
    assert!(dns.questions("svc.one.test", "A") > 0);
}

#[tokio::test]
async fn the_hosts_file_counts_and_its_changes_too() {
    let (_one, _two, port) = two_on_one_port().await;
    let dns = Dns::start().await;
    let gateway = Gateway::new();
    let hosts = gateway.directory().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 svc.test\n").unwrap();
    let conf = format!("{}\ndns_hostsfile = {}", dns.conf(), hosts.display());
    let gateway = gateway.conf(&conf).config(service("SVC.test", port)).start().await;
    assert_eq!(origin(&gateway.get("/").await), "one");
    std::fs::write(&hosts, "127.0.0.2 svc.test\n").unwrap();
    comes_from(&gateway, "two").await;
    assert_eq!(dns.questions("svc.test", "A"), 0);
}

#[tokio::test]
async fn what_needs_no_server_needs_no_server() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    for host in ["localhost", "127.0.0.1", "x.localhost"] {
        let gateway = Gateway::new().conf(&dns.conf()).config(service(host, a.port())).start().await;
        assert_eq!(origin(&gateway.get("/").await), "a", "{host}");
        assert_eq!(dns.questions(host, "A"), 0);
    }
}

#[tokio::test]
async fn the_newer_settings_hold_when_they_are_switched_on() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("svc.test", 3600, &["127.0.0.1"]);
    let conf = format!("new_dns_client = on\n{}", dns.conf().replace("dns_resolver", "resolver_address"));
    let gateway = Gateway::new().conf(&conf).config(service("svc.test", a.port())).start().await;
    assert_eq!(origin(&gateway.get("/").await), "a");
    // Only names of the form of a service's are asked for SRV records.
    assert_eq!(dns.questions("svc.test", "SRV"), 0);
}

#[tokio::test]
async fn a_reload_while_a_target_does_not_resolve_holds_up_no_request() {
    let a = Upstream::named("a").await;
    let dns = Dns::start().await;
    dns.addresses("good.test", 3600, &["127.0.0.1"]);
    let config = |comment: &str| {
        let upstream = |name: &str, hosts: &[&str]| {
            let targets: Vec<Value> =
                hosts.iter().map(|host| json!({ "target": format!("{host}:{}", a.port()) })).collect();
            json!({
                "name": name, "algorithm": "consistent-hashing", "hash_on": "path", "targets": targets,
                "tags": [comment],
            })
        };
        let service = |name: &str| json!({ "name": name, "host": name, "routes": [{ "paths": [format!("/{name}")] }] });
        json!({
            "services": [service("mixed"), service("failed"), service("added")],
            "upstreams": [
                upstream("mixed", &["good.test", "bad.test"]),
                upstream("failed", &["bad.test"]),
                upstream("added", if comment == "first" { &["good.test"] } else { &["good.test", "new.test"] }),
            ],
        })
    };
    let conf = format!("{}\ndns_not_found_ttl = 0.1", dns.conf());
    // A question that is not answered is waited for longer than the test takes.
    let gateway = Gateway::new()
        .conf(&conf)
        .environment("RES_OPTIONS", "timeout:30 attempts:10")
        .config(config("first"))
        .start()
        .await;
    let statuses = async || {
        let limit = std::time::Duration::from_secs(30);
        let get = async |path| tokio::time::timeout(limit, gateway.get(path)).await.map(|answer| answer.status);
        [get("/mixed").await, get("/failed").await, get("/added").await]
    };
    assert_eq!(statuses().await, [Ok(200), Ok(503), Ok(200)]);
    // What is known of the name that fails is old by the time that it is asked for again.
    dns.answers(false);
    let asked = dns.questions("bad.test", "SRV");
    eventually("another question", || (dns.questions("bad.test", "SRV") > asked).then_some(())).await;
    gateway.rewrite_config(&config("second"));
    assert_eq!(gateway.command(&["reload"]).await.status, Some(0));
    eventually("the name of the new configuration", || (dns.questions("new.test", "SRV") > 0).then_some(())).await;
    assert_eq!(statuses().await, [Ok(200), Ok(503), Ok(200)]);
}

#[tokio::test]
async fn a_name_that_is_not_answered_is_waited_for_no_longer_than_a_connection() {
    let dns = Dns::start().await;
    dns.answers(false);
    let mut config = service("slow.test", 80);
    config["services"][0]["connect_timeout"] = json!(1500);
    let gateway = Gateway::new()
        .conf(&dns.conf())
        .environment("RES_OPTIONS", "timeout:30 attempts:10")
        .config(config)
        .start()
        .await;
    let answer = gateway.get_with("/", &["Accept: application/json"]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.json()["message"],
        "failed the initial dns/balancer resolve for 'slow.test' with: the name was not resolved in time: timeout"
    );
}

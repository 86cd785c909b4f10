use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};
use silverback_config::Settings;
use silverback_model::Catalogue;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn balancers() -> Balancers {
    Balancers::new(Resolver::new(&settings().dns))
}

fn settings() -> Settings {
    silverback_config::load_text(None, "", &BTreeMap::new()).unwrap().settings
}

/// The upstreams of a configuration with one, called `up`.
fn upstreams(balancers: &Balancers, upstream: &Json) -> Upstreams {
    let mut upstream = upstream.clone();
    upstream["name"] = json!("up");
    let text = json!({ "_format_version": "3.0", "upstreams": [upstream] }).to_string();
    let plugins = silverback_config::settings::EnabledPlugins { bundled: false, named: Vec::new() };
    let snapshot = silverback_config::parse_declarative(&text, None, &Catalogue::default(), &plugins, 1).unwrap();
    let upstreams = Upstreams::build(&snapshot, balancers);
    upstreams.put_in_force(balancers, ClientTls::build(&snapshot, &settings()).unwrap());
    upstreams
}

fn targets(targets: &[(&str, u32)]) -> Json {
    targets.iter().map(|(target, weight)| json!({ "target": target, "weight": weight })).collect()
}

async fn next(upstream: &Upstream, balancers: &Balancers, hash: Option<&str>) -> (String, Option<InUse>) {
    let mut attempts = Attempts::new(Some(upstream), "up", 80, balancers.resolver(), hash.map(str::to_owned), LIMIT);
    let address = attempts.next().await.unwrap();
    (address.socket.to_string(), attempts.into_use())
}

#[tokio::test]
async fn no_address_is_tried_twice_while_another_is_left() {
    for settings in [
        json!({}),
        json!({ "algorithm": "least-connections" }),
        json!({ "algorithm": "latency" }),
        json!({ "hash_on": "path" }),
    ] {
        let balancers = balancers();
        let mut settings = settings;
        settings["targets"] =
            targets(&[("10.0.0.1:1", 100), ("10.0.0.2:1", 100), ("10.0.0.3:1", 100), ("10.0.0.4:1", 0)]);
        let upstreams = upstreams(&balancers, &settings);
        let upstream = upstreams.find("up").unwrap();
        let mut attempts = Attempts::new(Some(upstream), "up", 80, balancers.resolver(), Some("/".to_owned()), LIMIT);
        let mut tried = HashSet::new();
        for _ in 0..3 {
            tried.insert(attempts.next().await.unwrap().socket.to_string());
        }
        assert_eq!(tried.len(), 3, "{settings}");
        assert!(!tried.contains("10.0.0.4:1"));
        // All were tried: then it is one of them again.
        assert!(tried.contains(&attempts.next().await.unwrap().socket.to_string()));
    }
}

#[test]
fn turns_that_others_take_meanwhile_hide_no_address() {
    let balancers = balancers();
    let upstreams = upstreams(&balancers, &json!({ "targets": targets(&[("10.0.0.1:1", 100), ("10.0.0.2:1", 100)]) }));
    let upstream = upstreams.find("up").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..20_000 {
                        let mut attempts = Attempts::new(Some(upstream), "up", 80, balancers.resolver(), None, LIMIT);
                        let first = attempts.next().await.unwrap();
                        assert_ne!(attempts.next().await.unwrap(), first);
                    }
                });
            });
        }
    });
}

#[tokio::test]
async fn the_least_busy_for_its_weight_is_picked() {
    let balancers = balancers();
    let settings =
        json!({ "algorithm": "least-connections", "targets": targets(&[("10.0.0.1:1", 300), ("10.0.0.2:1", 100)]) });
    let upstreams = upstreams(&balancers, &settings);
    let upstream = upstreams.find("up").unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(next(upstream, &balancers, None).await);
    }
    let on_first = held.iter().filter(|(socket, _)| socket == "10.0.0.1:1").count();
    assert_eq!((on_first, held.len() - on_first), (6, 2));
    // Those that end make room.
    held.retain(|(socket, _)| socket != "10.0.0.2:1");
    assert_eq!(next(upstream, &balancers, None).await.0, "10.0.0.2:1");
}

#[tokio::test]
async fn the_fastest_is_picked() {
    let balancers = balancers();
    let settings = json!({ "algorithm": "latency", "targets": targets(&[("10.0.0.1:1", 100), ("10.0.0.2:1", 100)]) });
    let upstreams = upstreams(&balancers, &settings);
    let upstream = upstreams.find("up").unwrap();
    let now = std::time::Instant::now();
    for peer in &upstream.balancer.peers.load().peers {
        let slow = &*peer.address.key.1 == "10.0.0.1";
        peer.address.took(Duration::from_secs(if slow { 3000 } else { 1 }), now);
    }
    for _ in 0..4 {
        assert_eq!(next(upstream, &balancers, None).await.0, "10.0.0.2:1");
    }
}

#[tokio::test]
async fn health_and_connections_stay_when_targets_change() {
    let balancers = balancers();
    let checks = json!({ "passive": { "unhealthy": { "tcp_failures": 1 } } });
    let config = |list: &[(&str, u32)]| json!({ "healthchecks": checks, "targets": targets(list) });
    let first = upstreams(&balancers, &config(&[("10.0.0.1:1", 100)]));
    let (_, held) = next(first.find("up").unwrap(), &balancers, None).await;
    let mut held = held.unwrap();
    held.report(Outcome::TcpFailure);
    assert!(!first.find("up").unwrap().balancer.peers.load().is_healthy());
    let connections = |upstream: &Upstream| -> usize {
        upstream.balancer.peers.load().peers.iter().map(|peer| peer.address.connections()).sum()
    };
    let second = upstreams(&balancers, &config(&[("10.0.0.1:1", 50), ("10.0.0.2:1", 100)]));
    let upstream = second.find("up").unwrap();
    assert_eq!(upstream.balancer.peers.load().weights(), (150, 50));
    assert_eq!(connections(upstream), 1);
    // Requests of the older generation go to the new targets, too.
    assert_eq!(next(first.find("up").unwrap(), &balancers, None).await.0, "10.0.0.2:1");
    drop(held);
    assert_eq!(connections(upstream), 0);
    assert_eq!(next(upstream, &balancers, None).await.0, "10.0.0.2:1");
}

#[tokio::test]
async fn building_a_generation_changes_nothing_that_is_in_force() {
    let balancers = balancers();
    let first = upstreams(&balancers, &json!({ "targets": targets(&[("10.0.0.1:1", 100)]) }));
    Upstreams::build(&Snapshot::default(), &balancers);
    assert_eq!(next(first.find("up").unwrap(), &balancers, None).await.0, "10.0.0.1:1");
    assert_eq!(balancers.all().len(), 1);
}

#[tokio::test]
async fn addresses_need_no_resolver() {
    let balancers = balancers();
    for (host, expect) in [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("10.0.0.1:81", "10.0.0.1:81"),
        ("[::1]:81", "[::1]:81"),
    ] {
        let mut attempts = Attempts::new(None, host, 80, balancers.resolver(), None, LIMIT);
        assert_eq!(attempts.next().await.unwrap().socket.to_string(), expect, "{host}");
    }
}

/// Upstreams with a target whose name nobody ever answers: the resolver's task does not run.
fn never_answered(algorithm: &Json, usable: bool) -> (Balancers, Upstreams) {
    let balancers = balancers();
    let mut settings = algorithm.clone();
    let list = [("10.0.0.1:1", 100), ("slow.test:1", 100)];
    settings["targets"] = targets(&list[usize::from(!usable)..]);
    let upstreams = upstreams(&balancers, &settings);
    (balancers, upstreams)
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_never_answered_holds_requests_no_longer_than_a_connection() {
    for algorithm in [json!({}), json!({ "hash_on": "path" }), json!({ "algorithm": "least-connections" })] {
        let (balancers, upstreams) = never_answered(&algorithm, false);
        let upstream = upstreams.find("up").unwrap();
        let begun = Instant::now();
        let mut attempts = Attempts::new(Some(upstream), "up", 80, balancers.resolver(), None, LIMIT);
        assert_eq!(attempts.next().await, Err(BalanceError::NoTargets));
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs(), "{algorithm}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_while_an_address_is_usable() {
    for algorithm in [json!({}), json!({ "algorithm": "least-connections" }), json!({ "algorithm": "latency" })] {
        let (balancers, upstreams) = never_answered(&algorithm, true);
        let begun = Instant::now();
        next(upstreams.find("up").unwrap(), &balancers, None).await;
        assert!(begun.elapsed().is_zero(), "{algorithm}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_new_circle_waits_for_all_of_its_targets_and_not_for_long() {
    let (balancers, first) = never_answered(&json!({ "algorithm": "consistent-hashing", "hash_on": "path" }), true);
    let begun = Instant::now();
    next(first.find("up").unwrap(), &balancers, Some("/")).await;
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    next(first.find("up").unwrap(), &balancers, Some("/")).await;
    assert!(begun.elapsed().is_zero());
    // One that was complete goes on at once when a slow name is added.
    let balancers = self::balancers();
    let config = |list: &[(&str, u32)]| json!({ "algorithm": "consistent-hashing", "hash_on": "path", "targets": targets(list) });
    upstreams(&balancers, &config(&[("10.0.0.1:1", 100)]));
    let second = upstreams(&balancers, &config(&[("10.0.0.1:1", 100), ("slow.test:1", 100)]));
    let begun = Instant::now();
    assert_eq!(next(second.find("up").unwrap(), &balancers, Some("/")).await.0, "10.0.0.1:1");
    assert!(begun.elapsed().is_zero());
}

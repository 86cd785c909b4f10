use proptest::{prelude::*, sample::subsequence};
use silverback_model::Protocol;

use super::*;

/// `1.2.3.4:80`, `1.2.3.4`, `10.0.0.0/8:80` or `:80`.
fn endpoint(text: &str) -> Endpoint {
    let (ip, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, port)) => (ip, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(ip, port)| (ip, Some(port))),
    };
    Endpoint { ip: (!ip.is_empty()).then(|| ip.to_owned()), port: port.map(|port| port.parse().unwrap()) }
}

fn endpoints(list: &[&str]) -> Option<Vec<Endpoint>> {
    (!list.is_empty()).then(|| list.iter().map(|text| endpoint(text)).collect())
}

fn route(number: u128, snis: &[&str], sources: &[&str], destinations: &[&str]) -> Route {
    Route {
        protocols: vec![Protocol::Tcp, Protocol::Tls],
        snis: (!snis.is_empty()).then(|| snis.iter().map(|&sni| sni.to_owned()).collect()),
        sources: endpoints(sources),
        destinations: endpoints(destinations),
        ..Route::new(Id::from_u128(number))
    }
}

fn router(routes: &[Route]) -> StreamRouter {
    let snapshot = Snapshot { routes: routes.iter().cloned().map(Arc::new).collect(), ..Snapshot::default() };
    StreamRouter::build(&snapshot).unwrap()
}

fn ask(router: &StreamRouter, source: &str, destination: &str, sni: Option<&str>) -> Option<u128> {
    let query = StreamQuery { source: source.parse().ok(), destination: destination.parse().ok(), sni };
    router.find(&query).map(|found| found.route.id.as_u128())
}

#[test]
fn each_condition_counts() {
    let router = router(&[
        route(1, &["a.test"], &[], &[]),
        route(2, &["*.b.test"], &[], &[":9443"]),
        route(3, &[], &["10.0.0.0/8"], &[]),
        route(4, &[], &[], &["127.0.0.1:9000"]),
        route(5, &[], &["1.1.1.1", "[2001:db8::/32]:7"], &[":9000"]),
    ]);
    let check = |source, destination, sni, expect| {
        assert_eq!(ask(&router, source, destination, sni), expect, "{source} {destination} {sni:?}");
    };
    check("9.9.9.9:1", "127.0.0.1:1", Some("a.test"), Some(1));
    check("9.9.9.9:1", "127.0.0.1:1", Some("A.test"), None);
    check("9.9.9.9:1", "127.0.0.1:1", Some("x.b.test"), None);
    check("9.9.9.9:1", "127.0.0.1:9443", Some("x.b.test"), Some(2));
    check("10.9.9.9:1", "127.0.0.1:1", Some("c.test"), Some(3));
    check("[::ffff:10.9.9.9]:1", "127.0.0.1:1", Some("c.test"), Some(3));
    check("9.9.9.9:1", "127.0.0.1:9000", Some("c.test"), Some(4));
    check("9.9.9.9:1", "127.0.0.2:9000", Some("c.test"), None);
    check("1.1.1.1:1", "127.0.0.1:9000", Some("c.test"), Some(5));
    check("[2001:db8::1]:7", "127.0.0.1:9000", Some("c.test"), Some(5));
    check("[2001:db8::1]:8", "127.0.0.2:9000", Some("c.test"), None);
}

#[test]
fn without_a_server_name_none_is_asked_for() {
    let router = router(&[route(1, &["a.test"], &[], &[]), route(2, &[], &[], &[":9000"])]);
    assert_eq!(ask(&router, "9.9.9.9:1", "127.0.0.1:9000", None), Some(1));
    assert_eq!(ask(&router, "9.9.9.9:1", "127.0.0.1:9000", Some("b.test")), Some(2));
}

#[test]
fn a_unix_socket_has_no_address_to_match() {
    let router = router(&[route(1, &[], &["10.0.0.0/8"], &[]), route(2, &[], &[], &[":9000"])]);
    assert_eq!(ask(&router, "", "127.0.0.1:9000", None), Some(2));
    assert_eq!(ask(&router, "10.0.0.1:1", "", None), Some(1));
    assert_eq!(ask(&router, "", "", None), None);
}

#[test]
fn priorities_are_those_of_kong() {
    let check = |snis: &[&str], sources: &[&str], destinations: &[&str], expect: u64| {
        assert_eq!(priority(&route(1, snis, sources, destinations)), expect, "{snis:?} {sources:?} {destinations:?}");
    };
    let first = 1 << 61;
    check(&["a"], &[], &[], first);
    check(&[], &["1.1.1.1"], &[], 8 << 4);
    check(&[], &["1.1.1.1:80"], &[], 12 << 4);
    check(&[], &["10.0.0.0/8"], &[], 1 << 4);
    check(&[], &[], &["10.0.0.0/8:80", "1.1.1.1"], 13);
    check(&[], &["10.0.0.0/8"], &[":80"], first | 1 << 4 | 4);
    check(&["a"], &["1.1.1.1"], &[":80"], first | 8 << 4 | 4);
}

#[test]
fn of_equal_ones_the_higher_id_is_tried_first() {
    let router = router(&[route(1, &[], &[], &[":1"]), route(3, &[], &[], &[":1"]), route(2, &[], &[], &[":1"])]);
    assert_eq!(ask(&router, "9.9.9.9:1", "127.0.0.1:1", None), Some(3));
}

#[test]
fn services_must_be_there_enabled_and_of_a_stream_protocol() {
    let service =
        |number, protocol, enabled| Arc::new(Service { protocol, enabled, ..Service::new(Id::from_u128(number), "h") });
    let led = |number: u128, port: &str, service: u128| {
        Arc::new(Route { service: Some(Id::from_u128(service)), ..route(number, &[], &[], &[port]) })
    };
    let mut snapshot = Snapshot {
        services: vec![
            service(10, Protocol::Tcp, true),
            service(11, Protocol::Http, true),
            service(12, Protocol::Tcp, false),
        ],
        routes: vec![led(1, ":1", 10), led(2, ":2", 11), led(3, ":3", 12)],
        ..Snapshot::default()
    };
    let router = StreamRouter::build(&snapshot).unwrap();
    let found = |port: u16| {
        let destination = Some(SocketAddr::from(([127, 0, 0, 1], port)));
        router
            .find(&StreamQuery { source: None, destination, sni: None })
            .map(|found| found.service.map(|service| service.id.as_u128()))
    };
    assert_eq!((found(1), found(2), found(3)), (Some(Some(10)), Some(None), None));
    snapshot.routes.push(led(4, ":4", 99));
    assert!(StreamRouter::build(&snapshot).unwrap_err().to_string().contains("there is none with the id"));
}

#[test]
fn http_routes_are_left_out() {
    let http = Route { protocols: vec![Protocol::Http], ..route(1, &[], &[], &[":1"]) };
    assert!(router(&[http]).is_empty());
}

const SNIS: &[&str] = &["a.test", "b.test", "*.test", "a.*"];
const ADDRESSES: &[&str] = &["1.1.1.1", "1.1.1.1:1", "1.0.0.0/8", "1.0.0.0/8:2", ":1", ":2", "[::1]:1"];
const ASKED: &[&str] = &["1.1.1.1:1", "1.1.1.1:2", "1.2.2.2:2", "2.2.2.2:3", "[::1]:1"];

fn some(from: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![Just(Vec::new()), subsequence(from, 1..=2)]
}

proptest! {
    /// The index finds what trying every rule in order finds.
    #[test]
    fn the_index_agrees_with_a_plain_search(
        asked in proptest::collection::vec((some(SNIS), some(ADDRESSES), some(ADDRESSES)), 0..12),
        source in prop::sample::select(ASKED),
        destination in prop::sample::select(ASKED),
        sni in prop::option::of(prop::sample::select(&["a.test", "b.test", "c.test", "a.x", "c"][..])),
    ) {
        let routes: Vec<_> = asked
            .iter()
            .zip(1..)
            .map(|((snis, sources, destinations), number)| route(number, snis, sources, destinations))
            .collect();
        let router = router(&routes);
        let query = StreamQuery { source: source.parse().ok(), destination: destination.parse().ok(), sni };
        let mut ordered: Vec<_> = routes.iter().collect();
        ordered.sort_by_key(|route| (Reverse(priority(route)), Reverse(route.id)));
        let expect = ordered.into_iter().find(|route| {
            Rule::new(&Arc::new((*route).clone()), None).unwrap().is_some_and(|rule| rule.matches(&query))
        });
        let found = router.find(&query).map(|found| found.route.id);
        prop_assert_eq!(found, expect.map(|route| route.id));
    }
}

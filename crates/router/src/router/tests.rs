//! Which route a request takes, case by case.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;
use crate::{
    Captures, normalize_path,
    rule::tests::{headers, route, service, strings},
    upstream_path,
};

/// Routes that are known by their names; ids go up in the order in which they are added.
#[derive(Default)]
struct Routes {
    snapshot: Snapshot,
}

impl Routes {
    fn add(mut self, name: &str, change: impl FnOnce(&mut Route)) -> Self {
        let mut route = route(self.snapshot.routes.len() as u128 + 1);
        route.name = Some(name.to_owned());
        change(&mut route);
        self.snapshot.routes.push(Arc::new(route));
        self
    }

    fn path(self, name: &str, path: &str) -> Self {
        self.add(name, |route| route.paths = strings(&[path]))
    }

    fn service(mut self, service: Service) -> Self {
        self.snapshot.services.push(Arc::new(service));
        self
    }

    fn build(&self) -> Router {
        Router::build(&self.snapshot).unwrap()
    }
}

/// A request, as `METHOD host/path`, with the rest added by hand.
struct Asked {
    method: Method,
    host: String,
    path: Vec<u8>,
    headers: HeaderMap,
    scheme: &'static str,
    sni: Option<&'static str>,
}

fn asked(request: &str) -> Asked {
    let (method, target) = request.split_once(' ').unwrap();
    let slash = target.find('/').unwrap();
    let (host, path) = target.split_at(slash);
    Asked {
        method: method.parse().unwrap(),
        host: host.to_owned(),
        path: normalize_path(path.as_bytes()).into_owned(),
        headers: HeaderMap::new(),
        scheme: "http",
        sni: None,
    }
}

impl Asked {
    fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        self
    }

    fn over_tls(mut self, sni: Option<&'static str>) -> Self {
        self.scheme = "https";
        self.sni = sni;
        self
    }

    fn query(&self) -> Query<'_> {
        Query {
            method: &self.method,
            host: self.host.as_bytes(),
            port: 8000,
            path: &self.path,
            headers: &self.headers,
            scheme: self.scheme,
            sni: self.sni,
        }
    }
}

#[track_caller]
fn check_asked(router: &Router, asked: &Asked, expect: &str) {
    let found = router.find(&asked.query());
    let name = found.as_ref().map_or("", |found| found.route.name.as_deref().unwrap());
    assert_eq!(name, expect, "{} {}{}", asked.method, asked.host, asked.path.escape_ascii());
}

/// `expect` is the route's name; empty: none.
#[track_caller]
fn check(router: &Router, request: &str, expect: &str) {
    check_asked(router, &asked(request), expect);
}

#[test]
fn the_longest_prefix_wins() {
    let router = Routes::default().path("root", "/").path("short", "/api").path("long", "/api/v2").build();
    check(&router, "GET h/", "root");
    check(&router, "GET h/ap", "root");
    check(&router, "GET h/apis", "short");
    check(&router, "GET h/api/v1", "short");
    check(&router, "GET h/api/v2", "long");
    check(&router, "GET h/api/v2/../v1", "short");
    check(&router, "GET h//api///v2//x", "long");
    check(&router, "GET h/%61pi/v2", "long");
    check(&router, "GET h/api%2Fv2", "short");
    check(&router, "GET h/API/v2", "root");
}

#[test]
fn regular_expressions_come_before_prefixes() {
    let router = Routes::default()
        .path("prefix", "/files/archive")
        .path("any", r"~/files/.+")
        .add("preferred", |route| {
            route.paths = strings(&[r"~/files/\d+$"]);
            route.regex_priority = 1;
        })
        .path("euro", "/\u{20ac}")
        .build();
    check(&router, "GET h/files/archive/1", "any");
    check(&router, "GET h/files/12", "preferred");
    check(&router, "GET h/files/12x", "any");
    check(&router, "GET h/x/files/12", "");
    check(&router, "GET h/%E2%82%AC/x", "euro");
}

#[test]
fn only_the_first_alternative_is_anchored() {
    let router = Routes::default().path("two", "~/one|/two").build();
    check(&router, "GET h/one/x", "two");
    check(&router, "GET h/x/one", "");
    check(&router, "GET h/x/two", "two");
}

#[test]
fn hosts_are_exact_or_wild_at_one_end() {
    let router = Routes::default()
        .add("plain", |route| route.hosts = strings(&["www.example.org"]))
        .add("suffix", |route| route.hosts = strings(&["*.example.org"]))
        .add("prefix", |route| route.hosts = strings(&["www.example.*"]))
        .add("port", |route| route.hosts = strings(&["port.test:8000", "*.port.test:9000"]))
        .build();
    check(&router, "GET www.example.org/", "plain");
    check(&router, "GET WWW.example.org/", "suffix");
    check(&router, "GET api.example.org:99/", "suffix");
    check(&router, "GET a.b.example.org/", "suffix");
    check(&router, "GET example.org/", "");
    check(&router, "GET www.example.com/", "prefix");
    check(&router, "GET www.example.ORG/", "prefix");
    check(&router, "GET port.test/", "port");
    check(&router, "GET port.test:8000/", "port");
    check(&router, "GET port.test:9000/", "");
    check(&router, "GET a.port.test:9000/", "port");
    check(&router, "GET a.port.test/", "");
    check(&router, "GET /", "");
}

#[test]
fn methods_are_alternatives() {
    let router = Routes::default()
        .add("write", |route| {
            route.methods = strings(&["POST", "PURGE"]);
            route.paths = strings(&["/"]);
        })
        .path("other", "/")
        .build();
    check(&router, "POST h/", "write");
    check(&router, "PURGE h/", "write");
    check(&router, "GET h/", "other");
}

#[test]
fn headers_are_compared_in_lower_case() {
    let router = Routes::default()
        .add("exact", |route| route.headers = headers(&[("X-Version", &["One", "two"])]))
        .add("both", |route| route.headers = headers(&[("X-Version", &["two"]), ("x-kind", &["beta"])]))
        .add("regex", |route| route.headers = headers(&[("x-version", &["~*^V[0-9]+$"])]))
        .build();
    let check = |pairs: &[(&'static str, &str)], expect| {
        let request = pairs.iter().fold(asked("GET h/"), |asked, (name, value)| asked.header(name, value.as_bytes()));
        check_asked(&router, &request, expect);
    };
    check(&[], "");
    check(&[("x-version", "ONE")], "exact");
    check(&[("x-version", "three")], "");
    check(&[("x-version", "three"), ("x-version", "two")], "exact");
    check(&[("x-version", "two"), ("x-kind", "beta")], "both");
    check(&[("x-version", "V12")], "regex");
    check(&[("x-version", "V12x")], "");
    check(&[("x_version", "one")], "exact");
    check(&[("x_version", "none"), ("x-version", "one")], "");
}

#[test]
fn snis_count_over_tls_only() {
    let router = Routes::default()
        .add("named", |route| route.snis = strings(&["a.test.", "*.wild.test", "left.*"]))
        .path("rest", "/")
        .build();
    let check = |request: Asked, expect| check_asked(&router, &request, expect);
    check(asked("GET h/"), "rest");
    check(asked("GET h/").over_tls(None), "rest");
    check(asked("GET h/").over_tls(Some("other.test")), "rest");

    let router = Routes::default()
        .add("named", |route| {
            route.snis = strings(&["a.test.", "*.wild.test", "left.*"]);
            route.paths = strings(&["/"]);
        })
        .path("rest", "/")
        .build();
    let check = |request: Asked, expect| check_asked(&router, &request, expect);
    check(asked("GET h/"), "named");
    check(asked("GET h/").over_tls(None), "rest");
    check(asked("GET h/").over_tls(Some("a.test")), "named");
    check(asked("GET h/").over_tls(Some("x.wild.test")), "named");
    check(asked("GET h/").over_tls(Some("left.test")), "named");
    check(asked("GET h/").over_tls(Some("b.test")), "rest");
}

#[test]
fn protocols_do_not_choose() {
    use silverback_model::Protocol;
    let router = Routes::default()
        .add("secure", |route| {
            route.protocols = vec![Protocol::Https];
            route.paths = strings(&["/"]);
        })
        .add("stream", |route| {
            route.protocols = vec![Protocol::Tcp];
            route.paths = strings(&["/longer"]);
        })
        .build();
    check(&router, "GET h/longer", "secure");
}

/// The order that Kong's users see, see `priority`.
#[test]
fn kinds_of_conditions_are_ordered() {
    let router = Routes::default()
        .add("three", |route| {
            route.methods = strings(&["GET"]);
            route.headers = headers(&[("x-a", &["1"])]);
            route.paths = strings(&["/long/path"]);
        })
        .path("regex", "~/long/path")
        .add("host", |route| route.hosts = strings(&["h"]))
        .add("four", |route| {
            route.methods = strings(&["POST"]);
            route.headers = headers(&[("x-a", &["1"])]);
            route.hosts = strings(&["*h"]);
            route.paths = strings(&["/long"]);
        })
        .build();
    check_asked(&router, &asked("GET h/long/path").header("x-a", b"1"), "host");
    check_asked(&router, &asked("GET g/long/path").header("x-a", b"1"), "regex");
    check_asked(&router, &asked("POST h/long/path").header("x-a", b"1"), "four");
}

#[test]
fn equals_go_by_their_ids_not_their_age() {
    let router = Routes::default()
        .path("older", "/")
        .add("newer", |route| {
            route.paths = strings(&["/"]);
            route.created_at = -1;
        })
        .build();
    check(&router, "GET h/", "newer");
}

#[test]
fn a_route_stands_where_each_of_its_paths_does() {
    let router = Routes::default()
        .add("many", |route| route.paths = strings(&["/a", "/a/b/c", "~/re$"]))
        .path("between", "/a/b")
        .build();
    check(&router, "GET h/a", "many");
    check(&router, "GET h/a/b", "between");
    check(&router, "GET h/a/b/c", "many");
    check(&router, "GET h/re", "many");
}

#[test]
fn what_is_no_text_leads_nowhere_where_it_is_asked_for() {
    let router = Routes::default().path("root", "/").build();
    check(&router, "GET h/%ff", "");
    check_asked(&router, &asked("GET h/").header("x-a", b"\xff"), "root");

    let router = Routes::default()
        .add("method", |route| route.methods = strings(&["GET"]))
        .add("header", |route| route.headers = headers(&[("x-a", &["1"])]))
        .build();
    check(&router, "GET h/%ff", "method");
    check_asked(&router, &asked("GET h/").header("x-b", b"\xff"), "method");
    check_asked(&router, &asked("GET h/").header("x-a", b"\xff"), "");
    check_asked(&router, &asked("GET h/").header("x_a", b"1").header("x-a", b"\xff"), "header");
    let mut request = asked("GET h/");
    request.path = b"/".to_vec();
    let query = Query { host: b"\xff", ..request.query() };
    assert!(router.find(&query).is_some(), "no route asks for a host");
}

#[test]
fn captures_are_kept_if_there_are_any() {
    let captures = |numbered: &[Option<&str>], named: &[(&str, &str)]| {
        Some(Captures {
            numbered: numbered.iter().map(|group| group.map(str::to_owned)).collect(),
            named: named.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
    };
    let check = |path: &str, header: Option<&str>, request: &str, prefix: &str, expect: Option<Captures>| {
        let router = Routes::default().add("one", |route| {
            route.paths = strings(&[path]);
            route.headers = header.and_then(|pattern| headers(&[("x-a", &[pattern])]));
        });
        let router = router.build();
        let request = asked(request).header("x-a", b"Value-7");
        let query = request.query();
        let found = router.find(&query).unwrap();
        assert_eq!(found.prefix(query.path), Some(prefix), "{path}");
        assert_eq!(found.captures.map(|captures| *captures), expect, "{path}");
    };
    check("/u", None, "GET h/u/1", "/u", None);
    check(r"~/u/\d+", None, "GET h/u/12/x", "/u/12", None);
    check(
        r"~/u/(?<id>\d+)/(\w)?",
        None,
        "GET h/u/12/",
        "/u/12/",
        captures(&[Some("/u/12/"), Some("12")], &[("id", "12")]),
    );
    check(r"~/u/(x)?(\d)", None, "GET h/u/1", "/u/1", captures(&[Some("/u/1"), None, Some("1")], &[]));
    check(r"~/u(/x)?", None, "GET h/u/1", "/u", None);
    // A header's groups overwrite the path's.
    check(
        r"~/u/(\d)(\d)",
        Some(r"~*(?<word>\w+)-7"),
        "GET h/u/12",
        "/u/12",
        captures(&[Some("value-7"), Some("value"), Some("2")], &[("word", "value")]),
    );
    check("/u", Some(r"~*^v"), "GET h/u/12", "/u", None);
}

#[test]
fn the_upstream_path_follows_from_the_match() {
    let mut base = service(1);
    base.path = Some("/base".to_owned());
    let routes = Routes::default()
        .service(base)
        .add("strip", |route| route.paths = strings(&["/strip"]))
        .add("keep", |route| {
            route.paths = strings(&["/keep"]);
            route.strip_path = false;
        })
        .add("regex", |route| route.paths = strings(&[r"~/re/(?:\d+)"]))
        .add("v1", |route| {
            route.paths = strings(&["/v1/"]);
            route.path_handling = silverback_model::PathHandling::V1;
        })
        .add("host", |route| route.hosts = strings(&["only.host"]));
    let mut snapshot = routes.snapshot;
    for route in &mut snapshot.routes {
        Arc::make_mut(route).service = Some(Id::from_u128(1));
    }
    let router = Router::build(&snapshot).unwrap();
    let check = |request: &str, expect: &str, forwarded: Option<&str>| {
        let request = asked(request);
        let found = router.find(&request.query()).unwrap();
        assert_eq!(upstream_path(&found, &request.path), expect);
        assert_eq!(found.forwarded_prefix(&request.path), forwarded);
    };
    check("GET h/strip/a%20b%2f/%c3%a9", "/base/a%20b%2F/%C3%A9", Some("/strip"));
    check("GET h/strip", "/base", Some("/strip"));
    check("GET h/strip/", "/base/", Some("/strip"));
    check("GET h/stripped", "/base/ped", Some("/strip"));
    check("GET h/keep/x", "/base/keep/x", None);
    check("GET h/re/12/x", "/base/x", Some("/re/12"));
    check("GET h/v1/x", "/base/x", Some("/v1/"));
    check("GET only.host/x/", "/base/x/", None);
}

#[test]
fn services_decide_whether_a_route_is_there() {
    let mut off = service(1);
    off.enabled = false;
    let routes = Routes::default()
        .service(off)
        .service(service(2))
        .path("none", "/")
        .add("off", |route| {
            route.paths = strings(&["/off"]);
            route.service = Some(Id::from_u128(1));
        })
        .add("on", |route| {
            route.paths = strings(&["/on"]);
            route.service = Some(Id::from_u128(2));
        });
    let router = routes.build();
    check(&router, "GET h/off", "none");
    check(&router, "GET h/on", "on");
    let request = asked("GET h/on");
    assert_eq!(router.find(&request.query()).unwrap().service.unwrap().id, Id::from_u128(2));
}

#[test]
fn everything_that_is_wrong_is_told() {
    let routes = Routes::default()
        .path("bad", "~/(")
        .add("worse", |route| {
            route.paths = strings(&["/fine"]);
            route.headers = headers(&[("x-a", &["~*["])]);
        })
        .add("lost", |route| {
            route.paths = strings(&["/fine"]);
            route.service = Some(Id::from_u128(9));
        });
    let error = Router::build(&routes.snapshot).unwrap_err();
    let names: Vec<_> = error.problems.iter().map(|problem| problem.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["bad", "worse", "lost"]);
    assert!(error.to_string().starts_with("route \"bad\" (00000000-0000-0000-0000-000000000001): paths: \"~/(\""));
}

#[test]
fn many_alike_are_told_apart_by_any_field() {
    let numbered = |change: fn(&mut Route, usize)| {
        (0..200).fold(Routes::default(), |routes, n| {
            routes.add(&n.to_string(), |route| {
                route.paths = strings(&["/"]);
                change(route, n);
            })
        })
    };
    let hosts = numbered(|route, n| route.hosts = Some(vec![format!("h{n}.test"), format!("*.h{n}.test")])).build();
    check(&hosts, "GET h77.test/", "77");
    check(&hosts, "GET x.h78.test/", "78");
    check(&hosts, "GET h999.test/", "");
    let headers = numbered(|route, n| route.headers = Some(vec![("tenant".to_owned(), vec![format!("t{n}")])])).build();
    check_asked(&headers, &asked("GET h/").header("tenant", b"T150"), "150");
    let snis = numbered(|route, n| route.snis = Some(vec![format!("s{n}.test")])).build();
    check_asked(&snis, &asked("GET h/").over_tls(Some("s31.test")), "31");
    check_asked(&snis, &asked("GET h/"), "199");
    let paths = numbered(|route, n| route.paths = Some(vec![format!("~/n{n}/.*"), format!("/p/{n}")])).build();
    check(&paths, "GET h/n31/x", "31");
    check(&paths, "GET h/p/31", "31");
}

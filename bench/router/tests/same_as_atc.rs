//! Both routers give the same answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::{HeaderValue, Method};
use proptest::{prelude::*, sample::select, sample::subsequence};
use silverback_model::{Id, Route};
use silverback_router::Router;
use silverback_router_bench::{
    atc::{Atc, schema},
    workload::{Request, requests, routes, snapshot},
};

fn compare(routes: &[Route], requests: &[Request]) -> Result<usize, TestCaseError> {
    let schema = schema();
    let theirs = Atc::build(&schema, routes).unwrap();
    let ours = Router::build(&snapshot(routes)).unwrap();
    let mut found = 0;
    for request in requests {
        let query = request.query();
        let answer: Option<(Id, Option<String>)> = ours.find(&query).map(|answer| {
            let path = answer.prefix(query.path).map(str::to_owned);
            (answer.route.id, path)
        });
        found += usize::from(answer.is_some());
        prop_assert_eq!(answer, theirs.find(request), "{:?}", request);
    }
    Ok(found)
}

#[test]
fn the_workload_gets_the_same_answers() {
    for count in [1, 10, 400] {
        let found = compare(&routes(count), &requests(200, count)).unwrap();
        assert!(found >= 180, "{found} of 200 with {count} routes");
    }
}

fn some(from: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<String>>> {
    let list = subsequence(from, 1..=3).prop_shuffle();
    prop_oneof![2 => Just(None), 3 => list.prop_map(|list| Some(list.into_iter().map(str::to_owned).collect()))]
}

fn any_route() -> impl Strategy<Value = Route> {
    let hosts = &["a.test", "b.test", "*.test", "*.a.test", "b.*", "a.*:81", "a.test:80", "*.test:81"];
    let paths = &["/", "/a", "/ab", "/a/b", "/b", r"~/a/\d+", "~/a|b", "~.*b$", "~/(?<x>[ab])+", "~"];
    let headers = prop_oneof![
        Just(None),
        some(&["1", "two", "~*^[12]$", "~*t(w)"])
            .prop_map(|values| values.map(|values| vec![("X-A".to_owned(), values)])),
    ];
    let fields =
        (some(&["GET", "PUT", "POST"]), some(hosts), some(paths), headers, some(&["a.test", "*.test.", "b.*"]));
    (any::<u128>(), fields, -2..3).prop_map(|(id, (methods, hosts, paths, headers, snis), regex_priority)| Route {
        methods,
        hosts,
        paths,
        headers,
        snis,
        regex_priority,
        ..Route::new(Id::from_u128(id))
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    (
        select(vec![Method::GET, Method::PUT, Method::DELETE]),
        select(vec!["a.test", "b.test", "x.a.test", "a.test:80", "b.test:81", "A.test", "c"]),
        select(vec!["/", "/a", "/a/b", "/a/1", "/abc", "/b/b", "/bb", "/c"]),
        select(vec![&[][..], &["1"], &["TWO"], &["3", "2"]]),
        select(vec![None, Some(None), Some(Some("a.test")), Some(Some("b.x"))]),
        80u16..82,
    )
        .prop_map(|(method, host, path, values, tls, port)| {
            let mut request = Request::new(method, host.to_owned(), path.to_owned());
            for value in values {
                request.headers.append("x-a", HeaderValue::from_static(value));
            }
            if let Some(sni) = tls {
                request.scheme = "https";
                request.sni = sni.map(str::to_owned);
            }
            Request { port, ..request }
        })
}

proptest! {
    #[test]
    fn any_routes_give_the_same_answers(
        routes in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec(any_request(), 1..40),
    ) {
        compare(&routes, &requests)?;
    }
}

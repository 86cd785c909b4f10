//! From the raw bytes of a request target to a route and an upstream path: nothing panics, what is looked up has no dot
//! segments, and what goes upstream is printable ASCII.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use silverback_model::{Id, Route, Snapshot};
use silverback_router::{Query, Router, normalize_path, upstream_path};

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let paths = ["/", "/a", "/a/b", "/a.", "/ü", r"~/(?<n>\d+)/x", "~.*%2F", "~/a|b"];
    let routes = paths.iter().zip(1..).map(|(path, id)| Arc::new(route(id, path))).collect();
    Router::build(&Snapshot { routes, ..Snapshot::default() }).expect("the routes are sound")
});

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |&byte| byte == b'\n');
    let raw = [b"/", parts.next().unwrap_or_default()].concat();
    let host = parts.next().unwrap_or_default();

    let path = normalize_path(&raw);
    assert!(path.starts_with(b"/"));
    assert!(!path.windows(2).any(|pair| pair == b"//"));
    assert!(path.split(|&byte| byte == b'/').all(|segment| segment != b"." && segment != b".."));

    let query = Query {
        method: &http::Method::GET,
        host,
        port: 8000,
        path: &path,
        headers: &http::HeaderMap::new(),
        scheme: "http",
        sni: None,
    };
    if let Some(found) = ROUTER.find(&query) {
        let upstream = upstream_path(&found, &path);
        assert!(upstream.starts_with('/'));
        assert!(upstream.bytes().all(|byte| byte.is_ascii_graphic()));
    }
});

fn route(id: u128, path: &str) -> Route {
    Route { paths: Some(vec![path.to_owned()]), ..Route::new(Id::from_u128(id)) }
}

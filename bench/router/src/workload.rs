//! Routes as people have them, and requests for them.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use silverback_model::{Id, Route, Snapshot};
use silverback_router::Query;

/// A request that both routers can be asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: HeaderMap,
    pub scheme: &'static str,
    pub sni: Option<String>,
}

impl Request {
    pub fn new(method: Method, host: String, path: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("bench"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        Self { method, host, port: 8000, path, headers, scheme: "http", sni: None }
    }

    pub fn query(&self) -> Query<'_> {
        Query {
            method: &self.method,
            host: self.host.as_bytes(),
            port: self.port,
            path: self.path.as_bytes(),
            headers: &self.headers,
            scheme: self.scheme,
            sni: self.sni.as_deref(),
        }
    }
}

/// So many routes: of twenty, eleven with a path, four with a host and a path, two with a wildcard host, one each with
/// a regular expression, with methods, with a header.
pub fn routes(count: usize) -> Vec<Route> {
    (0..count).map(numbered_route).collect()
}

fn numbered_route(n: usize) -> Route {
    let mut route = Route::new(Id::from_u128(n as u128 + 1));
    match n % 20 {
        0..=10 => route.paths = Some(vec![format!("/team-{}/service-{n}", n % 37)]),
        11..=14 => {
            route.hosts = Some(vec![format!("host-{n}.example.com")]);
            route.paths = Some(vec!["/".to_owned()]);
        }
        15 | 16 => route.hosts = Some(vec![format!("*.tenant-{n}.example.com")]),
        17 => route.paths = Some(vec![format!(r"~/orders-{n}/\d+/items(?:/|$)")]),
        18 => {
            route.methods = Some(vec!["GET".to_owned(), "PUT".to_owned()]);
            route.paths = Some(vec![format!("/objects-{n}")]);
        }
        _ => {
            route.headers = Some(vec![("x-version".to_owned(), vec![format!("v{}", n % 7)])]);
            route.paths = Some(vec![format!("/versioned-{n}")]);
        }
    }
    route
}

/// So many requests, spread over `routes` routes; one in ten finds none.
pub fn requests(count: usize, routes: usize) -> Vec<Request> {
    (0..count).map(|i| if i % 10 == 9 { nowhere(i) } else { numbered_request(i.wrapping_mul(7919) % routes) }).collect()
}

fn nowhere(i: usize) -> Request {
    Request::new(Method::GET, "gateway.example.com".to_owned(), format!("/nothing/{i}/here"))
}

fn numbered_request(n: usize) -> Request {
    let to = |host: String, path: String| Request::new(Method::GET, host, path);
    let gateway = || "gateway.example.com".to_owned();
    match n % 20 {
        0..=10 => to(gateway(), format!("/team-{}/service-{n}/items/42", n % 37)),
        11..=14 => to(format!("host-{n}.example.com"), "/some/page".to_owned()),
        15 | 16 => to(format!("www.tenant-{n}.example.com"), "/some/page".to_owned()),
        17 => to(gateway(), format!("/orders-{n}/4711/items")),
        18 => to(gateway(), format!("/objects-{n}/x")),
        _ => {
            let mut request = to(gateway(), format!("/versioned-{n}/x"));
            if let Ok(version) = HeaderValue::try_from(format!("v{}", n % 7)) {
                request.headers.insert("x-version", version);
            }
            request
        }
    }
}

/// The snapshot that has these routes and nothing else.
pub fn snapshot(routes: &[Route]) -> Snapshot {
    Snapshot { routes: routes.iter().cloned().map(Arc::new).collect(), ..Snapshot::default() }
}

//! From a request to its route, among few routes and among many.

use std::{hint::black_box, rc::Rc, sync::Arc};

use http::{HeaderMap, Method};
use silverback_model::{Id, Route, Snapshot};
use silverback_router::{Query, Router, normalize_path};

use super::{HotPath, requests};

pub(super) fn paths() -> Vec<HotPath> {
    let mut paths: Vec<_> = [10, 1_000, 10_000].into_iter().flat_map(finds).collect();
    paths.extend([
        normalisation("plain", "/team-7/service-42/items/4711"),
        normalisation("escapes", "/team-7/caf%C3%A9/items/a%20b"),
        normalisation("dots", "/team-7/./service-42/../service-43//items/4711"),
    ]);
    paths
}

fn normalisation(kind: &str, path: &'static str) -> HotPath {
    HotPath::new(format!("router/normalize_path/{kind}"), move |_| {
        black_box(normalize_path(black_box(path.as_bytes())));
    })
}

/// The kinds of routes, evenly mixed.
#[derive(Clone, Copy)]
enum Kind {
    Path,
    HostPathAndMethod,
    WildcardHost,
    Expression,
    Header,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Path, Self::HostPathAndMethod, Self::WildcardHost, Self::Expression, Self::Header];

    const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::HostPathAndMethod => "host_path_method",
            Self::WildcardHost => "wildcard_host",
            Self::Expression => "expression",
            Self::Header => "header",
        }
    }

    fn route(self, number: usize) -> Route {
        let mut route = Route::new(Id::from_u128(number as u128 + 1));
        match self {
            Self::Path => route.paths = Some(vec![format!("/team-{}/service-{number}", number % 37)]),
            Self::HostPathAndMethod => {
                route.hosts = Some(vec![format!("host-{number}.example.com")]);
                route.paths = Some(vec!["/shop".to_owned()]);
                route.methods = Some(vec!["GET".to_owned(), "PUT".to_owned()]);
            }
            Self::WildcardHost => route.hosts = Some(vec![format!("*.tenant-{number}.example.com")]),
            Self::Expression => route.paths = Some(vec![format!(r"~/orders-{number}/\d+/items(?:/|$)")]),
            Self::Header => {
                route.paths = Some(vec![format!("/versioned-{number}")]);
                route.headers = Some(vec![("x-version".to_owned(), vec![format!("v{}", number % 7)])]);
            }
        }
        route
    }

    /// A request for the route of this number.
    fn request(self, number: usize) -> Request {
        let gateway = || "gateway.example.com".to_owned();
        let (host, path) = match self {
            Self::Path => (gateway(), format!("/team-{}/service-{number}/items/42", number % 37)),
            Self::HostPathAndMethod => (format!("host-{number}.example.com"), "/shop/items/42".to_owned()),
            Self::WildcardHost => (format!("www.tenant-{number}.example.com"), "/shop/items/42".to_owned()),
            Self::Expression => (gateway(), format!("/orders-{number}/4711/items")),
            Self::Header => (gateway(), format!("/versioned-{number}/items/42")),
        };
        let mut headers = requests::headers();
        if let (Self::Header, Ok(version)) = (self, format!("v{}", number % 7).try_into()) {
            headers.insert("x-version", version);
        }
        Request { host, path, headers }
    }
}

struct Request {
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Request {
    const fn query(&self) -> Query<'_> {
        Query {
            method: &Method::GET,
            host: self.host.as_bytes(),
            port: 8000,
            path: self.path.as_bytes(),
            headers: &self.headers,
            scheme: "http",
            sni: None,
        }
    }
}

/// One path for each kind of route, and one for requests that find none. The requests of each are spread over the
/// routes.
fn finds(count: usize) -> Vec<HotPath> {
    const REQUESTS: usize = 20;
    let kinds = Kind::ALL.len();
    let routes = Kind::ALL.into_iter().cycle().enumerate().take(count).map(|(number, kind)| kind.route(number));
    let snapshot = Snapshot { routes: routes.map(Arc::new).collect(), ..Snapshot::default() };
    #[expect(clippy::expect_used, reason = "the routes are those above")]
    let router = Rc::new(Router::build(&snapshot).expect("routes that are right"));
    let find = |kind: &str, requests: Vec<Request>, found: bool| {
        let router = Rc::clone(&router);
        for request in &requests {
            assert_eq!(router.find(&request.query()).is_some(), found, "{} {}", request.host, request.path);
        }
        HotPath::new(format!("router/find/{count}/{kind}"), move |number| {
            if let Some(request) = requests.get(number % REQUESTS) {
                black_box(router.find(black_box(&request.query())));
            }
        })
    };
    let hits = Kind::ALL.into_iter().enumerate().map(|(first, kind)| {
        let of_kind = count / kinds;
        let spread = (0..REQUESTS).map(|n| kind.request(first + kinds * (n * of_kind / REQUESTS)));
        find(kind.name(), spread.collect(), true)
    });
    let nowhere = (0..REQUESTS).map(|n| Request {
        host: "gateway.example.com".to_owned(),
        path: format!("/nothing/{n}/here"),
        headers: requests::headers(),
    });
    hits.chain([find("none", nowhere.collect(), false)]).collect()
}

//! Exchanges to test with, for this crate and those that build on it (feature `testing`).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use silverback_model::{Consumer, Directory, Id, Phase, Route, Service};
use silverback_protocol::{Call, Value};

use crate::{
    Caller, Exchange, Outcome,
    exchange::{
        Client, HttpVersion, Kept, Limits, LogLevel, Matched, Node, Request, RequestBody, Response, ServiceResponse,
        Stream, Subsystem, Surroundings, Timings, Try, UpstreamChoice, Wishes,
    },
};

/// What was logged.
#[derive(Default)]
pub struct Notes {
    /// Level, plugin and message of each line.
    pub lines: Arc<Mutex<Vec<String>>>,
}

impl Surroundings for Notes {
    fn now(&self) -> f64 {
        1_000_000_000.25
    }

    fn log(&self, level: LogLevel, plugin: &str, message: &str, _: &Exchange) {
        if let Ok(mut lines) = self.lines.lock() {
            lines.push(format!("{level:?} {plugin} {message}"));
        }
    }

    fn logs(&self, _: LogLevel) -> bool {
        true
    }

    fn env(&self, name: &str) -> Option<String> {
        match name {
            "PDK_SECRET" => Some("s3cret".to_owned()),
            "PDK_JSON" => Some(r#"{"inner":"in","num":5}"#.to_owned()),
            "MY_SECRET" => Some("of-my".to_owned()),
            _ => None,
        }
    }
}

/// The id of the only consumer.
pub const ANN: &str = "11111111-1111-4111-8111-111111111111";

/// A request in access, with no headers, no body and no route.
pub fn exchange() -> Exchange {
    let node = Node {
        id: "22222222-2222-4222-8222-222222222222".to_owned(),
        hostname: "here".to_owned(),
        trusted_ips: "127.0.0.0/8".parse().into_iter().collect(),
        trust_unix: false,
        limits: Limits { req_headers: 100, resp_headers: 100, uri_args: 100, post_args: 100 },
        port_maps: vec![(80, 8000)],
        templates: crate::error_page::Templates::default(),
        surroundings: Box::new(Notes::default()),
    };
    let ann = Consumer {
        id: Id::try_parse(ANN).unwrap_or_default(),
        username: Some("ann".to_owned()),
        custom_id: None,
        tags: None,
        created_at: 1,
        updated_at: 2,
    };
    let directory = Directory::new(vec![ann], Vec::new()).with_env_vaults([("mine".to_owned(), "MY_".to_owned())]);
    Exchange {
        node: Arc::new(node),
        directory: Arc::new(directory),
        upstream_names: Arc::new(["pool.test".to_owned()].into()),
        subsystem: Subsystem::Http,
        phase: Phase::Access,
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        started: 1_000_000_000.0,
        timings: Timings::default(),
        client: Client {
            ip: Some(IpAddr::from([127, 0, 0, 1])),
            port: 4242,
            real_ip: None,
            real_port: None,
            local_ip: Some(IpAddr::from([127, 0, 0, 1])),
            local_port: 8000,
            proxied: None,
            tls: None,
            connection: 1,
            connection_requests: 1,
        },
        request: Request {
            method: Method::GET,
            version: HttpVersion::Http11,
            line: None,
            raw_uri: "/".to_owned(),
            path: "/".to_owned(),
            query: None,
            host: "example.test".to_owned(),
            headers: HeaderMap::new(),
            body: RequestBody::None,
            length: 77,
        },
        upstream: UpstreamChoice { scheme: "http".into(), path: "/up".to_owned(), ..UpstreamChoice::default() },
        matched: None,
        consumer: None,
        consumer_given: None,
        credential: None,
        shared: Vec::new(),
        nginx_ctx: Vec::new(),
        serialize_values: Vec::new(),
        kept: Kept::default(),
        service_response: None,
        response: Response::default(),
        exit: None,
        wishes: Wishes::default(),
        stream: Stream::default(),
    }
}

/// A request that has been answered, with something everywhere.
pub fn http_exchange() -> Exchange {
    let mut exchange = exchange();
    exchange.client.real_ip = Some(IpAddr::from([10, 0, 0, 9]));
    exchange.request.raw_uri = "/a/b?x=1&Y=%20".to_owned();
    exchange.request.path = "/a/b".to_owned();
    exchange.request.query = Some("x=1&Y=%20".to_owned());
    for (name, value) in [
        ("host", "example.test"),
        ("x-in", "1"),
        ("x-in", "2"),
        ("cookie", "a=1; b=2"),
        ("authorization", "Basic YW5uOnB3"),
    ] {
        exchange.request.headers.append(name, HeaderValue::from_static(value));
    }
    exchange.response.status = Some(201);
    exchange.response.headers.insert("x-out", HeaderValue::from_static("o"));
    let mut headers = HeaderMap::new();
    headers.insert("x-up", HeaderValue::from_static("u"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    exchange.service_response =
        Some(ServiceResponse { status: 200, headers, body: Some(Bytes::from_static(b"{\"a\":1}")) });
    let attempt = |last, port, failure| Try {
        ip: Ipv4Addr::new(10, 1, 1, last).into(),
        port,
        started: 1_000_000_000.1,
        connect_ms: Some(1.0),
        failure,
    };
    exchange.upstream.tries = vec![attempt(1, 80, Some(502)), attempt(2, 81, None)];
    exchange
}

/// A route to a service.
pub fn matched() -> Matched {
    let service = Service {
        name: Some("echo".to_owned()),
        created_at: 1,
        updated_at: 2,
        ..Service::new(Id::from_u128(4), "127.0.0.1")
    };
    let route = Route {
        name: Some("r".to_owned()),
        paths: Some(vec!["/a".to_owned()]),
        headers: Some(vec![("x-r".to_owned(), vec!["1".to_owned()])]),
        service: Some(service.id),
        created_at: 1,
        updated_at: 2,
        ..Route::new(Id::from_u128(5))
    };
    Matched {
        route: Arc::new(route),
        service: Some(Arc::new(service)),
        shown: Arc::default(),
        prefix: Some("/a".to_owned()),
        captures: vec!["/a/b".to_owned(), "b".to_owned()],
        named_captures: vec![("n".to_owned(), "b".to_owned())],
    }
}

/// A plugin named `probe`.
pub fn caller() -> Caller {
    Caller { plugin_name: "probe".to_owned(), plugin_id: Id::from_u128(7), takes_body_files: false }
}

/// Makes a call as a plugin does.
pub fn call(exchange: &mut Exchange, method: &str, args: &[Value]) -> Outcome {
    crate::call(exchange, &caller(), &Call { method: method.to_owned().into(), args: args.to_vec() })
}

//! Which API answers what: methods, paths, and the headers around every answer.

use std::time::Instant;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW, CONTENT_TYPE, ORIGIN, SERVER,
    },
};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value as Json, json};

use crate::{Node, SERVER_TOKEN, information, metrics, status, upstreams};

/// The longest request body that is read; the requests known here carry a few words.
const MAX_BODY: usize = 64 << 10;

const ADMIN_LATENCY: HeaderName = HeaderName::from_static("x-kong-admin-latency");

/// One of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Admin,
    Status,
}

impl Api {
    /// The name of the `*_listen` property.
    pub const fn property(self) -> &'static str {
        match self {
            Self::Admin => "admin_listen",
            Self::Status => "status_listen",
        }
    }
}

/// A path that is known, on the API that knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Endpoint {
    Information,
    Status,
    Ready,
    Upstreams(upstreams::Endpoint),
    Metrics,
}

impl Endpoint {
    fn find(api: Api, path: &str) -> Option<Self> {
        // A slash at the end makes no difference, as in Kong.
        match (api, path.strip_suffix('/').unwrap_or(path)) {
            (Api::Admin, "") => Some(Self::Information),
            (_, "/status") => Some(Self::Status),
            (_, "/metrics") => Some(Self::Metrics),
            (Api::Status, "/status/ready") => Some(Self::Ready),
            (Api::Admin, path) => upstreams::Endpoint::find(path).map(Self::Upstreams),
            _ => None,
        }
    }

    const fn methods(&self) -> &'static str {
        match self {
            Self::Upstreams(endpoint) => endpoint.methods(),
            Self::Information | Self::Status | Self::Metrics => "GET, HEAD, OPTIONS",
            Self::Ready => "GET, HEAD, OPTIONS, POST",
        }
    }
}

/// An answer before its common headers.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Body>,
    allow: Option<&'static str>,
}

/// What an answer says, with its media type.
pub(crate) enum Body {
    Json(Json),
    Text { text: String, content_type: &'static str },
}

impl Body {
    const fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json; charset=utf-8",
            Self::Text { content_type, .. } => content_type,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Json(json) => Bytes::from(json.to_string()),
            Self::Text { text, .. } => Bytes::from(text),
        }
    }
}

impl Answer {
    pub(crate) const fn json(status: StatusCode, body: Json) -> Self {
        Self { status, body: Some(Body::Json(body)), allow: None }
    }

    pub(crate) const fn text(status: StatusCode, text: String, content_type: &'static str) -> Self {
        Self { status, body: Some(Body::Text { text, content_type }), allow: None }
    }

    pub(crate) fn message(status: StatusCode, message: &str) -> Self {
        Self::json(status, json!({ "message": message }))
    }

    pub(crate) const fn empty(status: StatusCode) -> Self {
        Self { status, body: None, allow: None }
    }
}

/// Answers one request.
pub(crate) async fn answer<B>(api: Api, node: &Node, request: Request<B>) -> Response<Full<Bytes>>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let answer = match Endpoint::find(api, head.uri.path()) {
        None => Answer::message(StatusCode::NOT_FOUND, "Not found"),
        Some(endpoint) => match (&endpoint, &head.method) {
            (Endpoint::Information, &Method::GET | &Method::HEAD) => {
                Answer::json(StatusCode::OK, information::describe(node))
            }
            (Endpoint::Status, &Method::GET | &Method::HEAD) => status::describe(node, head.uri.query()),
            (Endpoint::Ready, &Method::GET | &Method::HEAD) => status::ready(node),
            (Endpoint::Metrics, &Method::GET | &Method::HEAD) => metrics::expose(node),
            (Endpoint::Ready, &Method::POST) => match Limited::new(body, MAX_BODY).collect().await {
                Ok(body) => change_readiness(node, &head, &body.to_bytes()),
                Err(_) => Answer::message(StatusCode::PAYLOAD_TOO_LARGE, "Request body too large"),
            },
            (endpoint, &Method::OPTIONS) => {
                Answer { allow: Some(endpoint.methods()), ..Answer::empty(StatusCode::NO_CONTENT) }
            }
            (Endpoint::Upstreams(endpoint), method) => endpoint
                .answer(node, method, head.uri.query())
                .unwrap_or_else(|| Answer::message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")),
            _ => Answer::message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
        },
    };
    dress(api, node, &head, answer, started)
}

/// `POST /status/ready` with `status=draining`, as a form or as JSON.
fn change_readiness(node: &Node, head: &http::request::Parts, body: &[u8]) -> Answer {
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let draining = if content_type.to_ascii_lowercase().contains("application/json") {
        match serde_json::from_slice::<Json>(body) {
            Ok(Json::Object(parameters)) => parameters.get("status").is_some_and(|status| status == "draining"),
            _ => return Answer::message(StatusCode::BAD_REQUEST, "Cannot parse JSON body"),
        }
    } else {
        body.split(|byte| *byte == b'&').any(|pair| pair == b"status=draining")
    };
    if !draining {
        return Answer::empty(StatusCode::BAD_REQUEST);
    }
    node.set_draining();
    Answer::empty(StatusCode::NO_CONTENT)
}

/// Adds what Kong adds to every answer of an API.
fn dress(
    api: Api,
    node: &Node,
    head: &http::request::Parts,
    answer: Answer,
    started: Instant,
) -> Response<Full<Bytes>> {
    let content_type = answer.body.as_ref().map(Body::content_type);
    let body = answer.body.map(Body::into_bytes).unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    let origin = head.headers.get(ORIGIN).cloned().unwrap_or_else(|| HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if api == Api::Admin {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(methods) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            asked.filter(|_| api == Api::Admin).unwrap_or_else(|| HeaderValue::from_static("Content-Type")),
        );
    }
    let wanted = node.loaded().settings.headers;
    if wanted.server
        && let Ok(server) = HeaderValue::from_str(SERVER_TOKEN)
    {
        headers.insert(SERVER, server);
    }
    if wanted.admin_latency
        && let Ok(latency) = HeaderValue::try_from(started.elapsed().as_millis().to_string())
    {
        headers.insert(ADMIN_LATENCY, latency);
    }
    response
}

//! What becomes of a request that came by a protocol which its route does not speak.
//!
//! Protocols play no part in the choice of the route: it is matched first and judged afterwards (Kong:
//! `runloop/handler.lua`, `access.before`).

use silverback_model::{Protocol, Route};

/// How a request fails the protocols of the route that it matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 426 `Please use HTTPS protocol`, with `Connection: Upgrade` and `Upgrade: TLS/1.2, HTTP/1.1`.
    UseHttps,
    /// This status, an empty body, and `Location: https://` + forwarded host + request target as it came.
    RedirectToHttps(u16),
    /// 426 `Please use HTTP2 protocol`, with `connection: Upgrade` and `upgrade: HTTP/2`.
    UseHttp2,
    /// 415 `Non-gRPC request matched gRPC route`.
    NotGrpc,
    /// 200 without a body, `content-type: application/grpc`, `grpc-status: 1` and
    /// `grpc-message: gRPC request matched gRPCs route`.
    GrpcWithoutTls,
}

/// Whether a request may use the route over the protocol that it came by; `None` if it may.
///
/// `forwarded_proto` is `X-Forwarded-Proto` where the client is trusted to send it, else the connection's scheme;
/// `content_type` gives the request's.
pub fn refusal<'c>(
    route: &Route,
    forwarded_proto: &str,
    content_type: impl FnOnce() -> Option<&'c [u8]>,
    http2: bool,
) -> Option<Refusal> {
    let speaks = |protocol| route.protocols.contains(&protocol);
    let over_tls = forwarded_proto == "https";
    if speaks(Protocol::Https) && !speaks(Protocol::Http) && !over_tls {
        return Some(match route.https_redirect_status_code {
            426 => Refusal::UseHttps,
            status => Refusal::RedirectToHttps(status),
        });
    }
    if speaks(Protocol::Grpc) || speaks(Protocol::Grpcs) {
        if !content_type().is_some_and(|value| value.starts_with(b"application/grpc")) {
            return Some(Refusal::NotGrpc);
        }
        if !http2 {
            return Some(Refusal::UseHttp2);
        }
        if !speaks(Protocol::Grpc) && !over_tls {
            return Some(Refusal::GrpcWithoutTls);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::route;

    fn check(protocols: &[Protocol], status: u16, request: (&str, Option<&str>, bool), expect: Option<Refusal>) {
        let mut route = route(1);
        route.protocols = protocols.to_vec();
        route.https_redirect_status_code = status;
        let (proto, content_type, http2) = request;
        let answer = refusal(&route, proto, || content_type.map(str::as_bytes), http2);
        assert_eq!(answer, expect, "{protocols:?} {status} {request:?}");
    }

    #[test]
    fn the_route_decides_what_it_speaks() {
        use Protocol::{Grpc, Grpcs, Http, Https};
        let grpc = Some("application/grpc+proto");
        check(&[Http, Https], 301, ("http", None, false), None);
        check(&[Http], 301, ("https", None, false), None);
        check(&[Https], 426, ("https", None, false), None);
        check(&[Https], 426, ("http", None, false), Some(Refusal::UseHttps));
        check(&[Https], 308, ("http", None, true), Some(Refusal::RedirectToHttps(308)));
        check(&[Grpc, Grpcs], 426, ("http", grpc, true), None);
        check(&[Grpc], 426, ("http", grpc, false), Some(Refusal::UseHttp2));
        check(&[Grpc], 426, ("http", Some("text/plain"), true), Some(Refusal::NotGrpc));
        check(&[Grpcs], 426, ("http", None, true), Some(Refusal::NotGrpc));
        check(&[Grpcs], 426, ("http", grpc, true), Some(Refusal::GrpcWithoutTls));
        check(&[Grpcs], 426, ("https", grpc, true), None);
    }
}

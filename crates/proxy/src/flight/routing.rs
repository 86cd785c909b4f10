//! Whether a request may go on as it came, and its route.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use silverback_config::settings::ClientCertificateDemand;
use silverback_pdk::exchange::{Exit, ExitBody, Matched};
use silverback_router::{self as router, Query};

use super::Flight;
use crate::{
    forwarded::{self, Forwarded},
    generation::{Generation, RouteEntry},
};

impl Flight {
    /// Why nginx refuses a request for how it came: without TLS, or without the certificate that it takes.
    pub(super) fn tls_refusal(&self) -> Option<&'static str> {
        if self.connection.misses_tls {
            return Some("The plain HTTP request was sent to HTTPS port");
        }
        let demand = self.profile.settings.tls.client_verification.as_ref()?.demand;
        match (demand, self.exchange.client.tls.as_ref()?.client_verify.as_str()) {
            (_, "SUCCESS") | (ClientCertificateDemand::Optional | ClientCertificateDemand::Unverified, "NONE") => None,
            (ClientCertificateDemand::Required, "NONE") => Some("No required SSL certificate was sent"),
            // Only who issued it is left open (nginx's `ngx_ssl_verify_error_optional`).
            (ClientCertificateDemand::Unverified, verdict) if is_of_issuer(verdict) => None,
            _ => Some("The SSL certificate error"),
        }
    }

    /// Finds the route, and what the request becomes by it. `None` when there is none, or the request may not use
    /// it as it came: the answer is set then.
    pub(super) fn route(&mut self, generation: &Generation) -> Option<(Arc<RouteEntry>, Arc<Forwarded>)> {
        let request = &self.exchange.request;
        let raw_path =
            memchr::memchr(b'?', request.raw_uri.as_bytes()).map_or(&*request.raw_uri, |end| &request.raw_uri[..end]);
        let path = router::normalize_path(raw_path.as_bytes());
        let client = &self.exchange.client;
        let query = Query {
            method: &request.method,
            host: request.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default(),
            port: forwarded::port(&self.exchange),
            path: &path,
            headers: &request.headers,
            scheme: forwarded::scheme(&self.exchange),
            sni: client.tls.as_ref().and_then(|tls| tls.sni.as_deref()),
        };
        let Some(found) = generation.router.find(&query) else {
            self.error(404, "no Route matched with those values");
            return None;
        };
        let upstream_path = router::upstream_path(&found, &path);
        let prefix = found.forwarded_prefix(&path).map(str::to_owned);
        let Some(entry) = generation.route(found.route.id).cloned() else {
            // The router and the routes are of one generation: never seen, and never let through.
            self.error(500, "An unexpected error occurred");
            return None;
        };
        let (captures, named_captures) = match found.captures {
            Some(captures) => (captures.numbered.into_iter().map(Option::unwrap_or_default).collect(), captures.named),
            None => (Vec::new(), Vec::new()),
        };
        if self.profile.settings.debug.header && self.exchange.request.headers.contains_key("kong-debug") {
            tell_match(&mut self.exchange.response.headers, &entry);
        }
        self.exchange.matched = Some(Matched {
            route: Arc::clone(&entry.route),
            service: entry.service.clone(),
            shown: Arc::clone(&entry.shown),
            prefix,
            captures,
            named_captures,
        });
        let prefix = self.exchange.matched.as_ref().and_then(|matched| matched.prefix.as_deref());
        let forwarded = Arc::new(Forwarded::of(&self.exchange, prefix, self.is_upgrade()));
        let content_type = || self.exchange.request.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if let Some(refusal) = router::refusal(&entry.route, forwarded.proto(), content_type, self.connection.http2) {
            self.refuse_protocol(refusal, &forwarded);
            return None;
        }
        forwarded::choose_upstream(&mut self.exchange, &entry, upstream_path);
        if entry.plugins.len() > 0 || self.profile.access_log.reads_upstream_headers() {
            self.exchange.upstream.hop_headers = Some(Arc::<Forwarded>::clone(&forwarded));
        }
        Some((entry, forwarded))
    }

    fn refuse_protocol(&mut self, refusal: router::Refusal, forwarded: &Forwarded) {
        let upgrade = |flight: &mut Self, message: &str, to: &'static str| {
            flight.error(426, message);
            if let Some(exit) = &mut flight.exchange.exit {
                exit.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                exit.headers.insert(header::UPGRADE, HeaderValue::from_static(to));
            }
        };
        match refusal {
            router::Refusal::UseHttps => upgrade(self, "Please use HTTPS protocol", "TLS/1.2, HTTP/1.1"),
            router::Refusal::UseHttp2 => upgrade(self, "Please use HTTP2 protocol", "HTTP/2"),
            router::Refusal::NotGrpc => {
                self.error(415, "Non-gRPC request matched gRPC route");
            }
            router::Refusal::RedirectToHttps(status) => {
                let location = format!("https://{}{}", forwarded.host(), self.exchange.request.raw_uri);
                let mut headers = HeaderMap::new();
                if let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) {
                    headers.insert(header::LOCATION, location);
                }
                self.exit(Exit { status, body: ExitBody::None, headers });
            }
            router::Refusal::GrpcWithoutTls => {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert("grpc-status", HeaderValue::from_static("1"));
                headers.insert("grpc-message", HeaderValue::from_static("gRPC request matched gRPCs route"));
                self.exit(Exit { status: 200, body: ExitBody::Bytes(Bytes::new()), headers });
            }
        }
    }
}

/// Whether a certificate failed to verify for its issuer alone.
fn is_of_issuer(verdict: &str) -> bool {
    ["self-signed", "unable to"].iter().any(|reason| verdict.starts_with(&format!("FAILED:{reason}")))
}

/// Names the route and service in the answer (`allow_debug_header`, Kong's `add_debug_headers`).
fn tell_match(headers: &mut HeaderMap, entry: &RouteEntry) {
    let mut tell = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    tell("kong-route-id", &entry.route.id.to_string());
    if let Some(name) = &entry.route.name {
        tell("kong-route-name", name);
    }
    if let Some(service) = &entry.service {
        tell("kong-service-id", &service.id.to_string());
        if let Some(name) = &service.name {
            tell("kong-service-name", name);
        }
    }
}

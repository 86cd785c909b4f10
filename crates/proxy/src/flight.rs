//! A request on its way through the phases: rewrite, route, access, upstream, response, log.
//!
//! HTTP/1 and HTTP/2 share this driver. A client that leaves does not cancel its request ([`Answering`]), so that exchanges
//! with plugins end properly and `log` runs. It ends when its answer's body has gone (or cannot go) to the client:
//! [`Finish`].

mod answering;
mod finish;
mod routing;

use std::{
    fmt,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use silverback_log::Level;
use silverback_model::Phase;
use silverback_pdk::{
    Exchange,
    exchange::{Exit, RequestBody, ServiceResponse, Source},
};

use crate::{
    answer,
    body::ClientBody,
    buffered::{self, Held, Whole},
    connection::Connection,
    generation::{Generation, RouteEntry},
    http1::spelling::Spelling,
    metrics::InMemory,
    plugin_run::{self, Failed, Ran},
    plugin_table::Configured,
    profile::Profile,
    request,
    request_body::{self, BodyError, Incoming, Spool},
    request_debug::RequestDebug,
    sanitiser::Refused,
    surroundings,
    upstream::{answer::Upstreamed, balancer::InUse, hash_input::HashCookie, send},
    worker::Worker,
};

pub(crate) use answering::Answering;
use answering::Presence;
pub(crate) use finish::Finish;

/// A request under way.
pub(crate) struct Flight {
    pub(crate) worker: Rc<Worker>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) profile: Arc<Profile>,
    pub(crate) exchange: Box<Exchange>,
    /// The body as it comes from the client, until it is read.
    pub(crate) incoming: Option<Incoming>,
    /// Where the body was spooled to; the file goes with it.
    pub(crate) spool: Option<Spool>,
    /// Why the body could not be read.
    pub(crate) body_error: Option<BodyError>,
    /// How the client wrote its header names.
    pub(crate) spelling: Spelling,
    /// The configurations that apply, in order; those for response and log.
    collected: Vec<Arc<Configured>>,
    /// The client asks for a WebSocket.
    upgrade: bool,
    /// It was going to an upstream, whatever came of it (Kong's `KONG_PROXIED`).
    pub(crate) proxied: bool,
    /// The client's connection ends with this answer.
    pub(crate) closes: bool,
    /// Whether the client's connection goes on after this answer, as far as the client has a say in it.
    pub(crate) keeps_alive: bool,
    /// The upstream's answer has a Content-Encoding.
    pub(crate) encoded: bool,
    /// The target that the request is on; it counts as busy until the request is done with.
    pub(crate) in_use: Option<InUse>,
    /// What the answer sets, so that the client stays with its target.
    pub(crate) hash_cookie: Option<HashCookie>,
    /// What an answer that is held takes of the room for all, until it has gone.
    held: Option<Held>,
    /// The trailers of an answer that is held.
    pub(crate) trailers: Option<HeaderMap>,
    /// The bodies that are in memory.
    in_memory: InMemory,
    /// What the client wants to know of its request, if it may.
    pub(crate) debug: Option<Box<RequestDebug>>,
}

/// What a request came to.
enum End {
    /// The gateway answers: a plugin's exit, or an error.
    Gateway,
    Upstream(Box<Upstreamed>),
    ClientLeft,
}

/// Starts a request, whose answer is to be awaited.
pub(crate) fn begin(worker: &Rc<Worker>, connection: &Rc<Connection>, request: http::Request<Incoming>) -> Answering {
    connection.began();
    worker.shared.counters.requests.fetch_add(1, Ordering::Relaxed);
    Answering::new(worker, |client| run(Rc::clone(worker), Rc::clone(connection), request, client))
}

/// Answers what the sanitiser refused: the bytes to send. It has its access-log line and its log phase like any
/// other request.
pub(crate) fn refuse(worker: &Rc<Worker>, connection: &Rc<Connection>, refused: &Refused) -> Vec<u8> {
    connection.began();
    worker.shared.counters.requests.fetch_add(1, Ordering::Relaxed);
    let generation = worker.shared.generation.load_full();
    let exchange = request::refused_exchange(connection, &generation, &refused.head);
    let mut flight = Flight::new(Rc::clone(worker), Rc::clone(connection), &generation, exchange);
    flight.log(Level::Info, format_args!("{} while reading client request headers", refused.why.reason()));
    flight.fail(refused.why.status(), None);
    answer::to_bytes(flight)
}

/// Makes the answer; `None` when the client left before there was one.
async fn run(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    mut request: http::Request<Incoming>,
    client: Rc<Presence>,
) -> Option<Response<ClientBody>> {
    let upgrade = request::wants_websocket(&request);
    let spelling = request.extensions_mut().remove::<Spelling>().unwrap_or_default();
    let generation = worker.shared.generation.load_full();
    let (mut exchange, incoming) = request::exchange(&connection, &generation, request);
    let debug = RequestDebug::asked_for(&mut exchange, generation.profile.settings.debug.request_token());
    let mut flight = Flight::new(worker, connection, &generation, exchange);
    flight.incoming = incoming;
    flight.spelling = spelling;
    flight.upgrade = upgrade;
    flight.debug = debug;
    let http = &flight.profile.settings.http;
    let last = flight.connection.requests.get() >= http.keepalive_requests || http.keepalive_timeout.is_zero();
    flight.closes = last || !flight.keeps_alive;
    let end = flight.decide(generation, &client).await;
    Some(match end {
        End::ClientLeft => {
            Finish::new(flight).client_left();
            return None;
        }
        End::Gateway => answer::from_gateway(flight),
        End::Upstream(upstreamed) if upstreamed.status == StatusCode::SWITCHING_PROTOCOLS => {
            answer::switching(flight, *upstreamed)
        }
        End::Upstream(upstreamed) => answer::from_upstream(flight, *upstreamed),
    })
}

impl Flight {
    fn new(
        worker: Rc<Worker>,
        connection: Rc<Connection>,
        generation: &Generation,
        exchange: Box<Exchange>,
    ) -> Box<Self> {
        Box::new(Self {
            profile: Arc::clone(&generation.profile),
            keeps_alive: request::keeps_alive(&exchange.request),
            exchange,
            incoming: None,
            spool: None,
            body_error: None,
            spelling: Spelling::default(),
            // Until a route is found, the global configurations are the ones that will log.
            collected: generation.plugins.globals().without_consumer(),
            upgrade: false,
            proxied: false,
            closes: false,
            encoded: false,
            in_use: None,
            hash_cookie: None,
            held: None,
            trailers: None,
            in_memory: InMemory::none(&worker.metrics),
            debug: None,
            worker,
            connection,
        })
    }

    /// Takes the request through its phases, up to its answer.
    async fn decide(&mut self, generation: Arc<Generation>, client: &Presence) -> End {
        if let Some(status) = request::refusal(&self.exchange, &self.profile.settings) {
            return self.fail(status, None);
        }
        if let Some(message) = self.tls_refusal() {
            return self.fail(400, Some(message));
        }
        let begun = self.clock();
        let went_on = self.rewrite(&generation).await;
        self.timed(&["rewrite"], begun);
        if !went_on {
            return End::Gateway;
        }
        self.exchange.phase = Phase::Access;
        let access_begun = self.clock();
        let routed = self.route(&generation);
        self.timed(&["access", "router"], access_begun);
        let Some((route, forwarded)) = routed else {
            self.timed(&["access"], access_begun);
            return End::Gateway;
        };
        let upstreams = Arc::clone(&generation.upstreams);
        let client_tls = generation.client_tls.clone();
        // From here on only the route's own parts are kept: a long request must not hold a whole configuration.
        drop(generation);

        let went_on = self.access(&route).await;
        self.timed(&["access"], access_begun);
        if !went_on {
            return End::Gateway;
        }
        if route.service.is_none() {
            return self.error(503, "no Service found with those values");
        }

        self.proxied = true;
        if let Err(error) = self.prepare_body(&route).await {
            return self.body_failed(&error);
        }
        let buffered = self.exchange.wishes.buffer_response
            || self.collected.iter().any(|configured| configured.phases.contains(Phase::Response));
        let sent = tokio::select! {
            biased;
            sent = send::send(self, &upstreams, &client_tls, &forwarded) => sent,
            () = client.left() => return End::ClientLeft,
        };
        match (sent, buffered) {
            // What follows a switch of protocols is no answer that could be held.
            (Ok(upstreamed), _) if upstreamed.status == StatusCode::SWITCHING_PROTOCOLS => {
                if self.upgrade {
                    if buffered {
                        self.log(
                            Level::Notice,
                            format_args!("response buffering was turned off: connection upgrade (websocket)"),
                        );
                    }
                    End::Upstream(Box::new(upstreamed))
                } else {
                    self.log(Level::Error, format_args!("upstream switched protocols, which nobody asked for"));
                    self.fail(502, None)
                }
            }
            (Ok(upstreamed), false) => End::Upstream(Box::new(upstreamed)),
            (Ok(upstreamed), true) => Box::pin(self.buffer(upstreamed)).await,
            (Err(failure), _) => {
                if let send::SendFailure::ClientBody(error) = &failure {
                    return self.body_failed(error);
                }
                self.log(Level::Error, format_args!("{failure}{}", failure.activity()));
                if let send::SendFailure::Balance(_) = failure {
                    // Kong finds no peer before it proxies.
                    self.proxied = false;
                    // Kong tells a host that a plugin chose from the service's own.
                    let chosen =
                        route.service.as_ref().is_some_and(|service| service.host != self.exchange.upstream.host);
                    let (status, message) = failure.no_address(chosen);
                    return self.error(status, &message);
                }
                self.fail(failure.status(), None)
            }
        }
    }

    /// The time, if anybody wants to know how long something takes.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.debug.as_ref().map(|_| Instant::now())
    }

    /// Adds the time since `begun` to a part of the request.
    pub(crate) fn timed(&mut self, part: &[&str], begun: Option<Instant>) {
        if let (Some(debug), Some(begun)) = (&mut self.debug, begun) {
            debug.add(part, begun);
        }
    }

    /// Whether the client asked for a WebSocket.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Whether a plugin looks back at the request when it is over.
    fn logs(&self) -> bool {
        self.collected.iter().any(|configured| configured.phases.contains(Phase::Log))
    }

    /// Whether anybody looks at the answer's head after it has gone.
    pub(crate) fn keeps_head(&self) -> bool {
        self.logs() || self.profile.access_log.reads_response_headers()
    }

    /// The same of the upstream's own head.
    pub(crate) fn keeps_upstream_head(&self) -> bool {
        self.logs() || self.profile.access_log.reads_upstream_headers()
    }

    /// Writes a line to the error log, with the request that it is about.
    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        silverback_log::write(level, message, Some(&surroundings::context(&self.exchange)));
    }

    pub(crate) fn now(&self) -> f64 {
        self.exchange.node.surroundings.now()
    }

    /// Runs the global plugins' rewrite handlers. False when one of them ended the request.
    async fn rewrite(&mut self, generation: &Generation) -> bool {
        self.exchange.phase = Phase::Rewrite;
        if !generation.plugins.globals().any(Phase::Rewrite) {
            return true;
        }
        for index in 0..self.collected.len() {
            let configured = Arc::clone(&self.collected[index]);
            if configured.phases.contains(Phase::Rewrite) && !self.went_on(&configured, Phase::Rewrite).await {
                return false;
            }
        }
        true
    }

    /// Runs the access handlers, looking each configuration up as it is reached: a plugin before it may have
    /// authenticated a consumer. After an exit it goes on collecting, so that log handlers run. False when the
    /// request was ended.
    async fn access(&mut self, route: &RouteEntry) -> bool {
        self.collected.clear();
        let mut ended = false;
        for index in 0..route.plugins.len() {
            let consumer = self.exchange.consumer.as_ref().map(|consumer| consumer.id);
            let Some(configured) = route.plugins.resolve(index, consumer).cloned() else { continue };
            self.collected.push(Arc::clone(&configured));
            if !ended && configured.phases.contains(Phase::Access) {
                ended = !self.went_on(&configured, Phase::Access).await;
            }
        }
        !ended
    }

    /// Runs one handler. False when it ended the request, by its own will or because it failed.
    async fn went_on(&mut self, configured: &Configured, phase: Phase) -> bool {
        // Boxed, like all that most requests do not need: the task stays small, and quick to make.
        let worker = Rc::clone(&self.worker);
        let begun = self.clock();
        let ran = Box::pin(plugin_run::run(&worker.plugins, self, configured, phase)).await;
        if let (Some(debug), Some(begun)) = (&mut self.debug, begun) {
            debug.ran(phase, &configured.caller, begun);
        }
        match ran {
            Ran::Done => true,
            Ran::Exit => {
                self.exchange.response.source = Some(Source::Exit);
                false
            }
            Ran::Failed(Failed { why, .. }) if self.body_error.is_some() => {
                // It asked for a body that cannot be had: that is what the client is told, as in nginx.
                self.log(Level::Error, format_args!("{why}"));
                if let Some(error) = self.body_error.take() {
                    self.body_failed(&error);
                }
                false
            }
            Ran::Failed(Failed { why, status: 503 }) => {
                self.log(Level::Error, format_args!("{why}"));
                self.error(503, "Service unavailable");
                if let Some(exit) = &mut self.exchange.exit {
                    exit.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                }
                false
            }
            Ran::Failed(Failed { why, .. }) => {
                self.log(Level::Error, format_args!("{why}"));
                // A check that could not run lets nothing through. Kong catches what fails in access; elsewhere the
                // page is nginx's.
                if phase == Phase::Access {
                    self.error(500, "An unexpected error occurred");
                } else {
                    self.fail(500, None);
                }
                false
            }
        }
    }

    /// Makes the body ready to be sent, and sent again: read whole, unless the route says otherwise.
    async fn prepare_body(&mut self, route: &RouteEntry) -> Result<(), BodyError> {
        if let RequestBody::Failed(why) = &self.exchange.request.body {
            // A plugin asked for it in vain. What is left of it must not go on as if it were whole.
            let error = self.body_error.take();
            return Err(error.unwrap_or_else(|| BodyError::Spool(std::io::Error::other(why.clone()))));
        }
        // gRPC is never held back: its messages may be one side of a conversation.
        let streams = self.exchange.upstream.scheme.starts_with("grpc");
        if (route.route.request_buffering && !streams) || self.upgrade {
            self.read_body().await?;
        }
        Ok(())
    }

    /// Reads the body if it has not been read yet.
    pub(crate) async fn read_body(&mut self) -> Result<(), BodyError> {
        if !matches!(self.exchange.request.body, RequestBody::Unread) {
            return Ok(());
        }
        let Some(incoming) = self.incoming.take() else {
            self.exchange.request.body = RequestBody::None;
            return Ok(());
        };
        let settings = &self.profile.settings;
        match Box::pin(request_body::read(incoming, settings)).await {
            Ok((body, spool, length)) => {
                if let RequestBody::Memory(bytes) = &body {
                    self.in_memory.add(bytes.len());
                }
                self.exchange.request.body = body;
                self.exchange.request.length += length;
                self.spool = spool;
                Ok(())
            }
            Err(error) => {
                self.exchange.request.body = RequestBody::Failed(error.to_string());
                Err(error)
            }
        }
    }

    fn body_failed(&mut self, error: &BodyError) -> End {
        let room = matches!(error, BodyError::TooLargeForPlugin { .. } | BodyError::NoRoom { .. });
        let level = if room { Level::Error } else { Level::Info };
        self.log(level, format_args!("{error} while reading client request body"));
        self.proxied = false;
        match error {
            BodyError::TooLarge | BodyError::TooLargeForPlugin { .. } => self.fail(413, None),
            BodyError::NoRoom { .. } => self.fail(503, None),
            BodyError::Timeout => self.fail(408, None),
            BodyError::Client(_) => self.fail(400, None),
            BodyError::Spool(_) => self.fail(500, None),
        }
    }

    /// Reads the upstream's answer whole, and lets the response handlers change it.
    async fn buffer(&mut self, upstreamed: Upstreamed) -> End {
        let limits = self.profile.settings.buffering;
        let Whole { status, headers, body, trailers, held } =
            match buffered::read(upstreamed, limits, &self.worker.shared.held).await {
                Ok(whole) => whole,
                Err(error) => {
                    self.log(Level::Error, format_args!("{error}"));
                    return self.fail(error.status(), error.client_message());
                }
            };
        self.held = Some(held);
        self.trailers = trailers;
        self.exchange.timings.upstream_end = Some(self.now());
        self.in_memory.add(body.len());
        self.exchange.service_response =
            Some(ServiceResponse { status: status.as_u16(), headers: headers.clone(), body: Some(body.clone()) });
        answer::take_upstream_head(self, status, headers);
        self.exchange.response.body = Some(body);
        // nginx tells plugins of it as it tells the client.
        let connection = HeaderValue::from_static(if self.keeps_alive { "keep-alive" } else { "close" });
        self.exchange.response.headers.insert(header::CONNECTION, connection.clone());
        self.exchange.phase = Phase::Response;
        let begun = self.clock();
        for index in 0..self.collected.len() {
            let configured = Arc::clone(&self.collected[index]);
            if configured.phases.contains(Phase::Response) && !self.went_on(&configured, Phase::Response).await {
                break;
            }
        }
        self.timed(&["response"], begun);
        answer::take_back_connection(&mut self.exchange.response.headers, &connection);
        End::Gateway
    }

    /// An error of the router or of a plugin: its page takes its format from Accept only (`kong.response.error`).
    fn error(&mut self, status: u16, message: &str) -> End {
        let exit = crate::error::error_exit(&self.exchange, status, message);
        self.exit(exit)
    }

    /// An error of the proxy or the upstream (nginx's error pages): its page takes its format from Accept, then the
    /// request's Content-Type, then `error_default_type`.
    fn fail(&mut self, status: u16, message: Option<&str>) -> End {
        // nginx closes after these: what is left of the request cannot be trusted, or is not wanted.
        self.closes |= matches!(status, 400 | 413 | 414 | 494 | 500 | 501);
        let exit =
            crate::error::proxy_exit(&self.exchange, &self.profile.settings.errors.default_type, status, message);
        self.exit(exit)
    }

    fn exit(&mut self, exit: Exit) -> End {
        self.exchange.response.source = Some(Source::Error);
        self.exchange.exit = Some(exit);
        End::Gateway
    }
}

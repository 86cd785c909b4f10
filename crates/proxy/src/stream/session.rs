//! One stream's state on its way through the phases: route, preread, log.

use std::{cell::RefCell, fmt, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use silverback_log::Level;
use silverback_model::Phase;
use silverback_pdk::{
    Exchange,
    exchange::{ExitBody, Matched, Source, Subsystem, UpstreamChoice},
};
use silverback_router::StreamQuery;

use crate::{
    connection::Origin,
    generation::{Generation, RouteEntry},
    plugin_run::{self, Ran},
    plugin_table::Configured,
    profile::Profile,
    request, surroundings,
    upstream::{
        ClientTls,
        balancer::{InUse, Upstreams},
    },
    worker::Worker,
};

/// A stream under way.
pub(super) struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) exchange: Box<Exchange>,
    profile: Arc<Profile>,
    /// Until its route is found.
    generation: Option<Arc<Generation>>,
    /// The configurations that apply, in order: those that will log.
    collected: Vec<Arc<Configured>>,
    /// The target that it is on, which counts as busy for as long.
    pub(super) in_use: Option<InUse>,
}

/// What a stream needs of the generation it began with, until its upstream is connected: a stream may last for days, and
/// must not hold a whole configuration.
pub(super) struct Routed {
    pub(super) entry: Arc<RouteEntry>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) client_tls: ClientTls,
}

/// Why a stream does not go on.
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) body: Option<Bytes>,
    /// For the error log; empty where it is there already.
    why: String,
    level: Level,
}

impl Refused {
    pub(super) fn new(status: u16, level: Level, why: impl fmt::Display) -> Self {
        Self { status, body: None, why: why.to_string(), level }
    }
}

impl Session {
    pub(super) fn new(worker: &Rc<Worker>, origin: &Origin) -> Self {
        let generation = worker.shared.generation.load_full();
        let exchange = request::of_connection(origin, &generation, Subsystem::Stream, Phase::Preread, None);
        // Until a route is found, the global configurations are the ones that will log.
        let collected = generation.stream_plugins.globals().without_consumer();
        Self {
            worker: Rc::clone(worker),
            exchange,
            profile: Arc::clone(&generation.profile),
            generation: Some(generation),
            collected,
            in_use: None,
        }
    }

    /// Finds the route.
    pub(super) fn route(&mut self, sni: Option<&str>) -> Result<Routed, Refused> {
        let none = || Refused::new(500, Level::Error, "no Route found with those values");
        let generation = self.generation.take().ok_or_else(none)?;
        let client = &self.exchange.client;
        let source = client.real_ip.map(|ip| SocketAddr::new(ip, client.real_port.unwrap_or(client.port)));
        let destination = client.local_ip.map(|ip| SocketAddr::new(ip, self.exchange.mapped_port()));
        let found = generation.streams.find(&StreamQuery { source, destination, sni }).ok_or_else(none)?;
        let entry = generation.route(found.route.id).cloned().ok_or_else(none)?;
        self.exchange.matched = Some(Matched {
            route: Arc::clone(&entry.route),
            service: entry.service.clone(),
            shown: Arc::clone(&entry.shown),
            prefix: None,
            captures: Vec::new(),
            named_captures: Vec::new(),
        });
        if let Some(service) = &entry.service {
            self.exchange.upstream = UpstreamChoice {
                scheme: service.protocol.name().into(),
                host: service.host.clone(),
                port: service.port,
                // The name that TLS asks the upstream for.
                host_header: sni.filter(|_| entry.route.preserve_host).unwrap_or_default().to_owned(),
                retries: service.retries,
                connect_timeout: service.connect_timeout,
                write_timeout: service.write_timeout,
                read_timeout: service.read_timeout,
                tls_verify: service.tls_verify,
                ..UpstreamChoice::default()
            };
            self.exchange.wishes.upstream_tls_verify_depth = service.tls_verify_depth;
        }
        Ok(Routed { entry, upstreams: Arc::clone(&generation.upstreams), client_tls: generation.client_tls.clone() })
    }

    /// Runs the preread handlers, looking each configuration up as it is reached. After an exit it goes on collecting,
    /// so that log handlers run.
    pub(super) async fn preread(&mut self, route: &RouteEntry) -> Result<(), Refused> {
        self.collected.clear();
        let mut ended = Ok(());
        for index in 0..route.plugins.len() {
            let consumer = self.exchange.consumer.as_ref().map(|consumer| consumer.id);
            let Some(configured) = route.plugins.resolve(index, consumer).cloned() else { continue };
            self.collected.push(Arc::clone(&configured));
            if ended.is_ok() && configured.phases.contains(Phase::Preread) {
                ended = self.run_preread(&configured).await;
            }
        }
        ended?;
        if route.service.is_none() {
            return Err(Refused::new(503, Level::Warn, "no Service found with those values"));
        }
        Ok(())
    }

    async fn run_preread(&mut self, configured: &Configured) -> Result<(), Refused> {
        let plugins = &self.worker.plugins;
        match plugin_run::run(plugins, self.exchange.as_mut(), configured, Phase::Preread).await {
            Ran::Done => Ok(()),
            Ran::Exit => {
                let exit = self.exchange.exit.take();
                // A check that said no in a way that is not understood is still a no.
                let (status, body) = exit.map_or((500, ExitBody::None), |exit| (exit.status, exit.body));
                let status = if matches!(status, 200 | 400 | 403 | 500 | 502 | 503) { status } else { 500 };
                let mut refused = Refused::new(status, Level::Error, "");
                match body {
                    ExitBody::None => {}
                    ExitBody::Bytes(body) if status < 400 => refused.body = Some(body),
                    // Only the log gets to see it.
                    ExitBody::Bytes(body) => {
                        let text = String::from_utf8_lossy(&body);
                        refused.why = format!("unable to proxy stream connection, status: {status}, err: {text}");
                    }
                    ExitBody::Page(text) => {
                        refused.why = format!("unable to proxy stream connection, status: {status}, err: {text}");
                    }
                }
                Err(refused)
            }
            Ran::Failed(failed) => {
                self.exchange.response.source = Some(Source::Error);
                Err(Refused::new(failed.status, Level::Error, failed.why))
            }
        }
    }

    /// Ends it without an upstream.
    pub(super) fn refuse(mut self, refused: &Refused) {
        if !refused.why.is_empty() {
            self.log(refused.level, format_args!("{}", refused.why));
        }
        self.exchange.response.source.get_or_insert(Source::Error);
        self.finish(refused.status);
    }

    /// It is over: the access log, then the log handlers.
    pub(super) fn finish(self, status: u16) {
        let Self { worker, mut exchange, profile, collected, .. } = self;
        let now = exchange.node.surroundings.now();
        exchange.response.status = Some(status);
        exchange.timings.response_end = Some(now);
        exchange.timings.upstream_end.get_or_insert(now);
        exchange.phase = Phase::Log;
        if let Some(log) = &profile.stream_access_log {
            log.write(&exchange);
        }
        let loggers: Vec<_> =
            collected.into_iter().filter(|configured| configured.phases.contains(Phase::Log)).collect();
        if loggers.is_empty() {
            return;
        }
        let exchange = Rc::new(RefCell::new(*exchange));
        for configured in loggers {
            // Each on its own: a slow one delays no other.
            let exchange = Rc::clone(&exchange);
            let running = Rc::clone(&worker);
            worker.spawn(async move { plugin_run::log(&running, &exchange, &configured).await });
        }
    }

    /// Writes a line to the error log, with the connection that it is about.
    pub(super) fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        silverback_log::write(level, message, Some(&surroundings::context(&self.exchange)));
    }

    pub(super) fn now(&self) -> f64 {
        self.exchange.node.surroundings.now()
    }
}

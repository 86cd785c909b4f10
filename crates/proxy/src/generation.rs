//! A configuration in the form in which requests use it: router, plugin table, upstreams, certificates. Built whole
//! by one writer, published whole, never changed.

use std::{io, sync::Arc};

use foldhash::HashMap;
use silverback_config::{Settings, settings::Dns};
use silverback_model::{Catalogue, Directory, Id, Route, Service, Snapshot};
use silverback_pdk::exchange::{Shown, Subsystem};
use silverback_plugin_host::{Fleet, Host};
use silverback_router::{Router, StreamRouter};

use crate::{
    plugin_table::{PluginTable, RoutePlugins, TableError},
    profile::Profile,
    surroundings::AtomicCounters,
    tls::{self, ServerTls, Sessions},
    upstream::{Balancers, ClientTls, Resolver, balancer::Upstreams},
};

/// A configuration in force.
pub struct Generation {
    pub(crate) router: Router,
    pub(crate) streams: StreamRouter,
    /// The plugins of HTTP; those of streams.
    pub(crate) plugins: PluginTable,
    pub(crate) stream_plugins: PluginTable,
    /// What each route needs, by its id.
    routes: HashMap<Id, Arc<RouteEntry>>,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) server_tls: ServerTls,
    pub(crate) profile: Arc<Profile>,
    pub(crate) client_tls: ClientTls,
    /// `configuration_hash` of `/status`.
    pub hash: String,
    /// Whether it holds anything: an empty configuration is not ready.
    pub is_empty: bool,
}

/// What a request keeps of the generation it began with.
pub(crate) struct RouteEntry {
    pub(crate) route: Arc<Route>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) plugins: RoutePlugins,
    /// Route and service as plugins see them.
    pub(crate) shown: Arc<Shown>,
}

/// Why a snapshot is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("router: {0}")]
    Router(String),
    #[error(transparent)]
    Plugins(#[from] TableError),
    #[error("certificates: {0}")]
    Certificates(#[from] tls::CertificateError),
    #[error("TLS: {0}")]
    ServerTls(#[from] tls::ServerTlsError),
    #[error("access log: {0}")]
    AccessLog(#[from] io::Error),
}

/// What outlives generations and is needed to build one.
pub struct Registries {
    pub(crate) host: Arc<Host>,
    pub(crate) balancers: Balancers,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Arc<AtomicCounters>,
    pub(crate) node_id: String,
}

impl Registries {
    pub fn new(host: Arc<Host>, node_id: String, dns: &Dns) -> Self {
        Self {
            host,
            balancers: Balancers::new(Resolver::new(dns)),
            sessions: Sessions::default(),
            counters: Arc::default(),
            node_id,
        }
    }
}

impl Generation {
    /// Builds a generation whose plugins run in the servers of `fleet`; the one in force is not touched.
    ///
    /// # Errors
    /// What in the snapshot, or in the default certificates of the settings, cannot be used.
    pub fn build(
        snapshot: &Snapshot,
        catalogue: &Catalogue,
        settings: &Arc<Settings>,
        registries: &Registries,
        fleet: &Fleet,
    ) -> Result<Self, BuildError> {
        let router = Router::build(snapshot).map_err(|error| BuildError::Router(error.to_string()))?;
        let streams = StreamRouter::build(snapshot).map_err(|error| BuildError::Router(error.to_string()))?;
        let plugins = PluginTable::build(snapshot, catalogue, fleet, Subsystem::Http)?;
        let stream_plugins = PluginTable::build(snapshot, catalogue, fleet, Subsystem::Stream)?;
        let services: HashMap<Id, &Arc<Service>> =
            snapshot.services.iter().map(|service| (service.id, service)).collect();
        let routes = snapshot
            .routes
            .iter()
            .map(|route| {
                let is_http = route.protocols.iter().any(|protocol| protocol.is_http());
                // A service that the route's subsystem cannot speak to is none, as in Kong.
                let service = route.service.and_then(|id| services.get(&id).copied()).map(Arc::clone);
                let service = service.filter(|service| service.protocol.is_http() == is_http);
                let plugins = if is_http { &plugins } else { &stream_plugins };
                let plugins = plugins.for_route(route, service.as_deref());
                (route.id, Arc::new(RouteEntry { route: Arc::clone(route), service, plugins, shown: Arc::default() }))
            })
            .collect();
        Ok(Self {
            router,
            streams,
            plugins,
            stream_plugins,
            routes,
            upstreams: Arc::new(Upstreams::build(snapshot, &registries.balancers)),
            directory: Arc::clone(&snapshot.directory),
            server_tls: ServerTls::build(
                &Arc::new(tls::Certificates::build(snapshot, settings)?),
                settings,
                &registries.sessions,
            )?,
            profile: Arc::new(Profile::build(settings, registries)?),
            client_tls: ClientTls::build(snapshot, settings)?,
            hash: snapshot.hash.clone(),
            is_empty: snapshot.services.is_empty() && snapshot.routes.is_empty() && snapshot.plugins.is_empty(),
        })
    }

    /// Tells what outlives generations that this one is in force now.
    pub(crate) fn put_in_force(&self, balancers: &Balancers) {
        balancers.resolver().configure(&self.profile.settings.dns);
        self.upstreams.put_in_force(balancers, self.client_tls.clone());
    }

    pub(crate) fn plugins_of(&self, subsystem: Subsystem) -> &PluginTable {
        match subsystem {
            Subsystem::Http => &self.plugins,
            Subsystem::Stream => &self.stream_plugins,
        }
    }

    pub(crate) fn route(&self, id: Id) -> Option<&Arc<RouteEntry>> {
        self.routes.get(&id)
    }
}

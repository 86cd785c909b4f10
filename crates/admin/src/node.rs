//! What the APIs tell of this node. The control thread writes it, the APIs read it.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use silverback_config::Settings;
use silverback_model::{Catalogue, Snapshot};

use crate::{Exposition, Upstreams};

/// A node as its APIs describe it.
pub struct Node {
    pub id: String,
    pub hostname: String,
    /// Called for every `/status`.
    statistics: Box<dyn Fn() -> Statistics + Send + Sync>,
    upstreams: OnceLock<Box<dyn Upstreams>>,
    reports: Box<dyn Reports>,
    loaded: RwLock<Arc<Loaded>>,
    draining: AtomicBool,
}

/// What other parts of the node report when they are asked, on the control thread.
pub trait Reports: Send + Sync {
    /// The plugin servers, in the order of the configuration.
    fn plugin_servers(&self) -> Vec<PluginServer>;

    /// Writes the families of `/metrics`.
    fn metrics(&self, exposition: &mut Exposition);
}

/// A plugin server as `/status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginServer {
    pub name: String,
    /// Whether events can run.
    pub ready: bool,
    pub description: serde_json::Value,
}

/// Of a node that nobody reports on.
struct NoReports;

impl Reports for NoReports {
    fn plugin_servers(&self) -> Vec<PluginServer> {
        Vec::new()
    }

    fn metrics(&self, _exposition: &mut Exposition) {}
}

/// What the node works with at the moment.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Arc<Settings>,
    /// The plugins that may be configured.
    pub catalogue: Arc<Catalogue>,
    /// `None` until the first configuration serves.
    pub configured: Option<Configured>,
}

/// What the APIs tell of the declarative configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// `configuration_hash`
    pub hash: String,
    /// Whether it holds no entity at all.
    pub empty: bool,
    /// The names of the plugins it configures, each once.
    pub plugins: Vec<String>,
}

/// What Kong calls the hash of an empty configuration.
const EMPTY_HASH: &str = "00000000000000000000000000000000";

impl Configured {
    pub fn of(snapshot: &Snapshot) -> Self {
        let empty = snapshot.services.is_empty()
            && snapshot.routes.is_empty()
            && snapshot.plugins.is_empty()
            && snapshot.upstreams.is_empty()
            && snapshot.certificates.is_empty()
            && snapshot.ca_certificates.is_empty()
            && snapshot.directory.consumers().next().is_none();
        let mut plugins: Vec<String> = Vec::new();
        for plugin in &snapshot.plugins {
            if !plugins.contains(&plugin.name) {
                plugins.push(plugin.name.clone());
            }
        }
        let hash = if empty { EMPTY_HASH.to_owned() } else { snapshot.hash.clone() };
        Self { hash, empty, plugins }
    }
}

/// Connection and request counts, as nginx keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub connections_active: u64,
    pub connections_reading: u64,
    pub connections_writing: u64,
    pub connections_waiting: u64,
    pub connections_accepted: u64,
    pub connections_handled: u64,
    pub total_requests: u64,
}

/// What `/status/ready` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// The first configuration is not built yet.
    Building,
    /// There is a configuration, with nothing in it.
    Empty,
    Draining,
}

impl Node {
    pub fn new(
        id: String,
        hostname: String,
        loaded: Loaded,
        statistics: impl Fn() -> Statistics + Send + Sync + 'static,
    ) -> Self {
        Self {
            id,
            hostname,
            statistics: Box::new(statistics),
            upstreams: OnceLock::new(),
            reports: Box::new(NoReports),
            loaded: RwLock::new(Arc::new(loaded)),
            draining: AtomicBool::new(false),
        }
    }

    /// Sets what answers for the health of upstreams. Only the first counts.
    pub fn set_upstreams(&self, upstreams: impl Upstreams + 'static) {
        let _ = self.upstreams.set(Box::new(upstreams));
    }

    pub(crate) fn upstreams(&self) -> Option<&dyn Upstreams> {
        self.upstreams.get().map(AsRef::as_ref)
    }

    /// As it is, with what others report.
    pub fn with_reports(mut self, reports: impl Reports + 'static) -> Self {
        self.reports = Box::new(reports);
        self
    }

    pub fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of a configuration that now serves.
    pub fn set_loaded(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    /// From now on `/status/ready` answers 503. There is no way back, as in Kong.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::Draining;
        }
        match &self.loaded().configured {
            None => Readiness::Building,
            Some(configured) if configured.empty => Readiness::Empty,
            Some(_) => Readiness::Ready,
        }
    }

    pub(crate) fn reports(&self) -> &dyn Reports {
        self.reports.as_ref()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        (self.statistics)()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

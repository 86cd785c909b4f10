//! The servers of one configuration, and the change from one to the next: new servers start beside the old ones, take
//! over when they are ready, or are taken back.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Map, Value as Json};
use silverback_config::settings::PluginServer;

use crate::{
    Host, Instance, Offer, ServerStatus,
    server::{Server, Stop},
    start::warm,
};

/// How long those who hold an instance of a server may use it when another one has taken its place. After that they are
/// led to the other.
const RETIREMENT: Duration = Duration::from_secs(60);

/// The servers of one configuration.
#[derive(Clone, Default)]
pub struct Fleet(pub(crate) Arc<[Arc<Server>]>);

impl Fleet {
    /// The instance of a plugin with a configuration: the same one for the same configuration, whoever asks.
    /// `config` is what the plugin gets, ids and all, but without `__seq__`.
    ///
    /// `None`: there is no server of that name.
    pub fn instance(&self, server: &str, plugin: &str, config: Map<String, Json>) -> Option<Arc<Instance>> {
        Some(self.server(server)?.instance(plugin, config))
    }

    /// What an operator wants to know, in the order of `pluginserver_names`.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.0.iter().map(|server| server.status()).collect()
    }

    /// Whether a server of that name runs, and goes on running: one whose processes have ended for good must be started
    /// anew.
    pub fn lives(&self, name: &str) -> bool {
        self.server(name).is_some_and(|server| !server.has_dead_seat())
    }

    fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.0.iter().find(|server| server.name() == name)
    }
}

/// Servers that do not come up, or not as they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the new process of plugin server {server} does not come up: {reason}")]
    NotUp { server: String, reason: String },
    #[error("the new process of plugin server {server} refuses what the old one takes: {reason}")]
    Refused { server: String, reason: String },
}

/// A change of servers that is under way: those that are new run beside the old ones, and get no events. If it is
/// dropped, they are ended, and nothing has changed.
pub struct Change {
    host: Arc<Host>,
    fleet: Fleet,
    /// New servers, each with the one whose place it takes.
    new: Vec<(Arc<Server>, Option<Arc<Server>>)>,
    done: bool,
}

impl Host {
    /// Begins a change to the servers that `configured` and `offers` name. Those of which `stays` says so keep their
    /// processes, if they live; of others, new ones are started, and waited for.
    ///
    /// # Errors
    /// All new servers that did not come up.
    pub async fn change(
        self: &Arc<Self>,
        configured: &[PluginServer],
        main_env: &[String],
        offers: &[Offer],
        stays: impl Fn(&str) -> bool,
    ) -> Result<Change, Vec<ChangeError>> {
        let old = self.fleet();
        let mut new = Vec::new();
        let mut servers = Vec::new();
        for offer in offers {
            let Some(settings) = configured.iter().find(|settings| settings.name == offer.server) else { continue };
            let before = old.server(&offer.server);
            match before.filter(|server| stays(&offer.server) && !server.has_dead_seat()) {
                Some(server) => servers.push(Arc::clone(server)),
                None => {
                    let server = self.add(settings, main_env, offer, true);
                    servers.push(Arc::clone(&server));
                    new.push((server, before.cloned()));
                }
            }
        }
        let change = Change { host: Arc::clone(self), fleet: Fleet(servers.into()), new, done: false };
        let mut errors = Vec::new();
        for server in change.tried() {
            if let Err(reason) = server.came_up().await {
                errors.push(not_up(server, reason));
            }
        }
        if errors.is_empty() { Ok(change) } else { Err(errors) }
    }
}

impl Change {
    /// The servers as they are to be.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Names of the servers that are new, or take the place of others.
    pub fn new_servers(&self) -> impl Iterator<Item = &str> {
        self.new.iter().map(|(server, _)| server.name())
    }

    /// New servers whose processes are ours: one that is managed elsewhere comes when it comes.
    fn tried(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.new.iter().map(|(server, _)| server).filter(|server| server.managed)
    }

    /// Whether all processes that came up are still there: to be asked right before [`Change::make`].
    ///
    /// # Errors
    /// All servers of which one has ended: the change should not be made.
    pub fn check(&self) -> Result<(), Vec<ChangeError>> {
        let mut errors = Vec::new();
        for server in self.tried() {
            match server.is_up() {
                Ok(true) => {}
                Ok(false) => errors.push(not_up(server, "its process is not ready any more".to_owned())),
                Err(reason) => errors.push(not_up(server, reason)),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Starts, in the new servers, the instances that their predecessors run; they must have been asked for.
    ///
    /// # Errors
    /// All servers that refuse one, or else all of which a process has ended: the change should not be made.
    pub async fn warm(&self) -> Result<(), Vec<ChangeError>> {
        let mut errors = Vec::new();
        for (server, old) in &self.new {
            let Some(old) = old else { continue };
            let used = old.instances();
            let epochs: Vec<u64> = old.lives().iter().map(|life| life.epoch).collect();
            let mut by_plugin: HashMap<&str, Vec<&Arc<Instance>>> = HashMap::new();
            for instance in &used {
                if epochs.iter().any(|epoch| instance.running(*epoch).is_some()) {
                    by_plugin.entry(instance.plugin()).or_default().push(instance);
                }
            }
            let in_use = |instance: &Instance| {
                let others = by_plugin.get(instance.plugin());
                others.is_some_and(|others| others.iter().any(|other| other.is_same_entity(instance)))
            };
            for life in server.lives().iter() {
                if let Err(reason) = warm(server, life, in_use).await {
                    errors.push(ChangeError::Refused { server: server.name().to_owned(), reason });
                    break;
                }
            }
        }
        if errors.is_empty() { self.check() } else { Err(errors) }
    }

    /// Makes the change. From now on, the old servers end as soon as nobody holds one of their instances.
    pub fn make(mut self) {
        self.done = true;
        let old = self.host.replace_fleet(self.fleet.clone());
        for (server, old) in &self.new {
            server.on_trial.store(false, Ordering::Relaxed);
            let restarts = old.as_ref().map_or(0, |old| old.restarts.load(Ordering::Relaxed));
            server.restarts.fetch_add(restarts, Ordering::Relaxed);
        }
        for server in old.0.iter() {
            let stays = self.fleet.0.iter().any(|other| Arc::ptr_eq(other, server));
            if !stays {
                server.set_successor(self.fleet.server(server.name()).cloned());
                server.stop(Stop::Drained(RETIREMENT));
            }
        }
    }
}

fn not_up(server: &Server, reason: String) -> ChangeError {
    ChangeError::NotUp { server: server.name().to_owned(), reason }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.done {
            for (server, _) in &self.new {
                server.stop(Stop::Now(server.settings.process.shutdown_grace));
            }
        }
    }
}

//! The host: all plugin servers of a node.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde_json::{Map, Value as Json};
use silverback_config::{Settings, settings::PluginServer};
use silverback_log::Level;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::{
    Deadlines, Instance, Offer, ServerStatus,
    instance::{StartResult, integral_numbers},
    repair::Repair,
    server::Server,
    start, supervisor,
};

/// All plugin servers of a node.
pub struct Host {
    servers: Vec<Arc<Server>>,
    supervisors: Mutex<Vec<JoinHandle<()>>>,
    /// By server, plugin and configuration.
    instances: Mutex<HashMap<(String, String, String), Weak<Instance>>>,
    starts: mpsc::UnboundedSender<start::Wanted>,
}

impl Host {
    /// Starts the supervisors of all servers on the current runtime. Its thread must live as long as the process does:
    /// the servers' processes die with it.
    pub fn start(settings: &Settings, offers: &[Offer]) -> Arc<Self> {
        let repair = settings.plugin_servers.iter().any(|server| server.events.repair && server.start_cmd.is_some());
        let repair = repair.then(|| settings.prefix.join("repair"));
        Self::start_with(&settings.plugin_servers, &settings.main_env, offers, Deadlines::of, repair.as_deref())
    }

    /// As [`Host::start`], with deadlines and a directory for the repair modules of one's own.
    pub fn start_with(
        configured: &[PluginServer],
        main_env: &[String],
        offers: &[Offer],
        deadlines: impl Fn(&PluginServer) -> Deadlines,
        repair: Option<&Path>,
    ) -> Arc<Self> {
        let repair = repair.and_then(|directory| {
            Repair::write(directory)
                .inspect_err(|error| {
                    let directory = directory.display();
                    let message = format_args!("plugin servers run without repair: {directory}: {error}");
                    silverback_log::write(Level::Error, message, None);
                })
                .ok()
        });
        let mut servers = Vec::new();
        let mut supervisors = Vec::new();
        for offer in offers {
            let Some(config) = configured.iter().find(|server| server.name == offer.server) else { continue };
            let plugins = offer.plugins.iter().map(|plugin| plugin.name.clone()).collect();
            let (server, orders) = Server::new(
                config.name.clone(),
                offer.protocol,
                config.socket.clone(),
                plugins,
                config.start_cmd.is_some(),
                deadlines(config),
                config.events.clone(),
            );
            let server = Arc::new(server);
            let start_cmd = config.start_cmd.clone();
            let repair = repair.clone().filter(|_| config.events.repair);
            supervisors.push(supervisor::spawn(Arc::clone(&server), orders, start_cmd, main_env.to_vec(), repair));
            servers.push(server);
        }
        // an instance is in this channel once at most
        let (starts, requests) = mpsc::unbounded_channel();
        tokio::spawn(start::serve(requests));
        Arc::new(Self { servers, supervisors: Mutex::new(supervisors), instances: Mutex::default(), starts })
    }

    /// The instance of a plugin with a configuration: the same one for the same configuration, whoever asks.
    /// `config` is what the plugin gets, ids and all, but without `__seq__`.
    ///
    /// `None`: there is no server of that name.
    pub fn instance(&self, server: &str, plugin: &str, config: Map<String, Json>) -> Option<Arc<Instance>> {
        let server = self.servers.iter().find(|candidate| candidate.name == server)?;
        let mut config = Json::Object(config);
        integral_numbers(&mut config);
        let key = (server.name.clone(), plugin.to_owned(), config.to_string());
        let Json::Object(config) = config else { return None };
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instance) = instances.get(&key).and_then(Weak::upgrade) {
            return Some(instance);
        }
        if instances.len() == instances.capacity() {
            instances.retain(|_, instance| instance.strong_count() > 0);
        }
        let instance = Arc::new(Instance::new(Arc::clone(server), plugin.to_owned(), config));
        instances.insert(key, Arc::downgrade(&instance));
        Some(instance)
    }

    /// Ends all processes: asks them to, waits for at most `grace`, then kills them.
    pub async fn stop(&self, grace: Duration) {
        for server in &self.servers {
            server.stop(grace);
        }
        let supervisors = std::mem::take(&mut *self.supervisors.lock().unwrap_or_else(PoisonError::into_inner));
        for supervisor in supervisors {
            // killed processes end at once: this bounds what cannot be killed
            let _ = timeout(grace + Duration::from_secs(2), supervisor).await;
        }
    }

    /// What an operator wants to know, in the order of `pluginserver_names`.
    pub fn status(&self) -> Vec<ServerStatus> {
        let instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        let instances: Vec<_> = instances.values().filter_map(Weak::upgrade).collect();
        let status = |server: &Arc<Server>| {
            let of_it = instances.iter().filter(|instance| Arc::ptr_eq(&instance.server, server));
            let breaker = of_it.map(|instance| instance.breaker_state()).chain([server.unready.state()]).max();
            ServerStatus { breaker: breaker.unwrap_or_default(), ..server.status() }
        };
        self.servers.iter().map(status).collect()
    }

    /// The instance's number in the server's process; started if it is not.
    pub(crate) async fn running(&self, instance: &Arc<Instance>) -> StartResult {
        if let Some(started) = instance.running() {
            return Ok(started);
        }
        let (result, first) = instance.join();
        if first {
            // if the control thread is gone, dropping it tells all who wait
            let _ = self.starts.send(start::Wanted::new(Arc::clone(instance)));
        }
        result.await.unwrap_or_else(|_| {
            Err(crate::instance::StartFailure {
                kind: crate::FailureKind::Unavailable,
                message: "the gateway is stopping".to_owned(),
            })
        })
    }
}

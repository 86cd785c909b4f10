//! The host: all plugin servers of a node.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value as Json};
use silverback_config::{Settings, settings::PluginServer};
use silverback_log::Level;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::{
    Deadlines, EventMetrics, FailureKind, Fleet, Instance, Offer, ServerStatus, elsewhere,
    instance::{NotStarted, StartResult},
    life::Life,
    metrics,
    repair::Repair,
    server::{Server, Stop},
    socket::Address,
    start,
    supervisor::{self, Launch},
};

/// How long what cannot be killed is waited for when the host stops.
const LAST_WAIT: Duration = Duration::from_secs(4);

/// All plugin servers of a node.
pub struct Host {
    /// Those in force.
    fleet: ArcSwap<Fleet>,
    deadlines: Box<dyn Fn(&PluginServer) -> Deadlines + Send + Sync>,
    /// The tasks that watch servers: also those that are new or that end.
    supervisors: Mutex<Vec<(Arc<Server>, JoinHandle<()>)>>,
    /// What is known of the socket files, by configured path.
    addresses: Mutex<HashMap<PathBuf, Arc<Address>>>,
    /// Where the repair modules go; `None`: nowhere.
    repair: Option<PathBuf>,
    /// They are written when the first server wants them.
    repaired: OnceLock<Option<Repair>>,
    starts: mpsc::UnboundedSender<start::Wanted>,
    metrics: Arc<metrics::Registry>,
}

impl Host {
    /// Starts the supervisors of all servers on the current runtime. Its thread must live as long as the process does:
    /// the servers' processes die with it.
    pub fn start(settings: &Settings, offers: &[Offer]) -> Arc<Self> {
        let repair = settings.prefix.join("repair");
        Self::start_with(&settings.plugin_servers, &settings.main_env, offers, Deadlines::of, Some(repair))
    }

    /// As [`Host::start`], with deadlines and a directory for the repair modules of one's own.
    pub fn start_with(
        configured: &[PluginServer],
        main_env: &[String],
        offers: &[Offer],
        deadlines: impl Fn(&PluginServer) -> Deadlines + Send + Sync + 'static,
        repair: Option<PathBuf>,
    ) -> Arc<Self> {
        // an instance is in this channel once for each process at most
        let (starts, requests) = mpsc::unbounded_channel();
        tokio::spawn(start::serve(requests));
        let host = Arc::new(Self {
            fleet: ArcSwap::default(),
            deadlines: Box::new(deadlines),
            supervisors: Mutex::default(),
            addresses: Mutex::default(),
            repair,
            repaired: OnceLock::new(),
            starts,
            metrics: Arc::default(),
        });
        let servers = offers.iter().filter_map(|offer| {
            let settings = configured.iter().find(|settings| settings.name == offer.server)?;
            Some(host.add(settings, main_env, offer, false))
        });
        let fleet = Fleet(servers.collect());
        host.fleet.store(Arc::new(fleet));
        host
    }

    /// Starts a server. It gets events when it is in the fleet.
    pub(crate) fn add(
        &self,
        settings: &PluginServer,
        main_env: &[String],
        offer: &Offer,
        on_trial: bool,
    ) -> Arc<Server> {
        let server = Server::new(settings.clone(), offer, (self.deadlines)(settings), on_trial);
        let server = Arc::new(server.counted_in(&self.metrics));
        let tasks = match &settings.start_cmd {
            Some(line) => {
                let launch = Launch {
                    line: line.clone(),
                    main_env: main_env.to_vec(),
                    repair: settings.events.repair.then(|| self.repair()).flatten(),
                    address: self.address(&settings.socket),
                };
                supervisor::spawn(&server, launch)
            }
            None => vec![elsewhere::spawn(&server)],
        };
        let mut supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        supervisors.retain(|(_, task)| !task.is_finished());
        supervisors.extend(tasks.into_iter().map(|task| (Arc::clone(&server), task)));
        server
    }

    /// The modules that repair stock servers.
    fn repair(&self) -> Option<Repair> {
        let write = || {
            let directory = self.repair.as_deref()?;
            let failed = |error: &std::io::Error| {
                let directory = directory.display();
                let message = format_args!("plugin servers run without repair: {directory}: {error}");
                silverback_log::write(Level::Error, message, None);
            };
            Repair::write(directory).inspect_err(failed).ok()
        };
        self.repaired.get_or_init(write).clone()
    }

    /// Servers of one path, one after the other, share what is known of the files there.
    fn address(&self, path: &Path) -> Arc<Address> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = addresses.entry(path.to_owned()).or_insert_with(|| Arc::new(Address::new(path.to_owned())));
        Arc::clone(address)
    }

    /// The servers in force.
    pub fn fleet(&self) -> Fleet {
        Fleet::clone(&self.fleet.load())
    }

    pub(crate) fn replace_fleet(&self, fleet: Fleet) -> Fleet {
        Fleet::clone(&self.fleet.swap(Arc::new(fleet)))
    }

    /// [`Fleet::instance`] of the servers in force.
    pub fn instance(&self, server: &str, plugin: &str, config: Map<String, Json>) -> Option<Arc<Instance>> {
        self.fleet.load().instance(server, plugin, config)
    }

    /// Ends all processes: asks them to, and kills those that have not ended within their `shutdown_grace`.
    pub async fn stop(&self) {
        let supervisors = std::mem::take(&mut *self.supervisors.lock().unwrap_or_else(PoisonError::into_inner));
        let mut longest = Duration::ZERO;
        for (server, _) in &supervisors {
            let grace = server.settings.process.shutdown_grace;
            longest = longest.max(grace);
            server.stop(Stop::Now(grace));
        }
        let all = async {
            for (_, task) in supervisors {
                let _ = task.await; // one that panicked has ended
            }
        };
        // killed processes end at once: this bounds what cannot be killed
        let _ = timeout(longest + LAST_WAIT, all).await;
    }

    /// What an operator wants to know, in the order of `pluginserver_names`.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.fleet.load().status()
    }

    /// What events have come to since the start, by server, plugin and phase.
    pub fn metrics(&self) -> Vec<EventMetrics> {
        self.metrics.read()
    }

    /// What the instance is in a process; started if it is not.
    pub(crate) async fn running(&self, instance: &Arc<Instance>, life: &Arc<Life>) -> StartResult {
        if let Some(started) = instance.running(life.epoch) {
            return Ok(started);
        }
        let (result, first) = instance.join(life.epoch);
        if first {
            // if the control thread is gone, dropping it tells all who wait
            let _ = self.starts.send(start::Wanted::new(Arc::clone(instance), Arc::clone(life)));
        }
        result.await.unwrap_or_else(|_| {
            Err(NotStarted::Refused(FailureKind::Unavailable, "the gateway is stopping".to_owned()))
        })
    }
}

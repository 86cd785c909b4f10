//! Watches the files of plugin servers (`pluginserver_NAME_watch`), and the ways to tell whether they have changed.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use silverback_config::settings::PluginServer;
use silverback_plugin_host::Sources;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// How often files are looked at. A change counts when nothing more has changed at the next look: a file may be being
/// written.
const EVERY: Duration = Duration::from_secs(1);

/// The files of each server, by its name, as they were when it was started.
pub(super) type Files = HashMap<String, Sources>;

/// The files of servers as they are.
pub(super) async fn files(servers: &[PluginServer], prefix: &Path) -> Files {
    let (servers, prefix) = (servers.to_vec(), prefix.to_owned());
    let look = move || servers.iter().map(|server| (server.name.clone(), Sources::of(server, &prefix))).collect();
    spawn_blocking(look).await.unwrap_or_default() // without any, nothing is seen to change
}

/// Tells which servers' files have changed.
pub(super) struct Watcher {
    watched: watch::Sender<(Vec<PluginServer>, Files)>,
    changed: mpsc::Receiver<Vec<String>>,
}

impl Watcher {
    pub(super) fn spawn(prefix: PathBuf) -> (Self, JoinHandle<()>) {
        let (watched, receiver) = watch::channel(Default::default());
        let (sender, changed) = mpsc::channel(1);
        (Self { watched, changed }, tokio::spawn(look(receiver, sender, prefix)))
    }

    /// These servers run, with these files. Those that are to be watched are.
    pub(super) fn watch(&self, servers: &[PluginServer], files: &Files) {
        let watched = servers.iter().filter(|server| server.process.watch).cloned().collect();
        self.watched.send_replace((watched, files.clone()));
    }

    /// Waits until files have changed; the names of their servers.
    pub(super) async fn changed(&mut self) -> Vec<String> {
        match self.changed.recv().await {
            Some(names) => names,
            None => std::future::pending().await,
        }
    }
}

async fn look(
    watched: watch::Receiver<(Vec<PluginServer>, Files)>,
    changed: mpsc::Sender<Vec<String>>,
    prefix: PathBuf,
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Files::new();
    // what was told of already; a change that was refused is not told of again
    let mut told = Files::new();
    loop {
        ticks.tick().await;
        let (servers, started) = watched.borrow().clone();
        if servers.is_empty() {
            continue;
        }
        let now = files(&servers, &prefix).await;
        let names: Vec<String> = now
            .iter()
            .filter(|(name, files)| {
                let is = |other: &Files| other.get(*name) == Some(files);
                !is(&started) && is(&before) && !is(&told)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if !names.is_empty() && changed.try_send(names.clone()).is_ok() {
            told.extend(names.into_iter().filter_map(|name| Some((name.clone(), now.get(&name)?.clone()))));
        }
        before = now;
    }
}

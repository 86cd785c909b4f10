//! A new configuration, and new plugin servers, take the place of those in force.

use std::sync::Arc;

use silverback_admin::{Configured, Loaded};
use silverback_config::{Settings, advice, keep_what_needs_restart, settings::PluginServer};
use silverback_log::Level;
use silverback_plugin_host::{Change, Fleet};

use super::{
    Gateway, choose_debug_token,
    logs::{self, log},
    tell_debug_token,
    watcher::{self, Files},
};
use crate::{
    assemble::{self, AssembleError, Declared, Found},
    conf, plugin_dir, prefix,
};

/// What is to be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The configuration, and the plugin servers whose settings or files have changed.
    Configuration,
    /// The configuration, and all plugin servers.
    Everything,
    /// Plugin servers of these names, with the configuration that is in force.
    Servers(Vec<String>),
}

/// Plugin servers as they are to be.
struct Servers {
    found: Found,
    files: Files,
    /// `None`: they are those in force.
    change: Option<Change>,
}

impl Gateway {
    /// Gives what is worth telling about what is in force then.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub(super) async fn renew(&mut self, scope: &Scope) -> Result<Vec<String>, String> {
        let mut remarks = Vec::new();
        let (settings, declared, kept) = match scope {
            Scope::Servers(_) => (Arc::clone(&self.settings), self.declared.clone(), false),
            Scope::Configuration | Scope::Everything => {
                let loaded = conf::load_in_gateway(&self.settings.prefix).map_err(|error| error.to_string())?;
                for warning in &loaded.warnings {
                    log(Level::Warn, format_args!("{warning}"));
                }
                let mut settings = loaded.settings;
                let links = plugin_dir::links(&settings);
                remarks.extend(plugin_dir::include(&mut settings, &links).iter().map(ToString::to_string));
                let kept = keep_what_needs_restart(&self.settings, &mut settings);
                let told = |name: &&str| format!("{name} changed, which takes a restart: it stays as it was");
                remarks.extend(kept.iter().map(told));
                choose_debug_token(&mut settings);
                let declared = Declared::of(&settings).map_err(|error| error.to_string())?;
                (Arc::new(settings), declared, !kept.is_empty())
            }
        };
        let Servers { found, files, change } =
            self.servers(scope, &settings).await.map_err(|error| error.to_string())?;
        remarks.extend(found.warnings.iter().cloned());
        let fleet = change.as_ref().map_or_else(|| self.host.fleet(), |change| change.fleet().clone());
        let (generation, snapshot) = self.build(&settings, declared.clone(), &found, fleet).await?;
        if let Some(change) = &change {
            change.warm().await.map_err(|errors| AssembleError::Servers(errors).to_string())?;
        }
        // No await from here on: what ends later is started again as any other server.
        if let Some(change) = &change {
            change.check().map_err(|errors| AssembleError::Servers(errors).to_string())?;
        }
        logs::direct(&settings).map_err(|error| format!("cannot open the error log: {error}"))?;
        if kept && let Err(error) = prefix::write_environment(&settings) {
            remarks.push(format!(".kong_env does not tell what is in force: {error}"));
        }
        remarks.extend(advice(&snapshot, &found.catalogue));
        // Requests that have begun keep the servers that they began with; those end when nobody needs them any more.
        self.proxy.publish(generation).await;
        if !matches!(scope, Scope::Servers(_)) {
            tell_debug_token(&settings);
        }
        if let Some(change) = change {
            let names: Vec<_> = change.new_servers().map(str::to_owned).collect();
            change.make();
            if !names.is_empty() {
                log(Level::Notice, format_args!("plugin servers started anew: {}", names.join(", ")));
            }
        }
        self.watcher.watch(&settings.plugin_servers, &files);
        self.node.set_loaded(Loaded {
            settings: Arc::clone(&settings),
            catalogue: Arc::clone(&found.catalogue),
            configured: Some(Configured::of(&snapshot)),
        });
        self.settings = settings;
        self.declared = declared;
        self.found = found;
        self.files = files;
        Ok(remarks)
    }

    /// Asks servers that have changed what they offer, and starts them beside those that run.
    async fn servers(&self, scope: &Scope, settings: &Settings) -> Result<Servers, AssembleError> {
        // before they are asked: what changes later is seen as a change
        let files = watcher::files(&settings.plugin_servers, &settings.prefix).await;
        let fleet = self.host.fleet();
        let stays = |server: &PluginServer| {
            let named = match scope {
                Scope::Configuration => false,
                Scope::Everything => true,
                Scope::Servers(names) => names.contains(&server.name),
            };
            !named
                && fleet.lives(&server.name)
                // a file of plugin_dir that did not answer is asked again
                && self.found.offers.iter().any(|offer| offer.server == server.name)
                && self.settings.plugin_servers.contains(server)
                && self.settings.main_env == settings.main_env
                // a watcher tells of its servers one by one
                && (matches!(scope, Scope::Servers(_)) || self.files.get(&server.name) == files.get(&server.name))
        };
        let staying: Vec<&str> =
            settings.plugin_servers.iter().filter(|server| stays(server)).map(|server| server.name.as_str()).collect();
        let known = self.found.offers.iter().filter(|offer| staying.contains(&offer.server.as_str())).cloned();
        let found = assemble::find_plugins_anew(settings, known.collect()).await?;
        let same =
            staying.len() == settings.plugin_servers.len() && self.settings.plugin_servers.len() == staying.len();
        let mut files = files;
        if matches!(scope, Scope::Servers(_)) {
            // those that stay were started with the files that they had then
            files.extend(
                staying.iter().filter_map(|name| self.files.get_key_value(*name)).map(|(k, v)| (k.clone(), v.clone())),
            );
        }
        if same {
            return Ok(Servers { found, files, change: None });
        }
        let change = self
            .host
            .change(&settings.plugin_servers, &settings.main_env, &found.offers, |name| staying.contains(&name))
            .await
            .map_err(AssembleError::Servers)?;
        Ok(Servers { found, files, change: Some(change) })
    }

    /// Building takes long when there are many routes, and the supervisors must not wait for it.
    async fn build(
        &self,
        settings: &Arc<Settings>,
        declared: Option<Declared>,
        found: &Found,
        fleet: Fleet,
    ) -> Result<(silverback_proxy::Generation, silverback_model::Snapshot), String> {
        let (settings, found) = (Arc::clone(settings), found.clone());
        let registries = Arc::clone(&self.registries);
        let build = move || assemble::generation(&settings, declared.as_ref(), &found, &registries, &fleet);
        let built = tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?;
        built.map_err(|error| error.to_string())
    }
}

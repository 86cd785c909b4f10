//! The running gateway: one control thread, this one, that starts the parts, obeys signals, and ends them in order.

mod logs;
mod renewal;
mod signals;
pub(crate) mod verdict;
mod watcher;

use std::{fs, io, process::ExitCode, sync::Arc};

use nix::unistd::{geteuid, gethostname};
use silverback_admin::{Configured, Loaded, Node, Statistics};
use silverback_config::{Settings, advice, settings::ListenAddress};
use silverback_log::Level;
use silverback_plugin_host::Host;
use silverback_proxy::{Counters, Proxy, Registries};
use thiserror::Error;
use tokio::task::JoinHandle;

use self::{
    logs::log,
    renewal::Scope,
    signals::{Ending, Order, Signals},
    verdict::Verdict,
    watcher::{Files, Watcher},
};
use crate::{
    assemble::{self, AssembleError, Declared, Found},
    console::Console,
    daemon::Report,
    pidfile::PidFile,
    plugin_dir,
    prefix::{self, PrefixError},
    privileges::{self, Account, PrivilegeError},
    reaper,
    reports::{BalancerReports, NodeReports},
    summary,
};

/// Why a gateway did not start.
#[derive(Debug, Error)]
enum StartError {
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot open the error log: {0}")]
    Log(io::Error),
    #[error("Kong is already running in {0}")]
    AlreadyRunning(String),
    #[error("cannot write the pid file: {0}")]
    PidFile(io::Error),
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(transparent)]
    Api(#[from] silverback_admin::BindError),
    #[error("cannot serve the Admin and Status APIs: {0}")]
    ApiLog(io::Error),
    #[error(transparent)]
    Bind(#[from] silverback_proxy::BindError),
    #[error("cannot start the workers: {0}")]
    Workers(io::Error),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error("stopped by {0} while starting")]
    Interrupted(&'static str),
}

/// Runs a gateway to its end. The process has one thread when this is called; the prefix is prepared.
pub(crate) fn run(settings: Settings, mut report: Report, console: Console) -> ExitCode {
    let status = match serve(settings, &mut report, console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(Level::Emerg, format_args!("cannot start: {error}"));
            report.failed(&error.to_string());
            ExitCode::FAILURE
        }
    };
    silverback_log::flush();
    status
}

fn serve(mut settings: Settings, report: &mut Report, console: Console) -> Result<(), StartError> {
    choose_debug_token(&mut settings);
    let links = plugin_dir::links(&settings);
    let findings = plugin_dir::include(&mut settings, &links);
    let settings = Arc::new(settings);
    logs::direct(&settings).map_err(StartError::Log)?;
    logs::log_panics();
    for finding in &findings {
        log(Level::Warn, format_args!("{finding}"));
        console.warn(finding);
    }
    if let Err(error) = reaper::become_subreaper() {
        log(Level::Warn, format_args!("cannot adopt orphaned processes: {error}"));
    }
    match privileges::raise_descriptor_limit(settings.rlimit_nofile) {
        Ok(limit) if limit < 4096 => {
            log(
                Level::Warn,
                format_args!("the limit of open files is {limit}; at least 4096 is advisable (ulimit -n)"),
            );
        }
        Ok(_) => {}
        Err(error) => log(Level::Warn, format_args!("cannot raise the limit of open files: {error}")),
    }
    let _pid_file = PidFile::create(&settings.prefix).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::AlreadyRunning(settings.prefix.display().to_string()),
        _ => StartError::PidFile(error),
    })?;
    tell_debug_token(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(StartError::Runtime)?;
        let mut gateway = tokio::select! {
            started = Gateway::start(Arc::clone(&settings), console) => started?,
            name = signals.stopped() => return Err(StartError::Interrupted(name)),
        };
        // Whoever was told that it runs finds in the log what was started.
        silverback_log::flush();
        report.started(logs::go_to_stderr(&settings));
        gateway.obey(&mut signals).await;
        gateway.end().await;
        Ok(())
    });
    // Tasks that are left do not keep the process.
    runtime.shutdown_background();
    ended
}

/// The parts of a running gateway.
struct Gateway {
    settings: Arc<Settings>,
    declared: Option<Declared>,
    found: Found,
    /// The files of the plugin servers, as they were when those were started.
    files: Files,
    watcher: Watcher,
    node: Arc<Node>,
    host: Arc<Host>,
    registries: Arc<Registries>,
    proxy: Proxy,
    /// Tasks of the control thread, ended with it.
    tasks: Vec<JoinHandle<()>>,
}

impl Gateway {
    async fn start(settings: Arc<Settings>, console: Console) -> Result<Self, StartError> {
        let node_id = prefix::node_id(&settings.prefix)?.to_string();
        let account = Account::of(&settings)?;
        let api_listeners = silverback_admin::bind(&settings)?;
        let declared = Declared::of(&settings)?;
        let files = watcher::files(&settings.plugin_servers, &settings.prefix).await;
        let found = assemble::find_plugins(&settings).await?;
        for warning in &found.warnings {
            log(Level::Warn, format_args!("{warning}"));
            console.warn(warning);
        }

        // No await from here on until privileges are dropped: the processes of the host start with its first poll.
        let host = Host::start(&settings, &found.offers);
        let registries = Arc::new(Registries::new(Arc::clone(&host), node_id.clone(), &settings.dns));
        let (generation, snapshot) =
            assemble::generation(&settings, declared.as_ref(), &found, &registries, &host.fleet())?;
        for remark in advice(&snapshot, &found.catalogue) {
            log(Level::Warn, format_args!("{remark}"));
            console.warn(remark);
        }
        let mut proxy = Proxy::bind(&settings, generation, &registries)?;
        match account {
            Some(account) => account.assume()?,
            None if geteuid().is_root() && settings.user.is_none() => log(
                Level::Warn,
                format_args!("running as root, and so do plugin servers: nginx_user names no other user that exists"),
            ),
            None => {}
        }

        let counters = proxy.counter_source();
        let loaded = Loaded {
            settings: Arc::clone(&settings),
            catalogue: Arc::clone(&found.catalogue),
            configured: Some(Configured::of(&snapshot)),
        };
        let reports = NodeReports::new(node_id.clone(), Arc::clone(&host), &proxy);
        let node = Node::new(node_id, hostname(), loaded, move || statistics(counters()));
        let node = Arc::new(node.with_reports(reports));
        node.set_upstreams(BalancerReports(proxy.upstream_health()));
        let mut tasks = silverback_admin::spawn(api_listeners, &node).map_err(StartError::ApiLog)?;
        tasks.push(tokio::spawn(reaper::reap_orphans()));
        let (watcher, task) = Watcher::spawn(settings.prefix.clone());
        tasks.push(task);
        watcher.watch(&settings.plugin_servers, &files);
        proxy.run().map_err(StartError::Workers)?;
        for line in summary::lines(&settings, &found.catalogue, &found.offers) {
            log(Level::Notice, format_args!("{line}"));
            console.info(line);
        }
        Ok(Self { settings, declared, found, files, watcher, node, host, registries, proxy, tasks })
    }

    /// Obeys signals until one of them ends the gateway.
    async fn obey(&mut self, signals: &mut Signals) {
        loop {
            let order = tokio::select! {
                order = signals.next() => order,
                names = self.watcher.changed() => Order::Renew(names),
            };
            match order {
                Order::End(ending) => {
                    self.obey_ending(ending, "", signals).await;
                    return;
                }
                // A change that is cut short is not made.
                Order::Reload => {
                    let before = Arc::clone(&self.settings);
                    let ending = tokio::select! {
                        () = self.reload() => continue,
                        ending = signals.ending() => ending,
                    };
                    if Arc::ptr_eq(&before, &self.settings) {
                        let why = "the gateway was told to stop".to_owned();
                        verdict::write(&self.settings.prefix, &Verdict::Refused(why));
                    }
                    self.obey_ending(ending, " while reloading", signals).await;
                    return;
                }
                Order::Renew(names) => {
                    let ending = tokio::select! {
                        () = self.renew_servers(names) => continue,
                        ending = signals.ending() => ending,
                    };
                    self.obey_ending(ending, "", signals).await;
                    return;
                }
                Order::ReopenLogs => {
                    log(Level::Notice, format_args!("SIGUSR1 received, reopening logs"));
                    silverback_log::reopen();
                }
                Order::Ignore(name) => log(Level::Notice, format_args!("{name} received, it has no meaning here")),
            }
        }
    }

    async fn obey_ending(&mut self, ending: Ending, when: &str, signals: &mut Signals) {
        match ending {
            Ending::Stop(name) => log(Level::Notice, format_args!("{name} received{when}, stopping at once")),
            Ending::Quit => {
                log(Level::Notice, format_args!("SIGQUIT received{when}, finishing the requests under way"));
                self.drain(signals).await;
            }
        }
    }

    async fn drain(&mut self, signals: &mut Signals) {
        self.node.set_draining();
        let limit = self.settings.shutdown_timeout;
        tokio::select! {
            complete = self.proxy.drain(limit) => {
                if !complete {
                    log(Level::Warn, format_args!("requests were cut off at the end of the shutdown timeout"));
                }
            }
            name = signals.stopped() => {
                log(Level::Notice, format_args!("{name} received, stopping at once"));
            }
        }
    }

    /// Reads `.kong_env` and the declarative configuration again. What is wrong is logged, and nothing changes.
    async fn reload(&mut self) {
        log(Level::Notice, format_args!("SIGHUP received, reloading"));
        let scope = if verdict::take_request(&self.settings.prefix) { Scope::Everything } else { Scope::Configuration };
        let verdict = match self.renew(&scope).await {
            Ok(remarks) => {
                for remark in &remarks {
                    log(Level::Warn, format_args!("{remark}"));
                }
                log(Level::Notice, format_args!("reloaded"));
                Verdict::Accepted(remarks)
            }
            Err(message) => {
                log(Level::Error, format_args!("the configuration was not reloaded, the old one stays: {message}"));
                Verdict::Refused(message)
            }
        };
        // Whoever reads the verdict finds in the log what it says.
        let _ = tokio::task::spawn_blocking(silverback_log::flush).await;
        verdict::write(&self.settings.prefix, &verdict);
    }

    /// Starts plugin servers anew whose files have changed.
    async fn renew_servers(&mut self, names: Vec<String>) {
        let list = names.join(", ");
        log(Level::Notice, format_args!("the files of plugin servers have changed, starting them anew: {list}"));
        match self.renew(&Scope::Servers(names)).await {
            Ok(remarks) => remarks.iter().for_each(|remark| log(Level::Warn, format_args!("{remark}"))),
            Err(message) => {
                log(Level::Error, format_args!("plugin servers were not started anew, the old ones stay: {message}"));
            }
        }
    }

    /// Ends what is left: APIs first, plugin servers last.
    async fn end(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.proxy);
        self.host.stop().await;
        remove_sockets(&self.settings);
        log(Level::Notice, format_args!("exit"));
    }
}

/// Every start and reload has a token of its own, unless `request_debug_token` names one.
fn choose_debug_token(settings: &mut Settings) {
    if settings.debug.request && settings.debug.token.is_none() {
        settings.debug.token = Some(uuid::Uuid::new_v4().to_string());
    }
}

/// Leaves the token where Kong leaves it: in a file of the prefix, and in the log.
fn tell_debug_token(settings: &Settings) {
    let token = settings.debug.request_token();
    if let Err(error) = prefix::write_debug_token(&settings.prefix, token) {
        log(Level::Error, format_args!("the token for request debugging is in no file: {error}"));
    }
    if let Some(token) = token {
        log(Level::Notice, format_args!("[request-debug] token for request debugging: {token}"));
    }
}

/// Nobody listens on them any more: a client is to be refused, and not to find a file that promises something.
fn remove_sockets(settings: &Settings) {
    let listens = [&settings.proxy_listen, &settings.stream_listen, &settings.admin_listen, &settings.status_listen];
    for listen in listens.into_iter().flatten() {
        if let ListenAddress::Unix(path) = &listen.address {
            // It may be gone already, or not be ours to remove without the rights of root.
            let _ = fs::remove_file(path);
        }
    }
}

fn statistics(counters: Counters) -> Statistics {
    Statistics {
        connections_active: counters.connections_active,
        connections_accepted: counters.connections_accepted,
        connections_handled: counters.connections_accepted,
        total_requests: counters.requests,
        ..Statistics::default()
    }
}

fn hostname() -> String {
    gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

//! `start`, `restart` and `docker-start`

use std::{fs, process::ExitCode};

use super::{stop, warn_of_nginx_flags};
use crate::{
    cli::Start,
    conf::{self, Sources},
    console::Console,
    daemon::{self, Outcome, Report, Side},
    error::CommandError,
    gateway, init, pidfile, prefix,
};

pub(super) fn start(options: &Start, console: Console) -> Result<ExitCode, CommandError> {
    let sources = Sources::new(options.files.conf.as_deref(), options.files.prefix.as_deref());
    start_from(&sources, options, Place::AsConfigured, console)
}

/// Stops what runs, however that ends, and starts.
pub(super) fn restart(options: &Start, console: Console) -> Result<ExitCode, CommandError> {
    let prefix = conf::prefix(options.files.conf.as_deref(), options.files.prefix.as_deref())?;
    if let Err(error) = stop::stop_now(&prefix, console) {
        console.verbose(error);
    }
    start(options, console)
}

/// Starts in the foreground. A variable `KONG_X_FILE` names a file that holds the value of `KONG_X`, as the entrypoint
/// of Kong's container has it.
pub(super) fn docker_start(options: &Start, console: Console) -> Result<ExitCode, CommandError> {
    let mut sources = Sources::new(options.files.conf.as_deref(), options.files.prefix.as_deref());
    read_secret_files(&mut sources)?;
    start_from(&sources, options, Place::Foreground, console)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `nginx_daemon` decides.
    AsConfigured,
    Foreground,
}

fn start_from(sources: &Sources, options: &Start, place: Place, console: Console) -> Result<ExitCode, CommandError> {
    warn_of_nginx_flags(&options.files, console);
    if options.run_migrations {
        console.verbose("--run-migrations has no effect: there is no database");
    }
    let settings = conf::load_from(sources, console)?;
    if pidfile::running(&settings.prefix).is_some() {
        return Err(CommandError::AlreadyRunning(settings.prefix));
    }
    prefix::prepare(&settings, console).map_err(|error| CommandError::Start(error.to_string()))?;
    if place == Place::Foreground || !settings.daemon {
        init::become_init_if_first().map_err(CommandError::io("cannot fork"))?;
        return Ok(gateway::run(settings, Report::to_console(console), console));
    }
    match daemon::daemonise(console).map_err(CommandError::io("cannot fork"))? {
        Side::Child(report) => Ok(gateway::run(settings, report, console)),
        Side::Parent(Outcome::Failed(message)) => Err(CommandError::Start(message)),
        Side::Parent(Outcome::Started) => {
            console.info("Kong started");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read_secret_files(sources: &mut Sources) -> Result<(), CommandError> {
    for (name, path) in sources.environment.clone() {
        let Some(target) = name.strip_suffix("_FILE").filter(|target| target.starts_with("KONG_")) else { continue };
        // These are directives of nginx that end in `_file`.
        if target.starts_with("KONG_NGINX_") {
            continue;
        }
        if sources.environment.contains_key(target) {
            return Err(CommandError::Usage(format!("both {target} and {name} are set, but they exclude each other")));
        }
        let text = fs::read_to_string(&path).map_err(CommandError::io(format!("{name}: cannot read {path}")))?;
        sources.environment.remove(&name);
        sources.environment.insert(target.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(())
}

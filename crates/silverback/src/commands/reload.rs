//! `reload`

use std::{fs, path::Path, time::Duration};

use nix::sys::signal::Signal;

use super::{stop::send, wait_until, warn_of_nginx_flags};
use crate::{
    cli::Reload,
    conf,
    console::Console,
    error::CommandError,
    gateway::verdict::{self, Verdict},
    pidfile,
    prefix::{self, environment_file},
};

/// How long the gateway may take to start new plugin servers and to build its new configuration before the command stops
/// waiting for its verdict.
const VERDICT_LIMIT: Duration = Duration::from_secs(180);

/// Writes the new `.kong_env`, tells the gateway, and passes its verdict on. What the gateway refuses is undone.
pub(super) fn run(options: &Reload, console: Console) -> Result<(), CommandError> {
    warn_of_nginx_flags(&options.files, console);
    let (file, prefix) = (options.files.conf.as_deref(), options.files.prefix.as_deref());
    let prefix = conf::existing_prefix(file, prefix)?;
    if pidfile::running(&prefix).is_none() {
        return Err(CommandError::NotRunning(prefix));
    }
    let settings = conf::load_for_reload(file, &prefix, console)?;
    let running = conf::load_in_gateway(&prefix).ok().map(|loaded| loaded.settings);
    let before = fs::read(environment_file(&prefix)).ok();
    prefix::prepare_for_reload(&settings, running.as_ref(), console)
        .map_err(|source| CommandError::Prefix { prefix: prefix.clone(), source })?;
    verdict::forget(&prefix);
    if options.plugins {
        verdict::request_plugins(&prefix).map_err(CommandError::io("cannot ask for new plugin servers"))?;
    }
    send(&prefix, Signal::SIGHUP, console)?;
    let mut verdict = None;
    wait_until(VERDICT_LIMIT, || {
        verdict = verdict::read(&prefix);
        verdict.is_some() || pidfile::running(&prefix).is_none()
    });
    match verdict {
        Some(Verdict::Accepted(remarks)) => {
            remarks.iter().for_each(|remark| console.warn(remark));
            console.info("Kong reloaded");
        }
        Some(Verdict::Refused(message)) => {
            restore(&prefix, before, console);
            return Err(CommandError::ReloadRefused(message));
        }
        None if pidfile::running(&prefix).is_none() => return Err(CommandError::NotRunning(prefix)),
        None => console.warn("the gateway is still building its configuration; its error log will tell how it went"),
    }
    Ok(())
}

fn restore(prefix: &Path, before: Option<Vec<u8>>, console: Console) {
    let path = environment_file(prefix);
    if let Some(before) = before
        && let Err(error) = fs::write(&path, before)
    {
        console.warn(format_args!("cannot restore {}: {error}", path.display()));
    }
}

//! `stop` and `quit`

use std::{path::Path, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};

use super::{seconds, wait_until};
use crate::{
    cli::{Prefix, Quit},
    conf,
    console::Console,
    error::CommandError,
    pidfile,
};

/// How long a gateway that was told to stop at once may take, beside what its plugin servers may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(12);

pub(super) fn stop(options: &Prefix, console: Console) -> Result<(), CommandError> {
    let prefix = conf::existing_prefix(None, options.prefix.as_deref())?;
    stop_now(&prefix, console)?;
    console.info("Kong stopped");
    Ok(())
}

/// Sends SIGTERM and waits for the end.
pub(super) fn stop_now(prefix: &Path, console: Console) -> Result<(), CommandError> {
    let pid = send(prefix, Signal::SIGTERM, console)?;
    let servers = conf::load_in_gateway(prefix).map(|loaded| loaded.settings.plugin_servers).unwrap_or_default();
    let grace = servers.iter().map(|server| server.process.shutdown_grace).max().unwrap_or_default();
    if wait_until(STOP_LIMIT + grace, || !pidfile::is_alive(pid)) {
        return Ok(());
    }
    Err(CommandError::DoesNotEnd { prefix: prefix.to_path_buf(), pid: pid.as_raw() })
}

pub(super) fn quit(options: &Quit, console: Console) -> Result<(), CommandError> {
    let prefix = conf::existing_prefix(None, options.prefix.prefix.as_deref())?;
    let wait = seconds(options.wait);
    if !wait.is_zero() {
        console.verbose(format_args!("waiting {} seconds before quitting", options.wait));
        if pidfile::running(&prefix).is_some() && wait_until(wait, || pidfile::running(&prefix).is_none()) {
            console.error("Kong stopped while waiting (unexpected)");
            return Ok(());
        }
    }
    let pid = send(&prefix, Signal::SIGQUIT, console)?;
    console.verbose("waiting for the requests under way to finish");
    let limit = seconds(options.timeout).max(Duration::from_secs(1));
    if wait_until(limit, || !pidfile::is_alive(pid)) {
        console.info("Kong stopped (gracefully)");
        return Ok(());
    }
    console.verbose(format_args!("still running at {}, forcing the stop", prefix.display()));
    match stop_now(&prefix, console) {
        // It ended in the meantime.
        Ok(()) | Err(CommandError::NotRunning(_)) => {}
        Err(error) => return Err(error),
    }
    console.info("Timeout, Kong stopped forcefully");
    Ok(())
}

/// Signals the gateway of a prefix; its pid.
pub(super) fn send(prefix: &Path, signal: Signal, console: Console) -> Result<Pid, CommandError> {
    console.verbose(format_args!("sending {signal} to the gateway of {}", pidfile::path(prefix).display()));
    pidfile::signal(prefix, signal)
        .map_err(CommandError::Signal)?
        .ok_or_else(|| CommandError::NotRunning(prefix.to_path_buf()))
}

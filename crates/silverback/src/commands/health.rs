//! `health`

use crate::{cli::Prefix, conf, console::Console, error::CommandError, pidfile, prefix::environment_file};

pub(super) fn run(options: &Prefix, console: Console) -> Result<(), CommandError> {
    let prefix = conf::existing_prefix(None, options.prefix.as_deref())?;
    if !environment_file(&prefix).exists() {
        return Err(CommandError::NotHealthy(prefix));
    }
    let running = pidfile::running(&prefix).is_some();
    // Kong's words: scripts read them.
    console.info(format_args!("nginx.......{}", if running { "running" } else { "not running" }));
    console.info("");
    if !running {
        return Err(CommandError::NotHealthy(prefix));
    }
    console.info(format_args!("Kong is healthy at {}", prefix.display()));
    Ok(())
}

//! `drain`

use super::warn_of_nginx_flags;
use crate::{cli::Files, conf, console::Console, error::CommandError, status_client};

/// Asks the first status listener. As with Kong, what goes wrong is told, and is no failure of the command.
pub(super) fn run(files: &Files, console: Console) -> Result<(), CommandError> {
    warn_of_nginx_flags(files, console);
    let settings = conf::load_running(files.conf.as_deref(), files.prefix.as_deref(), console)?;
    let Some(listener) = settings.status_listen.first() else {
        console.info("No status listeners found in configuration.");
        return Ok(());
    };
    let url = status_client::url(listener, "/status/ready");
    match status_client::post(listener, "/status/ready", r#"{"status":"draining"}"#) {
        Ok(204) => console.info("Kong's status successfully changed to 'draining'"),
        Ok(status) => console.info(format_args!("Unexpected response status from {url}: {status}")),
        Err(error) => console.info(format_args!("Failed to send request to {url}: {error}")),
    }
    Ok(())
}

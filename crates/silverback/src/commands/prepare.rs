//! `prepare`

use super::warn_of_nginx_flags;
use crate::{cli::Files, conf, console::Console, error::CommandError, prefix};

pub(super) fn run(files: &Files, console: Console) -> Result<(), CommandError> {
    warn_of_nginx_flags(files, console);
    let settings = conf::load(files.conf.as_deref(), files.prefix.as_deref(), console)?;
    prefix::prepare(&settings, console)
        .map_err(|source| CommandError::Prefix { prefix: settings.prefix.clone(), source })
}

//! `vault`

use silverback_config::conf::dereference;

use crate::{
    cli::Vault,
    conf::{self, Sources},
    console::Console,
    error::CommandError,
};

pub(super) fn run(options: &Vault, console: Console) -> Result<(), CommandError> {
    if options.command != "get" {
        return Err(CommandError::Usage(format!("No such command for vault: {}", options.command)));
    }
    let Some(reference) = &options.reference else {
        return Err(CommandError::Usage(
            "the 'get' command needs a <reference> argument\nsilverback vault get <reference>".to_owned(),
        ));
    };
    let sources = Sources::new(options.files.conf.as_deref(), options.files.prefix.as_deref());
    let settings = conf::load_from(&sources, console)?;
    let reference = long_form(reference);
    let secret = dereference(&reference, settings.vault_env_prefix.as_deref(), &sources.environment)
        .unwrap_or_else(|| Err("not a valid reference; expected {vault://<vault>/<name>[/<key>]}".to_owned()))
        .map_err(|message| CommandError::Usage(format!("{reference}: {message}")))?;
    console.info(secret);
    Ok(())
}

/// `env/name` is short for `{vault://env/name}`.
fn long_form(reference: &str) -> String {
    if reference.starts_with("{vault://") { reference.to_owned() } else { format!("{{vault://{reference}}}") }
}

//! `check`

use crate::{
    cli::Check,
    conf::{self, Sources},
    console::Console,
    error::CommandError,
};

/// Every wrong value is a line of the error; what is accepted without effect is listed, first what changes behaviour.
pub(super) fn run(options: &Check, console: Console) -> Result<(), CommandError> {
    let loaded = conf::read(&Sources::new(Some(&options.conf), None))?;
    loaded.warnings.iter().for_each(|warning| console.warn(warning));
    let settings = loaded.settings;
    let lacking = settings.tls.unavailable.join(", ");
    if !lacking.is_empty() {
        console.warn(format_args!("not available in this gateway's TLS, and never offered: {lacking}"));
    }
    let (important, other): (Vec<_>, Vec<_>) = settings.ignored.iter().partition(|property| property.important);
    for (title, properties) in [
        ("ignored, though it changes behaviour in Kong:", important),
        ("accepted, without meaning in this gateway:", other),
    ] {
        if properties.is_empty() {
            continue;
        }
        console.info(title);
        for property in properties {
            let why = if property.why.is_empty() { String::new() } else { format!(" ({})", property.why) };
            console.info(format_args!("  {} = {}{why}", property.name, property.value));
        }
    }
    console.info(format_args!("configuration at {} is valid", options.conf.display()));
    Ok(())
}

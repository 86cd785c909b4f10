//! `version`

use silverback_admin::KONG_VERSION;

use crate::{cli::Version, console::Console};

/// Prints the release of Kong this gateway stands in for, since that is what scripts ask for.
pub(super) fn run(options: &Version, console: Console) {
    if options.all {
        console.info(format_args!("Kong: {KONG_VERSION}\nSilverback: {}", env!("CARGO_PKG_VERSION")));
    } else {
        console.info(KONG_VERSION);
    }
}

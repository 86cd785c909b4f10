//! `doctor`

use std::{io::Write as _, process::ExitCode};

use super::warn_of_nginx_flags;
use crate::{
    cli::Doctor,
    conf::Sources,
    console::Console,
    doctor::{self, Level},
    error::CommandError,
};

/// A line for each problem; with `-v`, for what is in order, too. Exit status 1 if there is a problem.
pub(super) fn run(options: &Doctor, console: Console) -> Result<ExitCode, CommandError> {
    warn_of_nginx_flags(&options.files, console);
    let sources = Sources::new(options.files.conf.as_deref(), options.files.prefix.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start the runtime"))?;
    let scratch = tempfile::tempdir().map_err(CommandError::io("cannot make a temporary directory"))?;
    let report = runtime.block_on(doctor::examine(&sources, scratch.path()));
    let problems = report.problems();
    let mut out = std::io::stdout();
    // A reader that went away is no reason to fail.
    if options.json {
        let _ = writeln!(out, "{:#}", report.to_json());
    } else {
        let shown = |level| level != Level::Ok || options.all || console.is_talkative();
        for finding in report.findings.iter().filter(|finding| shown(finding.level)) {
            let _ = writeln!(out, "{finding}");
        }
        let _ = match problems {
            0 => writeln!(out, "no problem found"),
            1 => writeln!(out, "1 problem"),
            _ => writeln!(out, "{problems} problems"),
        };
    }
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

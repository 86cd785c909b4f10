//! The commands, a file each.

mod check;
mod config;
mod doctor;
mod drain;
mod health;
mod prepare;
mod reload;
mod start;
mod stop;
mod vault;
mod version;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::{Command, Files},
    console::Console,
    error::CommandError,
};

pub(crate) fn run(command: Command, console: Console) -> Result<ExitCode, CommandError> {
    match command {
        Command::Start(options) => return start::start(&options, console),
        Command::DockerStart(options) => return start::docker_start(&options, console),
        Command::Restart(options) => return start::restart(&options, console),
        Command::Doctor(options) => return doctor::run(&options, console),
        Command::Stop(prefix) => stop::stop(&prefix, console),
        Command::Quit(options) => stop::quit(&options, console),
        Command::Reload(options) => reload::run(&options, console),
        Command::Health(prefix) => health::run(&prefix, console),
        Command::Version(options) => {
            version::run(&options, console);
            Ok(())
        }
        Command::Check(options) => check::run(&options, console),
        Command::Config(options) => config::run(&options, console),
        Command::Prepare(files) => prepare::run(&files, console),
        Command::Drain(files) => drain::run(&files, console),
        Command::Vault(options) => vault::run(&options, console),
        Command::Migrations(_) => Err(CommandError::Usage(
            "there are no migrations: this gateway runs without a database (database = off)".to_owned(),
        )),
        Command::Hybrid(_) => {
            Err(CommandError::Usage("there is no hybrid mode: every node has its whole configuration".to_owned()))
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Says that flags for nginx were not used.
fn warn_of_nginx_flags(files: &Files, console: Console) {
    if files.nginx_conf.is_some() {
        console.warn("--nginx-conf has no effect: there is no nginx. The nginx_* properties that matter are supported");
    }
    if files.nginx_conf_flags.is_some() {
        console.warn("--nginx-conf-flags has no effect: there is no nginx");
    }
}

/// Looks at a condition until it holds; false if it does not within the limit.
fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// A number of seconds from the command line; nonsense counts as none.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::ZERO)
}

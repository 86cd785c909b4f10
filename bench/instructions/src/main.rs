//! Counts the instructions of the hot paths, and compares them with those that were recorded. See README.md.

/// That of the gateway: a good part of what is counted is its work.
#[path = "../../../crates/silverback/src/allocator.rs"]
mod allocator;
mod callgrind;
mod figures;
mod paths;
mod tools;

use std::{
    env, fs,
    io::{self, Write},
    process::ExitCode,
};

use crate::figures::{Comparison, Figures};

#[global_allocator]
static ALLOCATOR: allocator::Mimalloc = allocator::Mimalloc;

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/figures.txt");

fn main() -> ExitCode {
    let argument = env::args().nth(1).unwrap_or_default();
    if argument == callgrind::RUN {
        paths::all().iter_mut().for_each(paths::HotPath::run);
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) || !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return tell("the figures are those of an optimised build for x86-64 Linux: nothing is counted here", true);
    }
    let done = match argument.as_str() {
        "check" => check(),
        "record" => record(),
        _ => Err("usage: silverback-instructions check|record".to_owned()),
    };
    match done {
        Ok((text, is_well)) => tell(text.trim_end(), is_well),
        Err(error) => tell(&error, false),
    }
}

fn check() -> Result<(String, bool), String> {
    let recorded = fs::read_to_string(FIGURES).map_err(|error| format!("{FIGURES}: {error}"))?;
    let recorded = Figures::parse(&recorded).map_err(|error| format!("{FIGURES}: {error}"))?;
    let now = count()?;
    let comparison = Comparison::new(&recorded, &now);
    let mut text = comparison.report();
    if text.is_empty() {
        text = format!("{} hot paths take no more instructions than were recorded", now.figures.len());
    }
    Ok((text, !comparison.fails()))
}

fn record() -> Result<(String, bool), String> {
    let now = count()?;
    fs::write(FIGURES, now.write()).map_err(|error| format!("{FIGURES}: {error}"))?;
    Ok((format!("the figures of {} hot paths are in {FIGURES}", now.figures.len()), true))
}

fn count() -> Result<Figures, String> {
    let names: Vec<_> = paths::all().into_iter().map(|path| path.name).collect();
    let figures = callgrind::count(&names).map_err(|error| error.to_string())?;
    Ok(Figures { with: tools::versions(), figures })
}

/// Prints a text, to standard error where something is wrong.
fn tell(text: &str, is_well: bool) -> ExitCode {
    if is_well {
        let _ = writeln!(io::stdout(), "{text}");
        ExitCode::SUCCESS
    } else {
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::FAILURE
    }
}

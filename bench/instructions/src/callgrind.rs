//! Runs this program under callgrind, which counts the instructions of each path.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::figures::Figure;
use crate::paths::OPERATIONS;

/// The argument with which this program runs the paths rather than counting them.
pub(crate) const RUN: &str = "run";

/// The function that callgrind counts, entered once for each path. Its name is demangled.
const COUNTED: &str = "silverback_instructions::paths::counted";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("valgrind cannot be run: {0}; scripts/setup instructions installs it")]
    NoValgrind(io::Error),
    #[error("the run under callgrind failed ({status}):\n{output}")]
    Failed { status: std::process::ExitStatus, output: String },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} has no line \"totals: NUMBER\"", .0.display())]
    NoTotals(PathBuf),
}

/// Where the profile of each path is left, for callgrind_annotate: `target/instructions/callgrind`, beside this program.
///
/// # Errors
/// The place of this program is not known.
pub(crate) fn directory() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("callgrind"))
}

/// The instructions of one operation of each of the paths with these names.
///
/// # Errors
/// Callgrind cannot be run, or does not give what is expected.
pub(crate) fn count(names: &[String]) -> Result<Vec<Figure>, Error> {
    let in_directory = |error| Error::File { path: PathBuf::from("target/instructions/callgrind"), error };
    let directory = directory().map_err(in_directory)?;
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_directory(error)),
        _ => fs::create_dir_all(&directory).map_err(in_directory)?,
    }
    run(&directory)?;
    names.iter().zip(1..).map(|(name, number)| figure(&directory, name, number)).collect()
}

/// Leaves a profile in the directory for each path, numbered from 1.
fn run(directory: &Path) -> Result<(), Error> {
    let program = env::current_exe().map_err(Error::NoValgrind)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", directory.join("part").display()))
        .arg(program)
        .arg(RUN)
        // The environment lies on the stack and moves what comes after it.
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .output()
        .map_err(Error::NoValgrind)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed { status: output.status, output: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// Reads a path's profile, and gives it the path's name.
fn figure(directory: &Path, name: &str, number: usize) -> Result<Figure, Error> {
    let (part, path) = (directory.join(format!("part.{number}")), directory.join(name.replace('/', ".")));
    let profile = fs::rename(&part, &path).and_then(|()| fs::read(&path));
    let profile = profile.map_err(|error| Error::File { path: part, error })?;
    let total = total(&String::from_utf8_lossy(&profile)).ok_or(Error::NoTotals(path))?;
    Ok(Figure { name: name.to_owned(), instructions: total / OPERATIONS as u64 })
}

fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
}

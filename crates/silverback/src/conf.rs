//! Where a command's configuration comes from: the file it names, `.kong_env` of the prefix, the environment.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use silverback_config::{
    Settings,
    conf::{self, LoadError, Loaded},
};

use crate::{console::Console, error::CommandError, prefix::environment_file};

/// What a configuration is loaded from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) file: Option<PathBuf>,
    pub(crate) environment: BTreeMap<String, String>,
}

impl Sources {
    /// A file (or the default ones), this process's environment, and a prefix that wins over both.
    pub(crate) fn new(file: Option<&Path>, prefix: Option<&Path>) -> Self {
        let mut environment = environment();
        if let Some(prefix) = prefix {
            environment.insert("KONG_PREFIX".to_owned(), absolute(prefix).display().to_string());
        }
        Self { file: file.map(Path::to_path_buf), environment }
    }

    fn of_running(prefix: &Path) -> Self {
        Self::new(Some(&environment_file(prefix)), Some(prefix))
    }
}

/// The configuration of a node that is to start.
pub(crate) fn load(file: Option<&Path>, prefix: Option<&Path>, console: Console) -> Result<Settings, CommandError> {
    load_from(&Sources::new(file, prefix), console)
}

pub(crate) fn load_from(sources: &Sources, console: Console) -> Result<Settings, CommandError> {
    match &sources.file {
        Some(file) => console.verbose(format_args!("reading config file at {}", file.display())),
        None => {
            for path in conf::DEFAULT_PATHS {
                let found = if Path::new(path).exists() { "reading config file at" } else { "no config file found at" };
                console.verbose(format_args!("{found} {path}"));
            }
        }
    }
    let loaded = read(sources)?;
    loaded.warnings.iter().for_each(|warning| console.warn(warning));
    Ok(loaded.settings)
}

/// As [`load_from`], and nothing is said of it.
pub(crate) fn read(sources: &Sources) -> Result<Loaded, CommandError> {
    Ok(conf::load(sources.file.as_deref(), &sources.environment)?)
}

/// The configuration of the node that runs, or ran last, in the prefix; where there is none, of the one that would.
pub(crate) fn load_running(
    file: Option<&Path>,
    prefix: Option<&Path>,
    console: Console,
) -> Result<Settings, CommandError> {
    let directory = self::prefix(file, prefix)?;
    if environment_file(&directory).exists() {
        return load_from(&Sources::of_running(&directory), console);
    }
    load(file, prefix, console)
}

/// The configuration a running node changes to: what it runs with, a newly named file over it, this process's
/// environment over both.
pub(crate) fn load_for_reload(file: Option<&Path>, prefix: &Path, console: Console) -> Result<Settings, CommandError> {
    let Some(file) = file else { return load_from(&Sources::of_running(prefix), console) };
    // By itself first: messages then name the lines of the file itself.
    let alone = Sources::new(Some(file), Some(prefix));
    load_from(&alone, console)?;
    let text =
        |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let merged = format!("{}\n{}", text(&environment_file(prefix)), text(file));
    Ok(conf::load_text(Some(file), &merged, &alone.environment)?.settings)
}

/// The configuration that a running gateway changes to on SIGHUP: its `.kong_env`. The environment it was started in does
/// not count any more, but for what is not a property: secrets in variables that the configuration refers to.
pub(crate) fn load_in_gateway(prefix: &Path) -> Result<Loaded, LoadError> {
    let mut environment = environment();
    environment.retain(|name, _| !name.starts_with("KONG_"));
    conf::load(Some(&environment_file(prefix)), &environment)
}

/// The prefix a command works on. Found without a configuration where it can be: a node with a broken one can be stopped.
pub(crate) fn prefix(file: Option<&Path>, prefix: Option<&Path>) -> Result<PathBuf, CommandError> {
    match prefix.map(Path::to_path_buf).or_else(|| env::var_os("KONG_PREFIX").map(PathBuf::from)) {
        Some(prefix) => Ok(absolute(&prefix)),
        None => Ok(read(&Sources::new(file, None))?.settings.prefix),
    }
}

/// As [`prefix`], and it must exist.
pub(crate) fn existing_prefix(file: Option<&Path>, prefix: Option<&Path>) -> Result<PathBuf, CommandError> {
    let prefix = self::prefix(file, prefix)?;
    if prefix.exists() { Ok(prefix) } else { Err(CommandError::NoSuchPrefix(prefix)) }
}

fn environment() -> BTreeMap<String, String> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

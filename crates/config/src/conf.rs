//! From `kong.conf` and `KONG_*` to [`Settings`], in two stages: [`raw`] holds what was typed and where, `resolve`
//! gives it types, defaults and meaning, and gathers everything that is wrong.

mod clients;
mod directives;
mod dns;
mod environment_file;
mod http;
mod listen;
mod log_format;
mod log_variables;
mod names;
mod plugin_dir;
mod plugin_servers;
pub mod properties;
pub mod raw;
mod reader;
mod resolve;
mod tls;
mod units;
mod upstream_tls;
mod vault;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use crate::Settings;

pub use environment_file::kong_env;
pub use plugin_servers::quoted as shell_quoted;
pub use units::{parse_size, parse_time};
pub use vault::dereference;

/// Where Kong looks for its file when none is named.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// A configuration, and what is worth telling about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<String>,
}

/// A configuration that cannot be used. Displays every problem, a line each.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no file at: {}", .0.display())]
    Missing(PathBuf),
    #[error("could not read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file and line, or the environment variable; empty where a default is at fault.
    pub place: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.place, self.message) }
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Loads the configuration of a node: the file (the first of [`DEFAULT_PATHS`] that exists, where none is named; none
/// at all is fine), `KONG_*` of the environment over it, Kong's defaults under it.
///
/// # Errors
/// The file is missing or cannot be read; or values are wrong, all of which are listed.
pub fn load(file: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Loaded, LoadError> {
    let path = match file {
        Some(path) if !path.exists() => return Err(LoadError::Missing(path.to_owned())),
        Some(path) => Some(path.to_owned()),
        None => DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists()),
    };
    let text = match &path {
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|source| LoadError::Unreadable { path: path.clone(), source })?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        None => String::new(),
    };
    load_text(path.as_deref(), &text, env)
}

/// As [`load`], from text that has been read already; `path` is named in messages.
///
/// # Errors
/// Values that are wrong, all of which are listed.
pub fn load_text(path: Option<&Path>, text: &str, env: &BTreeMap<String, String>) -> Result<Loaded, LoadError> {
    let mut raw = raw::RawConf::parse(text);
    raw.overlay(env);
    resolve::resolve(path, raw, env)
}

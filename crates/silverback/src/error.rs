//! Why a command failed.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{prefix::PrefixError, privileges::PrivilegeError};

/// Why a command failed. The texts that scripts know from the `kong` command are kept.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Configuration(#[from] silverback_config::LoadError),
    #[error("the running configuration stays: {0}")]
    ReloadRefused(String),
    #[error("Kong is already running in {}", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("no such prefix: {}", .0.display())]
    NoSuchPrefix(PathBuf),
    #[error("Kong is not running in prefix: {}", .0.display())]
    NotRunning(PathBuf),
    #[error("Kong is not running at {}", .0.display())]
    NotHealthy(PathBuf),
    #[error("the gateway in {} does not end; send SIGKILL to process {pid} to end it", .prefix.display())]
    DoesNotEnd { prefix: PathBuf, pid: i32 },
    #[error("cannot signal the gateway: {0}")]
    Signal(io::Error),
    #[error("could not prepare Kong prefix at {}: {source}", .prefix.display())]
    Prefix { prefix: PathBuf, source: PrefixError },
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error("cannot start: {0}")]
    Start(String),
    #[error("Failed parsing:\n{0}")]
    Declarative(String),
    #[error("{0}")]
    Usage(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl CommandError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

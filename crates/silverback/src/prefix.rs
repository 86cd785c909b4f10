//! The prefix directory: what a gateway needs to find in it, and what tools look for there.

mod certificates;

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use silverback_config::{
    Settings, keep_what_needs_restart, kong_env,
    settings::{Listen, LogTarget},
};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    console::Console,
    privileges::{Account, PrivilegeError},
};

/// A prefix that cannot be prepared.
#[derive(Debug, Error)]
pub(crate) enum PrefixError {
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("cannot create {}: {source}", .path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot generate a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Account(#[from] PrivilegeError),
}

/// Creates whatever the prefix lacks and writes `.kong_env`. Files that exist are kept.
pub(crate) fn prepare(settings: &Settings, console: Console) -> Result<(), PrefixError> {
    let prefix = settings.prefix.as_path();
    let account = Account::of(settings)?;
    console.verbose(format_args!("preparing prefix directory at {}", prefix.display()));
    if !prefix.exists() {
        console.info(format_args!("prefix directory {} not found, trying to create it", prefix.display()));
    } else if !prefix.is_dir() {
        return Err(PrefixError::NotADirectory(prefix.to_path_buf()));
    }
    for directory in ["", "logs", "pids", "ssl"] {
        let path = if directory.is_empty() { prefix.to_path_buf() } else { prefix.join(directory) };
        fs::create_dir_all(&path).map_err(|source| PrefixError::Create { path: path.clone(), source })?;
        hand_over(account.as_ref(), &path, console);
    }
    create_logs(settings, account.as_ref(), console)?;
    create_certificates(settings, account.as_ref(), console)?;
    write_environment(settings)?;
    hand_over(account.as_ref(), &environment_file(prefix), console);
    Ok(())
}

/// Prepares the prefix of a running gateway for other settings, which it finds in `.kong_env`. Files go to the user whom
/// it runs as, whatever the new settings say: that takes a restart.
pub(crate) fn prepare_for_reload(
    settings: &Settings,
    running: Option<&Settings>,
    console: Console,
) -> Result<(), PrefixError> {
    let Some(running) = running else { return prepare(settings, console) };
    let mut in_force = settings.clone();
    keep_what_needs_restart(running, &mut in_force);
    prepare(&in_force, console)?;
    write_environment(settings)?;
    hand_over(Account::of(&in_force)?.as_ref(), &environment_file(&settings.prefix), console);
    Ok(())
}

/// Writes `.kong_env`, readable by the group, as Kong's; it may hold secrets.
pub(crate) fn write_environment(settings: &Settings) -> Result<(), PrefixError> {
    write_with_mode(&environment_file(&settings.prefix), &kong_env(settings), 0o640)
}

/// Writes `.request_debug_token`, readable by the group; takes it away where there is no token.
pub(crate) fn write_debug_token(prefix: &Path, token: Option<&str>) -> Result<(), PrefixError> {
    let path = prefix.join(".request_debug_token");
    match token {
        Some(token) => write_with_mode(&path, token, 0o640),
        None => match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PrefixError::Write { path, source }),
            _ => Ok(()),
        },
    }
}

/// `.kong_env`: the configuration that the gateway of a prefix runs with, in the syntax of `kong.conf`.
pub(crate) fn environment_file(prefix: &Path) -> PathBuf {
    prefix.join(".kong_env")
}

/// This node's id, `kong.id` in the prefix: made once, then kept.
pub(crate) fn node_id(prefix: &Path) -> Result<Uuid, PrefixError> {
    let path = prefix.join("kong.id");
    if let Some(id) = fs::read_to_string(&path).ok().and_then(|text| Uuid::parse_str(text.trim()).ok()) {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    fs::write(&path, id.to_string()).map_err(|source| PrefixError::Write { path, source })?;
    Ok(id)
}

/// A file that the gateway will write once it is no longer root. Failing is no error: the write may work all the same.
fn hand_over(account: Option<&Account>, path: &Path, console: Console) {
    if let Some(account) = account
        && let Err(error) = account.own(path)
    {
        console.warn(format_args!("cannot give {} to the user of nginx_user: {error}", path.display()));
    }
}

fn create_logs(settings: &Settings, account: Option<&Account>, console: Console) -> Result<(), PrefixError> {
    let logs = &settings.logs;
    let targets = [
        &logs.proxy_access.target,
        &logs.proxy_error,
        &logs.admin_access.target,
        &logs.admin_error,
        &logs.status_access.target,
        &logs.status_error,
        &logs.stream_access.target,
        &logs.stream_error,
    ];
    for target in targets {
        let LogTarget::File(path) = target else { continue };
        // Devices and pipes are written to, not made.
        if path.starts_with("/dev") || path.starts_with("/proc") {
            continue;
        }
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|source| PrefixError::Write { path: path.clone(), source })?;
        hand_over(account, path, console);
    }
    Ok(())
}

/// The default certificates of every kind of listener that speaks TLS and has none configured.
fn create_certificates(settings: &Settings, account: Option<&Account>, console: Console) -> Result<(), PrefixError> {
    let uses_tls = |listeners: &[Listen]| listeners.iter().any(|listen| listen.ssl);
    let kinds = [
        (
            "",
            uses_tls(&settings.proxy_listen) || uses_tls(&settings.stream_listen),
            settings.tls.certificates.is_empty(),
        ),
        ("admin-", uses_tls(&settings.admin_listen), settings.api_certificates.admin.is_empty()),
        ("status-", uses_tls(&settings.status_listen), settings.api_certificates.status.is_empty()),
    ];
    let directory = settings.prefix.join("ssl");
    for (kind, wanted, lacking) in kinds {
        if !(wanted && lacking) {
            continue;
        }
        for (suffix, algorithm) in [("", certificates::Algorithm::Rsa), ("-ecdsa", certificates::Algorithm::Ecdsa)] {
            let certificate = directory.join(format!("{kind}kong-default{suffix}.crt"));
            let key = directory.join(format!("{kind}kong-default{suffix}.key"));
            if certificate.exists() && key.exists() {
                console.verbose(format_args!("default certificate found at {}", certificate.display()));
                continue;
            }
            console.verbose(format_args!("generating default certificate {}", certificate.display()));
            let pair = certificates::self_signed(algorithm)?;
            write_private(&key, &pair.key_pem)?;
            fs::write(&certificate, &pair.certificate_pem)
                .map_err(|source| PrefixError::Write { path: certificate.clone(), source })?;
            hand_over(account, &key, console);
            hand_over(account, &certificate, console);
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<(), PrefixError> {
    write_with_mode(path, text, 0o600)
}

/// Replaces a file in one step, so that nobody reads half of it or reads it with another mode.
fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), PrefixError> {
    let write = || {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| PrefixError::Write { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_keeps_its_id() {
        let prefix = tempfile::tempdir().unwrap();
        let id = node_id(prefix.path()).unwrap();
        assert_eq!(node_id(prefix.path()).unwrap(), id);
        fs::write(prefix.path().join("kong.id"), "not an id").unwrap();
        assert_ne!(node_id(prefix.path()).unwrap(), id);
    }
}

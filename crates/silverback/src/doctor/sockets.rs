//! Whether a plugin server can listen where the gateway will look for it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::unistd::{AccessFlags, access, geteuid};
use silverback_config::{Settings, settings::PluginServer};

use super::Finding;

/// Bytes of a path that fit into `sockaddr_un`, the one that ends it left out.
pub(super) const MAX_PATH: usize = 107;

pub(super) fn of(server: &PluginServer, subject: &str, settings: &Settings) -> Option<Finding> {
    let socket = server.socket.as_path();
    let shown = socket.display();
    let problem = |code, message: String, cure: &str| Some(Finding::problem(code, subject, message, cure));
    let length = socket.as_os_str().len();
    if length > MAX_PATH {
        return problem(
            "socket_path_too_long",
            format!("the path of its socket has {length} bytes, {MAX_PATH} are possible: {shown}"),
            "choose a shorter prefix or socket",
        );
    }
    let directory = socket.parent().unwrap_or(Path::new("/"));
    // The prefix is made at the start.
    if directory == settings.prefix && !directory.exists() {
        return None;
    }
    match fs::metadata(directory) {
        Err(error) => {
            return problem(
                "socket_directory_missing",
                format!("the directory of its socket, {}: {error}", directory.display()),
                &format!("create it: mkdir -p {}", directory.display()),
            );
        }
        Ok(found) if !found.is_dir() => {
            return problem(
                "socket_directory_missing",
                format!("{} is to hold its socket, and is no directory", directory.display()),
                "name another socket",
            );
        }
        Ok(_) => {}
    }
    if server.start_cmd.is_some() && directory != settings.prefix && !is_writable(directory, server, settings) {
        return problem(
            "socket_directory_not_writable",
            format!("the directory of its socket, {}, cannot be written to by its user", directory.display()),
            &format!("let the user of the plugin server write there: chown it, or chmod {}", directory.display()),
        );
    }
    if fs::symlink_metadata(socket).is_ok_and(|file| !file.file_type().is_socket() && !file.file_type().is_symlink()) {
        return problem(
            "not_a_socket",
            format!("{shown} is to be its socket, and is a file of another kind"),
            "remove it, or name another socket",
        );
    }
    None
}

/// Whether the user that a server will run as may make files in a directory.
fn is_writable(directory: &Path, server: &PluginServer, settings: &Settings) -> bool {
    let user = server.process.user.as_ref().or(settings.user.as_ref()).filter(|_| geteuid().is_root());
    let Some((name, _)) = user else {
        return access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    };
    let Ok(Some(user)) = nix::unistd::User::from_name(name) else { return true };
    let Ok(found) = fs::metadata(directory) else { return false };
    let shift = if user.uid.is_root() {
        return true;
    } else if found.uid() == user.uid.as_raw() {
        6
    } else if found.gid() == user.gid.as_raw() {
        3
    } else {
        0
    };
    found.mode() >> shift & 0o3 == 0o3
}

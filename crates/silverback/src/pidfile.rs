//! `pids/nginx.pid`: which gateway runs in a prefix.
//!
//! A running gateway holds a lock on the file. A file that an unclean end left behind is therefore never taken for a
//! running gateway, not even when its number belongs to another process by now, as happens in containers.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where the pid file of a prefix is.
pub(crate) fn path(prefix: &Path) -> PathBuf {
    prefix.join("pids").join("nginx.pid")
}

/// The gateway that runs in this prefix, if any.
pub(crate) fn running(prefix: &Path) -> Option<Pid> {
    let mut file =
        OpenOptions::new().read(true).write(true).open(path(prefix)).or_else(|_| File::open(path(prefix))).ok()?;
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// Whether a process still holds anything, its addresses for instance: a zombie does not.
pub(crate) fn is_alive(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may itself hold any character.
    !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Sends a signal to the gateway of a prefix and tells which process that is; `None` if none runs there.
pub(crate) fn signal(prefix: &Path, signal: Signal) -> io::Result<Option<Pid>> {
    let Some(pid) = running(prefix) else { return Ok(None) };
    match kill(pid, signal) {
        Ok(()) => Ok(Some(pid)),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The pid file of this process, for as long as it runs.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Writes and locks the file.
    ///
    /// # Errors
    /// `WouldBlock` when another gateway holds it.
    pub(crate) fn create(prefix: &Path) -> io::Result<Self> {
        let path = path(prefix);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path)?;
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK)))?;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { path, _locked: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be 0 for locks of an open file description.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_locked_file_means_running() {
        let prefix = tempfile::tempdir().unwrap();
        assert_eq!(running(prefix.path()), None);
        fs::create_dir(prefix.path().join("pids")).unwrap();

        // left behind by a gateway that was killed; its number is that of a living process
        fs::write(path(prefix.path()), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(running(prefix.path()), None);

        let held = PidFile::create(prefix.path()).unwrap();
        assert_eq!(running(prefix.path()), Some(Pid::this()));
        assert_eq!(PidFile::create(prefix.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert_eq!(running(prefix.path()), None);
        assert!(!path(prefix.path()).exists());
    }
}

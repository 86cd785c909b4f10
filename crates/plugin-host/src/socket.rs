//! The socket files of a server's processes.
//!
//! A server unlinks the path that it was told and binds it. So that several of its processes can be connected to, each
//! socket is given a name of its own when its process is up (`PATH.PID`), and a symbolic link is left in its place, which
//! people and scripts look for. Only one process at a time may be between its start and that: it has the turn.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::{
    net::UnixStream,
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

use crate::{connection::connect_to, life::Identity};

/// Pauses between looks at a socket that does not answer yet.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How long a connection to an old socket may take.
const OLD_SOCKET: Duration = Duration::from_millis(500);

/// Bytes of a socket's path that the kernel takes.
const MAX_PATH: usize = 107;

/// A configured socket path.
pub(crate) struct Address {
    path: PathBuf,
    turn: Mutex<Turn>,
}

/// What is known of the files at and beside a path.
#[derive(Default)]
struct Turn {
    /// What a former gateway left behind has been looked for.
    swept: bool,
    /// Sockets of processes of ours, under the names that they were given, the newest last.
    ours: Vec<PathBuf>,
}

/// The right to start a process that binds the path.
pub(crate) struct Claim<'a> {
    path: &'a Path,
    turn: MutexGuard<'a, Turn>,
}

impl Address {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, turn: Mutex::default() }
    }

    /// Waits for the turn, and clears the path. `warn` is told of processes that are not ours.
    pub(crate) async fn claim(&self, warn: impl Fn(String)) -> Claim<'_> {
        let mut turn = self.turn.lock().await;
        if !turn.swept {
            turn.swept = true;
            for old in left_behind(&self.path) {
                clear(&old, &warn).await;
            }
        }
        let leads_to_ours =
            fs::read_link(&self.path).is_ok_and(|target| turn.ours.contains(&self.path.with_file_name(target)));
        if leads_to_ours {
            if let Err(error) = fs::remove_file(&self.path) {
                warn(format!("cannot remove the link {}: {error}", self.path.display()));
            }
        } else {
            clear(&self.path, &warn).await;
        }
        Claim { path: &self.path, turn }
    }

    /// Forgets the socket of a process that has ended, and lets the link lead to one that has not.
    pub(crate) async fn release(&self, socket: &Path) {
        let mut turn = self.turn.lock().await;
        turn.ours.retain(|ours| ours != socket);
        let _ = fs::remove_file(socket); // it may be gone with its process
        // a process may have unlinked the path that it once bound when it ended
        let leads = fs::read_link(&self.path).is_ok_and(|target| turn.ours.contains(&self.path.with_file_name(target)));
        if leads {
            return;
        }
        match turn.ours.last() {
            Some(newest) => {
                let _ = link(&self.path, newest); // nobody of ours needs it
            }
            None => {
                // a link that leads nowhere
                if fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_symlink()) {
                    let _ = fs::remove_file(&self.path);
                }
            }
        }
    }
}

impl Claim<'_> {
    /// Waits until the socket answers.
    pub(crate) async fn answering(&self) -> Identity {
        let mut pause = FIRST_LOOK;
        loop {
            // a full backlog is an answer too, but who answers is only known once connected
            if let Ok(Ok((_, identity))) = timeout(LAST_LOOK, connect_to(self.path)).await {
                return identity;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Gives the socket of the process `pid` its permissions and a name of its own, with a link in its place. The turn
    /// passes on. `listener` is who answered.
    pub(crate) fn settle(mut self, pid: u32, listener: Identity, mode: Option<u32>) -> io::Result<(PathBuf, Identity)> {
        if let Some(mode) = mode {
            fs::set_permissions(self.path, fs::Permissions::from_mode(mode))?;
        }
        let own = own_name(self.path, pid);
        fs::rename(self.path, &own)?;
        let identity = Identity::new(listener.pid, &fs::metadata(&own)?);
        link(self.path, &own)?;
        self.turn.ours.push(own.clone());
        Ok((own, identity))
    }
}

/// `PATH.PID`, or something shorter in the same directory if the kernel would not take that.
fn own_name(path: &Path, pid: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{pid}"));
    if name.len() <= MAX_PATH { name.into() } else { path.with_file_name(format!(".{pid}")) }
}

/// The link leads to the name alone: it does so from wherever the directory is mounted.
fn link(path: &Path, own: &Path) -> io::Result<()> {
    let Some(name) = own.file_name() else { return Ok(()) };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(name, path)
}

/// Sockets beside a path that have the names of processes' own.
fn left_behind(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_own = |entry: &fs::DirEntry| {
        let entry_name = entry.file_name();
        let entry_name = entry_name.to_string_lossy();
        let pid = entry_name.strip_prefix(&*name).and_then(|rest| rest.strip_prefix('.'));
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
            && entry.file_type().is_ok_and(|kind| kind.is_socket())
    };
    entries.filter(is_own).map(|entry| entry.path()).collect()
}

/// Removes a socket file that a former process left behind, and says so if that process still lives.
async fn clear(socket: &Path, warn: &impl Fn(String)) {
    let is_socket = |file: &fs::Metadata| file.file_type().is_socket() || file.is_symlink();
    if !fs::symlink_metadata(socket).is_ok_and(|file| is_socket(&file)) {
        return;
    }
    // one whose queue is full does not answer, but it listens
    let listener = match timeout(OLD_SOCKET, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => {
            let peer = getsockopt(&stream, sockopt::PeerCredentials);
            Some(format!("another process (pid {})", peer.map_or(0, |peer| peer.pid())))
        }
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => None,
        Ok(Err(_)) | Err(_) => Some("another process, which does not answer,".to_owned()),
    };
    if let Some(listener) = listener {
        warn(format!("{listener} listens on {}; it is left alone, but not used any more", socket.display()));
    }
    if let Err(error) = fs::remove_file(socket) {
        warn(format!("cannot remove the old socket {}: {error}", socket.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_name_of_its_own_fits() {
        assert_eq!(own_name(Path::new("/run/js.sock"), 12), Path::new("/run/js.sock.12"));
        let long = format!("/run/{}", "s".repeat(MAX_PATH - 5));
        assert_eq!(own_name(Path::new(&long), 12), Path::new("/run/.12"));
    }

    #[tokio::test]
    async fn two_processes_bind_one_path_and_both_are_there() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let address = Address::new(path.clone());
        let mut listeners = Vec::new();
        let mut names = Vec::new();
        for pid in [1, 2] {
            let claim = address.claim(|warning| panic!("{warning}")).await;
            listeners.push(UnixListener::bind(&path).unwrap());
            let listener = claim.answering().await;
            names.push(claim.settle(pid, listener, Some(0o600)).unwrap().0);
        }
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("socket.2"));
        assert_eq!(fs::metadata(&names[0]).unwrap().permissions().mode() & 0o777, 0o600);
        for name in &names {
            UnixStream::connect(name).await.unwrap();
        }
        // the second ends, and took the path along
        fs::remove_file(&path).unwrap();
        address.release(&names[1]).await;
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("socket.1"));
        address.release(&names[0]).await;
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_former_gateway_left_is_removed_and_its_process_named() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let living = UnixListener::bind(folder.path().join("socket.7")).unwrap();
        drop(UnixListener::bind(folder.path().join("socket.8")).unwrap());
        symlink("socket.7", &path).unwrap();
        fs::write(folder.path().join("socket.log"), "").unwrap();
        let warnings = std::sync::Mutex::new(Vec::new());
        let address = Address::new(path.clone());
        drop(address.claim(|warning| warnings.lock().unwrap().push(warning)).await);
        let warnings = warnings.into_inner().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(&format!("another process (pid {})", std::process::id())), "{warnings:?}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["socket.log"]);
        drop(living);
    }
}

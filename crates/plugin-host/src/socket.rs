//! The socket files of a server's processes.
//!
//! A server unlinks the path that it was told and binds it. So that several of its processes can be connected to, each
//! socket is given a name of its own when its process is up (`PATH.PID`), and a symbolic link is left in its place, which
//! people and scripts look for. Only one process at a time may be between its start and that: it has the turn. One that
//! nobody waits for gives way to one that is needed.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Mutex as DataMutex, MutexGuard as DataGuard, PoisonError},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::{
    net::UnixStream,
    sync::{Mutex, MutexGuard, watch},
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
    /// Who holds it may start a process. Whether what a former gateway left behind has been looked for.
    turn: Mutex<bool>,
    /// Sockets of processes of ours, under the names that they were given, the newest last.
    ours: DataMutex<Vec<PathBuf>>,
    /// Those who wait for the turn.
    waiting: watch::Sender<Waiting>,
}

/// How much a process is needed that is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Something else serves in its place.
    Spare,
    /// Nothing serves in its place.
    Usual,
    /// Nothing does, and the one before it did: it is expected to.
    Urgent,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    all: usize,
    urgent: usize,
}

/// One who waits for the turn.
struct Waiter<'a> {
    address: &'a Address,
    need: Need,
}

impl<'a> Waiter<'a> {
    fn new(address: &'a Address, need: Need) -> Self {
        address.waiting.send_modify(|waiting| {
            waiting.all += 1;
            waiting.urgent += usize::from(need == Need::Urgent);
        });
        Self { address, need }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.address.waiting.send_modify(|waiting| {
            waiting.all -= 1;
            waiting.urgent -= usize::from(self.need == Need::Urgent);
        });
    }
}

/// The right to start a process that binds the path. The process of one that is dropped must have ended.
pub(crate) struct Claim<'a> {
    address: &'a Address,
    settled: bool,
    _turn: MutexGuard<'a, bool>,
}

impl Address {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, turn: Mutex::default(), ours: DataMutex::default(), waiting: watch::Sender::default() }
    }

    /// Waits for the turn, and clears the path. What is needed most has it first; the need may change meanwhile. `warn` is
    /// told of processes that are not ours.
    pub(crate) async fn claim(&self, need: &mut watch::Receiver<Need>, warn: impl Fn(String)) -> Claim<'_> {
        let mut turn = loop {
            let needed = *need.borrow_and_update();
            let _waiter = Waiter::new(self, needed);
            tokio::select! {
                biased;
                Ok(()) = need.changed() => {}
                turn = self.turn_for(needed) => break turn,
            }
        };
        let swept = std::mem::replace(&mut *turn, true);
        // from here on the turn passes on in order
        let claim = Claim { address: self, settled: false, _turn: turn };
        if !swept {
            for old in left_behind(&self.path) {
                clear(&old, &warn).await;
            }
        }
        let leads_to_ours = self.leads_to(&self.ours());
        if leads_to_ours {
            if let Err(error) = fs::remove_file(&self.path) {
                warn(format!("cannot remove the link {}: {error}", self.path.display()));
            }
        } else {
            clear(&self.path, &warn).await;
        }
        claim
    }

    async fn turn_for(&self, need: Need) -> MutexGuard<'_, bool> {
        let mut waiting = self.waiting.subscribe();
        loop {
            if need != Need::Urgent {
                let _ = waiting.wait_for(|waiting| waiting.urgent == 0).await; // this value holds the sender
            }
            let turn = self.turn.lock().await;
            if need == Need::Urgent || self.waiting.borrow().urgent == 0 {
                return turn;
            }
        }
    }

    fn ours(&self) -> DataGuard<'_, Vec<PathBuf>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the link leads to one of these.
    fn leads_to(&self, sockets: &[PathBuf]) -> bool {
        fs::read_link(&self.path).is_ok_and(|target| sockets.contains(&self.path.with_file_name(target)))
    }

    /// Forgets the socket of a process that has ended, and lets the link lead to one that has not.
    pub(crate) fn release(&self, socket: &Path) {
        self.ours().retain(|ours| ours != socket);
        let _ = fs::remove_file(socket); // it may be gone with its process
        // whoever has the turn sees to the link
        if let Ok(_turn) = self.turn.try_lock() {
            self.restore();
        }
    }

    /// Lets the link lead to a process that lives. A process may have unlinked the path that it once bound when it ended.
    fn restore(&self) {
        let ours = self.ours();
        if self.leads_to(&ours) {
            return;
        }
        match ours.last() {
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
            if let Ok(Ok((_, identity))) = timeout(LAST_LOOK, connect_to(&self.address.path)).await {
                return identity;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Waits until another process waits for the turn.
    pub(crate) async fn wanted(&self) {
        self.waited_for(|waiting| waiting.all > 0).await;
    }

    /// Waits until a process waits for the turn that is needed urgently.
    pub(crate) async fn wanted_urgently(&self) {
        self.waited_for(|waiting| waiting.urgent > 0).await;
    }

    async fn waited_for(&self, by: impl Fn(&Waiting) -> bool) {
        let mut waiting = self.address.waiting.subscribe();
        let _ = waiting.wait_for(by).await; // the address holds the sender
    }

    /// Gives the socket of the process `pid` its permissions and a name of its own, with a link in its place. The turn
    /// passes on. `listener` is who answered.
    pub(crate) fn settle(mut self, pid: u32, listener: Identity, mode: Option<u32>) -> io::Result<(PathBuf, Identity)> {
        let path = &self.address.path;
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let own = own_name(path, pid);
        fs::rename(path, &own)?;
        let identity = Identity::new(listener.pid, &fs::metadata(&own)?);
        link(path, &own)?;
        self.address.ours().push(own.clone());
        self.settled = true;
        Ok((own, identity))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.address.restore();
        }
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

    fn needed(need: Need) -> watch::Receiver<Need> {
        watch::Sender::new(need).subscribe()
    }

    #[tokio::test]
    async fn what_is_needed_most_has_the_turn_first() {
        let folder = TempDir::new().unwrap();
        let address = Address::new(folder.path().join("socket"));
        let order = DataMutex::new(Vec::new());
        let turn = async |need| {
            drop(address.claim(&mut needed(need), |warning| panic!("{warning}")).await);
            order.lock().unwrap().push(need);
        };
        let changing = watch::Sender::new(Need::Spare);
        let claim = address.claim(&mut needed(Need::Spare), |_| ()).await;
        let first = async {
            let others = async { tokio::join!(turn(Need::Spare), turn(Need::Usual), turn(Need::Urgent)) };
            let changed = async {
                let mut need = changing.subscribe();
                drop(address.claim(&mut need, |_| ()).await);
                order.lock().unwrap().push(*need.borrow());
            };
            tokio::join!(others, changed)
        };
        let holder = async {
            claim.wanted_urgently().await;
            changing.send_replace(Need::Urgent);
            tokio::task::yield_now().await;
            drop(claim);
        };
        tokio::join!(first, holder);
        let order = order.into_inner().unwrap();
        assert_eq!(&order[..2], [Need::Urgent, Need::Urgent], "{order:?}");
        assert_eq!((order.len(), address.waiting.borrow().all, address.waiting.borrow().urgent), (4, 0, 0));
    }

    #[tokio::test]
    async fn the_link_leads_to_who_lives_when_another_does_not_come_up() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let address = Address::new(path.clone());
        let claim = address.claim(&mut needed(Need::Usual), |_| ()).await;
        let _living = UnixListener::bind(&path).unwrap();
        let listener = claim.answering().await;
        claim.settle(1, listener, None).unwrap();
        let claim = address.claim(&mut needed(Need::Spare), |_| ()).await;
        drop(UnixListener::bind(&path).unwrap());
        // another ends meanwhile
        address.release(&folder.path().join("socket.9"));
        assert!(!path.is_symlink());
        drop(claim);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("socket.1"));
    }

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
            let claim = address.claim(&mut needed(Need::Usual), |warning| panic!("{warning}")).await;
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
        address.release(&names[1]);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("socket.1"));
        address.release(&names[0]);
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
        drop(address.claim(&mut needed(Need::Usual), |warning| warnings.lock().unwrap().push(warning)).await);
        let warnings = warnings.into_inner().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(&format!("another process (pid {})", std::process::id())), "{warnings:?}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["socket.log"]);
        drop(living);
    }
}

//! The life of a server: its process is started, watched until its socket answers, and started again when it ends.
//! For a server that is managed elsewhere, what stands for its process is the socket.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, killpg},
        socket::{getsockopt, sockopt},
    },
    unistd::{Pid, getpid},
};
use silverback_log::Level;
use tokio::{
    net::UnixStream,
    process::Child,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    ServerState, command,
    connection::connect,
    output::{self, Process},
    repair::{self, Repair},
    server::{Identity, Order, Server},
};

/// Pauses between looks at a socket that does not answer yet.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How long the first answer of a process of ours may take until it counts as one that will not come. The time doubles,
/// up to the second one, each time that it was not enough.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
const LAST_ANSWER: Duration = Duration::from_secs(16 * 60);

/// How long a connection to an old socket may take.
const OLD_SOCKET: Duration = Duration::from_millis(500);

/// How long a process that was killed may take to end.
const KILL_LAG: Duration = Duration::from_secs(5);

/// How often the socket of a server that is managed elsewhere is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Pauses before a process is started again: none the first time, then these, doubling.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// A process that ran this long is not one that cannot start.
const STABLE: Duration = Duration::from_secs(30);

/// The end of a process becomes known a little later than the end of its connections.
const EXIT_LAG: Duration = Duration::from_millis(10);

pub(crate) fn spawn(
    server: Arc<Server>,
    orders: mpsc::UnboundedReceiver<Order>,
    start_cmd: Option<String>,
    main_env: Vec<String>,
    repair: Option<Repair>,
) -> JoinHandle<()> {
    tokio::spawn(Supervisor { server, orders, start_cmd, main_env, repair, first_answer: FIRST_ANSWER }.run())
}

struct Supervisor {
    server: Arc<Server>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// `None`: managed elsewhere.
    start_cmd: Option<String>,
    main_env: Vec<String>,
    /// The modules that it loads, if any.
    repair: Option<Repair>,
    /// How long the first answer of the next process may take.
    first_answer: Duration,
}

/// Why a process is not watched any more.
enum End {
    Exited(io::Result<ExitStatus>),
    /// It was hung, and has been killed.
    Replaced,
    /// It lived, but nothing answered at its socket; it has been killed.
    Unreachable,
    Stop(Duration),
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.server.set_state(ServerState::Starting);
            let begun = Instant::now();
            let mut body = match self.begin().await {
                Ok(body) => body,
                Err(error) => {
                    self.log(Level::Error, format_args!("cannot be started: {error}"));
                    if self.pause(backoff.next(begun)).await.is_break() {
                        return;
                    }
                    continue;
                }
            };
            let end = self.watch(&mut body).await;
            match end {
                End::Stop(grace) => return self.end(body, grace).await,
                End::Replaced => backoff = Backoff::default(),
                End::Unreachable => {}
                End::Exited(status) => {
                    self.server.set_state(ServerState::Backoff);
                    self.note_exit(&body, &status);
                }
            }
            body.kill_group();
            self.server.restarts.fetch_add(1, Ordering::Relaxed);
            if self.pause(backoff.next(begun)).await.is_break() {
                return;
            }
        }
    }

    /// Starts the process, if it is ours to start.
    async fn begin(&self) -> io::Result<Body> {
        let Some(line) = &self.start_cmd else { return Ok(Body::Elsewhere) };
        self.clear_socket().await;
        let mut command = command::shell(line, &self.main_env);
        if let Some(repair) = &self.repair {
            repair::apply(repair, &mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let parent = getpid();
        // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, _exit.
        unsafe {
            command.pre_exec(move || {
                // The signal comes when the thread that forks ends: the control thread, which ends with the process.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if libc::getppid() != parent.as_raw() {
                    libc::_exit(1); // the gateway died in between
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let pid = child.id().unwrap_or(0);
        let process = Arc::new(Process::new(pid));
        self.server.set_process(Some(Arc::clone(&process)));
        let name = &self.server.name;
        if let Some(pipe) = child.stdout.take() {
            tokio::spawn(output::log(name.clone(), Arc::clone(&process), pipe));
        }
        if let Some(pipe) = child.stderr.take() {
            tokio::spawn(output::log(name.clone(), process, pipe));
        }
        self.log(Level::Notice, format_args!("started, pid {pid}: {line}"));
        Ok(Body::Ours { child, group: i32::try_from(pid).unwrap_or(0) })
    }

    /// Removes a socket file that a former process left behind, and says so if that process still lives.
    async fn clear_socket(&self) {
        let socket = &self.server.socket;
        if !fs::symlink_metadata(socket).is_ok_and(|file| is_socket_or_link(&file)) {
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
            let path = socket.display();
            self.log(
                Level::Warn,
                format_args!("{listener} listens on {path}; it is left alone, but not used any more"),
            );
        }
        if let Err(error) = fs::remove_file(socket) {
            self.log(Level::Error, format_args!("cannot remove the old socket {}: {error}", socket.display()));
        }
    }

    /// Watches a process until it ends, or is ended.
    async fn watch(&mut self, body: &mut Body) -> End {
        let mut same_process = false;
        loop {
            let patience = if same_process { self.server.deadlines.ready } else { self.first_answer };
            let identity = tokio::select! {
                biased;
                end = next_end(&mut self.orders, body) => return end,
                identity = answering(&self.server) => identity,
                () = sleep(patience), if matches!(body, Body::Ours { .. }) => {
                    if !same_process {
                        self.first_answer = (self.first_answer * 2).min(LAST_ANSWER);
                    }
                    self.log(
                        Level::Error,
                        format_args!(
                            "runs, but nothing has answered at {} for {} s; it is killed and started again",
                            self.server.socket.display(),
                            patience.as_secs()
                        ),
                    );
                    self.kill(body).await;
                    return End::Unreachable;
                }
            };
            self.first_answer = FIRST_ANSWER;
            self.server.set_ready(identity, same_process);
            self.log(Level::Info, format_args!("ready"));
            same_process = true;
            loop {
                let order = tokio::select! {
                    biased;
                    status = body.exited() => return End::Exited(status),
                    order = self.orders.recv() => order,
                    () = socket_replaced(&self.server, identity), if matches!(body, Body::Elsewhere) => {
                        self.log(Level::Notice, format_args!("has a new socket"));
                        break;
                    }
                };
                let current = self.server.condition().epoch;
                match order {
                    None => return End::Stop(Duration::ZERO),
                    Some(Order::Stop(grace)) => return End::Stop(grace),
                    Some(Order::Replace { epoch }) if epoch == current && matches!(body, Body::Ours { .. }) => {
                        self.kill(body).await;
                        return End::Replaced;
                    }
                    Some(Order::Look { epoch } | Order::Replace { epoch }) if epoch == current => {
                        if let Ok(status) = timeout(EXIT_LAG, body.exited()).await {
                            return End::Exited(status);
                        }
                        break;
                    }
                    Some(_) => {} // of an epoch that is over
                }
            }
            // The state stays Ready if the same process answers at once: a doubt is no outage.
        }
    }

    /// Kills a process that is of no use.
    async fn kill(&self, body: &mut Body) {
        self.server.set_state(ServerState::Backoff);
        body.kill_group();
        let _ = timeout(KILL_LAG, body.exited()).await;
    }

    /// Waits before the next start; breaks if the host stops meanwhile.
    async fn pause(&mut self, pause: Duration) -> std::ops::ControlFlow<()> {
        if !pause.is_zero() {
            self.server.set_state(ServerState::Backoff);
        }
        let wait = sleep(pause);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return std::ops::ControlFlow::Continue(()),
                order = self.orders.recv() => if matches!(order, None | Some(Order::Stop(_))) {
                    self.server.set_state(ServerState::Dead);
                    return std::ops::ControlFlow::Break(());
                },
            }
        }
    }

    /// Ends the process for good: asks it to, then kills it.
    async fn end(&self, mut body: Body, grace: Duration) {
        self.server.set_state(ServerState::Draining);
        body.signal_group(Signal::SIGTERM);
        if matches!(body, Body::Ours { .. }) && timeout(grace, body.exited()).await.is_err() {
            if !grace.is_zero() {
                self.log(Level::Warn, format_args!("did not end when asked to; it is killed"));
            }
            body.kill_group();
            let _ = timeout(Duration::from_secs(1), body.exited()).await;
        }
        body.kill_group();
        self.server.set_state(ServerState::Dead);
    }

    /// Says how the process ended, in the log and to those whose events it ended.
    fn note_exit(&self, body: &Body, status: &io::Result<ExitStatus>) {
        if !matches!(body, Body::Ours { .. }) {
            return;
        }
        let how = match status {
            Ok(status) => match (status.code(), status.signal().and_then(|signal| Signal::try_from(signal).ok())) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("killed by {signal}"),
                (None, None) => status.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if status.as_ref().is_ok_and(|status| status.code() == Some(127)) {
            self.log(
                Level::Error,
                format_args!(
                    "ended, command not found: is pluginserver_{}_start_cmd right? {}",
                    self.server.name.replace('-', "_"),
                    self.start_cmd.as_deref().unwrap_or_default()
                ),
            );
        } else {
            self.log(Level::Error, format_args!("ended ({how}); it is started again"));
        }
        if let Some(process) = self.server.process() {
            process.set_end(how);
        }
    }

    fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        log(&self.server, level, message);
    }
}

fn log(server: &Server, level: Level, message: std::fmt::Arguments<'_>) {
    silverback_log::write(level, format_args!("plugin server {} {message}", server.name), None);
}

/// Waits until the socket answers.
async fn answering(server: &Server) -> Identity {
    let begun = Instant::now();
    let mut pause = FIRST_LOOK;
    let mut warned = false;
    loop {
        // a full backlog is an answer too, but who answers is only known once connected
        if let Ok(Ok((_, identity))) = timeout(LAST_LOOK, connect(server)).await {
            return identity;
        }
        if server.condition().state == ServerState::Ready {
            server.set_state(ServerState::Starting);
        }
        if !warned && begun.elapsed() > server.deadlines.ready {
            warned = true;
            log(
                server,
                Level::Warn,
                format_args!(
                    "nothing answers at {} yet; is pluginserver_{}_socket the socket that it listens on?",
                    server.socket.display(),
                    server.name.replace('-', "_")
                ),
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Waits until the socket file is another one than that of `identity`.
async fn socket_replaced(server: &Server, identity: Identity) {
    loop {
        sleep(WATCH).await;
        if !fs::metadata(&server.socket).is_ok_and(|file| identity.same_file(&file)) {
            return;
        }
    }
}

/// Waits for the end of a process whose socket does not answer yet.
async fn next_end(orders: &mut mpsc::UnboundedReceiver<Order>, body: &mut Body) -> End {
    loop {
        tokio::select! {
            status = body.exited() => return End::Exited(status),
            order = orders.recv() => match order {
                None => return End::Stop(Duration::ZERO),
                Some(Order::Stop(grace)) => return End::Stop(grace),
                Some(Order::Look { .. } | Order::Replace { .. }) => {} // of an epoch that is over
            },
        }
    }
}

fn is_socket_or_link(file: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    file.file_type().is_socket() || file.file_type().is_symlink()
}

/// What runs.
enum Body {
    /// `group` is the process group that the process leads.
    Ours {
        child: Child,
        group: i32,
    },
    Elsewhere,
}

impl Body {
    /// Waits until the process has ended. One that is managed elsewhere does not, its socket changes.
    async fn exited(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Ours { child, .. } => child.wait().await,
            Self::Elsewhere => std::future::pending().await,
        }
    }

    fn kill_group(&self) {
        self.signal_group(Signal::SIGKILL);
    }

    /// Signals the process and what it started. The group outlives its first process.
    fn signal_group(&self, signal: Signal) {
        if let Self::Ours { group, .. } = self
            && *group > 1
        {
            let _ = killpg(Pid::from_raw(*group), signal); // it may be gone already
        }
    }
}

/// Pauses that double: none the first time.
#[derive(Default)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The pause after a process that was started at `begun`.
    fn next(&mut self, begun: Instant) -> Duration {
        if begun.elapsed() > STABLE {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST_BACKOFF, LAST_BACKOFF);
        pause
    }
}

//! A process of ours: started with what its server's settings say, in a process group of its own, and ended with all
//! that it started.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpid},
};
use tokio::{
    process::Child,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    command::{self, Circumstances, CircumstancesError},
    output::{self, Process},
    repair,
    server::Server,
    supervisor::Launch,
    usage::children,
};

/// How long a process that was killed may take to end.
const KILL_LAG: Duration = Duration::from_secs(2);

/// The variable that tells whose descendant a process is.
const MARK: &str = "SILVERBACK_PROCESS";

/// How long what a process left behind is looked for. The orphans of orphans come to light one after another.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(50);

/// A process of ours. If it is dropped, it is killed with its group.
pub(crate) struct Body {
    child: Child,
    pub(crate) process: Arc<Process>,
    /// The process group that it leads.
    group: i32,
    mark: String,
    ended: bool,
}

/// Why a process is not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Circumstances(#[from] CircumstancesError),
    #[error("{0}")]
    Spawn(#[from] io::Error),
}

impl Body {
    /// Starts a process for a server.
    pub(crate) async fn start(server: &Server, launch: &Launch) -> Result<Self, StartError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let policy = server.settings.process.clone();
        let circumstances = spawn_blocking(move || Circumstances::of(&policy)).await.map_err(io::Error::other)??;
        let mut command = command::shell(&launch.line, &launch.main_env);
        let parent = getpid();
        let mark = format!("{parent}.{}", COUNT.fetch_add(1, Ordering::Relaxed));
        command.env(MARK, &mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        circumstances.apply(&mut command);
        // it goes before what the settings say
        if let Some(repair) = &launch.repair {
            repair::apply(repair, &mut command);
        }
        // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, _exit.
        unsafe {
            command.pre_exec(move || {
                // The signal comes when the thread that forks ends: the control thread, which ends with the process. A
                // change of user takes it back, so it is asked for after that.
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
        let name = server.name();
        if let Some(pipe) = child.stdout.take() {
            process.add_pipe();
            tokio::spawn(output::log(name.to_owned(), Arc::clone(&process), pipe));
        }
        if let Some(pipe) = child.stderr.take() {
            process.add_pipe();
            tokio::spawn(output::log(name.to_owned(), Arc::clone(&process), pipe));
        }
        Ok(Self { child, process, group: i32::try_from(pid).unwrap_or(0), mark, ended: false })
    }

    /// Waits until the process has ended by itself, ends what it leaves behind, and tells how it ended.
    pub(crate) async fn exited(&mut self) -> String {
        let status = self.child.wait().await;
        let how = ending(&status);
        self.note(&how);
        how
    }

    fn note(&mut self, how: &str) {
        self.process.set_end(how.to_owned());
        if !self.ended {
            // the group outlives its first process, and its number is not used again as long as anybody is in it
            self.signal(Signal::SIGKILL);
            self.ended = true;
            let mark = std::mem::take(&mut self.mark);
            tokio::spawn(kill_left_behind(mark));
        }
    }

    /// Ends it: asks it to, then kills it. `true`: it had to be killed.
    pub(crate) async fn end(mut self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        if timeout(grace, self.exited()).await.is_ok() {
            return false;
        }
        self.kill().await;
        true
    }

    /// Kills it.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        // one that cannot be killed (it waits for a disk) must not hold anybody
        if timeout(KILL_LAG, self.exited()).await.is_err() {
            self.note("killed by SIGKILL");
        }
    }

    /// Signals the process and what it started.
    fn signal(&self, signal: Signal) {
        if !self.ended && self.group > 1 {
            let _ = killpg(Pid::from_raw(self.group), signal); // it may be gone already
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// `exit status 2`, `killed by SIGKILL`.
fn ending(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal().and_then(|signal| Signal::try_from(signal).ok())) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by {signal}"),
            (None, None) => status.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// Kills what a process started that left its process group. The gateway is a child subreaper: such a process becomes
/// its child when its parent ends.
async fn kill_left_behind(mark: String) {
    let entry = format!("{MARK}={mark}");
    for _ in 0..LOOKS {
        for pid in children(std::process::id()) {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
                && let Ok(pid) = i32::try_from(pid)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // it may be gone already
            }
        }
        sleep(LOOK).await;
    }
}

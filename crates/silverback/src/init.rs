//! The small init that process 1 becomes: some plugin servers end at once when their parent is process 1, so the gateway
//! must not be it. The init passes signals on, reaps what is left to it, and ends as the gateway ends.

use std::{io, process};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid},
};

/// In process 1: forks, and returns in the child only. In any other process: returns at once.
///
/// # Errors
/// No process can be made.
pub(crate) fn become_init_if_first() -> io::Result<()> {
    if getpid() != Pid::from_raw(1) {
        return Ok(());
    }
    // Blocked before the fork, so that a signal that comes in between is not lost.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: no thread has been started yet, so the child may go on as it likes.
    match unsafe { fork() }? {
        ForkResult::Child => {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        }
        ForkResult::Parent { child } => process::exit(tend(child)),
    }
}

/// Returns the exit status of the gateway.
fn tend(gateway: Pid) -> i32 {
    loop {
        if let Some(status) = reap(gateway) {
            return status;
        }
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = kill(gateway, signal);
            }
        }
    }
}

/// Takes every process that has ended; the exit status, if the gateway is among them.
fn reap(gateway: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == gateway => return Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == gateway => return Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return None,
            Err(Errno::ECHILD) => return Some(1),
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return None,
        }
    }
}

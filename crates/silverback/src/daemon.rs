//! Going into the background. The process forks before it has any thread; the parent waits for the word of the child,
//! so that a failure to bind is the failure of `start`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
};

use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};

use crate::console::Console;

/// How a start tells that it succeeded or failed.
#[derive(Debug)]
pub(crate) struct Report {
    console: Console,
    /// To the parent, if there is one.
    parent: Option<File>,
}

/// What the parent of a background process learns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Started,
    Failed(String),
}

const STARTED: u8 = b'+';
const FAILED: u8 = b'-';

/// Which side of the fork this is.
pub(crate) enum Side {
    Parent(Outcome),
    Child(Report),
}

impl Report {
    /// For a process that stays in the foreground.
    pub(crate) const fn to_console(console: Console) -> Self {
        Self { console, parent: None }
    }

    /// The gateway listens: lets the parent go. A background process leaves the terminal now.
    pub(crate) fn started(&mut self, keep_stderr: bool) {
        let Some(mut parent) = self.parent.take() else {
            self.console.info("Kong started");
            return;
        };
        if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
            let _ = dup2_stdin(&null);
            let _ = dup2_stdout(&null);
            if !keep_stderr {
                let _ = dup2_stderr(&null);
            }
        }
        let _ = parent.write_all(&[STARTED]);
    }

    /// The gateway did not start: the text becomes the error of the command.
    pub(crate) fn failed(&mut self, message: &str) {
        match self.parent.take() {
            None => self.console.failed(message),
            Some(mut parent) => {
                let _ = parent.write_all(&[FAILED]).and_then(|()| parent.write_all(message.as_bytes()));
            }
        }
    }
}

/// Forks; the parent returns when the child has reported.
///
/// # Errors
/// No pipe or no process can be made.
pub(crate) fn daemonise(console: Console) -> io::Result<Side> {
    let (from_child, to_parent) = pipe()?;
    // SAFETY: no thread has been started yet, so the child may go on as it likes.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(from_child);
            setsid()?;
            let to_parent = File::from(to_parent);
            close_on_exec(&to_parent)?;
            Ok(Side::Child(Report { console, parent: Some(to_parent) }))
        }
        ForkResult::Parent { .. } => {
            drop(to_parent);
            let mut told = Vec::new();
            File::from(from_child).read_to_end(&mut told)?;
            Ok(Side::Parent(outcome(&told)))
        }
    }
}

fn outcome(told: &[u8]) -> Outcome {
    match told.split_first() {
        Some((&STARTED, _)) => Outcome::Started,
        Some((&FAILED, message)) => Outcome::Failed(String::from_utf8_lossy(message).into_owned()),
        _ => Outcome::Failed("the gateway ended while it was starting; see its error log".to_owned()),
    }
}

/// Plugin servers must not hold the pipe: the parent would wait for them.
fn close_on_exec(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_child_is_understood() {
        for (told, expect) in [
            (&b"+"[..], Outcome::Started),
            (b"-cannot bind", Outcome::Failed("cannot bind".to_owned())),
            (b"", Outcome::Failed("the gateway ended while it was starting; see its error log".to_owned())),
        ] {
            assert_eq!(outcome(told), expect);
        }
    }
}

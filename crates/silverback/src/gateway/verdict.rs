//! How a reload went, for the command that asked for it: a small file in the prefix.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What became of a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With what is worth telling, a line each.
    Accepted(Vec<String>),
    Refused(String),
}

const ACCEPTED: &str = "accepted";
const REFUSED: &str = "refused: ";

fn path(prefix: &Path) -> PathBuf {
    prefix.join("pids").join("reload.verdict")
}

/// What asks for plugin servers to be started anew with the next reload.
fn request(prefix: &Path) -> PathBuf {
    prefix.join("pids").join("reload.plugins")
}

/// Asks for plugin servers to be started anew with the next reload.
///
/// # Errors
/// The prefix cannot be written to.
pub(crate) fn request_plugins(prefix: &Path) -> io::Result<()> {
    fs::write(request(prefix), "")
}

/// Whether plugin servers are to be started anew; asked once.
pub(super) fn take_request(prefix: &Path) -> bool {
    fs::remove_file(request(prefix)).is_ok()
}

pub(crate) fn forget(prefix: &Path) {
    let _ = fs::remove_file(path(prefix));
}

pub(crate) fn read(prefix: &Path) -> Option<Verdict> {
    let text = fs::read_to_string(path(prefix)).ok()?;
    match text.strip_prefix(REFUSED) {
        Some(message) => Some(Verdict::Refused(message.to_owned())),
        None => {
            let mut lines = text.lines();
            (lines.next() == Some(ACCEPTED)).then(|| Verdict::Accepted(lines.map(str::to_owned).collect()))
        }
    }
}

/// Appears in one step, so that nobody reads half a verdict. A failure is not told: the error log has the verdict, too.
pub(super) fn write(prefix: &Path, verdict: &Verdict) {
    let text = match verdict {
        Verdict::Accepted(remarks) => {
            let mut text = ACCEPTED.to_owned();
            for remark in remarks {
                text.push('\n');
                text.push_str(&remark.replace('\n', " "));
            }
            text
        }
        Verdict::Refused(message) => format!("{REFUSED}{message}"),
    };
    let path = path(prefix);
    let temporary = path.with_extension("new");
    let _ = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_as_they_were_written() {
        let prefix = tempfile::tempdir().unwrap();
        fs::create_dir(prefix.path().join("pids")).unwrap();
        assert_eq!(read(prefix.path()), None);
        for verdict in [
            Verdict::Accepted(Vec::new()),
            Verdict::Accepted(vec!["one".to_owned(), "two".to_owned()]),
            Verdict::Refused("in 'services':\n  - bad".to_owned()),
        ] {
            write(prefix.path(), &verdict);
            assert_eq!(read(prefix.path()), Some(verdict));
        }
        forget(prefix.path());
        assert_eq!(read(prefix.path()), None);
    }
}

//! The executable under test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The root of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A file of the project, which `scripts/setup` makes if it does not come with it.
pub fn project_file(path: &str) -> PathBuf {
    let path = root().join(path);
    assert!(path.exists(), "{} is missing: run scripts/setup test", path.display());
    path
}

/// Path of the executable: `SILVERBACK`, or what was built in the profile of the tests.
pub fn executable() -> PathBuf {
    if let Some(path) = std::env::var_os("SILVERBACK") {
        return path.into();
    }
    // A test is target/PROFILE/deps/NAME, a program of this crate target/PROFILE/NAME.
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().unwrap();
    let profile = if profile.ends_with("deps") { profile.parent().unwrap() } else { profile };
    let path = profile.join("silverback");
    assert!(path.exists(), "{} is missing: run cargo build -p silverback", path.display());
    path
}

/// A command that runs the executable in the root of the project, with no `KONG_*` variable but those given later.
pub(crate) fn silverback() -> Command {
    let mut command = Command::new(executable());
    command.current_dir(root()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KONG_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the executable to its end.
pub async fn run_silverback(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = silverback();
    command.args(arguments).envs(environment.iter().copied());
    // Into files: a daemon that keeps a pipe open must not keep the test waiting.
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let status =
        crate::eventually(&format!("end of silverback {arguments:?}"), || child.try_wait().unwrap()).await.code();
    Ended { status, stdout: lossy(out.path()), stderr: lossy(err.path()) }
}

/// The text of a file; empty if there is none.
pub(crate) fn lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

//! Repair: modules of ours that stock servers load, because their environment says so.
//!
//! Stock servers have faults that no host can see from outside: in kong-js-pdk a handler that throws looks as if it had
//! returned, and an error of a socket ends the process; kong-python-pdk holds a lock while a handler runs, and keeps it
//! if the handler raises. Python imports a `sitecustomize` from `PYTHONPATH`, Node what `NODE_OPTIONS` requires. Both
//! modules act on kong-pdk only, and only if it has the shape that they know; every other program that inherits the
//! environment runs as it would have.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

const PYTHON: [(&str, &str); 2] = [
    ("sitecustomize.py", include_str!("repair/python/sitecustomize.py")),
    ("silverback_repair.py", include_str!("repair/python/silverback_repair.py")),
];

const NODE: (&str, &str) = ("silverback-repair.js", include_str!("repair/node/silverback-repair.js"));

/// The modules, as files.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    /// Goes in front of `PYTHONPATH`; `None` if that cannot name it.
    python: Option<PathBuf>,
    node: Option<PathBuf>,
}

impl Repair {
    /// Writes the modules below a directory.
    ///
    /// # Errors
    /// They cannot be written.
    pub(crate) fn write(directory: &Path) -> io::Result<Self> {
        let directory = std::path::absolute(directory)?;
        let (python, node) = (directory.join("python"), directory.join("node"));
        for folder in [&directory, &python, &node] {
            fs::create_dir_all(folder)?;
            // a server may run as another user
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        for (name, text) in PYTHON {
            put(&python.join(name), text)?;
        }
        let node = node.join(NODE.0);
        put(&node, NODE.1)?;
        Ok(Self {
            // it is a list of paths, in which no character can be escaped
            python: (!python.as_os_str().as_bytes().contains(&b':')).then_some(python),
            // it is text
            node: node.to_str().is_some().then_some(node),
        })
    }

    /// The variables to set, given those that are there.
    pub(crate) fn environment(
        &self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> impl Iterator<Item = (&'static str, OsString)> {
        let there = |name| variable(name).filter(|value| !value.is_empty());
        let python = self.python.as_deref().map(|directory| {
            let mut path = directory.as_os_str().to_owned();
            if let Some(before) = there("PYTHONPATH") {
                path.push(":");
                path.push(before);
            }
            ("PYTHONPATH", path)
        });
        let node = self.node.as_deref().and_then(Path::to_str).map(|file| {
            let mut options = there("NODE_OPTIONS").unwrap_or_default();
            if !options.is_empty() {
                options.push(" ");
            }
            options.push(require(file));
            ("NODE_OPTIONS", options)
        });
        python.into_iter().chain(node)
    }
}

/// Makes a command load the modules.
pub(crate) fn apply(repair: &Repair, command: &mut tokio::process::Command) {
    let set: Vec<_> = {
        let command = command.as_std();
        let variable = |name: &str| match command.get_envs().find(|(known, _)| *known == OsStr::new(name)) {
            Some((_, value)) => value.map(OsStr::to_owned),
            None => std::env::var_os(name),
        };
        repair.environment(variable).collect()
    };
    command.envs(set);
}

/// Node splits the variable at spaces, except within double quotes, where a backslash escapes.
fn require(file: &str) -> OsString {
    let quoted = file.replace('\\', r"\\").replace('"', r#"\""#);
    OsStr::new(&format!("--require=\"{quoted}\"")).to_owned()
}

/// Writes a file that another gateway, or an older process of a server, may be reading: it changes in one step.
fn put(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(repair: &Repair, there: &[(&str, &str)]) -> Vec<(String, String)> {
        let variable =
            |name: &str| there.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        let text = |value: OsString| value.into_string().unwrap();
        repair.environment(variable).map(|(name, value)| (name.to_owned(), text(value))).collect()
    }

    #[test]
    fn what_is_in_the_environment_stays() {
        let repair = Repair { python: Some("/a b/python".into()), node: Some("/a \"b\\/x.js".into()) };
        let own = [("PYTHONPATH", "/a b/python"), ("NODE_OPTIONS", r#"--require="/a \"b\\/x.js""#)];
        let owned = |pairs: [(&str, &str); 2]| pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(&repair, &[("NODE_OPTIONS", "")]), owned(own));
        let there = [("PYTHONPATH", "/x:/y"), ("NODE_OPTIONS", "--max-old-space-size=99")];
        let expect = [
            ("PYTHONPATH", "/a b/python:/x:/y"),
            ("NODE_OPTIONS", r#"--max-old-space-size=99 --require="/a \"b\\/x.js""#),
        ];
        assert_eq!(environment(&repair, &there), owned(expect));
    }

    #[test]
    fn the_modules_are_written_for_every_user() {
        let folder = tempfile::TempDir::new().unwrap();
        let directory = folder.path().join("in here");
        for _ in 0..2 {
            let repair = Repair::write(&directory).unwrap();
            let (python, node) = (repair.python.unwrap().join("sitecustomize.py"), repair.node.unwrap());
            for file in [python, node] {
                assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644, "{}", file.display());
            }
        }
        assert_eq!(Repair::write(&folder.path().join("a:b")).unwrap().python, None);
    }
}

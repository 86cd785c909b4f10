//! The files that a server is made of, as far as its start command names them: whether one of them has changed is
//! whether the server should be started anew.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use silverback_config::settings::PluginServer;

use crate::Words;

/// Files that are looked at.
const MAX_FILES: usize = 4096;

/// Directories below one that a command names.
const MAX_DEPTH: usize = 4;

/// What code of plugins ends in.
const CODE: [&str; 7] = ["js", "mjs", "cjs", "ts", "py", "so", "lua"];

/// The state of the files that a server is made of. Two that are equal are of the same files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<PathBuf, Stamp>);

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Sources {
    /// Of a server: its executable, the scripts that its start command names with those beside them, and the code in
    /// directories that it names, except for the gateway's own, its prefix. Reads the file system.
    pub fn of(server: &PluginServer, prefix: &Path) -> Self {
        let mut sources = Self::default();
        let Some(line) = &server.start_cmd else { return sources };
        let directory = server.process.cwd.clone().or_else(|| env::current_dir().ok()).unwrap_or_default();
        let mut is_program = true;
        let variable = |name: &str| {
            let given =
                server.process.env.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.clone());
            // A shell's PWD is where it is.
            let here = || (name == "PWD").then(|| directory.display().to_string());
            given.or_else(here).or_else(|| env::var(name).ok())
        };
        for word in Words::split(line, variable).words {
            let assigns = word.split_once('=').is_some_and(|(name, _)| !name.starts_with(['-', '/', '.']));
            if is_program && (assigns || matches!(word.as_str(), "env" | "exec" | "nice" | "nohup")) {
                continue;
            }
            let value =
                word.split_once('=').filter(|_| word.starts_with('-')).map_or(word.as_str(), |(_, value)| value);
            if is_program && !word.starts_with('-') {
                is_program = false;
                if !word.contains('/') {
                    sources.add_program(&word, prefix);
                    continue;
                }
            }
            let path = directory.join(value);
            sources.add(&path, prefix);
        }
        sources
    }

    fn add_program(&mut self, name: &str, prefix: &Path) {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
        if let Some(found) = found {
            self.add(&found, prefix);
        }
    }

    fn add(&mut self, path: &Path, prefix: &Path) {
        let Ok(file) = fs::metadata(path) else { return };
        if file.is_dir() {
            self.add_code(path, MAX_DEPTH, &|path| path != prefix);
        } else if file.is_file() {
            self.insert(path, &file);
            // what a script imports lies beside it, more often than not
            if let (Some(directory), Some(ending)) = (path.parent(), ending(path)) {
                self.add_code(directory, 0, &|other| other == directory || self::ending(other) == Some(ending));
            }
        }
    }

    /// The code in a directory, and so many levels below.
    fn add_code(&mut self, directory: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) {
        if !wanted(directory) {
            return;
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if self.0.len() >= MAX_FILES {
                return;
            }
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match fs::metadata(&path) {
                Ok(file) if file.is_dir() && depth > 0 && !hidden && !path.ends_with("node_modules") => {
                    self.add_code(&path, depth - 1, wanted);
                }
                Ok(file) if file.is_file() && ending(&path).is_some() && wanted(&path) => self.insert(&path, &file),
                _ => {}
            }
        }
    }

    fn insert(&mut self, path: &Path, file: &fs::Metadata) {
        let modified = (file.mtime(), file.mtime_nsec());
        let stamp = Stamp { device: file.dev(), inode: file.ino(), length: file.len(), modified };
        self.0.insert(path.to_owned(), stamp);
    }
}

/// The ending of a file of code.
fn ending(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?;
    CODE.into_iter().find(|code| *code == ending)
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_a_command_names_is_seen_to_change() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("js/lib")).unwrap();
        fs::create_dir_all(at("js/node_modules")).unwrap();
        fs::create_dir_all(at("prefix")).unwrap();
        let files = [
            "server",
            "plugin.py",
            "helper.py",
            "notes.txt",
            "js/a.js",
            "js/lib/b.ts",
            "js/node_modules/c.js",
            "prefix/d.js",
        ];
        for file in files {
            write(at(file), "1").unwrap();
        }
        let check = |line: &str, expect: &[&str]| {
            let mut server = PluginServer::new("s", "", "");
            server.process.cwd = Some(folder.path().to_owned());
            server.start_cmd = Some(line.to_owned());
            let sources = || Sources::of(&server, &at("prefix"));
            let before = sources();
            for file in files {
                let old = sources();
                write(at("new"), "22").unwrap();
                fs::rename(at("new"), at(file)).unwrap();
                assert_eq!(sources() != old, expect.contains(&file), "{line}: {file}");
            }
            assert_eq!(before == sources(), expect.is_empty(), "{line}");
        };
        check("env A=/x ./server -kong-prefix /tmp/nowhere", &["server"]);
        check("python3 plugin.py", &["plugin.py", "helper.py"]);
        check("node nothing --plugins-directory=js", &["js/a.js", "js/lib/b.ts"]);
        check("node nothing --plugins-directory js", &["js/a.js", "js/lib/b.ts"]);
        check("node nothing --plugins-directory \"$PWD/js\"", &["js/a.js", "js/lib/b.ts"]);
        check("sleep 100", &[]);
        check("./server -kong-prefix prefix", &["server"]);
    }
}

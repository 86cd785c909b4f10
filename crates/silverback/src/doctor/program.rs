//! Which program a shell command line runs, as far as that can be told without running it.

use std::path::{Path, PathBuf};

use silverback_plugin_host::Words;

use crate::plugin_dir::is_executable;

/// A command: the program that it runs and what that is given. Variables that are set for it, and `env` and `exec` before
/// it, are passed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    /// `PATH`, if the command sets it.
    pub(super) path: Option<String>,
}

/// `None` where a shell does more with the line than splitting it.
pub(super) fn command(line: &str) -> Option<Command> {
    let mut path = None;
    let split = Words::split(line, |_| None);
    let mut words = split.is_plain.then_some(split.words)?.into_iter();
    loop {
        let word = words.next()?;
        let assigned = word
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        if let Some((name, value)) = assigned {
            if name == "PATH" {
                path = Some(value.to_owned());
            }
        } else if matches!(word.as_str(), "env" | "/usr/bin/env" | "exec") {
            // its flags are not known here
            continue;
        } else if word.starts_with('-') {
            return None;
        } else {
            return Some(Command { program: word, arguments: words.collect(), path });
        }
    }
}

/// Why a program cannot be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    NotInPath,
    NoFile(PathBuf),
    Directory(PathBuf),
    NotExecutable(PathBuf),
}

/// The file that a shell would run.
pub(super) fn find(program: &str, path: &str) -> Result<PathBuf, Missing> {
    if program.contains('/') {
        let file = PathBuf::from(program);
        return match std::fs::metadata(&file) {
            Err(_) => Err(Missing::NoFile(file)),
            Ok(found) if found.is_dir() => Err(Missing::Directory(file)),
            Ok(_) if !is_executable(&file) => Err(Missing::NotExecutable(file)),
            Ok(_) => Ok(file),
        };
    }
    let places: Vec<PathBuf> = std::env::split_paths(path).map(|directory| directory.join(program)).collect();
    match places.iter().find(|place| is_executable(place)) {
        Some(place) => Ok(place.clone()),
        None => match places.into_iter().find(|place| Path::is_file(place)) {
            Some(place) => Err(Missing::NotExecutable(place)),
            None => Err(Missing::NotInPath),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        for (line, expect) in [
            ("/opt/go -kong-prefix /p", Some(("/opt/go", vec!["-kong-prefix", "/p"], None))),
            ("env A=b PATH=/x  node 'a b'\\ c \"d\"", Some(("node", vec!["a b c", "d"], Some("/x")))),
            ("A=1 exec python3", Some(("python3", vec![], None))),
            ("sh -c \"echo $HOME\"", None),
            ("a | b", None),
            ("env -i a", None),
            ("'unfinished", None),
            ("", None),
        ] {
            let command = command(line);
            let seen = command.as_ref().map(|command| {
                let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
                (command.program.as_str(), arguments, command.path.as_deref())
            });
            assert_eq!(seen, expect, "{line}");
        }
    }
}

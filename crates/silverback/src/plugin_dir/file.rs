//! What a file of the directory is: told by its name, its mode and its first bytes.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Bytes of a script that are looked at.
const MAX_SCRIPT: u64 = 1 << 20;

/// Files that lie beside plugins and are none: nobody needs to hear of them.
const COMPANIONS: [&str; 9] = [
    "__init__.py",
    "go.mod",
    "go.sum",
    "license",
    "makefile",
    "package-lock.json",
    "package.json",
    "pyproject.toml",
    "yarn.lock",
];

/// How a plugin is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A server by itself: built with go-pdk, for example.
    Executable,
    /// An executable script for Python.
    PythonExecutable {
        new_style: bool,
    },
    /// Python that calls `start_dedicated_server`.
    PythonServer {
        new_style: bool,
    },
    /// Python with a class `Plugin`.
    PythonClass {
        new_style: bool,
    },
    Node {
        typescript: bool,
    },
}

/// What a look at a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plugin(Kind),
    /// Nothing to talk about.
    Passed,
    /// Not a plugin, though it may have been meant to be one: why.
    Finding(String),
}

pub(super) fn look(path: &Path) -> Look {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with('.') {
        // Kubernetes keeps the files of a volume in `..data`, and links to them.
        return Look::Passed;
    }
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) => return Look::Finding(format!("cannot be read: {error}")),
    };
    let lower = name.to_ascii_lowercase();
    let companion = COMPANIONS.contains(&lower.as_str())
        || lower.ends_with(".md")
        || lower.ends_with(".d.ts")
        || lower.ends_with(".map")
        || (lower.starts_with("tsconfig") && lower.ends_with(".json"))
        || (lower.starts_with("requirements") && lower.ends_with(".txt"));
    if !file.is_file() || companion {
        return Look::Passed;
    }
    let bytes = match begin(path) {
        Ok(bytes) => bytes,
        Err(error) => return Look::Finding(format!("cannot be read: {error}")),
    };
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        "py" => python(&String::from_utf8_lossy(&bytes)),
        "js" | "ts" => node(&String::from_utf8_lossy(&bytes), extension == "ts"),
        "so" => Look::Finding(
            "a Go plugin for go-pluginserver is not run from here: name its directory in go_plugins_dir, or build it \
             as a program with go-pdk's server.StartServer"
                .to_owned(),
        ),
        _ => executable(&bytes, file.permissions().mode() & 0o111 != 0),
    }
}

fn begin(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SCRIPT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn python(text: &str) -> Look {
    let new_style = !takes_errors(text);
    if text.contains("start_dedicated_server") {
        Look::Plugin(Kind::PythonServer { new_style })
    } else if text.contains("Plugin") {
        Look::Plugin(Kind::PythonClass { new_style })
    } else {
        Look::Finding("it is no plugin: it has no class Plugin and does not call start_dedicated_server".to_owned())
    }
}

fn node(text: &str, typescript: bool) -> Look {
    if text.contains("Plugin") {
        Look::Plugin(Kind::Node { typescript })
    } else {
        Look::Finding("it is no plugin: it exports no Plugin".to_owned())
    }
}

fn executable(bytes: &[u8], may_run: bool) -> Look {
    let script = bytes.strip_prefix(b"#!").map(|rest| {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    });
    if script.is_none() && !bytes.starts_with(b"\x7fELF") {
        return Look::Finding("it is no plugin: neither an executable nor a .js, .ts or .py file".to_owned());
    }
    if !may_run {
        return Look::Finding(
            "it is not executable: chmod +x it (in a Kubernetes volume: defaultMode: 0755)".to_owned(),
        );
    }
    match script {
        Some(interpreter) if interpreter.contains("python") => {
            let new_style = !takes_errors(&String::from_utf8_lossy(bytes));
            Look::Plugin(Kind::PythonExecutable { new_style })
        }
        _ => Look::Plugin(Kind::Executable),
    }
}

/// Whether a plugin takes two results from a PDK call (`host, err = kong.request.get_host()`): kong-python-pdk's older
/// style, in which every call returns two.
fn takes_errors(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        !line.starts_with('#')
            && line.split_once('=').is_some_and(|(names, call)| {
                let mut names = names.split(',').map(str::trim);
                let is_name =
                    |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                let two = names.next().is_some_and(is_name) && names.next().is_some_and(is_name);
                let call = call.trim_start();
                two && names.next().is_none() && (call.starts_with("kong.") || call.starts_with("self.kong."))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_style_of_python_is_told_by_two_results() {
        for (line, expect) in [
            ("        host, err = kong.request.get_header('host')", true),
            ("  body, _ = self.kong.request.get_raw_body()", true),
            ("host = kong.request.get_header('host')", false),
            ("# host, err = kong.request.get_header('host')", false),
            ("a, b = 1, 2", false),
            ("x[1], y = kong.request.get_host()", false),
        ] {
            assert_eq!(takes_errors(line), expect, "{line}");
        }
    }

    #[test]
    fn what_can_be_run_is_told_by_its_first_bytes() {
        for (bytes, may_run, expect) in [
            (&b"\x7fELF\x02"[..], true, Ok(Kind::Executable)),
            (b"#!/bin/sh\nexec x\n", true, Ok(Kind::Executable)),
            (b"#!/usr/bin/env python3\nh, e = kong.a()", true, Ok(Kind::PythonExecutable { new_style: false })),
            (b"\x7fELF\x02", false, Err("not executable")),
            (b"text", true, Err("no plugin")),
            (b"", true, Err("no plugin")),
        ] {
            match (executable(bytes, may_run), expect) {
                (Look::Plugin(kind), Ok(expect)) => assert_eq!(kind, expect),
                (Look::Finding(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (other, expect) => panic!("{other:?}, {expect:?}"),
            }
        }
    }
}

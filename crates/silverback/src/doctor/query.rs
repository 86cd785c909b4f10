//! What a query command's failure means.

use silverback_plugin_host::{DumpError, QueryError};

use super::Finding;

/// What plugin servers say when something is missing, what that is, and the cure. The first that fits is told.
const SAYINGS: [(&str, &str, &str, &str); 9] = [
    (
        "plugin was built with a different version of package",
        "go_version_mismatch",
        "the Go plugin and go-pluginserver were built with different versions of Go or of a package",
        "build both with the same Go and the same go.mod versions, or build the plugin as a program (server.StartServer)",
    ),
    (
        "plugin: not implemented",
        "cgo_missing",
        "this go-pluginserver was built without cgo, and cannot load .so files",
        "build it with CGO_ENABLED=1, or build the plugin as a program (server.StartServer)",
    ),
    (
        "No module named 'kong_pdk'",
        "python_module_missing",
        "this Python has no kong_pdk",
        "install it for the interpreter that the command names: PYTHON -m pip install kong-pdk",
    ),
    (
        "No module named",
        "python_module_missing",
        "this Python lacks a module",
        "install it for the interpreter that the command names: PYTHON -m pip install ...",
    ),
    (
        "Cannot find module 'kong-pdk",
        "node_module_missing",
        "Node.js finds no kong-pdk",
        "run npm install kong-pdk beside the plugins, or npm install --global kong-pdk",
    ),
    (
        "Cannot find module",
        "node_module_missing",
        "Node.js does not find a module or file",
        "run npm install beside the plugins, or correct the path in the command",
    ),
    (
        "error while loading shared libraries",
        "library_missing",
        "a shared library is missing",
        "install it, or link the program statically (Go: CGO_ENABLED=0)",
    ),
    (
        "version `GLIBC_",
        "wrong_libc",
        "it was built on a system with a newer glibc",
        "build it in an image like this one, or link it statically (Go: CGO_ENABLED=0)",
    ),
    (
        "Permission denied",
        "permission_denied",
        "something may not be read or run by this user",
        "look at the owner and the mode of the files that it names",
    ),
];

pub(super) fn finding(error: &QueryError, subject: &str) -> Finding {
    let text = error.to_string();
    if let Some((saying, code, meaning, cure)) = SAYINGS.iter().find(|(saying, ..)| text.contains(saying)) {
        let line = said(error).split(" | ").find(|line| line.contains(saying)).unwrap_or(saying).to_owned();
        return Finding::problem(code, subject, format!("{meaning}: {line}"), *cure);
    }
    let (code, cure) = match error {
        // its user, its directory or its limits: the message names them
        QueryError::NotRun { .. } => ("query_not_run", "correct its user, cwd or rlimits, whichever that is about"),
        QueryError::Deadline { .. } => {
            ("query_too_slow", "the command must print what it offers and end: does it start the server instead?")
        }
        QueryError::NotLoaded { .. } => ("plugin_not_loaded", "see what it said, and mend or remove the plugin"),
        QueryError::Unreadable { reason, status, .. } => match **reason {
            DumpError::UnknownProtocol { .. } => {
                ("protocol_unknown", "build the plugin with a release of its PDK that speaks MsgPack:1 or ProtoBuf:1")
            }
            _ if status.contains("127") => ("command_not_found", "correct its query command"),
            DumpError::Empty => ("query_without_output", "correct its query command, or mend the plugin"),
            DumpError::NoneOffered => ("plugin_not_loaded", "see what it said, and mend the plugin or the path"),
            DumpError::NoJson { .. } | DumpError::NoPlugins { .. } => (
                "query_not_json",
                "the command must print the description of its plugins as JSON: is it the right one, with the right flag \
                 (-dump, --dump, --dump-all-plugins)?",
            ),
            DumpError::NoName { .. } | DumpError::NoSchema { .. } => {
                ("query_incomplete", "mend the plugin's description of itself")
            }
        },
    };
    // The commands of a file are made by the gateway.
    let cure =
        if subject.starts_with("plugin_dir: ") && cure.contains("query command") { "mend the plugin" } else { cure };
    Finding::problem(code, subject, error.what(), cure)
}

fn said(error: &QueryError) -> &str {
    match error {
        QueryError::Unreadable { stderr, .. } | QueryError::NotLoaded { stderr, .. } => stderr,
        QueryError::NotRun { .. } | QueryError::Deadline { .. } => "",
    }
}

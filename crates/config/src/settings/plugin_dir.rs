//! A directory of plugins.

use std::{collections::BTreeMap, path::PathBuf};

use super::{EventPolicy, ProcessPolicy};

/// `plugin_dir`: a directory in which every file that is a plugin is served, and what its files are run with. Which they
/// are is found out by those who serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginDir {
    /// Absolute.
    pub path: PathBuf,
    /// `plugin_dir_python`: the interpreter, by name or path.
    pub python: Option<String>,
    /// `plugin_dir_python_args`: arguments of the servers of `.py` files, in the words of a shell.
    pub python_args: Option<String>,
    /// `plugin_dir_node`: Node.js, by name or path.
    pub node: Option<String>,
    /// `plugin_dir_js_pluginserver`: the path of kong-pdk's `kong-js-pluginserver`.
    pub js_pluginserver: Option<String>,
    /// The files that are served, by the name of their server; empty until the directory has been looked through. Their
    /// servers are among [`super::Settings::plugin_servers`] then.
    pub served: BTreeMap<String, PathBuf>,
    /// The files that cannot be served, and why; filled with [`Self::served`].
    pub unserved: BTreeMap<PathBuf, String>,
    /// What `pluginserver_NAME_*` says of files, whose names stand for NAME.
    pub policies: Vec<FilePolicy>,
}

/// What the properties of a file say of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePolicy {
    /// The name of the file.
    pub file: String,
    pub events: EventPolicy,
    pub process: ProcessPolicy,
}

impl PluginDir {
    /// The file that a server of this name serves.
    pub fn file(&self, server: &str) -> Option<&PathBuf> {
        self.served.get(server)
    }

    /// What holds for the server of a file.
    pub fn policy(&self, file: &str) -> (EventPolicy, ProcessPolicy) {
        let known = self.policies.iter().find(|policy| policy.file == file);
        known.map_or_else(Default::default, |policy| (policy.events.clone(), policy.process.clone()))
    }
}

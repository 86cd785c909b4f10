//! `plugin_dir` and the properties that begin with it.

use std::{collections::BTreeMap, fs, path::Path};

use crate::settings::{FilePolicy, PluginDir};

use super::{plugin_servers, reader::Reader, resolve::absolute};

pub(super) fn read(reader: &mut Reader<'_>) -> Option<PluginDir> {
    let path = absolute(&reader.text("plugin_dir")?);
    if !path.is_dir() {
        reader.problem("plugin_dir", format!("plugin_dir: no directory at {}", path.display()));
    }
    let whole = |name: &str| {
        let text = reader.text(name)?;
        Some(if text.contains('/') { absolute(&text).display().to_string() } else { text })
    };
    let (python, node) = (whole("plugin_dir_python"), whole("plugin_dir_node"));
    let python_args = reader.text("plugin_dir_python_args");
    let js_pluginserver = reader.text("plugin_dir_js_pluginserver").map(|path| absolute(&path).display().to_string());
    let policies = policies(reader, &path);
    Some(PluginDir {
        path,
        python,
        python_args,
        node,
        js_pluginserver,
        served: BTreeMap::new(),
        unserved: BTreeMap::new(),
        policies,
    })
}

/// What is said of files that are there. That a file is a plugin is found out later.
fn policies(reader: &mut Reader<'_>, directory: &Path) -> Vec<FilePolicy> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut named: Vec<String> = names.filter(|name| plugin_servers::has_policies(reader, name)).collect();
    named.sort();
    let policy = |file: String| {
        let (events, process) = plugin_servers::policies(reader, &file);
        FilePolicy { file, events, process }
    };
    named.into_iter().map(policy).collect()
}

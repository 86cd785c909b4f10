//! `plugin_dir`: a directory whose files are plugins. Each one is a plugin server of its own, so that a file that is broken
//! costs only itself.
//!
//! [`discover`] looks and decides, and changes nothing; [`include`] makes what is found part of the settings, as if
//! `pluginserver_names` had named it. What is found is written into no file: it is looked for again at every start and reload.

mod file;
mod tools;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

pub(crate) use self::tools::is_executable;
use self::{
    file::{Kind, Look},
    tools::Tools,
};
use silverback_config::{
    Settings,
    conf::shell_quoted,
    settings::{PluginDir, PluginServer},
};

/// What a directory holds.
#[derive(Debug, Default)]
struct Discovery {
    servers: Vec<Discovered>,
    /// Files that are no plugins, or cannot be served.
    findings: Vec<Finding>,
}

/// A file that is served.
#[derive(Clone, Debug)]
struct Discovered {
    file: PathBuf,
    server: PluginServer,
    needs: Needs,
}

/// What must be there before a server can start.
#[derive(Clone, Debug)]
enum Needs {
    Nothing,
    /// [`PYTHON_SERVER`], at this path.
    File(PathBuf),
    /// A directory that holds nothing but a link to the file: kong-js-pluginserver serves directories only.
    Link(PathBuf),
}

/// A file that is not served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) file: PathBuf,
    /// What is wrong, and the cure.
    pub(crate) message: String,
}

impl Finding {
    /// Whether this is the file in which one would look for a plugin of this name.
    pub(crate) fn is_of(&self, plugin: &str) -> bool {
        self.file.file_stem().is_some_and(|stem| stem == plugin)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin_dir: {}: {}", self.file.display(), self.message)
    }
}

/// Where a gateway keeps the links that servers need.
pub(crate) fn links(settings: &Settings) -> PathBuf {
    settings.prefix.join("plugin_dir")
}

/// Puts the plugin servers that the directory holds among those of the settings. Gives the files that are not served, with
/// the reason.
pub(crate) fn include(settings: &mut Settings, links: &Path) -> Vec<Finding> {
    let mut discovery = discover(settings, links);
    discovery.link();
    let Discovery { servers, mut findings } = discovery;
    for Discovered { file, server, .. } in servers {
        if settings.plugin_servers.iter().any(|known| known.name == server.name) {
            let message = format!("pluginserver_names has a server named {} already: rename one of them", server.name);
            findings.push(Finding { file, message });
        } else if let Some(directory) = &mut settings.plugin_dir {
            directory.served.insert(server.name.clone(), file);
            settings.plugin_servers.push(server);
        }
    }
    if let Some(directory) = &mut settings.plugin_dir {
        directory.unserved = findings.iter().map(|found| (found.file.clone(), found.message.clone())).collect();
    }
    findings
}

/// Looks through the directory of `plugin_dir`, in the environment of this process. `links` is where [`Discovery::link`]
/// would put its links.
fn discover(settings: &Settings, links: &Path) -> Discovery {
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    match &settings.plugin_dir {
        Some(directory) => discover_in(directory, &settings.prefix, links, &environment),
        None => Discovery::default(),
    }
}

fn discover_in(
    directory: &PluginDir,
    prefix: &Path,
    links: &Path,
    environment: &BTreeMap<String, String>,
) -> Discovery {
    let mut discovery = Discovery::default();
    let tools = Tools::new(directory, environment);
    let mut names: Vec<PathBuf> = match fs::read_dir(&directory.path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            let message = format!("cannot be read: {error}");
            discovery.findings.push(Finding { file: directory.path.clone(), message });
            return discovery;
        }
    };
    names.sort();
    for file in names {
        let server = match file::look(&file) {
            Look::Passed => continue,
            Look::Finding(message) => Err(message),
            Look::Plugin(kind) => server(&file, kind, &tools, directory, (prefix, links)),
        };
        match server {
            Ok(server) => discovery.servers.push(server),
            Err(message) => discovery.findings.push(Finding { file, message }),
        }
    }
    discovery
}

/// Serves a module that is no server by itself, under the name of its file, with the function that embedded ones call.
const PYTHON_SERVER: &str = include_str!("plugin_dir/serve.py");
/// Where it is put, beside the links.
const PYTHON_SERVER_FILE: &str = "serve.py";

fn server(
    file: &Path,
    kind: Kind,
    tools: &Tools<'_>,
    directory: &PluginDir,
    (prefix, links): (&Path, &Path),
) -> Result<Discovered, String> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("its name may have letters, digits, '-', '_' and '.' only: rename it".to_owned());
    }
    let quoted = |path: &Path| shell_quoted(&path.display().to_string());
    let (program, at) = (quoted(file), format!("--kong-prefix {}", quoted(prefix)));
    let socket_name = format!("{name}.sock");
    let mut needs = Needs::Nothing;
    let (start_cmd, query_cmd) = match kind {
        // go-pdk's flags; what other SDKs make of them is the same. The prefix makes the query tell the real socket.
        Kind::Executable => {
            let at = format!("-kong-prefix {}", quoted(prefix));
            (format!("{program} {at}"), format!("{program} {at} -dump"))
        }
        Kind::PythonExecutable { new_style } => {
            let style = python_arguments(directory, new_style);
            (format!("{program} {at} --socket-name {socket_name}{style}"), format!("{program} {at} --dump"))
        }
        Kind::PythonServer { new_style } => {
            let (python, style) = (tools.python()?, python_arguments(directory, new_style));
            let run = format!("{} {program}", quoted(&python));
            (format!("{run} {at} --socket-name {socket_name}{style}"), format!("{run} {at} --dump"))
        }
        Kind::PythonClass { new_style } => {
            let (python, style) = (tools.python()?, python_arguments(directory, new_style));
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
            let serve = links.join(PYTHON_SERVER_FILE);
            let run = format!("{} {} {} {program}", quoted(&python), quoted(&serve), shell_quoted(stem));
            needs = Needs::File(serve);
            (format!("{run} {at} --socket-name {socket_name}{style}"), format!("{run} {at} --dump"))
        }
        Kind::Node { typescript } => {
            let (node, server) = (tools.node()?, tools.js_pluginserver()?);
            let only = links.join(name);
            let variables = if typescript { tools.ts_node() } else { String::new() };
            let run = format!("{variables}{} {} --plugins-directory {}", quoted(&node), quoted(&server), quoted(&only));
            needs = Needs::Link(only);
            (format!("{run} {at} --sock-name {socket_name}"), format!("{run} {at} --dump-all-plugins"))
        }
    };
    let socket = prefix.join(match kind {
        // go-pdk takes the name from what runs, behind all links.
        Kind::Executable => {
            let real = fs::canonicalize(file).ok();
            let real = real.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            format!("{}.socket", real.unwrap_or(name))
        }
        _ => socket_name,
    });
    let (events, process) = directory.policy(name);
    let server = PluginServer { name: name.to_owned(), socket, start_cmd: Some(start_cmd), query_cmd, events, process };
    Ok(Discovered { file: file.to_path_buf(), server, needs })
}

/// kong-python-pdk returns `(data, err)` unless it is told not to. A file that takes two results gets two.
fn python_arguments(directory: &PluginDir, new_style: bool) -> String {
    match (&directory.python_args, new_style) {
        (Some(arguments), _) => format!(" {arguments}"),
        (None, true) => " --no-lua-style".to_owned(),
        (None, false) => String::new(),
    }
}

impl Discovery {
    /// Makes what servers need beside their files. A file for which that cannot be done becomes a finding.
    fn link(&mut self) {
        let findings = &mut self.findings;
        self.servers.retain(|found| match found.provide() {
            Ok(()) => true,
            Err((at, error)) => {
                let message = format!("cannot be served: {}: {error}", at.display());
                findings.push(Finding { file: found.file.clone(), message });
                false
            }
        });
    }
}

impl Discovered {
    fn provide(&self) -> Result<(), (&Path, io::Error)> {
        match &self.needs {
            Needs::Nothing => Ok(()),
            Needs::File(path) => write_server(path).map_err(|error| (path.as_path(), error)),
            Needs::Link(directory) => link_alone(directory, &self.file).map_err(|error| (directory.as_path(), error)),
        }
    }
}

fn write_server(path: &Path) -> io::Result<()> {
    // What is there already may be in use, and may not be ours to write.
    if fs::read(path).is_ok_and(|text| text == PYTHON_SERVER.as_bytes()) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, PYTHON_SERVER)
}

fn link_alone(directory: &Path, file: &Path) -> io::Result<()> {
    let Some(name) = file.file_name() else { return Ok(()) };
    let link = directory.join(name);
    if fs::read_link(&link).is_ok_and(|target| target == file) && fs::read_dir(directory)?.count() == 1 {
        return Ok(());
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(directory)?,
    }
    symlink(file, link)
}

#[cfg(test)]
mod tests;

//! Plugin servers to run: those of `examples/`, and those of `e2e/plugins/`. What `trial` and `calls` do, their configuration
//! says; `handshake` has the certificate phase, and `chaos` does what a plugin must not.

use std::path::Path;

use crate::process::project_file;

/// A language with an example plugin: `tenant`, `stamp`, `quota-label` and `content-digest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Go,
    Python,
    JavaScript,
    TypeScript,
}

/// A plugin server as `kong.conf` names it.
#[derive(Clone, Debug)]
pub struct PluginServer {
    name: String,
    plugin: String,
    /// Name of the socket in the prefix.
    socket: String,
    /// Command without the prefix, which is put in for `{prefix}`.
    start: Option<String>,
    query: String,
    environment: String,
    /// Lines of shell that run before the process.
    prelude: Option<String>,
    /// Whether the process begins by itself.
    starts_at_once: bool,
}

/// A trial plugin, named `trial-go`, `trial-py` or `trial-js`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    Go,
    Python,
    JavaScript,
}

/// The chaos plugin in the language of a trial plugin: it goes wrong in the way that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos(pub Trial);
/// A plugin for the certificate phase, named `handshake-py` or `handshake-js`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Python,
    JavaScript,
}

impl From<Handshake> for PluginServer {
    fn from(handshake: Handshake) -> Self {
        match handshake {
            Handshake::Python => {
                python("handshake-py", handshake.plugin(), "e2e/plugins/handshake/python/handshake.py")
            }
            Handshake::JavaScript => node("handshake-js", handshake.plugin(), "e2e/plugins/handshake/node"),
        }
    }
}

impl Handshake {
    /// The name of the plugin.
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Python => "handshake-py",
            Self::JavaScript => "handshake-js",
        }
    }
}

/// A plugin that makes the PDK calls that its configuration lists: `calls-go`, `calls-py`, `calls-js`; those whose names
/// end in `-response` have a response handler too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    Go,
    GoResponse,
    Python,
    PythonResponse,
    /// Both plugins.
    JavaScript,
}

impl Calls {
    /// All servers.
    pub const ALL: [Self; 5] = [Self::Go, Self::GoResponse, Self::Python, Self::PythonResponse, Self::JavaScript];
}

impl From<Calls> for PluginServer {
    fn from(calls: Calls) -> Self {
        let in_python = |name: &str, environment: &str| {
            let mut server = python(name, name, "e2e/plugins/calls/python/calls.py");
            server.environment.push_str(environment);
            server
        };
        match calls {
            Calls::Go => go("calls-go", "calls-go"),
            Calls::GoResponse => go("calls-go-response", "calls-go-response"),
            Calls::Python => in_python("calls-py", ""),
            Calls::PythonResponse => in_python("calls-py-response", " CALLS_RESPONSE=1"),
            Calls::JavaScript => node("calls-js", "calls-js,calls-js-response", "e2e/plugins/calls/node"),
        }
    }
}

impl From<Language> for PluginServer {
    fn from(language: Language) -> Self {
        match language {
            Language::Go => go("go", "tenant"),
            Language::Python => python("python", "stamp", "examples/python/stamp.py"),
            Language::JavaScript => node("javascript", "quota-label", "examples/node/javascript"),
            Language::TypeScript => {
                let mut server = node("typescript", "content-digest", "examples/node/typescript");
                // Its types are checked where `plugin_dir` starts it; that takes seconds.
                server.environment = "TS_NODE_PROJECT=examples/node/tsconfig.json TS_NODE_TRANSPILE_ONLY=true".into();
                server
            }
        }
    }
}

impl From<Trial> for PluginServer {
    fn from(trial: Trial) -> Self {
        match trial {
            Trial::Go => go("trial-go", "trial-go"),
            Trial::Python => python("trial-py", "trial-py", "e2e/plugins/trial/python/trial.py"),
            Trial::JavaScript => node("trial-js", "trial-js", "e2e/plugins/trial/node"),
        }
    }
}

impl Trial {
    /// The name of the plugin.
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Go => "trial-go",
            Self::Python => "trial-py",
            Self::JavaScript => "trial-js",
        }
    }

    /// The server with this priority of its plugin.
    pub fn priority(self, priority: i32) -> PluginServer {
        let mut server = PluginServer::from(self);
        server.environment = format!("TRIAL_PRIORITY={priority}");
        server
    }

    /// The server in Python whose handlers run in processes of their own.
    pub fn multiprocessing(self) -> PluginServer {
        let mut server = PluginServer::from(self);
        server.start = server.start.map(|start| start + " --multiprocessing");
        server
    }

    /// The server whose plugin is what [`Trial::install`] put into this directory.
    pub fn installed_in(self, directory: &Path) -> PluginServer {
        let mut server = PluginServer::from(self);
        let (from, to) = (existing(self.source()), self.installed(directory));
        let (from, to) = match self {
            // its server is told the directory
            Self::JavaScript => (existing("e2e/plugins/trial/node"), directory.to_path_buf()),
            Self::Go | Self::Python => (from, to),
        };
        let to = to.display().to_string();
        server.start = server.start.map(|start| start.replace(&from, &to));
        server.query = server.query.replace(&from, &to);
        server
    }

    /// Puts the plugin into a directory, in one step, in the place of the one that is there. In Python and JavaScript it
    /// puts its revision behind the value that it sets a header to, and `broken` text in front of the script.
    pub fn install(self, directory: &Path, revision: &str, broken: &str) {
        let (source, to) = (existing(self.source()), self.installed(directory));
        let new = directory.join("new");
        std::fs::create_dir_all(directory).unwrap();
        if self == Self::Go {
            std::fs::copy(source, &new).unwrap();
        } else {
            let text = std::fs::read_to_string(source).unwrap();
            let (from, with) = match self {
                Self::Python => (r#"config.get("value", "")"#, format!(r#"config.get("value", "") + "{revision}""#)),
                _ => ("value || ''", format!("(value || '') + '{revision}'")),
            };
            assert!(text.contains(from), "the plugin has changed");
            std::fs::write(&new, broken.to_owned() + &text.replace(from, &with)).unwrap();
        }
        std::fs::rename(new, to).unwrap();
    }

    fn source(self) -> &'static str {
        match self {
            Self::Go => ".tools/bin/trial-go",
            Self::Python => "e2e/plugins/trial/python/trial.py",
            Self::JavaScript => "e2e/plugins/trial/node/trial-js.js",
        }
    }

    fn installed(self, directory: &Path) -> std::path::PathBuf {
        directory.join(Path::new(self.source()).file_name().unwrap())
    }

    /// The server that ends at once, with a complaint, as long as `file` does not exist.
    pub fn crashing_until(self, file: &Path) -> PluginServer {
        let mut server = PluginServer::from(self);
        let complaint = "echo 'cannot find module left-pad' >&2; exit 1";
        server.prelude = Some(format!("[ -e '{}' ] || {{ {complaint}; }}", file.display()));
        server.starts_at_once = false;
        server
    }

    /// The server that does not begin before `file` exists.
    pub fn held_until(self, file: &Path) -> PluginServer {
        let mut server = PluginServer::from(self);
        server.prelude = Some(format!("until [ -e '{}' ]; do sleep 0.05; done", file.display()));
        server.starts_at_once = false;
        server
    }
}

impl From<Chaos> for PluginServer {
    fn from(chaos: Chaos) -> Self {
        match chaos.0 {
            Trial::Go => go("chaos-go", "chaos-go"),
            Trial::Python => python("chaos-py", "chaos-py", "e2e/plugins/chaos/python/chaos.py"),
            Trial::JavaScript => node("chaos-js", "chaos-js", "e2e/plugins/chaos/node"),
        }
    }
}

impl Chaos {
    /// The name of the plugin, and of its server.
    pub fn plugin(self) -> &'static str {
        match self.0 {
            Trial::Go => "chaos-go",
            Trial::Python => "chaos-py",
            Trial::JavaScript => "chaos-js",
        }
    }

    /// The name of the socket in the prefix, which is in the process's command line too.
    pub fn socket(self) -> &'static str {
        match self.0 {
            Trial::Go => "chaos-go.socket",
            Trial::Python => "chaos-py.sock",
            Trial::JavaScript => "chaos-js.sock",
        }
    }

    /// What the process's command line is known by.
    pub fn process(self) -> &'static str {
        if self.0 == Trial::Go { "bin/chaos-go" } else { self.socket() }
    }

    /// The server whose process runs these lines of shell first.
    pub fn after(self, prelude: String) -> PluginServer {
        PluginServer { prelude: Some(prelude), ..self.into() }
    }
}

impl PluginServer {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// Whether its process begins by itself.
    pub(crate) fn starts_at_once(&self) -> bool {
        self.starts_at_once
    }

    /// Its lines of `kong.conf`.
    pub(crate) fn properties(&self, prefix: &Path) -> Vec<String> {
        let key = format!("pluginserver_{}", self.name.replace('-', "_"));
        let prefix_text = prefix.display().to_string();
        let environment = format!("env {}", self.environment);
        let mut lines = vec![
            format!("{key}_socket = {}/{}", prefix.display(), self.socket),
            format!("{key}_query_cmd = {environment} {}", self.query),
        ];
        if let Some(start) = &self.start {
            let command = format!("{environment} {}", start.replace("{prefix}", &prefix_text));
            let command = match &self.prelude {
                None => command,
                Some(prelude) => {
                    let script = prefix.join(format!("start-{}.sh", self.name));
                    std::fs::write(&script, format!("{prelude}\nexec {command}\n")).unwrap();
                    format!("sh {}", script.display())
                }
            };
            lines.push(format!("{key}_start_cmd = {command}"));
        }
        lines
    }
}

fn go(name: &str, plugin: &str) -> PluginServer {
    let executable = existing(&format!(".tools/bin/{plugin}"));
    PluginServer {
        name: name.into(),
        plugin: plugin.into(),
        socket: format!("{plugin}.socket"),
        start: Some(format!("{executable} -kong-prefix {{prefix}}")),
        query: format!("{executable} -dump"),
        environment: String::new(),
        prelude: None,
        starts_at_once: true,
    }
}

fn python(name: &str, plugin: &str, script: &str) -> PluginServer {
    let command = format!("{} {}", existing(".tools/venv/bin/python"), existing(script));
    PluginServer {
        name: name.into(),
        plugin: plugin.into(),
        socket: format!("{name}.sock"),
        start: Some(format!("{command} --kong-prefix {{prefix}} --socket-name {name}.sock --no-lua-style")),
        query: format!("{command} --dump"),
        environment: "PYTHONWARNINGS=ignore".into(),
        prelude: None,
        starts_at_once: true,
    }
}

fn node(name: &str, plugin: &str, directory: &str) -> PluginServer {
    let server = existing("examples/node/node_modules/kong-pdk/bin/kong-js-pluginserver");
    let command = format!("node {server} --plugins-directory {}", existing(directory));
    PluginServer {
        name: name.into(),
        plugin: plugin.into(),
        socket: format!("{name}.sock"),
        start: Some(format!("{command} --kong-prefix {{prefix}} --sock-name {name}.sock")),
        query: format!("{command} --dump-all-plugins"),
        environment: String::new(),
        prelude: None,
        starts_at_once: true,
    }
}

/// The absolute path of a file of the project.
fn existing(path: &str) -> String {
    project_file(path).display().to_string()
}

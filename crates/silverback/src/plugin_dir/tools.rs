//! What runs Python and JavaScript files: named by settings, or found on this machine.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use silverback_config::settings::PluginDir;

/// kong-pdk's command, in the package's own directory.
const JS_PLUGINSERVER: &str = "kong-pdk/bin/kong-js-pluginserver";

/// Where npm puts what is installed for all users.
const GLOBAL_MODULES: [&str; 3] = ["/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs"];

pub(super) struct Tools<'a> {
    settings: &'a PluginDir,
    environment: &'a BTreeMap<String, String>,
}

impl<'a> Tools<'a> {
    pub(super) const fn new(settings: &'a PluginDir, environment: &'a BTreeMap<String, String>) -> Self {
        Self { settings, environment }
    }

    /// The interpreter: that of a virtual environment in or beside the directory, of the active one, of kong-pdk's own
    /// command, else what `PATH` has.
    pub(super) fn python(&self) -> Result<PathBuf, String> {
        if let Some(named) = &self.settings.python {
            return self.named(named, "plugin_dir_python");
        }
        let here = &self.settings.path;
        let beside = [Some(here.as_path()), here.parent()].into_iter().flatten();
        let environments = beside.flat_map(|directory| [directory.join(".venv"), directory.join("venv")]);
        let active = self.environment.get("VIRTUAL_ENV").map(PathBuf::from);
        environments
            .chain(active)
            .map(|environment| environment.join("bin/python"))
            .find(|python| is_executable(python))
            .or_else(|| interpreter(&self.in_path("kong-python-pluginserver")?))
            .or_else(|| self.in_path("python3"))
            .or_else(|| self.in_path("python"))
            .ok_or_else(|| {
                "there is no Python to run it: install Python with the package kong-pdk, or name the interpreter in \
                 plugin_dir_python"
                    .to_owned()
            })
    }

    pub(super) fn node(&self) -> Result<PathBuf, String> {
        if let Some(named) = &self.settings.node {
            return self.named(named, "plugin_dir_node");
        }
        self.in_path("node").or_else(|| self.in_path("nodejs")).ok_or_else(|| {
            "there is no Node.js to run it: install it, or name its executable in plugin_dir_node".to_owned()
        })
    }

    /// kong-pdk's server: from the `node_modules` beside or above the directory, or one that is installed for all.
    pub(super) fn js_pluginserver(&self) -> Result<PathBuf, String> {
        if let Some(named) = &self.settings.js_pluginserver {
            let path = PathBuf::from(named);
            return if path.is_file() {
                Ok(path)
            } else {
                Err(format!("plugin_dir_js_pluginserver: no file at {named}"))
            };
        }
        let here = &self.settings.path;
        let real = fs::canonicalize(here).ok();
        let above = here.ancestors().chain(real.iter().flat_map(|real| real.ancestors()));
        let local = above.map(|directory| directory.join("node_modules"));
        let node_path = self.environment.get("NODE_PATH").into_iter().flat_map(std::env::split_paths);
        // PREFIX/bin/node has its modules in PREFIX/lib/node_modules.
        let of_node = self.node().ok().and_then(|node| fs::canonicalize(node).ok());
        let of_node = of_node.iter().filter_map(|node| Some(node.parent()?.parent()?.join("lib/node_modules")));
        let modules = local.chain(node_path).chain(of_node).chain(GLOBAL_MODULES.map(PathBuf::from));
        modules
            .map(|directory| directory.join(JS_PLUGINSERVER))
            .find(|server| server.is_file())
            .or_else(|| fs::canonicalize(self.in_path("kong-js-pluginserver")?).ok())
            .ok_or_else(|| {
                format!(
                    "there is no kong-pdk to serve it: run npm install kong-pdk in {} (or npm install --global), or \
                     name its kong-js-pluginserver in plugin_dir_js_pluginserver",
                    here.display()
                )
            })
    }

    /// How TypeScript is compiled, where neither the environment nor a `tsconfig.json` in the directory says it: without
    /// looking at types, whose packages a mounted directory hardly has.
    pub(super) fn ts_node(&self) -> String {
        if self.environment.keys().any(|name| name.starts_with("TS_NODE_")) {
            return String::new();
        }
        let project = self.settings.path.join("tsconfig.json");
        if project.is_file() {
            return format!("env TS_NODE_PROJECT={} ", super::shell_quoted(&project.display().to_string()));
        }
        "env TS_NODE_TRANSPILE_ONLY=true ".to_owned()
    }

    /// An executable that a property names, by path or as found in `PATH`.
    fn named(&self, name: &str, property: &str) -> Result<PathBuf, String> {
        let found = if name.contains('/') {
            Some(PathBuf::from(name)).filter(|p| is_executable(p))
        } else {
            self.in_path(name)
        };
        found.ok_or_else(|| format!("{property}: {name} is not an executable file"))
    }

    fn in_path(&self, name: &str) -> Option<PathBuf> {
        let directories = self.environment.get("PATH").into_iter().flat_map(std::env::split_paths);
        directories.map(|directory| directory.join(name)).find(|path| is_executable(path))
    }
}

pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The interpreter that a script names by its path.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let text = fs::read(script).ok()?;
    let line = text.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let path = PathBuf::from(String::from_utf8_lossy(line).trim());
    (is_executable(&path) && path.file_name()?.to_str()?.starts_with("python")).then_some(path)
}

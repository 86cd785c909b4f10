use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

/// A directory with plugins in it, and one with the tools that run them.
struct Site {
    root: TempDir,
    environment: BTreeMap<String, String>,
    settings: PluginDir,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("plugins");
        fs::create_dir(&path).unwrap();
        let environment = [("PATH".to_owned(), root.path().join("bin").display().to_string())].into();
        let settings = PluginDir {
            path,
            python: None,
            python_args: None,
            node: None,
            js_pluginserver: None,
            served: BTreeMap::new(),
            unserved: BTreeMap::new(),
            policies: Vec::new(),
        };
        let site = Self { root, environment, settings };
        for tool in ["bin/node", "bin/python3"] {
            site.write(tool, "#!/bin/sh\n", 0o755);
        }
        site.write("node_modules/kong-pdk/bin/kong-js-pluginserver", "", 0o644);
        site
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// What is found, with the root left out of the commands.
    fn found(&self) -> Discovery {
        let mut found = discover_in(&self.settings, Path::new("/p"), Path::new("/p/plugin_dir"), &self.environment);
        let root = self.root.path().display().to_string();
        for Discovered { server, .. } in &mut found.servers {
            for command in [&mut server.query_cmd, server.start_cmd.as_mut().unwrap()] {
                *command = command.replace(&root, "");
            }
        }
        found
    }

    fn findings(&self) -> Vec<String> {
        let findings = self.found().findings.into_iter();
        findings.map(|finding| finding.to_string().replace(&self.root.path().display().to_string(), "")).collect()
    }
}

#[test]
fn each_kind_of_file_has_its_commands() {
    let site = Site::new();
    for (name, text, mode, socket, start, query) in [
        (
            "tenant",
            "\x7fELF",
            0o755,
            "tenant.socket",
            "/plugins/tenant -kong-prefix /p",
            "/plugins/tenant -kong-prefix /p -dump",
        ),
        (
            "script",
            "#!/usr/bin/env python3\nstart_dedicated_server",
            0o755,
            "script.sock",
            "/plugins/script --kong-prefix /p --socket-name script.sock --no-lua-style",
            "/plugins/script --kong-prefix /p --dump",
        ),
        (
            "a.py",
            "start_dedicated_server('a', Plugin)\nhost, err = kong.request.get_host()",
            0o644,
            "a.py.sock",
            "/bin/python3 /plugins/a.py --kong-prefix /p --socket-name a.py.sock",
            "/bin/python3 /plugins/a.py --kong-prefix /p --dump",
        ),
        (
            "b.py",
            "class Plugin:",
            0o644,
            "b.py.sock",
            "/bin/python3 /p/plugin_dir/serve.py b /plugins/b.py --kong-prefix /p --socket-name b.py.sock --no-lua-style",
            "/bin/python3 /p/plugin_dir/serve.py b /plugins/b.py --kong-prefix /p --dump",
        ),
        (
            "c.js",
            "module.exports = { Plugin }",
            0o755,
            "c.js.sock",
            "/bin/node /node_modules/kong-pdk/bin/kong-js-pluginserver --plugins-directory /p/plugin_dir/c.js \
             --kong-prefix /p --sock-name c.js.sock",
            "/bin/node /node_modules/kong-pdk/bin/kong-js-pluginserver --plugins-directory /p/plugin_dir/c.js \
             --kong-prefix /p --dump-all-plugins",
        ),
        (
            "d.ts",
            "module.exports = { Plugin }",
            0o644,
            "d.ts.sock",
            "env TS_NODE_TRANSPILE_ONLY=true /bin/node /node_modules/kong-pdk/bin/kong-js-pluginserver \
             --plugins-directory /p/plugin_dir/d.ts --kong-prefix /p --sock-name d.ts.sock",
            "env TS_NODE_TRANSPILE_ONLY=true /bin/node /node_modules/kong-pdk/bin/kong-js-pluginserver \
             --plugins-directory /p/plugin_dir/d.ts --kong-prefix /p --dump-all-plugins",
        ),
    ] {
        let file = site.write(&format!("plugins/{name}"), text, mode);
        let found = site.found();
        let [Discovered { server, .. }] = &found.servers[..] else { panic!("{name}: {found:?}") };
        assert_eq!(server.name, name);
        assert_eq!(server.socket, Path::new("/p").join(socket), "{name}");
        assert_eq!(server.start_cmd.as_deref(), Some(start));
        assert_eq!(server.query_cmd, query);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_volume_of_kubernetes_is_read_as_it_is_mounted() {
    let site = Site::new();
    site.write("plugins/..2026_01_01/mine.py", "class Plugin:", 0o644);
    symlink("..2026_01_01", site.settings.path.join("..data")).unwrap();
    symlink("..data/mine.py", site.settings.path.join("mine.py")).unwrap();
    let found = site.found();
    let names: Vec<&str> = found.servers.iter().map(|found| found.server.name.as_str()).collect();
    assert_eq!((names, found.findings), (vec!["mine.py"], vec![]));
}

#[test]
fn what_is_no_plugin_is_named_with_the_cure() {
    let site = Site::new();
    for quiet in [
        "README.md",
        "package.json",
        "types.d.ts",
        ".hidden.py",
        "requirements.txt",
        "__init__.py",
        "node_modules/x.js",
    ] {
        site.write(&format!("plugins/{quiet}"), "class Plugin", 0o755);
    }
    assert_eq!(site.found().servers.len() + site.findings().len(), 0, "{:?}", site.found());
    for (name, text, mode, expect) in [
        ("tenant", "\x7fELF", 0o644, "it is not executable: chmod +x it"),
        ("notes.txt", "hello", 0o755, "it is no plugin: neither an executable nor a .js, .ts or .py file"),
        ("old.so", "\x7fELF", 0o755, "a Go plugin for go-pluginserver is not run from here"),
        ("helper.py", "def f(): pass", 0o644, "it is no plugin: it has no class Plugin"),
        ("helper.js", "exports.f = 1", 0o644, "it is no plugin: it exports no Plugin"),
        ("a b.py", "class Plugin", 0o644, "its name may have letters, digits, '-', '_' and '.' only"),
    ] {
        let file = site.write(&format!("plugins/{name}"), text, mode);
        let findings = site.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with(&format!("plugin_dir: /plugins/{name}: {expect}")), "{findings:?}");
        fs::remove_file(file).unwrap();
    }
    symlink("nowhere", site.settings.path.join("gone.py")).unwrap();
    assert!(site.findings()[0].starts_with("plugin_dir: /plugins/gone.py: cannot be read: "), "{:?}", site.findings());
}

#[test]
fn tools_are_found_or_named() {
    let mut site = Site::new();
    site.write("plugins/a.py", "class Plugin", 0o644);
    site.write("plugins/b.js", "Plugin", 0o644);
    site.write("plugins/c.ts", "Plugin", 0o644);
    let programs = |site: &Site| -> Vec<String> {
        let servers = site.found().servers.into_iter();
        servers.map(|found| found.server.query_cmd.split(" --").next().unwrap().to_owned()).collect()
    };
    assert_eq!(programs(&site)[0], "/bin/python3 /p/plugin_dir/serve.py a /plugins/a.py");

    site.write("venv/bin/python", "", 0o755);
    site.write("plugins/node_modules/kong-pdk/bin/kong-js-pluginserver", "", 0o644);
    site.write("plugins/tsconfig.json", "{}", 0o644);
    assert_eq!(
        programs(&site),
        [
            "/venv/bin/python /p/plugin_dir/serve.py a /plugins/a.py",
            "/bin/node /plugins/node_modules/kong-pdk/bin/kong-js-pluginserver",
            "env TS_NODE_PROJECT=/plugins/tsconfig.json /bin/node /plugins/node_modules/kong-pdk/bin/kong-js-pluginserver",
        ]
    );

    site.settings.python = Some("python3".to_owned());
    site.settings.node = Some("/nowhere/node".to_owned());
    assert_eq!(programs(&site), ["/bin/python3 /p/plugin_dir/serve.py a /plugins/a.py"]);
    assert_eq!(
        site.findings()[0],
        "plugin_dir: /plugins/b.js: plugin_dir_node: /nowhere/node is not an executable file"
    );

    site.settings.node = None;
    site.environment.insert("PATH".to_owned(), "/nowhere".to_owned());
    let findings = site.findings();
    assert!(findings[0].contains("a.py: plugin_dir_python: python3 is not an executable file"), "{findings:?}");
    assert!(findings[1].contains("b.js: there is no Node.js to run it"), "{findings:?}");
}

#[test]
fn a_link_is_alone_in_its_directory() {
    let site = Site::new();
    let file = site.write("plugins/a.js", "Plugin", 0o644);
    let prefix = site.root.path().join("prefix");
    let mut found = discover_in(&site.settings, &prefix, &prefix.join("plugin_dir"), &site.environment);
    let links = prefix.join("plugin_dir/a.js");
    site.write("prefix/plugin_dir/a.js/old.js", "", 0o644);
    for _ in 0..2 {
        found.link();
        let names: Vec<_> = fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.js"]);
        assert_eq!(fs::read_link(links.join("a.js")).unwrap(), file);
    }
    assert_eq!((found.servers.len(), found.findings.len()), (1, 0));
}

#[test]
fn an_executable_listens_under_its_own_name() {
    let site = Site::new();
    let file = site.write("built/real-name", "\x7fELF", 0o755);
    symlink(file, site.settings.path.join("tenant")).unwrap();
    assert_eq!(site.found().servers[0].server.socket, Path::new("/p/real-name.socket"));
}

#[test]
fn what_is_found_becomes_part_of_the_settings() {
    let site = Site::new();
    let tenant = site.write("plugins/tenant", "\x7fELF", 0o755);
    site.write("plugins/other", "\x7fELF", 0o755);
    let text = format!(
        "plugin_dir = {}\npluginserver_names = other\npluginserver_other_query_cmd = q\n\
         pluginserver_other_start_cmd = s\npluginserver_tenant_timeout = 300",
        site.settings.path.display()
    );
    let mut settings = silverback_config::load_text(None, &text, &BTreeMap::new()).unwrap().settings;
    let findings = include(&mut settings, &site.root.path().join("links"));
    let names: Vec<&str> = settings.plugin_servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["other", "tenant"]);
    assert_eq!(settings.plugin_servers[1].events.timeout, std::time::Duration::from_millis(300));
    assert_eq!(settings.plugin_dir.unwrap().file("tenant"), Some(&tenant));
    assert_eq!(findings.len(), 1);
    assert!(findings[0].message.contains("pluginserver_names has a server named other already"), "{findings:?}");
}

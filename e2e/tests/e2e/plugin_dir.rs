//! `plugin_dir`: files in a mounted directory are plugins, without a line of configuration each.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::json;
use silverback_e2e::{Gateway, Upstream, project_file};

/// A volume as Kubernetes mounts it: the files in a hidden directory, a link to each.
struct Volume(PathBuf);

impl Volume {
    fn new(gateway: &Gateway) -> Self {
        let volume = gateway.directory().join("plugins");
        fs::create_dir_all(volume.join("..2026_01_01_00_00_00.1")).unwrap();
        symlink("..2026_01_01_00_00_00.1", volume.join("..data")).unwrap();
        Self(volume)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Every file of a volume has the same mode.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let file = self.0.join("..data").join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(Path::new("..data").join(name), self.0.join(name)).unwrap();
        self
    }

    fn copy(&self, from: &str, name: &str) -> &Self {
        self.file(name, fs::read(project_file(from)).unwrap())
    }

    /// The lines of `kong.conf`: the tools are where this project has them.
    fn conf(&self) -> String {
        format!(
            "plugin_dir = {}\nplugin_dir_python = {}\nplugin_dir_js_pluginserver = {}",
            self.path().display(),
            project_file(".tools/venv/bin/python").display(),
            project_file("examples/node/node_modules/kong-pdk/bin/kong-js-pluginserver").display()
        )
    }
}

const PLAIN_PYTHON: &str = "
Schema = ({'value': {'type': 'string', 'default': 'plain'}},)
version = '1.0.0'
priority = 5

class Plugin:
    def __init__(self, config):
        self.value = config['value']

    def access(self, kong):
        host = kong.request.get_host()
        kong.response.set_header('X-Plain', self.value + ' ' + host)
";

const OLD_PYTHON: &str = "
class Plugin:
    def __init__(self, config):
        pass

    def access(self, kong):
        host, err = kong.request.get_host()
        kong.response.set_header('X-Old', host)
";

#[tokio::test]
async fn every_file_of_a_mounted_directory_is_a_plugin() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let volume = Volume::new(&gateway);
    volume
        .copy(".tools/bin/tenant", "tenant")
        .copy("examples/python/stamp.py", "stamp.py")
        .file("plain.py", PLAIN_PYTHON)
        .file("old-style.py", OLD_PYTHON)
        .copy("examples/node/javascript/quota-label.js", "quota-label.js")
        .copy("examples/node/typescript/content-digest.ts", "content-digest.ts")
        .file("README.md", "what this is")
        .file("notes.txt", "none of these")
        .file("broken.py", "class Plugin:\n    this is no Python\n");
    let names = ["tenant", "stamp", "plain", "old-style", "quota-label", "content-digest"];
    let mut config = upstream.behind_everything();
    config["plugins"] = names.map(|name| json!({ "name": name })).to_vec().into();
    let conf = volume.conf();
    let gateway = gateway.conf(&conf).config(config).start().await;

    let answer = gateway.get_with("/", &["X-Tenant: acme"]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-tenant"), Some("acme"));
    assert!(answer.header("x-stamp").is_some_and(|stamp| stamp.starts_with("development; at=")), "{answer:?}");
    assert_eq!(answer.header("x-plain"), Some("plain example.test"));
    assert_eq!(answer.header("x-old"), Some("example.test"));
    assert!(answer.header("content-digest").is_some_and(|digest| digest.starts_with("sha-256=:")), "{answer:?}");
    let answer = gateway.get_with("/", &["X-Tenant: acme", "X-Plan: platinum"]).await;
    assert_eq!(answer.status, 403);

    let log = gateway.error_log();
    assert!(log.contains("notes.txt: it is no plugin"), "{log}");
    assert!(log.contains("broken.py: ") && log.contains("SyntaxError"), "{log}");
    assert!(!log.contains("README.md"), "{log}");
}

#[tokio::test]
async fn a_reload_finds_files_that_were_added_and_those_that_changed() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new();
    let volume = Volume::new(&gateway);
    volume.file("plain.py", PLAIN_PYTHON);
    let with = |names: &[&str]| {
        let mut config = upstream.behind_everything();
        config["plugins"] = names.iter().map(|name| json!({ "name": name })).collect();
        config
    };
    let conf = volume.conf();
    let gateway = gateway.conf(&conf).config(with(&["plain"])).start().await;
    assert_eq!(gateway.get("/").await.header("x-plain"), Some("plain example.test"));

    volume.file("old-style.py", OLD_PYTHON);
    fs::write(volume.path().join("plain.py"), PLAIN_PYTHON.replace("'plain'", "'changed'")).unwrap();
    gateway.rewrite_config(&with(&["plain", "old-style"]));
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let answer = gateway.get("/").await;
    assert_eq!(answer.header("x-plain"), Some("changed example.test"), "{answer:?}");
    assert_eq!(answer.header("x-old"), Some("example.test"));

    volume.file("unused.py", "class Plugin(:");
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("unused.py: ") && ended.stderr.contains("SyntaxError"), "{ended:?}");

    fs::write(volume.path().join("plain.py"), "class Plugin: broken").unwrap();
    let ended = gateway.command(&["reload"]).await;
    assert_eq!(ended.status, Some(1), "what is configured must be there: {ended:?}");
    assert!(ended.stderr.contains("plain.py: ") && ended.stderr.contains("NameError: name 'broken'"), "{ended:?}");
    assert!(!ended.stderr.contains("Traceback") && !ended.stderr.contains("unused.py"), "{ended:?}");
    assert_eq!(gateway.get("/").await.header("x-plain"), Some("changed example.test"), "the old one stays");
}

#[tokio::test]
async fn a_plugin_in_the_directory_and_in_a_named_server_is_an_error_that_names_both() {
    let gateway = Gateway::new();
    let volume = Volume::new(&gateway);
    volume.copy(".tools/bin/tenant", "tenant");
    let tenant = project_file(".tools/bin/tenant");
    let conf = gateway.directory().join("twice.conf");
    let text = format!(
        "prefix = {0}\nproxy_listen = off\nadmin_listen = off\nstatus_listen = off\nnginx_daemon = off\n{1}\n\
         plugins = tenant\npluginserver_names = go\npluginserver_go_start_cmd = {2}\n\
         pluginserver_go_query_cmd = {2} -dump\n",
        gateway.directory().join("prefix").display(),
        volume.conf(),
        tenant.display()
    );
    fs::write(&conf, text).unwrap();
    let ended = silverback_e2e::run_silverback(&["start", "-c", conf.to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(1));
    let expect = format!(
        "plugin server go and the file {} both offer the plugin tenant",
        volume.path().join("tenant").display()
    );
    assert!(ended.stderr.contains(&expect), "{ended:?}");
}

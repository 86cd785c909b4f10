//! What `silverback doctor` finds: each kind of finding, in a configuration with that fault.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use serde_json::Value as Json;
use tempfile::TempDir;

const GOOD: &str = r#"[{"Name":"mine","Version":"1.0.0","Phases":["access"],"Schema":{"fields":[]}}]"#;

/// A directory with a configuration that has no fault yet.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Runs the command with lines of `kong.conf`, in which `DIR` is the directory.
    fn doctor(&self, lines: &str, flags: &[&str]) -> (i32, String) {
        let dir = self.0.path().display().to_string();
        let listen = if lines.contains("proxy_listen") { "" } else { "proxy_listen = off\n" };
        let user = "nginx_user = root root\nadmin_listen = off\nstatus_listen = off\n";
        let prefix = if lines.contains("prefix =") { "" } else { "prefix = DIR/prefix\n" };
        let conf = format!("{prefix}{listen}{user}{lines}\n").replace("DIR", &dir);
        let file = self.write("kong.conf", conf, 0o644);
        let mut command = Command::new(env!("CARGO_BIN_EXE_silverback"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KONG_")) {
            command.env_remove(name);
        }
        let output =
            command.arg("doctor").arg("-c").arg(file).args(flags).env("PATH", "/usr/bin:/bin").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text.replace(&dir, "DIR"))
    }

    /// The problems as `code: message; cure`.
    fn problems(&self, lines: &str) -> Vec<String> {
        let (status, text) = self.doctor(lines, &["--json"]);
        let report: Json = serde_json::from_str(&text).unwrap();
        let findings = report["findings"].as_array().unwrap().iter();
        let problems: Vec<String> = findings
            .filter(|finding| finding["level"] == "problem")
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().unwrap().to_owned();
                format!("{}: {}: {}; {}", text("code"), text("subject"), text("message"), text("cure"))
            })
            .collect();
        assert_eq!(report["problems"], problems.len());
        assert_eq!(status, i32::from(!problems.is_empty()), "{text}");
        problems
    }

    /// A server named `s` with these commands.
    fn server(&self, start: &str, query: &str) -> Vec<String> {
        self.problems(&format!(
            "plugins = bundled,mine\npluginserver_names = s\npluginserver_s_start_cmd = {start}\n\
             pluginserver_s_query_cmd = {query}"
        ))
    }
}

fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    (bytes[32], bytes[54], bytes[56], bytes[64], bytes[72]) = (64, 56, 1, 3, 120);
    bytes[96] = interpreter.len() as u8 + 1;
    bytes.extend_from_slice(interpreter.as_bytes());
    bytes.push(0);
    bytes
}

fn here() -> u16 {
    u16::from_le_bytes(fs::read(env!("CARGO_BIN_EXE_silverback")).unwrap()[18..20].try_into().unwrap())
}

fn check(problems: &[String], code: &str, parts: &[&str]) {
    assert_eq!(problems.len(), 1, "{code}: {problems:#?}");
    assert!(problems[0].starts_with(&format!("{code}: ")), "{code}: {problems:#?}");
    for part in parts {
        assert!(problems[0].contains(part), "{part} is not in {problems:#?}");
    }
}

#[test]
fn what_is_in_order_is_told_on_demand() {
    let site = Site::new();
    let query = site.write("query", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755);
    let kong = site.write("kong.yml", "_format_version: '3.0'\nplugins: [{name: mine}]\n", 0o644);
    let lines = format!(
        "plugins = bundled,mine\npluginserver_names = s\npluginserver_s_start_cmd = {0}\n\
         pluginserver_s_query_cmd = {0}\ndeclarative_config = {1}",
        query.display(),
        kong.display()
    );
    let (status, text) = site.doctor(&lines, &[]);
    assert_eq!((status, text.as_str()), (0, "no problem found\n"));
    let (status, text) = site.doctor(&lines, &["-v"]);
    assert_eq!(status, 0);
    for line in [
        "ok       configuration: DIR/kong.conf can be read, and its values are right",
        "ok       prefix DIR/prefix: it can be written to",
        "ok       plugin server s: offers mine (MsgPack:1)",
        "ok       DIR/kong.yml: it is valid, and every plugin in it is there",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line} is not in {text}");
    }
    assert!(!site.path("prefix").exists(), "nothing is changed");
}

#[test]
fn commands_that_cannot_be_run() {
    let site = Site::new();
    let good = site.write("good", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755);
    let good = good.display().to_string();
    let musl = site.write("musl", elf(here(), "/lib/ld-musl-none.so.1"), 0o755);
    let arm = site.write("arm", elf(if here() == 62 { 183 } else { 62 }, "/x"), 0o755);
    let plain = site.write("plain", "#!/bin/sh\n", 0o644);
    let shebang = site.write("shebang", "#!/no/such/python\n", 0o755);
    let mut static_bytes = elf(here(), "/x");
    static_bytes[56] = 0;
    let go = site.write("go-pluginserver", static_bytes, 0o755);
    for (start, code, parts) in [
        (
            "no-such-program --flag",
            "command_not_found",
            vec!["no-such-program in PATH, which is /usr/bin:/bin", "pluginserver_s_start_cmd"],
        ),
        ("env A=b /no/where", "command_not_found", vec!["there is no file /no/where"]),
        ("DIR", "command_not_found", vec!["is a directory"]),
        (plain.to_str().unwrap(), "not_executable", vec!["chmod +x"]),
        (musl.to_str().unwrap(), "wrong_libc", vec!["linked with musl", "\"not found\"", "CGO_ENABLED=0"]),
        (arm.to_str().unwrap(), "wrong_architecture", vec!["is built for", "GOARCH="]),
        (shebang.to_str().unwrap(), "interpreter_missing", vec!["/no/such/python, which is not there"]),
        (go.to_str().unwrap(), "cgo_missing", vec!["built without cgo", "CGO_ENABLED=1"]),
        ("sh /no/script.sh", "script_missing", vec!["sh is to run /no/script.sh"]),
    ] {
        check(&site.server(start, &good), code, &parts);
        check(&site.server(&good, start), code, &[]);
    }
}

#[test]
fn queries_that_say_nothing() {
    let site = Site::new();
    let said = |out: &str, err: &str, status: u8| {
        let (out, err) = (site.write("out", out, 0o644), site.write("err", err, 0o644));
        let text = format!("#!/bin/sh\ncat {} >&2\ncat {}\nexit {status}\n", err.display(), out.display());
        site.write("query", text, 0o755).display().to_string()
    };
    let zeros = r#"[{"Name":"","Phases":null,"Version":"","Priority":0,"Schema":null}]"#;
    for (out, err, code, parts) in [
        (
            "Usage: go-thing",
            "unknown flag",
            "query_not_json",
            vec!["Usage: go-thing", "it said: unknown flag", "-dump"],
        ),
        ("", "oops", "query_without_output", vec!["printed nothing", "oops"]),
        (
            r#"{"Protocol":"ProtoBuf:9","Plugins":[]}"#,
            "",
            "protocol_unknown",
            vec!["ProtoBuf:9", "MsgPack:1 or ProtoBuf:1"],
        ),
        (r#"[{"Name":"mine"}]"#, "", "query_incomplete", vec!["mine has no Schema"]),
        ("", "ModuleNotFoundError: No module named 'kong_pdk'", "python_module_missing", vec!["pip install kong-pdk"]),
        ("", "ModuleNotFoundError: No module named 'redis'", "python_module_missing", vec!["redis"]),
        ("", "Error: Cannot find module 'kong-pdk/server'", "node_module_missing", vec!["npm install kong-pdk"]),
        ("", "x: error while loading shared libraries: liby.so", "library_missing", vec!["liby.so"]),
        ("", "x: version `GLIBC_2.99' not found", "wrong_libc", vec!["GLIBC_2.99"]),
        (zeros, "plugin was built with a different version of package fmt", "go_version_mismatch", vec!["same Go"]),
        (zeros, "plugin.Open: plugin: not implemented", "cgo_missing", vec!["CGO_ENABLED=1"]),
        ("[]", "", "plugin_not_loaded", vec!["it offers no plugin", "mend the plugin"]),
        (
            "DATE [WARN] error loading plugin \"a\" from /p/a.js: Error: nope\n    at f (/p/a.js:1:7)\n    at g (n)\n[]",
            "",
            "plugin_not_loaded",
            vec![
                "it offers no plugin",
                "it said: DATE [WARN] error loading plugin \"a\" from /p/a.js: Error: nope | at f (/p/a.js:1:7);",
            ],
        ),
        (
            "",
            "Traceback (most recent call last):\n  File \"/p/a.py\", line 3, in <module>\n    x = [\nSyntaxError: odd\n",
            "query_without_output",
            vec!["it said: SyntaxError: odd (File \"/p/a.py\", line 3, in <module>);"],
        ),
        (zeros, "no symbol New in x.so", "plugin_not_loaded", vec!["1 of its plugins", "x.so"]),
    ] {
        let query = said(out, err, 1);
        check(&site.server(&query, &query), code, &parts);
    }
    check(&site.server("sh -c true", "sh -c 'exec no-such-thing'"), "command_not_found", &["no-such-thing"]);
}

#[test]
fn plugins_that_nobody_offers() {
    let site = Site::new();
    let query = site.write("query", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755).display().to_string();
    let server = |plugins: &str| {
        format!(
            "plugins = {plugins}\npluginserver_names = s\npluginserver_s_start_cmd = {query}\n\
             pluginserver_s_query_cmd = {query}\n"
        )
    };
    check(
        &site.problems(&server("bundled,mine,mime")),
        "plugin_not_offered",
        &["no plugin server offers mime", "did you mean mine?"],
    );
    check(&site.problems("plugins = bundled,other"), "plugin_not_offered", &["pluginserver_names", "plugin_dir"]);

    for (plugins, name, parts) in [
        ("bundled,mine", "minee", vec!["nobody offers a plugin minee", "did you mean mine?"]),
        ("bundled,mine", "very-different", vec!["nobody offers a plugin very-different", "pluginserver_names"]),
        ("bundled", "mine", vec!["which the plugin server s offers, is not enabled", "plugins = bundled,mine"]),
    ] {
        let kong = site.write("kong.yml", format!("_format_version: '3.0'\nplugins: [{{name: {name}}}]\n"), 0o644);
        let lines = format!("{}declarative_config = {}", server(plugins), kong.display());
        check(&site.problems(&lines), "plugin_not_offered", &parts);
    }

    let odd = GOOD.replace("[]}", r#"[{"config":{"type":"record","fields":[{"a":{"type":"?"}}]}}]}"#);
    let odd = site.write("odd", format!("#!/bin/sh\necho '{odd}'\n"), 0o755).display().to_string();
    check(&site.server(&odd, &odd), "schema_error", &["the schema of mine cannot be used"]);

    let twice = format!("{}pluginserver_t_start_cmd = {query}\npluginserver_t_query_cmd = {query}", server("mine"));
    let twice = twice.replace("pluginserver_names = s", "pluginserver_names = s,t");
    check(&site.problems(&twice), "plugin_offered_twice", &["plugin server s and plugin server t both offer"]);
}

#[test]
fn files_in_plugin_dir_that_are_not_served() {
    let site = Site::new();
    site.write("plugins/tenant", "\x7fELF", 0o644);
    site.write("plugins/notes.txt", "hello", 0o644);
    let problems = site.problems("plugin_dir = DIR/plugins");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains("plugin_dir: DIR/plugins/notes.txt: it is no plugin"), "{problems:#?}");
    assert!(problems[1].contains("tenant: it is not executable: chmod +x it"), "{problems:#?}");

    let site = Site::new();
    site.write("plugins/mine", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755);
    let (status, text) = site.doctor("plugin_dir = DIR/plugins", &["-v"]);
    assert!(text.contains("ok       plugin_dir: DIR/plugins/mine: offers mine (MsgPack:1)"), "{text}");
    assert_eq!(status, 0);
    site.write("plugins/mine", "#!/bin/sh\necho nothing\n", 0o755);
    check(
        &site.problems("plugin_dir = DIR/plugins"),
        "query_not_json",
        &["plugin_dir: DIR/plugins/mine: nothing is known"],
    );

    site.write("plugins/mine", "#!/bin/sh\necho oops >&2\n", 0o755);
    site.write("kong.yml", "_format_version: '3.0'\nplugins: [{name: mine}]\n", 0o644);
    let problems = site.problems("plugin_dir = DIR/plugins\ndeclarative_config = DIR/kong.yml");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].ends_with("it said: oops; mend the plugin"), "{problems:#?}");
    assert!(problems[1].contains("plugin mine is not there, since DIR/plugins/mine is not served"), "{problems:#?}");
}

#[test]
fn sockets_that_cannot_be_listened_on() {
    let site = Site::new();
    let query = site.write("query", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755).display().to_string();
    let server = |socket: &str| {
        site.problems(&format!(
            "plugins = bundled,mine\npluginserver_names = s\npluginserver_s_start_cmd = {query}\n\
             pluginserver_s_query_cmd = {query}\npluginserver_s_socket = {socket}"
        ))
    };
    let long = format!("/tmp/{}", "x".repeat(120));
    check(&server(&long), "socket_path_too_long", &["125 bytes, 107 are possible"]);
    check(&server("/no/such/directory/s.sock"), "socket_directory_missing", &["mkdir -p /no/such/directory"]);
    site.write("a-file", "", 0o644);
    check(&server("DIR/a-file/s.sock"), "socket_directory_missing", &["DIR/a-file"]);
    check(&server("DIR/a-file"), "not_a_socket", &["a file of another kind"]);
    // go-pdk takes the name of its socket from the executable
    let dump =
        format!("{{\"Protocol\":\"ProtoBuf:1\",\"SocketPath\":\"/usr/local/kong/mine.socket\",\"Plugins\":{GOOD}}}");
    site.write("query", format!("#!/bin/sh\necho '{dump}'\n"), 0o755);
    check(
        &server("DIR/prefix/s.socket"),
        "socket_elsewhere",
        &[
            "it says that it listens on /usr/local/kong/mine.socket",
            "set pluginserver_s_socket = /usr/local/kong/mine.socket",
        ],
    );
    site.write("query", format!("#!/bin/sh\necho '{GOOD}'\n"), 0o755);
    let closed = site.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // root may write anywhere: its server runs as somebody else
    let lines = "DIR/closed/s.sock\npluginserver_s_user = nobody";
    check(&server(lines), "socket_directory_not_writable", &["DIR/closed, cannot be written to by its user"]);
}

#[test]
fn addresses_that_cannot_be_listened_on() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let pid = format!("(pid {})", std::process::id());
    check(
        &site.problems(&format!("proxy_listen = {address}")),
        "address_in_use",
        &[&address.to_string(), &pid, "proxy_listen"],
    );
    check(
        &site.problems("proxy_listen = 192.0.2.1:8000"),
        "address_not_available",
        &["192.0.2.1 is no address of this machine"],
    );
    check(&site.problems("proxy_listen = unix:/no/where/p.sock"), "socket_directory_missing", &["/no/where/p.sock"]);
    let long = format!("proxy_listen = unix:/tmp/{}", "x".repeat(120));
    check(&site.problems(&long), "socket_path_too_long", &["107 are possible"]);
    let _listener = std::os::unix::net::UnixListener::bind(site.path("p.sock")).unwrap();
    check(&site.problems("proxy_listen = unix:DIR/p.sock"), "address_in_use", &["DIR/p.sock"]);
}

#[test]
fn certificates_that_cannot_be_served() {
    let site = Site::new();
    let mut parameters = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    site.write("key.pem", key.serialize_pem(), 0o600);
    for (from, until, code) in
        [(2000, 2001, Some("certificate_expired")), (2190, 2200, Some("certificate_not_yet_valid")), (2000, 2200, None)]
    {
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        site.write("cert.pem", parameters.self_signed(&key).unwrap().pem(), 0o644);
        let problems =
            site.problems("proxy_listen = unix:DIR/p.sock ssl\nssl_cert = DIR/cert.pem\nssl_cert_key = DIR/key.pem");
        match code {
            Some(code) => check(&problems, code, &["ssl_cert"]),
            None => assert!(problems.is_empty(), "{problems:#?}"),
        }
    }
    site.write("garbage.pem", "no certificate", 0o644);
    for file in ["gone.pem", "garbage.pem"] {
        let lines = format!(
            "admin_listen = unix:DIR/a.sock ssl\nadmin_ssl_cert = DIR/{file}\nadmin_ssl_cert_key = DIR/key.pem"
        );
        check(&site.problems(&lines), "configuration", &["admin_ssl_cert: failed loading certificate from", file]);
    }
}

#[test]
fn configurations_that_are_wrong() {
    let site = Site::new();
    let problems = site.problems("log_level = loud\ntrusted_ips = x");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].starts_with("configuration: configuration: DIR/kong.conf:6: log_level"), "{problems:#?}");
    check(&site.problems("log_levl = info"), "unknown_property", &["log_levl", "log_level"]);
    check(&site.problems("pluginserver_x_timeout = 5"), "unknown_property", &["pluginserver_x_timeout"]);
    site.write("a-file", "", 0o644);
    check(&site.problems("prefix = DIR/a-file"), "prefix_not_writable", &["not a directory"]);
    check(&site.problems("prefix = /proc/kong"), "prefix_not_writable", &["/proc cannot be written to"]);
    let kong = site.write("kong.yml", "_format_version: '3.0'\nservices: [{name: 'a b', host: x}]\n", 0o644);
    let problems = site.problems(&format!("declarative_config = {}", kong.display()));
    check(&problems, "declarative_configuration", &["services[0].name"]);
    let kong = site.write("kong.yml", "a: [", 0o644);
    check(
        &site.problems(&format!("declarative_config = {}", kong.display())),
        "declarative_configuration",
        &["parsing"],
    );
}

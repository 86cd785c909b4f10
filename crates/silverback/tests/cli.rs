//! The commands, as scripts see them: output, exit status, files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A directory with a configuration whose prefix is inside it, and which listens on no port.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(extra: &str) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let conf = format!(
            "prefix = {}\nproxy_listen = off\nadmin_listen = unix:{}\nstatus_listen = unix:{}\nnginx_user = root root\n{extra}",
            site.prefix().display(),
            site.admin().display(),
            site.path("status.sock").display(),
        );
        fs::write(site.conf(), conf).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn conf(&self) -> PathBuf {
        self.path("kong.conf")
    }

    fn prefix(&self) -> PathBuf {
        self.path("prefix")
    }

    fn admin(&self) -> PathBuf {
        self.path("admin.sock")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn run_with_conf(&self, arguments: &[&str]) -> Ran {
        let conf = self.conf();
        let mut all = arguments.to_vec();
        all.extend(["-c", conf.to_str().unwrap()]);
        run(&all)
    }

    fn run_with_prefix(&self, arguments: &[&str]) -> Ran {
        let prefix = self.prefix();
        let mut all = arguments.to_vec();
        all.extend(["-p", prefix.to_str().unwrap()]);
        run(&all)
    }
}

/// A gateway that a failed test leaves behind is stopped.
impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.run_with_prefix(&["stop"]);
    }
}

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.status, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn failed_with(self, message: &str) -> Self {
        assert_eq!(self.status, Some(1), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains(message), "no {message:?} in: {}", self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn silverback(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_silverback"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KONG_")) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Ran {
    silverback(arguments).output().unwrap().into()
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks an API over its socket; the whole answer.
fn ask(socket: &Path, request_line: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "{request_line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn version_is_that_of_kong() {
    assert_eq!(run(&["version"]).succeeded().stdout, "3.9.3\n");
    let all = run(&["version", "-a"]).succeeded().stdout;
    assert_eq!(all, format!("Kong: 3.9.3\nSilverback: {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn misuse_has_exit_status_1() {
    for (arguments, message) in [
        (&[][..], "Usage:"),
        (&["fly"], "fly"),
        (&["roar"], "roar"),
        (&["start", "--fly"], "--fly"),
        (&["config", "fly"], "No such command for config: fly"),
        (
            &["config", "parse"],
            "needs a <file> argument, a declarative configuration file\nsilverback config parse <file>",
        ),
        (&["vault", "get"], "needs a <reference> argument\nsilverback vault get <reference>"),
        (&["migrations", "up", "-c", "x"], "there are no migrations"),
        (&["hybrid", "gen_cert"], "there is no hybrid mode"),
    ] {
        let ran = run(arguments).failed_with(message);
        assert!(ran.stderr.starts_with("Error: "), "{arguments:?}: {}", ran.stderr);
    }
    run(&["--help"]).succeeded();
    run(&["quit", "--help"]).succeeded();
}

#[test]
fn what_does_not_run_cannot_be_stopped() {
    let site = Site::new("");
    for command in ["stop", "quit", "health", "reload"] {
        site.run_with_prefix(&[command]).failed_with("Error: no such prefix: ");
    }
    fs::create_dir(site.prefix()).unwrap();
    for command in ["stop", "quit", "reload"] {
        let message = format!("Error: Kong is not running in prefix: {}\n", site.prefix().display());
        site.run_with_prefix(&[command]).failed_with(&message);
    }
    let message = format!("Error: Kong is not running at {}\n", site.prefix().display());
    site.run_with_prefix(&["health"]).failed_with(&message);

    // a pid file that a killed gateway left behind, with the number of a living process
    fs::create_dir(site.prefix().join("pids")).unwrap();
    fs::write(site.prefix().join("pids/nginx.pid"), format!("{}\n", std::process::id())).unwrap();
    site.run_with_prefix(&["stop"]).failed_with("Kong is not running in prefix");
}

#[test]
fn check_tells_everything_that_is_wrong() {
    let site = Site::new("log_level = loud\nnginx_worker_processes = few\n");
    let conf = site.conf();
    for ran in [run(&["check", conf.to_str().unwrap()]), site.run_with_conf(&["start"])] {
        let ran = ran.failed_with("log_level");
        for (line, start) in [
            (0, format!("Error: {}:6: log_level", conf.display())),
            (1, format!("{}:7: nginx_worker_processes", conf.display())),
        ] {
            assert!(
                ran.stderr.lines().nth(line).is_some_and(|line| line.starts_with(&start)),
                "no {start} in: {}",
                ran.stderr
            );
        }
    }

    let ran = run(&["check", site.path("none.conf").to_str().unwrap()]).failed_with("none.conf");
    assert!(ran.stderr.starts_with("Error: no file at: "), "{}", ran.stderr);
}

#[test]
fn check_lists_what_is_ignored_the_important_first() {
    let site = Site::new("anonymous_reports = off\nrouter_flavor = expressions\n");
    let conf = site.conf();
    let stdout = run(&["check", conf.to_str().unwrap()]).succeeded().stdout;
    let at = |text: &str| stdout.find(text).unwrap_or_else(|| panic!("no {text:?} in: {stdout}"));
    assert!(at("router_flavor = expressions") < at("anonymous_reports = off"), "{stdout}");
    assert!(stdout.ends_with(&format!("configuration at {} is valid\n", conf.display())), "{stdout}");
}

/// A configuration that is valid, and does other than its author may think.
const WITH_A_REMARK: &str = "
_format_version: '3.0'
routes:
- {name: named, protocols: [tls], snis: [a.test]}
- {name: plain, protocols: [tcp], destinations: [{port: 9}]}
";
const REMARK: &str = "route 'named' asks for nothing but snis";

#[test]
fn what_a_configuration_will_not_do_is_told() {
    let files = tempfile::tempdir().unwrap();
    let declared = files.path().join("kong.yml");
    fs::write(&declared, WITH_A_REMARK).unwrap();
    let site = Site::new(&format!("declarative_config = {}\n", declared.display()));
    let ran = site.run_with_conf(&["config", "parse", declared.to_str().unwrap()]).succeeded();
    assert!(ran.stderr.contains(REMARK), "{}", ran.stderr);
    let ran = site.run_with_conf(&["start"]).succeeded();
    assert!(ran.stderr.contains(REMARK), "{}", ran.stderr);
}

#[test]
fn prepare_makes_the_files_that_tools_look_for() {
    let site = Site::new("status_listen = 127.0.0.1:0 ssl\nproxy_listen = 127.0.0.1:0 ssl\n");
    site.run_with_conf(&["prepare"]).succeeded();
    let prefix = site.prefix();
    for directory in ["logs", "pids", "ssl"] {
        assert!(prefix.join(directory).is_dir(), "{directory}");
    }
    for file in ["logs/error.log", "logs/access.log", "logs/admin_access.log"] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    let environment = fs::read_to_string(prefix.join(".kong_env")).unwrap();
    assert!(environment.contains(&format!("prefix = {}\n", prefix.display())), "{environment}");

    let mut keys = Vec::new();
    for (name, heading) in [("", "RSA"), ("-ecdsa", "EC"), ("", "RSA")] {
        for kind in ["", "status-"] {
            let stem = format!("{kind}kong-default{name}");
            let key = prefix.join(format!("ssl/{stem}.key"));
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{stem} ({heading})");
            let certificate = fs::read_to_string(prefix.join(format!("ssl/{stem}.crt"))).unwrap();
            assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{stem}");
            keys.push((key.clone(), fs::read(&key).unwrap()));
        }
    }
    assert!(!prefix.join("ssl/admin-kong-default.crt").exists(), "admin_listen has no ssl");

    // a second time changes no key
    site.run_with_conf(&["prepare"]).succeeded();
    for (path, text) in keys {
        assert_eq!(fs::read(&path).unwrap(), text, "{}", path.display());
    }
}

#[test]
fn config_parse_checks_a_file() {
    let site = Site::new("");
    let good = site.write(
        "good.yml",
        "_format_version: '3.0'\nservices:\n- name: s\n  url: http://127.0.0.1:1\n  routes:\n  - paths: [/a]\n",
    );
    let ran = site.run_with_conf(&["config", "parse", good.to_str().unwrap()]).succeeded();
    assert_eq!(ran.stdout, "parse successful\n");

    let bad = site.write("bad.yml", "_format_version: '3.0'\nservicess: []\nroutes:\n- paths: [nope]\n");
    let ran = site.run_with_conf(&["config", "parse", bad.to_str().unwrap()]).failed_with("Error: Failed parsing:\n");
    assert!(ran.stderr.contains("servicess") && ran.stderr.contains("paths"), "{}", ran.stderr);

    let example = site.path("example.yml");
    site.run_with_conf(&["config", "init", example.to_str().unwrap()]).succeeded();
    site.run_with_conf(&["config", "init", example.to_str().unwrap()]).failed_with("Will not overwrite it.");
    site.run_with_conf(&["config", "parse", example.to_str().unwrap()]).succeeded();

    site.run_with_conf(&["config", "db_export"]).failed_with("only works with a database");
}

#[test]
fn vault_get_reads_the_environment() {
    let site = Site::new("");
    let conf = site.conf();
    let get = |reference: &str| -> Ran {
        let mut command = silverback(&["vault", "get", reference, "-c", conf.to_str().unwrap()]);
        command.env("TEST", "hello").env("PAIR", r#"{"user":"u"}"#).output().unwrap().into()
    };
    assert_eq!(get("env/test").succeeded().stdout, "hello\n");
    assert_eq!(get("{vault://env/pair/user}").succeeded().stdout, "u\n");
    get("env/absent").failed_with("ABSENT");
}

#[test]
fn a_background_start_reports_what_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let site = Site::new(&format!("status_listen = {address}\n"));
    site.run_with_conf(&["start"]).failed_with(&address);
    assert!(!site.prefix().join("pids/nginx.pid").exists());

    let site = Site::new("plugins = bundled, nobody-has-it\n");
    site.run_with_conf(&["start"]).failed_with("nobody-has-it plugin is enabled but not installed");

    let site = Site::new("");
    let bad = site.write("bad.yml", "_format_version: '3.0'\nservicess: []\n");
    let site = Site::new(&format!("declarative_config = {}\n", bad.display()));
    site.run_with_conf(&["start"]).failed_with("servicess");
}

#[test]
fn a_gateway_lives_in_the_background() {
    let site = Site::new("");
    let declared = site.write("kong.yml", "_format_version: '3.0'\nservices:\n- {name: s, url: http://127.0.0.1:1}\n");
    let site = Site::new(&format!("declarative_config = {}\n", declared.display()));
    assert!(site.run_with_conf(&["start"]).succeeded().stdout.ends_with("Kong started\n"));
    site.run_with_conf(&["start"]).failed_with("Kong is already running in ");
    let health = site.run_with_prefix(&["health"]).succeeded().stdout;
    assert_eq!(health, format!("nginx.......running\n\nKong is healthy at {}\n", site.prefix().display()));
    let status = site.path("status.sock");
    assert!(ask(&status, "GET /status/ready").unwrap().contains(r#"{"message":"ready"}"#));

    // a reload that is refused says why, and changes nothing
    let environment = fs::read(site.prefix().join(".kong_env")).unwrap();
    let hash = |answer: String| answer.split("configuration_hash").nth(1).map(str::to_owned);
    let before = hash(ask(&status, "GET /status").unwrap());
    assert!(before.is_some());
    fs::write(&declared, "_format_version: '3.0'\nservicess: []\n").unwrap();
    site.run_with_prefix(&["reload"]).failed_with("servicess");
    assert_eq!(fs::read(site.prefix().join(".kong_env")).unwrap(), environment);
    assert_eq!(hash(ask(&status, "GET /status").unwrap()), before);
    let log = fs::read_to_string(site.prefix().join("logs/error.log")).unwrap();
    assert!(log.contains("[error]") && log.contains("servicess"), "{log}");

    fs::write(&declared, "_format_version: '3.0'\nservices:\n- {name: t, url: http://127.0.0.1:2}\n").unwrap();
    assert_eq!(site.run_with_prefix(&["reload"]).succeeded().stdout, "Kong reloaded\n");
    assert_ne!(hash(ask(&status, "GET /status").unwrap()), before);

    // what only a restart can change stays as it is, and is said so; the rest is taken, with a word on what will not work
    fs::write(&declared, WITH_A_REMARK).unwrap();
    for _ in 0..2 {
        let mut reload = silverback(&["reload", "-p", site.prefix().to_str().unwrap()]);
        reload.env("KONG_NGINX_WORKER_PROCESSES", "7").env("KONG_ADMIN_LISTEN", "off").env("KONG_LOG_LEVEL", "info");
        let ran = Ran::from(reload.output().unwrap()).succeeded();
        for remark in [
            "nginx_worker_processes changed, which takes a restart",
            "admin_listen changed, which takes a restart",
            REMARK,
        ] {
            assert!(ran.stderr.contains(remark), "no {remark:?} in: {}", ran.stderr);
        }
        let environment = fs::read_to_string(site.prefix().join(".kong_env")).unwrap();
        assert!(environment.contains("log_level = info\n") && !environment.contains("= 7\n"), "{environment}");
        let admin = format!("admin_listen = unix:{}\n", site.admin().display());
        assert!(environment.contains(&admin), "{environment}");
    }
    wait_until("the log tells of it, too", || {
        fs::read_to_string(site.prefix().join("logs/error.log"))
            .is_ok_and(|log| log.contains("admin_listen changed, which takes a restart"))
    });

    let drained = site.run_with_prefix(&["drain"]).succeeded().stdout;
    assert_eq!(drained, "Kong's status successfully changed to 'draining'\n");
    assert!(ask(&status, "GET /status/ready").unwrap().starts_with("HTTP/1.1 503 "));

    assert_eq!(site.run_with_prefix(&["quit"]).succeeded().stdout, "Kong stopped (gracefully)\n");
    assert!(!site.prefix().join("pids/nginx.pid").exists());
    site.run_with_prefix(&["health"]).failed_with("Kong is not running at");
}

#[test]
fn restart_starts_what_does_not_run_and_replaces_what_does() {
    let site = Site::new("");
    site.run_with_conf(&["restart"]).succeeded();
    let pid = || fs::read_to_string(site.prefix().join("pids/nginx.pid")).unwrap();
    let first = pid();
    site.run_with_conf(&["restart"]).succeeded();
    assert_ne!(pid(), first);
    assert_eq!(site.run_with_prefix(&["stop"]).succeeded().stdout, "Kong stopped\n");
}

/// Starts in the foreground and waits until the Admin API answers.
fn in_foreground(site: &Site, mut command: Command) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the Admin API answers", || {
        ask(&site.admin(), "GET /").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    });
    child
}

#[test]
fn a_foreground_gateway_obeys_signals() {
    let site = Site::new("nginx_daemon = off\n");
    let proxy = site.path("proxy.sock");
    let conf = fs::read_to_string(site.conf()).unwrap();
    let conf = conf.replace("proxy_listen = off", &format!("proxy_listen = unix:{}", proxy.display()));
    fs::write(site.conf(), conf).unwrap();
    for signal in ["TERM", "INT", "QUIT"] {
        let mut gateway = in_foreground(&site, silverback(&["start", "-c", site.conf().to_str().unwrap()]));
        let pid = gateway.id().to_string();
        let kill = |signal: &str| assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());

        let log = site.prefix().join("logs/error.log");
        fs::rename(&log, site.prefix().join("logs/error.log.1")).unwrap();
        kill("USR1");
        wait_until("the log is opened again", || log.exists());

        assert!(proxy.exists());
        kill(signal);
        assert_eq!(gateway.wait().unwrap().code(), Some(0), "{signal}");
        for path in [site.prefix().join("pids/nginx.pid"), site.admin(), site.path("status.sock"), proxy.clone()] {
            assert!(!path.exists(), "{} after {signal}", path.display());
        }
    }
}

#[test]
fn docker_start_stays_in_the_foreground_and_reads_secret_files() {
    let site = Site::new("");
    let secret = site.write("level", "debug\n");
    let conf = site.conf();
    let command = || {
        let mut command = silverback(&["docker-start", "-c", conf.to_str().unwrap()]);
        command.env("KONG_LOG_LEVEL_FILE", &secret);
        command
    };
    let mut gateway = in_foreground(&site, command());
    assert!(ask(&site.admin(), "GET /").unwrap().contains(r#""log_level":"debug""#));
    site.run_with_prefix(&["stop"]).succeeded();
    assert_eq!(gateway.wait().unwrap().code(), Some(0));

    let both: Ran = command().env("KONG_LOG_LEVEL", "info").output().unwrap().into();
    both.failed_with("exclude each other");
}

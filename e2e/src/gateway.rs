//! A gateway in a directory of its own.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Child,
    sync::Once,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use crate::{
    Connection, GrpcClient, Http2, Response, eventually, eventually_async, free_port,
    plugin_server::PluginServer,
    process::{Ended, lossy, run_silverback, silverback},
    within,
};

/// A gateway to be started.
pub struct Gateway {
    directory: TempDir,
    conf: Vec<String>,
    config: Value,
    servers: Vec<PluginServer>,
    environment: Vec<(String, String)>,
    more_plugins: String,
    daemon: bool,
    listen_flags: String,
    admin_flags: String,
    proxy_port: Option<u16>,
}

/// A gateway that runs. It is killed when this value is dropped; its logs are shown if that happens because a test failed.
pub struct Running {
    directory: TempDir,
    proxy: SocketAddr,
    tls: SocketAddr,
    clear_http2: SocketAddr,
    admin: SocketAddr,
    status: SocketAddr,
    child: Option<Child>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Gateway {
    /// Without services and plugins.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sb").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            directory,
            conf: Vec::new(),
            config: json!({}),
            servers: Vec::new(),
            environment: Vec::new(),
            more_plugins: String::new(),
            daemon: false,
            listen_flags: String::new(),
            admin_flags: String::new(),
            proxy_port: None,
        }
    }

    /// Lines of `kong.conf`.
    pub fn conf(mut self, lines: &str) -> Self {
        self.conf.extend(lines.lines().map(|line| line.trim().to_owned()));
        self
    }

    /// The declarative configuration. Its format version may be left out.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Plugin servers that the gateway manages; their plugins may be configured.
    pub fn plugin_servers<S: Into<PluginServer>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// A variable of the gateway's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A flag of every address of `proxy_listen`.
    pub fn listen_flag(mut self, flag: &str) -> Self {
        self.listen_flags += &format!(" {flag}");
        self
    }

    /// A flag of `admin_listen`.
    pub fn admin_flag(mut self, flag: &str) -> Self {
        self.admin_flags += &format!(" {flag}");
        self
    }

    /// As a daemon, started by `silverback start`.
    pub fn daemon(mut self) -> Self {
        self.daemon = true;
        self
    }

    /// The port of `proxy_listen` without TLS, for tests whose configuration must know it.
    pub fn proxy_port(mut self, port: u16) -> Self {
        self.proxy_port = Some(port);
        self
    }

    /// A directory that lives as long as the gateway.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until it accepts connections and its plugin servers theirs, except for those that are held.
    pub async fn start(self) -> Running {
        raise_descriptor_limit();
        let ports = [self.proxy_port.unwrap_or_else(free_port), free_port(), free_port(), free_port(), free_port()];
        let [proxy, tls, clear_http2, admin, status] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let conf = self.write_files([proxy, tls, clear_http2, admin, status]);
        let mut running = Running { directory: self.directory, proxy, tls, clear_http2, admin, status, child: None };
        if self.daemon {
            let environment: Vec<_> = self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let ended = run_silverback(&["start", "-c", conf.to_str().unwrap()], &environment).await;
            assert_eq!(ended.status, Some(0), "silverback start: {ended:?}");
        } else {
            let output = File::create(running.path("output")).unwrap();
            let child = silverback()
                .args(["start", "-c", conf.to_str().unwrap()])
                .envs(self.environment)
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap();
            running.child = Some(child);
            // All listeners are there then, those for streams too.
            eventually("the gateway says that it has started", || {
                running.still_runs();
                lossy(&running.path("output")).contains("Kong started").then_some(())
            })
            .await;
        }
        for address in [proxy, tls, clear_http2, admin, status] {
            eventually_async("the gateway listens", || async {
                running.still_runs();
                TcpStream::connect(address).await.ok()
            })
            .await;
        }
        for server in self.servers.iter().filter(|server| server.starts_at_once()) {
            let socket = running.path(server.socket());
            eventually_async(&format!("plugin server {} listens", server.name()), || async {
                UnixStream::connect(&socket).await.ok()
            })
            .await;
        }
        running
    }

    /// Writes `kong.conf` and `kong.json`, and returns the path of the former.
    fn write_files(&self, [proxy, tls, clear_http2, admin, status]: [SocketAddr; 5]) -> PathBuf {
        let prefix = self.directory.path();
        let daemon = if self.daemon { "on" } else { "off" };
        let names: Vec<_> = self.servers.iter().map(PluginServer::name).collect();
        let plugins: Vec<_> = self.servers.iter().map(PluginServer::plugin).collect();
        let mut lines = vec![
            format!("prefix = {}", prefix.display()),
            format!("nginx_daemon = {daemon}"),
            "nginx_worker_processes = 2".into(),
            "database = off".into(),
            "log_level = info".into(),
            format!("declarative_config = {}", prefix.join("kong.json").display()),
            format!(
                "proxy_listen = {proxy} reuseport{flags}, {tls} ssl http2 reuseport{flags}, \
                 {clear_http2} http2 reuseport{flags}",
                flags = self.listen_flags
            ),
            format!("admin_listen = {admin}{}", self.admin_flags),
            format!("status_listen = {status}"),
            format!("plugins = {}", [&["bundled"], plugins.as_slice()].concat().join(",") + &self.more_plugins),
        ];
        if !names.is_empty() {
            lines.push(format!("pluginserver_names = {}", names.join(",")));
        }
        for server in &self.servers {
            lines.extend(server.properties(prefix));
        }
        lines.extend(self.conf.iter().cloned());
        write_config(prefix, &self.config);
        let path = prefix.join("kong.conf");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }
}

impl Running {
    /// The address of `proxy_listen` without TLS.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The address of `proxy_listen` with TLS.
    pub fn tls(&self) -> SocketAddr {
        self.tls
    }

    /// The address of `proxy_listen` with HTTP/2 and without TLS.
    pub fn clear_http2(&self) -> SocketAddr {
        self.clear_http2
    }

    /// A new connection to the proxy.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.proxy).await
    }

    /// A new TLS connection to the proxy, for HTTP/1.1.
    pub async fn connect_tls(&self, server_name: &str) -> Connection {
        Connection::open_tls(self.tls, server_name).await
    }

    /// HTTP/2 on a new connection, by prior knowledge.
    pub async fn http2(&self) -> Http2 {
        Http2::open(self.clear_http2).await
    }

    /// HTTP/2 on a new TLS connection, agreed on by ALPN.
    pub async fn http2_tls(&self, server_name: &str) -> Http2 {
        Http2::open_tls(self.tls, server_name).await
    }

    /// gRPC on a new connection, by prior knowledge.
    pub async fn grpc(&self) -> GrpcClient {
        GrpcClient::open(self.clear_http2).await
    }

    /// The answer to a GET on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    /// The answer to a GET with more headers.
    pub async fn get_with(&self, path: &str, headers: &[&str]) -> Response {
        self.connect().await.get(path, headers).await
    }

    /// The answer to a GET of what needs a plugin server that may just be replaced. The gateway waits ten seconds for one that
    /// starts, which a machine that runs many tests may need for it: what was refused for that reason is asked for again.
    pub async fn get_from_replaced(&self, path: &str) -> Response {
        eventually_async(&format!("an answer to {path}"), || async {
            let answer = self.get(path).await;
            if answer.status == 500 {
                self.logged_error(&["was not ready within 10 s", path]).await;
                return None;
            }
            Some(answer)
        })
        .await
    }

    /// The address of the Admin API.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The answer of the Admin API to a GET.
    pub async fn admin(&self, path: &str) -> Response {
        Connection::open(self.admin).await.get(path, &[]).await
    }

    /// The answer of the Admin API to a request without a body.
    pub async fn admin_request(&self, method: &str, path: &str) -> Response {
        Connection::open(self.admin).await.request(method, path, &[], b"").await
    }

    /// The answer of the Status API to a GET.
    pub async fn status(&self, path: &str) -> Response {
        Connection::open(self.status).await.get(path, &[]).await
    }

    /// A path in the prefix.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the access log says.
    pub fn access_log(&self) -> String {
        lossy(&self.path("logs/access.log"))
    }

    /// What the error log says, and what was printed.
    pub fn error_log(&self) -> String {
        lossy(&self.path("output")) + &lossy(&self.path("logs/error.log"))
    }

    /// Waits for a line of the access log with all of these parts, and returns it.
    pub async fn logged_access(&self, parts: &[&str]) -> String {
        eventually(&format!("an access-log line with {parts:?}"), || {
            self.access_log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(Into::into)
        })
        .await
    }

    /// Waits for a line of the error log with all of these parts, and returns it.
    pub async fn logged_error(&self, parts: &[&str]) -> String {
        eventually(&format!("an error-log line with {parts:?}"), || {
            self.error_log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(Into::into)
        })
        .await
    }

    /// Panics where the gateway has ended.
    fn still_runs(&self) {
        if let Some(ended) = self.child.as_ref().and_then(|child| ended(child.id())) {
            panic!("the gateway ended: {ended}");
        }
    }

    /// The pid of the gateway, as its pid file says.
    pub fn pid(&self) -> i32 {
        lossy(&self.path("pids/nginx.pid")).trim().parse().expect("pids/nginx.pid holds a number")
    }

    /// Resident memory of the gateway, in bytes, without that of its program. It grows by whole pages, and where the kernel
    /// has huge ones these are of 2 MiB: what a test allows must be many of them, and what it sends many times more.
    pub fn resident_memory(&self) -> usize {
        let status = lossy(Path::new(&format!("/proc/{}/status", self.pid())));
        // Not the pages of its program: how many of these are mapped at a time is the kernel's affair.
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
        line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
    }

    /// Sends the gateway a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until the gateway has ended, and returns its exit status (`None`: by a signal).
    pub async fn exit_status(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("only of a gateway in the foreground");
        eventually("end of the gateway", || child.try_wait().unwrap()).await.code()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => kill(Pid::from_raw(self.pid()), None).is_ok(),
        }
    }

    /// Runs a command of the CLI with this gateway's prefix.
    pub async fn command(&self, arguments: &[&str]) -> Ended {
        let prefix = self.directory.path().to_str().unwrap();
        run_silverback(&[arguments, &["-p", prefix]].concat(), &[]).await
    }

    /// Writes another declarative configuration; it is read by the next reload.
    pub fn rewrite_config(&self, config: &Value) {
        write_config(self.directory.path(), config);
    }

    /// Writes a declarative file that is no configuration.
    pub fn rewrite_config_text(&self, text: &str) {
        std::fs::write(self.path("kong.json"), text).unwrap();
    }

    /// The pids of processes that listen on a plugin server's socket, the newest last.
    pub fn plugin_server_pids(&self, command_part: &str) -> Vec<i32> {
        let prefix = self.directory.path().display().to_string();
        let mut pids: Vec<i32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let command = lossy(Path::new(&format!("/proc/{pid}/cmdline"))).replace('\0', " ");
                command.contains(command_part) && command.contains(&prefix)
            })
            .collect();
        pids.sort_unstable();
        pids
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- output and error log\n{}", tail(&self.error_log(), 80));
            eprintln!("---- access log\n{}", tail(&self.access_log(), 20));
        }
        match &mut self.child {
            Some(child) => {
                // SIGTERM first: an executable that runs its work in children gets to end them.
                let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
                for _ in 0..100 {
                    if child.try_wait().is_ok_and(|status| status.is_some()) {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {
                if let Ok(pid) = lossy(&self.path("pids/nginx.pid")).trim().parse() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
    }
}

fn write_config(prefix: &Path, config: &Value) {
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        map.entry("_format_version").or_insert_with(|| "3.0".into());
    }
    std::fs::write(prefix.join("kong.json"), config.to_string()).unwrap();
}

/// Lets this process open as many files as the system allows: some tests hold a thousand connections, and where nobody has said
/// otherwise that is the limit.
fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    });
}

/// Why a process is no more (a zombie counts as ended).
fn ended(pid: u32) -> Option<String> {
    let stat = lossy(Path::new(&format!("/proc/{pid}/stat")));
    (stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
        .then(|| "see its output below".to_owned())
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits until nobody accepts connections at `address`.
impl Running {
    pub async fn refuses_connections(&self) {
        within("refused connections", async {
            while TcpStream::connect(self.proxy).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

//! A host with one stand-in server, and what tests ask of it.

use std::{
    env, fs,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value as Json};
use silverback_config::settings::PluginServer;
use silverback_model::Phase;
use silverback_plugin_host::{
    Connections, Deadlines, EventEnd, EventFailure, Host, Instance, Offer, Pdk, Reply, ServerState, ServerStatus,
    WireProtocol,
};
use silverback_protocol::{Call, Return, Value};
use tempfile::TempDir;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deadlines that no test of something else meets.
pub(crate) const LONG: Deadlines =
    Deadlines { event: Duration::from_secs(20), ready: Duration::from_secs(20), probe: Duration::from_secs(20) };

/// Deadlines that are met soon, though not by a server that is well on a machine that is busy.
pub(crate) const SHORT: Deadlines = Deadlines {
    event: Duration::from_millis(1500),
    ready: Duration::from_secs(20),
    probe: Duration::from_millis(1500),
};

pub(crate) struct Stage {
    pub(crate) host: Arc<Host>,
    pub(crate) connections: Connections,
    protocol: WireProtocol,
    plugin: &'static str,
    folder: TempDir,
    elsewhere: Option<Child>,
    /// Name of the socket that the stand-in is started with.
    listens_on: &'static str,
    /// The server's.
    settings: PluginServer,
}

/// Who starts the stand-in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Managed {
    ByHost,
    Elsewhere,
}

impl Stage {
    pub(crate) fn new(protocol: WireProtocol, deadlines: Deadlines) -> Self {
        Self::with(protocol, deadlines, Managed::ByHost, "")
    }

    /// `env`: more variables for the stand-in, `NAME=value`.
    pub(crate) fn with(protocol: WireProtocol, deadlines: Deadlines, managed: Managed, env: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let line = command_line(protocol, &folder, "socket", env);
        Self::with_command(protocol, deadlines, folder, (managed == Managed::ByHost).then_some(line))
    }

    pub(crate) fn with_command(
        protocol: WireProtocol,
        deadlines: Deadlines,
        folder: TempDir,
        start_cmd: Option<String>,
    ) -> Self {
        Self::named(protocol, deadlines, folder, start_cmd, "actor")
    }

    /// With a plugin of another name.
    pub(crate) fn named(
        protocol: WireProtocol,
        deadlines: Deadlines,
        folder: TempDir,
        start_cmd: Option<String>,
        plugin: &'static str,
    ) -> Self {
        Self::set(protocol, deadlines, folder, plugin, |server| server.start_cmd = start_cmd)
    }

    /// A stand-in of the host's with other settings than the default.
    pub(crate) fn with_settings(
        protocol: WireProtocol,
        deadlines: Deadlines,
        env: &str,
        settings: impl FnOnce(&mut PluginServer),
    ) -> Self {
        let folder = TempDir::new().expect("a folder");
        let line = command_line(protocol, &folder, "socket", env);
        Self::set(protocol, deadlines, folder, "actor", |server| {
            server.start_cmd = Some(line);
            settings(server);
        })
    }

    fn set(
        protocol: WireProtocol,
        deadlines: Deadlines,
        folder: TempDir,
        plugin: &'static str,
        settings: impl FnOnce(&mut PluginServer),
    ) -> Self {
        let mut server = PluginServer::new("stand-in", folder.path().join("socket"), "");
        settings(&mut server);
        let offer = Offer {
            server: "stand-in".to_owned(),
            protocol,
            socket: None,
            plugins: Vec::new(),
            complaints: Vec::new(),
        };
        let host = Host::start_with(std::slice::from_ref(&server), &[], &[offer], move |_| deadlines, None);
        let connections = Connections::new(Arc::clone(&host));
        Self { host, connections, protocol, plugin, folder, elsewhere: None, listens_on: "socket", settings: server }
    }

    pub(crate) fn settings(&self) -> PluginServer {
        self.settings.clone()
    }

    /// Starts the stand-in as somebody else than the host; ends the one before.
    pub(crate) fn start_elsewhere(&mut self) {
        self.stop_elsewhere();
        let line = command_line(self.protocol, &self.folder, self.listens_on, "");
        let child = Command::new("sh").arg("-c").arg(format!("exec {line}")).stdout(Stdio::null()).spawn();
        self.elsewhere = Some(child.expect("starts"));
    }

    pub(crate) fn stop_elsewhere(&mut self) {
        if let Some(mut child) = self.elsewhere.take() {
            child.kill().expect("kills");
            child.wait().expect("waits");
        }
    }

    /// Listens on the host's socket, and passes connections on to another one, on which the stand-in is started.
    pub(crate) fn bridge(&mut self) {
        self.listens_on = "behind";
        let behind = self.folder.path().join(self.listens_on);
        let listener = UnixListener::bind(self.socket()).expect("binds");
        // ends with the test binary
        thread::spawn(move || {
            for front in listener.incoming() {
                let Ok(front) = front else { return };
                let Ok(back) = UnixStream::connect(&behind) else { continue };
                for (mut from, mut to) in
                    [(front.try_clone().expect("clones"), back.try_clone().expect("clones")), (back, front)]
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn instance(&self, config: Json) -> Arc<Instance> {
        let Json::Object(config) = config else { panic!("a configuration is an object") };
        self.instance_of(config)
    }

    fn instance_of(&self, config: Map<String, Json>) -> Arc<Instance> {
        self.host.instance("stand-in", self.plugin, config).expect("the server exists")
    }

    /// An instance whose handler takes these actions.
    pub(crate) fn script(&self, script: impl Into<Json>) -> Arc<Instance> {
        self.instance(serde_json::json!({ "script": script.into() }))
    }

    pub(crate) async fn run(&self, instance: &Arc<Instance>, pdk: &mut impl Pdk) -> Result<EventEnd, EventFailure> {
        self.connections.handle_event(instance, Phase::Access, None, pdk).await
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many lines of the journal start so.
    pub(crate) fn noted(&self, start: &str) -> usize {
        self.journal().iter().filter(|line| line.starts_with(start)).count()
    }

    /// The processes of the stand-in that came up, in that order.
    pub(crate) fn noted_pids(&self) -> Vec<i32> {
        let pid = |line: &String| line.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
        self.journal().iter().filter_map(pid).collect()
    }

    /// Waits until the journal has so many lines that start so.
    pub(crate) async fn wait_noted(&self, start: &str, count: usize) {
        self.wait(|| self.noted(start) >= count, &format!("{count} x {start:?}")).await;
    }

    pub(crate) async fn wait_state(&self, state: ServerState) {
        self.wait(|| self.status().state == state, &format!("{state:?}")).await;
    }

    pub(crate) async fn wait(&self, condition: impl Fn() -> bool, what: &str) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < PATIENCE, "waited for {what}; the journal: {:#?}", self.journal());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tries until it succeeds.
    pub(crate) async fn wait_for(&self, mut attempt: impl AsyncFnMut() -> bool, what: &str) {
        let begun = Instant::now();
        while !attempt().await {
            assert!(begun.elapsed() < PATIENCE, "tried {what}; the journal: {:#?}", self.journal());
        }
    }

    pub(crate) fn status(&self) -> ServerStatus {
        self.host.status().remove(0)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.status().pid.expect("a process")).expect("a pid")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop_elsewhere();
    }
}

fn command_line(protocol: WireProtocol, folder: &TempDir, socket: &str, env: &str) -> String {
    let exe = env::current_exe().expect("this binary");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let protocol = match protocol {
        WireProtocol::MsgPack => "msgpack",
        WireProtocol::ProtoBuf => "protobuf",
    };
    format!(
        "env STAND_IN={protocol}:{} STAND_IN_JOURNAL={} {env} {} --exact stand_in::server --nocapture",
        path(socket).display(),
        path("journal").display(),
        exe.display()
    )
}

/// Answers PDK calls with replies in order, then with nil; keeps the calls.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) calls: Vec<Call>,
    pub(crate) replies: std::vec::IntoIter<Reply>,
    /// How long each answer takes.
    pub(crate) pause: Duration,
}

impl Script {
    pub(crate) fn new(replies: Vec<Reply>) -> Self {
        Self { replies: replies.into_iter(), ..Self::default() }
    }

    pub(crate) fn methods(&self) -> Vec<&str> {
        self.calls.iter().map(|call| &*call.method).collect()
    }
}

impl Pdk for Script {
    async fn call(&mut self, call: &Call) -> Reply {
        tokio::time::sleep(self.pause).await;
        self.calls.push(call.clone());
        self.replies.next().unwrap_or_else(|| Reply::Return(Return::default()))
    }
}

pub(crate) fn returns(value: impl Into<Value>) -> Reply {
    Reply::Return(value.into().into())
}

/// Runs a test's future as a worker thread would.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

/// Runs a test with both protocols.
pub(crate) fn with_both<F: Future<Output = ()>>(deadlines: Deadlines, test: impl Fn(Stage, WireProtocol) -> F) {
    for protocol in [WireProtocol::MsgPack, WireProtocol::ProtoBuf] {
        block_on(async {
            let stage = Stage::new(protocol, deadlines);
            let host = Arc::clone(&stage.host);
            test(stage, protocol).await;
            host.stop().await;
        });
    }
}

//! A plugin server: how its processes are run, and what its events may cost.

use std::{path::PathBuf, time::Duration};

use silverback_model::OnError;

/// A plugin server: a name of `pluginserver_names` and the properties `pluginserver_NAME_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginServer {
    pub name: String,
    pub socket: PathBuf,
    /// A shell command line; `None`: the process is managed elsewhere.
    pub start_cmd: Option<String>,
    /// A shell command line that prints what the server offers.
    pub query_cmd: String,
    pub events: EventPolicy,
    pub process: ProcessPolicy,
}

/// What an event in a server may cost, and what its failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPolicy {
    /// `timeout`: for an event, the time that it waits for the gateway not counted; and for the start of an instance.
    pub timeout: Duration,
    /// `on_error`: what becomes of a request whose event failed.
    pub on_error: OnError,
    /// `max_inflight`: events that run in the server at a time, all its processes together. 0: no limit.
    pub max_inflight: usize,
    /// `max_queue`: events that wait for others to end when there are `max_inflight`.
    pub max_queue: usize,
    /// `None`: off (`breaker_failures = 0`).
    pub breaker: Option<Breaker>,
    /// `repair`: whether the gateway loads its modules into stock JavaScript and Python servers.
    pub repair: bool,
}

/// `breaker_failures` and `breaker_pause`: when a server counts as broken, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row open it.
    pub failures: u32,
    /// How long it stays open before an event is tried.
    pub pause: Duration,
}

/// How the processes of a server are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPolicy {
    /// Processes behind the one name.
    pub workers: usize,
    /// How long a process may take until its socket accepts connections.
    pub start_timeout: Duration,
    /// Events after which a process is replaced by a new one; 0: never for that.
    pub max_requests: u64,
    pub max_memory: MaxMemory,
    pub restart_backoff: RestartBackoff,
    /// How long a process may take to end when it is asked to.
    pub shutdown_grace: Duration,
    /// Variables that are added to its environment.
    pub env: Vec<(String, String)>,
    /// The directory that it runs in; `None`: the gateway's.
    pub cwd: Option<PathBuf>,
    /// The user, and the group if one is given, that it runs as; `None`: the gateway's.
    pub user: Option<(String, Option<String>)>,
    pub rlimits: Vec<ResourceLimit>,
    /// Permissions that its socket is given; `None`: as the server makes it.
    pub socket_mode: Option<u32>,
    /// Whether a changed executable or script makes the gateway start the server anew.
    pub watch: bool,
}

/// `max_memory`: resident memory at which a process is replaced by a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxMemory {
    /// 1 GiB, or three times what the process had when it became ready, if that is more; at most a quarter of what the machine has.
    #[default]
    Auto,
    Never,
    Bytes(u64),
}

/// `restart_backoff`: pauses before a process that ended is started again. The first restart is immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartBackoff {
    /// Before the second restart in a row; it doubles from then on.
    pub first: Duration,
    pub cap: Duration,
}

/// A limit of `setrlimit`, soft and hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// One of [`ResourceLimit::NAMES`].
    pub resource: &'static str,
    /// Number, bytes or seconds; `None`: unlimited.
    pub value: Option<u64>,
}

impl ResourceLimit {
    /// The names of resources, as `prlimit` has them.
    pub const NAMES: [&'static str; 9] = ["as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack"];
}

impl PluginServer {
    /// A server with default policies.
    pub fn new(name: impl Into<String>, socket: impl Into<PathBuf>, query_cmd: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            socket: socket.into(),
            start_cmd: None,
            query_cmd: query_cmd.into(),
            events: EventPolicy::default(),
            process: ProcessPolicy::default(),
        }
    }
}

impl Default for EventPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            on_error: OnError::default(),
            max_inflight: 1024,
            max_queue: 4096,
            breaker: Some(Breaker { failures: 20, pause: Duration::from_secs(1) }),
            repair: true,
        }
    }
}

impl Default for ProcessPolicy {
    fn default() -> Self {
        Self {
            workers: 1,
            start_timeout: Duration::from_secs(60),
            max_requests: 0,
            max_memory: MaxMemory::Auto,
            restart_backoff: RestartBackoff { first: Duration::from_millis(100), cap: Duration::from_secs(5) },
            shutdown_grace: Duration::from_secs(3),
            env: Vec::new(),
            cwd: None,
            user: None,
            rlimits: Vec::new(),
            socket_mode: None,
            watch: false,
        }
    }
}

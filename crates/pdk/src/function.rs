//! The table of functions: how a name is found, in which phases a function may be called, and how a call is made.

use std::sync::LazyLock;

use foldhash::HashMap;
use silverback_model::Phase;
use silverback_protocol::{Call, Return, Value};

use crate::{
    Caller, Exchange, Outcome,
    exchange::{LogLevel, Subsystem},
    functions, lua,
};

/// One function of the PDK.
pub(crate) struct Function {
    /// The whole name, `kong.request.get_path`.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Exchange, &Caller, &[Value]) -> Outcome,
    pub(crate) phases: PhaseRule,
    /// The arguments, as the reference page shows them.
    pub(crate) args: &'static str,
    /// What it gives back.
    pub(crate) result: &'static str,
    /// What it does, one sentence.
    pub(crate) about: &'static str,
    /// The version of this gateway that brought it.
    pub(crate) since: &'static str,
}

/// A set of Kong's phases, by Kong's own numbers: their order is the order in which an error names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KongPhases(u32);

impl KongPhases {
    pub(crate) const INIT_WORKER: Self = Self(0x0000_0001);
    pub(crate) const CERTIFICATE: Self = Self(0x0000_0002);
    pub(crate) const CLIENT_HELLO: Self = Self(0x0000_0008);
    pub(crate) const REWRITE: Self = Self(0x0000_0010);
    pub(crate) const ACCESS: Self = Self(0x0000_0020);
    pub(crate) const BALANCER: Self = Self(0x0000_0040);
    pub(crate) const RESPONSE: Self = Self(0x0000_0080);
    pub(crate) const CLUSTER_LISTENER: Self = Self(0x0000_0100);
    pub(crate) const HEADER_FILTER: Self = Self(0x0000_0200);
    pub(crate) const BODY_FILTER: Self = Self(0x0000_0400);
    pub(crate) const LOG: Self = Self(0x0000_2000);
    pub(crate) const PREREAD: Self = Self(0x0000_4000);
    pub(crate) const ERROR: Self = Self(0x0100_0000);
    pub(crate) const ADMIN_API: Self = Self(0x1000_0000);

    const NAMES: [(Self, &'static str); 14] = [
        (Self::INIT_WORKER, "init_worker"),
        (Self::CERTIFICATE, "certificate"),
        (Self::CLIENT_HELLO, "client_hello"),
        (Self::REWRITE, "rewrite"),
        (Self::ACCESS, "access"),
        (Self::BALANCER, "balancer"),
        (Self::RESPONSE, "response"),
        (Self::CLUSTER_LISTENER, "cluster_listener"),
        (Self::HEADER_FILTER, "header_filter"),
        (Self::BODY_FILTER, "body_filter"),
        (Self::LOG, "log"),
        (Self::PREREAD, "preread"),
        (Self::ERROR, "error"),
        (Self::ADMIN_API, "admin_api"),
    ];

    /// Wherever there is a request: Kong's `PHASES.request`.
    pub(crate) const REQUEST: Self = Self::REWRITE
        .or(Self::ACCESS)
        .or(Self::BALANCER)
        .or(Self::RESPONSE)
        .or(Self::HEADER_FILTER)
        .or(Self::BODY_FILTER)
        .or(Self::LOG)
        .or(Self::ERROR)
        .or(Self::ADMIN_API)
        .or(Self::CLUSTER_LISTENER);

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn of(phase: Phase) -> Self {
        match phase {
            Phase::Certificate => Self::CERTIFICATE,
            Phase::Rewrite => Self::REWRITE,
            Phase::Access => Self::ACCESS,
            Phase::Response => Self::RESPONSE,
            Phase::Preread => Self::PREREAD,
            Phase::Log => Self::LOG,
        }
    }

    const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn names(self) -> String {
        let names: Vec<_> =
            Self::NAMES.iter().filter(|(phase, _)| self.contains(*phase)).map(|(_, name)| *name).collect();
        names.join(", ")
    }
}

/// Where a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PhaseRule {
    Any,
    /// Everywhere but before the TLS handshake is done, where nginx has no variables.
    AfterHandshake,
    Only(KongPhases),
}

impl PhaseRule {
    /// Kong's error for a call in the wrong phase.
    pub(crate) fn check(self, phase: Phase) -> Result<(), String> {
        match self {
            Self::AfterHandshake if phase == Phase::Certificate => {
                Err("API disabled in the context of ssl_certificate_by_lua*".to_owned())
            }
            Self::Any | Self::AfterHandshake => Ok(()),
            Self::Only(phases) if phases.contains(KongPhases::of(phase)) => Ok(()),
            Self::Only(phases) => {
                Err(format!("function cannot be called in {} phase (only in: {})", phase.name(), phases.names()))
            }
        }
    }

    /// The phases of external plugins in which it may be called.
    pub(crate) fn allowed(self) -> impl Iterator<Item = Phase> {
        Phase::ALL.into_iter().filter(move |phase| self.check(*phase).is_ok())
    }
}

/// All functions by name.
static TABLE: LazyLock<HashMap<&'static str, &'static Function>> =
    LazyLock::new(|| functions::all().map(|function| (function.name, function)).collect());

/// Makes a PDK call on behalf of a plugin, with Kong's checks of phase and arguments.
///
/// Names are split on word characters as in Kong: `kong.request..get_path` works.
pub fn call(exchange: &mut Exchange, caller: &Caller, call: &Call) -> Outcome {
    let function = match TABLE.get(&*call.method) {
        Some(function) => Some(*function),
        None => TABLE.get(canonical(&call.method).as_str()).copied(),
    };
    let Some(function) = function else {
        let outcome = unknown(&call.method);
        if outcome == Outcome::Unknown {
            let message = format!("could not find pdk method: {}", call.method);
            exchange.node.surroundings.log(LogLevel::Err, &caller.plugin_name, &message, exchange);
        }
        return outcome;
    };
    match exchange.subsystem {
        Subsystem::Http if function.name == "kong.service.request.disable_tls" => return Outcome::Unknown,
        Subsystem::Stream if function.name.starts_with("kong.client.tls.") => return Outcome::Unknown,
        Subsystem::Stream if needs_http(function.name) => {
            return Outcome::Raise(format!("{} is not available in streams", function.name));
        }
        Subsystem::Http | Subsystem::Stream => {}
    }
    if let Err(error) = function.phases.check(exchange.phase) {
        return Outcome::Raise(error);
    }
    let args = call.args.get(..lua::argument_count(&call.args)).unwrap_or_default();
    let outcome = (function.run)(exchange, caller, args);
    if let Outcome::Done(Return { value: Value::Nil, error: Some(error) }) = &outcome {
        // Most plugins see a nil only.
        let message = format!("{}: {error}", function.name);
        exchange.node.surroundings.log(LogLevel::Notice, &caller.plugin_name, &message, exchange);
    }
    outcome
}

/// Whether a function reads what only an HTTP request has.
fn needs_http(name: &str) -> bool {
    name.strip_prefix("kong.request.").is_some_and(|name| !matches!(name, "get_port" | "get_start_time"))
}

fn canonical(name: &str) -> String {
    let words: Vec<_> =
        name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    words.join(".")
}

/// A name that is no function: nil in Kong, unless it names something that Lua cannot call or index.
fn unknown(name: &str) -> Outcome {
    let name = canonical(name);
    let is_namespace =
        |path: &str| TABLE.keys().any(|known| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    if name.is_empty() {
        return Outcome::Unknown;
    }
    if name.starts_with("kong.configuration.") {
        return Outcome::raise("attempt to call a string value");
    }
    if name == "kong.configuration" || name == "kong" || is_namespace(&name) {
        return Outcome::raise("attempt to call a table value");
    }
    if matches!(name.as_str(), "kong.version") {
        return Outcome::raise("attempt to call a string value");
    }
    if matches!(name.as_str(), "kong.version_num") {
        return Outcome::raise("attempt to call a number value");
    }
    let beyond_function = name.match_indices('.').any(|(at, _)| TABLE.contains_key(&name[..at]));
    if beyond_function {
        return Outcome::raise("attempt to index a function value");
    }
    Outcome::Unknown
}

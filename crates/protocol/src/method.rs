//! The PDK methods of the wire schema, generated from it, and how MessagePack servers want some results.

use std::sync::LazyLock;

use foldhash::HashMap;

/// A message of the schema that is a method's input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    AuthenticateArgs,
    AuthenticatedCredential,
    Bool,
    ByteString,
    Consumer,
    ConsumerSpec,
    Empty,
    ExitArgs,
    Int,
    KV,
    ListValue,
    MemoryStats,
    Number,
    RawBodyResult,
    Route,
    Service,
    String,
    Struct,
    Target,
    UriCapturesResult,
    Value,
}

/// A PDK method that ProtoBuf servers may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// `kong.request.get_header` for instance.
    pub name: &'static str,
    pub input: Message,
    pub output: Message,
}

/// Sorted by name; written by `build.rs` from the service of the wire schema.
static METHODS: &[(&str, Message, Message)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

static BY_NAME: LazyLock<HashMap<&'static [u8], Method>> =
    LazyLock::new(|| Method::all().map(|method| (method.name.as_bytes(), method)).collect());

impl Method {
    /// The method of this name, if the schema has it.
    pub fn by_name(name: &[u8]) -> Option<Self> {
        BY_NAME.get(name).copied()
    }

    /// All methods, sorted by name.
    pub fn all() -> impl Iterator<Item = Self> {
        METHODS.iter().map(|(name, input, output)| Self { name, input: *input, output: *output })
    }
}

/// Whether a call of this method ends the request's phase: a MessagePack server awaits no answer to it.
pub fn is_terminal(name: &str) -> bool {
    matches!(name, "kong.response.exit" | "kong.response.error")
}

/// Which RPC method of a MessagePack server takes the result of a PDK method. go-pluginserver decodes the result into
/// a type of its own and needs to be told which (`get_step_method` in Kong's mp_rpc.lua).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Plain,
    Credential,
    Consumer,
    Route,
    Service,
    MemoryStats,
    /// Headers and query arguments.
    MultiMap,
}

impl Step {
    pub fn of(pdk_method: &str) -> Self {
        match pdk_method {
            "kong.client.get_credential" | "kong.client.authenticate" => Self::Credential,
            "kong.client.load_consumer" | "kong.client.get_consumer" => Self::Consumer,
            "kong.node.get_memory_stats" => Self::MemoryStats,
            "kong.router.get_route" => Self::Route,
            "kong.router.get_service" => Self::Service,
            "kong.request.get_query"
            | "kong.request.get_headers"
            | "kong.response.get_headers"
            | "kong.service.response.get_headers" => Self::MultiMap,
            _ => Self::Plain,
        }
    }

    /// The RPC method's name.
    pub const fn rpc_method(self) -> &'static str {
        match self {
            Self::Plain => "plugin.Step",
            Self::Credential => "plugin.StepCredential",
            Self::Consumer => "plugin.StepConsumer",
            Self::Route => "plugin.StepRoute",
            Self::Service => "plugin.StepService",
            Self::MemoryStats => "plugin.StepMemoryStats",
            Self::MultiMap => "plugin.StepMultiMap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let check = |name: &str, input, output| {
            let method = Method::by_name(name.as_bytes()).map(|method| (method.input, method.output));
            assert_eq!(method, Some((input, output)), "{name}");
        };
        check("kong.service.request.set_header", Message::KV, Message::Empty);
        check("kong.nginx.get_tls1_version_str", Message::Empty, Message::String);
        check("kong.ctx.shared.get", Message::String, Message::Value);
        check("kong.client.get_ip", Message::Empty, Message::String);
        check("kong.log.err", Message::ListValue, Message::Empty);
        check("kong.response.exit", Message::ExitArgs, Message::Empty);
        assert_eq!(Method::by_name(b"kong.response.error"), None);
        assert_eq!(Method::by_name(b""), None);
    }

    #[test]
    fn the_table_is_sorted_and_complete() {
        let names: Vec<_> = Method::all().map(|method| method.name).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 74);
    }
}

//! The output of a server's query command.

use std::path::PathBuf;

use serde_json::Value as Json;

/// Which protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireProtocol {
    /// `MsgPack:1`: go-pluginserver, kong-js-pdk, kong-python-pdk.
    MsgPack,
    /// `ProtoBuf:1`: servers built with go-pdk.
    ProtoBuf,
}

impl WireProtocol {
    /// As a dump names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MsgPack => "MsgPack:1",
            Self::ProtoBuf => "ProtoBuf:1",
        }
    }
}

/// A plugin that a server offers.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginInfo {
    pub name: String,
    /// As the plugin says it; in the wild it may be missing or not x.y.z.
    pub version: Option<String>,
    pub priority: i64,
    /// Names of the phases it has handlers for.
    pub phases: Vec<String>,
    /// The plugin's schema in the schema language as JSON: `{name, fields: [{config: {type: "record", ...}}]}`.
    pub schema: Json,
}

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    pub protocol: WireProtocol,
    /// The socket that the server listens on, if it says so.
    pub socket: Option<PathBuf>,
    pub plugins: Vec<PluginInfo>,
    /// How many plugins the server could not load: go-pluginserver lists an entry of zeros for each.
    pub failed: usize,
}

/// Why the output of a query command says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it printed nothing")]
    Empty,
    #[error("its output does not end with a JSON array or object: {tail:?}")]
    NoJson { tail: String },
    #[error("it prints JSON without plugin infos: {head:?}")]
    NoPlugins { head: String },
    /// An empty list: kong-js-pluginserver leaves plugins out that it could not load.
    #[error("it offers no plugin")]
    NoneOffered,
    #[error("it speaks {protocol:?}; MsgPack:1 and ProtoBuf:1 are known")]
    UnknownProtocol { protocol: String },
    #[error("its plugin number {number} has no Name")]
    NoName { number: usize },
    #[error("its plugin {plugin} has no Schema")]
    NoSchema { plugin: String },
}

impl Dump {
    /// Reads the output of a query command. Log lines may come before the JSON, with brackets and braces in them: what
    /// counts is the last JSON array or object that ends the output.
    ///
    /// # Errors
    /// The output does not end so, or not with plugin infos.
    pub fn parse(output: &[u8]) -> Result<Self, Error> {
        let output = output.trim_ascii();
        if output.is_empty() {
            return Err(Error::Empty);
        }
        let (start, json) = last_json(output).ok_or_else(|| Error::NoJson { tail: excerpt(output, true) })?;
        let no_plugins = || Error::NoPlugins { head: excerpt(output.get(start..).unwrap_or(output), false) };
        let (infos, protocol, socket) = match json {
            Json::Array(infos) => (infos, WireProtocol::MsgPack, None),
            Json::Object(mut object) => {
                let protocol = match object.get("Protocol").and_then(Json::as_str) {
                    None | Some("MsgPack:1") => WireProtocol::MsgPack,
                    Some("ProtoBuf:1") => WireProtocol::ProtoBuf,
                    Some(other) => return Err(Error::UnknownProtocol { protocol: other.to_owned() }),
                };
                let socket = object.get("SocketPath").and_then(Json::as_str).map(PathBuf::from);
                match object.remove("Plugins") {
                    Some(Json::Array(infos)) => (infos, protocol, socket),
                    _ => return Err(no_plugins()),
                }
            }
            _ => return Err(no_plugins()),
        };
        let mut dump = Self { protocol, socket, plugins: Vec::new(), failed: 0 };
        for (index, info) in infos.into_iter().enumerate() {
            match info {
                Json::Object(info) if is_blank(&info) => dump.failed += 1,
                Json::Object(info) => dump.plugins.push(plugin(info, index + 1)?),
                _ => return Err(no_plugins()),
            }
        }
        if dump.plugins.is_empty() && dump.failed == 0 {
            return Err(Error::NoneOffered);
        }
        Ok(dump)
    }
}

/// What a query command printed before the JSON that ends its output: log lines. All of it, if there is no such JSON.
pub fn preamble(output: &[u8]) -> &[u8] {
    let trimmed = output.trim_ascii();
    last_json(trimmed).map_or(trimmed, |(start, _)| trimmed.get(..start).unwrap_or_default())
}

/// The outermost array or object that ends where the output ends, and where it starts.
fn last_json(output: &[u8]) -> Option<(usize, Json)> {
    let starts = output.iter().enumerate().filter(|(_, byte)| matches!(byte, b'[' | b'{'));
    starts.filter_map(|(start, _)| Some((start, serde_json::from_slice(output.get(start..)?).ok()?))).next()
}

/// No name and nothing else either: the entry of a plugin that did not load.
fn is_blank(info: &serde_json::Map<String, Json>) -> bool {
    let empty = |key: &str| match info.get(key) {
        None | Some(Json::Null) => true,
        Some(Json::String(text)) => text.is_empty(),
        Some(Json::Array(items)) => items.is_empty(),
        Some(Json::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    };
    info.contains_key("Name") && ["Name", "Phases", "Schema"].into_iter().all(empty)
}

fn plugin(mut info: serde_json::Map<String, Json>, number: usize) -> Result<PluginInfo, Error> {
    let name = match info.get("Name").and_then(Json::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err(Error::NoName { number }),
    };
    let version = match info.get("Version") {
        Some(Json::String(version)) if !version.is_empty() => Some(version.clone()),
        Some(Json::Number(version)) => Some(version.to_string()),
        _ => None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a priority means nothing")]
    let priority = info.get("Priority").and_then(|p| p.as_i64().or_else(|| p.as_f64().map(|p| p as i64))).unwrap_or(0);
    let phases = info
        .get("Phases")
        .and_then(Json::as_array)
        .map_or_else(Vec::new, |phases| phases.iter().filter_map(Json::as_str).map(str::to_ascii_lowercase).collect());
    match info.remove("Schema") {
        Some(schema @ Json::Object(_)) => Ok(PluginInfo { name, version, priority, phases, schema }),
        _ => Err(Error::NoSchema { plugin: name }),
    }
}

/// At most 200 characters, from the start or from the end.
fn excerpt(output: &[u8], end: bool) -> String {
    const LENGTH: usize = 200;
    let slice = if end {
        output.get(output.len().saturating_sub(LENGTH)..).unwrap_or(output)
    } else {
        output.get(..LENGTH).unwrap_or(output)
    };
    String::from_utf8_lossy(slice).into_owned()
}

#[cfg(test)]
mod tests;

//! `pluginserver_*`, and the older `go_plugins_dir` and `go_pluginserver_exe`.

use std::path::Path;

use crate::settings::{EventPolicy, PluginDir, PluginServer, ProcessPolicy};

use super::{names::closest, reader::Reader, resolve::absolute};

mod policies;

use policies::Policies;

/// Where the executables of plugin servers are looked for.
const BIN: &str = "/usr/local/bin";
/// What may follow `pluginserver_NAME_`, beside the policies.
const COMMANDS: [&str; 3] = ["socket", "start_cmd", "query_cmd"];

fn suffixes() -> impl Iterator<Item = &'static str> {
    COMMANDS.into_iter().chain(policies::SUFFIXES)
}

/// `directory` is that of `plugin_dir`, whose files have properties of this family too.
pub(super) fn read(reader: &mut Reader<'_>, prefix: &Path, directory: Option<&PluginDir>) -> Vec<PluginServer> {
    let mut servers: Vec<PluginServer> = Vec::new();
    for name in reader.list("pluginserver_names") {
        let name = name.to_lowercase();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            reader.problem(
                "pluginserver_names",
                format!(
                    "pluginserver_names: '{name}' cannot be a name: it may have letters, digits, '-', '_' and '.' (a \
                     comma separates one name from the next)"
                ),
            );
            continue;
        }
        if servers.iter().any(|server| server.name == name) {
            reader.problem("pluginserver_names", format!("pluginserver_names: '{name}' is named twice"));
            continue;
        }
        if let Some(server) = by_name(reader, prefix, name) {
            servers.push(server);
        }
    }
    if let Some(server) = legacy(reader, prefix) {
        if servers.iter().any(|known| known.name == server.name) {
            reader.problem(
                "go_plugins_dir",
                "go_plugins_dir makes a plugin server named 'go', and so does pluginserver_names".to_owned(),
            );
        } else {
            servers.push(server);
        }
    }
    unclaimed(reader, &servers, directory);
    shared_sockets(reader, &servers);
    servers
}

/// Servers that the gateway starts unlink each other's socket if they have one path.
fn shared_sockets(reader: &mut Reader<'_>, servers: &[PluginServer]) {
    for (index, server) in servers.iter().enumerate() {
        let earlier = servers.iter().take(index).find(|earlier| {
            earlier.socket == server.socket && (earlier.start_cmd.is_some() || server.start_cmd.is_some())
        });
        if let Some(earlier) = earlier {
            reader.problem(
                &format!("pluginserver_{}_socket", stem(&server.name)),
                format!(
                    "plugin servers {} and {} have the same socket, {}: each needs one of its own",
                    earlier.name,
                    server.name,
                    server.socket.display()
                ),
            );
        }
    }
}

/// The name as it stands in the names of properties, which have letters, digits and underscores only.
pub(super) fn stem(name: &str) -> String {
    name.replace(['-', '.'], "_")
}

fn by_name(reader: &mut Reader<'_>, prefix: &Path, name: String) -> Option<PluginServer> {
    let base = format!("pluginserver_{}_", stem(&name));
    let given = |suffix: &str| reader.given(&format!("{base}{suffix}")).map(|entry| entry.value.clone());
    let socket = given("socket").map_or_else(|| prefix.join(format!("{name}.socket")), |path| absolute(&path));
    let executable = format!("{BIN}/{name}");
    let installed = Path::new(&executable).exists();
    let separate = format!("{BIN}/query_{name}");
    let start_cmd = given("start_cmd").or_else(|| installed.then(|| executable.clone()));
    let query_cmd = given("query_cmd").or_else(|| {
        if Path::new(&separate).exists() { Some(separate) } else { installed.then(|| format!("{executable} -dump")) }
    });
    let Some(query_cmd) = query_cmd else {
        reader.problem(
            "pluginserver_names",
            format!("query_command undefined for pluginserver {name}: set {base}query_cmd, or install {executable}"),
        );
        return None;
    };
    if start_cmd.is_none() {
        reader.warn(format!(
            "start_command undefined for pluginserver {name}; assuming external process management ({base}start_cmd)"
        ));
    }
    let (events, process) = policies(reader, &name);
    Some(PluginServer { name, socket, start_cmd, query_cmd, events, process })
}

/// What the properties of a name say of its processes and events.
pub(super) fn policies(reader: &mut Reader<'_>, name: &str) -> (EventPolicy, ProcessPolicy) {
    let base = format!("pluginserver_{}_", stem(&name.to_lowercase()));
    let mut policies = Policies::new(reader, &base);
    (policies.events(), policies.process())
}

/// Whether a policy is given for a name.
pub(super) fn has_policies(reader: &Reader<'_>, name: &str) -> bool {
    let base = format!("pluginserver_{}_", stem(&name.to_lowercase()));
    policies::SUFFIXES.iter().any(|suffix| reader.given(&format!("{base}{suffix}")).is_some())
}

/// Properties of servers that nobody named, or that no server has.
fn unclaimed(reader: &mut Reader<'_>, servers: &[PluginServer], directory: Option<&PluginDir>) {
    let mut warnings = Vec::new();
    for (name, entry) in reader.raw().iter() {
        let Some(rest) = name.strip_prefix("pluginserver_") else { continue };
        if name == "pluginserver_names" {
            continue;
        }
        let of_file = directory.into_iter().flat_map(|directory| &directory.policies).any(|policy| {
            let rest = rest.strip_prefix(stem(&policy.file.to_lowercase()).as_str());
            rest.and_then(|rest| rest.strip_prefix('_')).is_some_and(|rest| policies::SUFFIXES.contains(&rest))
        });
        if of_file {
            continue;
        }
        let owner = servers.iter().any(|server| {
            let stem = stem(&server.name);
            suffixes().any(|suffix| rest.strip_prefix(stem.as_str()) == Some(format!("_{suffix}").as_str()))
        });
        let failed = suffixes().any(|suffix| {
            rest.strip_suffix(suffix).and_then(|stem| stem.strip_suffix('_')).is_some_and(|stem| {
                reader.list("pluginserver_names").iter().any(|known| self::stem(&known.to_lowercase()) == stem)
            })
        });
        if !owner && !failed {
            // the name of a server that is there, with something else after it
            let stem = servers
                .iter()
                .map(|server| stem(&server.name))
                .find(|stem| rest.strip_prefix(stem.as_str()).is_some_and(|rest| rest.starts_with('_')));
            let hint = match &stem {
                Some(stem) => {
                    let suffix = rest.get(stem.len() + 1..).unwrap_or_default();
                    closest(suffix, suffixes())
                        .map(|known| format!(", did you mean 'pluginserver_{stem}_{known}'?"))
                        .unwrap_or_default()
                }
                // of `x_start_timeout` the server is `x`
                None => match suffixes()
                    .filter_map(|known| rest.strip_suffix(known)?.strip_suffix('_'))
                    .min_by_key(|server| server.len())
                {
                    Some(server) => format!(" of one of pluginserver_names: does it lack {server}?"),
                    None => format!(
                        " of one of pluginserver_names ({})",
                        suffixes().map(|suffix| format!("pluginserver_NAME_{suffix}")).collect::<Vec<_>>().join(", ")
                    ),
                },
            };
            warnings.push(format!("{}: '{name}' is ignored: it is not a property{hint}", reader.place(&entry.origin)));
        }
    }
    for warning in warnings {
        reader.warn(warning);
    }
}

/// The properties of Kong 2.0 to 2.2 become one server named `go`.
fn legacy(reader: &mut Reader<'_>, prefix: &Path) -> Option<PluginServer> {
    let directory = reader.text("go_plugins_dir").filter(|directory| directory != "off")?;
    let executable = reader.text("go_pluginserver_exe")?;
    let (directory, executable) = (quoted(&directory), quoted(&executable));
    let mut policies = Policies::new(reader, "pluginserver_go_");
    let (events, process) = (policies.events(), policies.process());
    Some(PluginServer {
        name: "go".to_owned(),
        socket: prefix.join("go_pluginserver.sock"),
        start_cmd: Some(format!(
            "{executable} -kong-prefix {} -plugins-directory {directory}",
            quoted(&prefix.display().to_string())
        )),
        query_cmd: format!("{executable} -dump-all-plugins -plugins-directory {directory}"),
        events,
        process,
    })
}

/// A word as a shell reads it back: the commands of plugin servers are shell command lines.
pub fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

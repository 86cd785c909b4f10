//! Plugin servers: their commands, their sockets, and what they say when they are asked.

use std::{path::Path, sync::Arc};

use silverback_config::{Settings, settings::PluginServer};
use silverback_plugin_host::Offer;

use super::{
    Finding, executable,
    program::{self, Command, Missing},
    query, sockets,
};
use crate::{
    assemble::{self, AssembleError, Found, PluginProblem},
    offered_socket, plugin_dir,
};

/// What is known after every server was asked.
pub(super) struct Asked {
    pub(super) findings: Vec<Finding>,
    /// The plugins that may be configured; `None` if something is wrong with them.
    pub(super) found: Option<Found>,
}

/// The files of `plugin_dir` that are not served.
pub(super) fn directory(files: &[plugin_dir::Finding]) -> Vec<Finding> {
    let finding = |file: &plugin_dir::Finding| {
        Finding::problem("plugin_dir_file", format!("plugin_dir: {}", file.file.display()), file.message.clone(), "")
    };
    files.iter().map(finding).collect()
}

pub(super) async fn ask(settings: &Settings) -> Asked {
    let mut findings = Vec::new();
    let file = |name: &str| settings.plugin_dir.as_ref().and_then(|directory| directory.file(name));
    let subject = |name: &str| match file(name) {
        Some(file) => format!("plugin_dir: {}", file.display()),
        None => format!("plugin server {name}"),
    };
    let mut all: Vec<(String, PluginServer)> =
        settings.plugin_servers.iter().map(|server| (subject(&server.name), server.clone())).collect();
    let given = all.len();
    let mut unserved = assemble::unserved(settings);
    all.retain(|(subject, server)| {
        let faults = commands(server, subject, settings);
        if let (Some(file), Some(fault)) = (file(&server.name), faults.first()) {
            unserved.push(plugin_dir::Finding { file: file.clone(), message: fault.message.clone() });
        }
        findings.extend(sockets::of(server, subject, settings));
        let sound = faults.is_empty();
        findings.extend(faults);
        sound
    });
    let complete = all.len() == given;
    let servers: Vec<PluginServer> = all.iter().map(|(_, server)| server.clone()).collect();
    let answers = silverback_plugin_host::query(&servers, &settings.main_env, Vec::new()).await;
    let mut offers = Vec::new();
    let mut unanswered = 0;
    for ((subject, server), answer) in all.iter().zip(answers) {
        match answer {
            Ok(offer) => {
                let names: Vec<&str> = offer.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
                let message = format!("offers {} ({})", names.join(", "), offer.protocol.name());
                findings.push(Finding::ok(subject, message));
                if let (None, Some(elsewhere)) = (file(&server.name), offered_socket::elsewhere(server, &offer)) {
                    findings.push(Finding::problem("socket_elsewhere", subject, elsewhere, ""));
                }
                offers.push(offer);
            }
            Err(error) => {
                unanswered += 1;
                if let Some(file) = file(&server.name) {
                    unserved.push(assemble::unanswered(file, &error));
                }
                findings.push(query::finding(&error, subject));
            }
        }
    }
    let offers: Arc<[Offer]> = offers.into();
    let offered: Vec<String> =
        offers.iter().flat_map(|offer| &offer.plugins).map(|plugin| plugin.name.clone()).collect();
    let found = match assemble::select_plugins(settings, &offers, unserved) {
        Ok(found) => Some(found),
        Err(AssembleError::Plugins(problems)) => {
            // What a server that did not answer would have offered is not known.
            let all_known = complete && unanswered == 0;
            findings.extend(problems.iter().filter_map(|problem| plugin(problem, &offered, all_known)));
            None
        }
        Err(error) => {
            findings.push(Finding::problem("plugins", "plugins", error.to_string(), ""));
            None
        }
    };
    for warning in found.iter().flat_map(|found| &found.warnings) {
        findings.push(Finding::note("plugins", "plugins", warning.clone()));
    }
    Asked { findings, found }
}

fn plugin(problem: &PluginProblem, offered: &[String], all_known: bool) -> Option<Finding> {
    let text = problem.to_string();
    Some(match problem {
        PluginProblem::OfferedTwice(..) => Finding::problem("plugin_offered_twice", "plugins", text, ""),
        PluginProblem::Schema { .. } => {
            Finding::problem("schema_error", "plugins", text, "mend the schema in the plugin")
        }
        PluginProblem::NotInstalled { .. } if !all_known => return None,
        PluginProblem::NotInstalled { name, complaint } => {
            let cure = match (complaint, nearest(name, offered)) {
                (Some(complaint), _) => complaint.clone(),
                (None, Some(near)) => format!("did you mean {near}?"),
                (None, None) => {
                    "name the server that offers it in pluginserver_names, put its file into plugin_dir, or take the \
                         name out of plugins"
                        .to_owned()
                }
            };
            Finding::problem("plugin_not_offered", "plugins", format!("no plugin server offers {name}"), cure)
        }
    })
}

/// The name that is fewest edits away, if that is few enough to be a slip.
pub(super) fn nearest<'n>(name: &str, others: &'n [String]) -> Option<&'n str> {
    let distance = |other: &String| strsim::damerau_levenshtein(name, other);
    let nearest = others.iter().min_by_key(|other| distance(other))?;
    (distance(nearest) <= 1 + name.len() / 4).then_some(nearest)
}

/// What is wrong with the start and query commands; nothing twice.
fn commands(server: &PluginServer, subject: &str, settings: &Settings) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let stem = server.name.replace(['-', '.'], "_");
    for (suffix, line) in [("start_cmd", server.start_cmd.as_deref()), ("query_cmd", Some(server.query_cmd.as_str()))] {
        let Some(command) = line.and_then(program::command) else { continue };
        let property = format!("pluginserver_{stem}_{suffix}");
        let finding = one(&command, server, subject, &property, settings);
        // Both commands run the same program, most often.
        if let Some(finding) = finding
            && !findings.iter().any(|known| known.code == finding.code && known.message == finding.message)
        {
            findings.push(finding);
        }
    }
    findings
}

fn one(
    command: &Command,
    server: &PluginServer,
    subject: &str,
    property: &str,
    settings: &Settings,
) -> Option<Finding> {
    let path = search_path(command, server, settings);
    let file = match program::find(&command.program, &path) {
        Ok(file) => file,
        Err(missing) => return Some(not_found(&missing, &command.program, &path, subject, property)),
    };
    if let Some(fault) = executable::fault(&file, &path) {
        return Some(Finding::problem(fault.code, subject, fault.message, fault.cure));
    }
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "go-pluginserver" && executable::is_static(&file) {
        return Some(Finding::problem(
            "cgo_missing",
            subject,
            format!("{} was built without cgo, and cannot load .so files", file.display()),
            "build it with CGO_ENABLED=1, or build the plugin as a program (server.StartServer)",
        ));
    }
    script(command, server).map(|script| {
        Finding::problem(
            "script_missing",
            subject,
            format!("{} is to run {script}, which is not there", command.program),
            format!("correct the path in {property}"),
        )
    })
}

fn not_found(missing: &Missing, program: &str, path: &str, subject: &str, property: &str) -> Finding {
    match missing {
        Missing::NotInPath => Finding::problem(
            "command_not_found",
            subject,
            format!("there is no command {program} in PATH, which is {path}"),
            format!("install it, or name it by its whole path in {property}"),
        ),
        Missing::NoFile(file) => Finding::problem(
            "command_not_found",
            subject,
            format!("there is no file {}", file.display()),
            format!("install it, or correct {property}"),
        ),
        Missing::Directory(file) => Finding::problem(
            "command_not_found",
            subject,
            format!("{} is a directory", file.display()),
            format!("name the executable in it in {property}"),
        ),
        Missing::NotExecutable(file) => Finding::problem(
            "not_executable",
            subject,
            format!("{} is not executable", file.display()),
            format!("chmod +x {}", file.display()),
        ),
    }
}

/// Where a command is looked for: it may set `PATH` itself, its server's environment may, and `nginx_main_env`.
fn search_path(command: &Command, server: &PluginServer, settings: &Settings) -> String {
    let of_server = server.process.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let of_all = || settings.main_env.iter().rev().find_map(|entry| Some(entry.strip_prefix("PATH=")?.to_owned()));
    let own = || {
        std::env::var("PATH")
            .unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned())
    };
    command.path.clone().or(of_server).or_else(of_all).unwrap_or_else(own)
}

/// The script that an interpreter is given, if it is not there.
fn script<'c>(command: &'c Command, server: &PluginServer) -> Option<&'c str> {
    let name = Path::new(&command.program).file_name()?.to_str()?;
    let interpreter = name.starts_with("python") || matches!(name, "node" | "nodejs" | "sh" | "bash");
    let first = command.arguments.first().filter(|argument| interpreter && !argument.starts_with('-'))?;
    let at = server.process.cwd.as_deref().unwrap_or(Path::new("")).join(first);
    (!at.exists()).then_some(first)
}

//! The parts put together: settings and what plugin servers offer become a catalogue, the catalogue and the declarative
//! file a snapshot, and that a generation of the proxy.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use silverback_config::{DeclarativeError, Settings, parse_declarative};
use silverback_model::{Catalogue, Phase, PluginDefinition, PluginSource, Snapshot, schema::Record};
use silverback_plugin_host::{ChangeError, Fleet, Offer, PluginInfo, QueryError};
use silverback_proxy::{BuildError, Generation, Registries};
use thiserror::Error;

use crate::{offered_socket, plugin_dir};

/// A configuration that cannot serve. Displays all that is wrong with it.
#[derive(Debug, Error)]
pub(crate) enum AssembleError {
    #[error("{}", Lines(.0))]
    Query(Vec<QueryError>),
    /// New plugin servers do not do what the old ones do.
    #[error("{}", Lines(.0))]
    Servers(Vec<ChangeError>),
    #[error("{}", Lines(.0))]
    Plugins(Vec<PluginProblem>),
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{place}: {source}{}", Below(.unserved))]
    Declarative {
        place: String,
        source: DeclarativeError,
        /// Files of `plugin_dir` that would have what is missed, if they could be served.
        unserved: Vec<plugin_dir::Finding>,
    },
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// What is wrong with the set of plugins.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PluginProblem {
    #[error("{0} and {1} both offer the plugin {2}: let only one of them offer it")]
    OfferedTwice(String, String, String),
    #[error("{server}: the schema of {plugin} cannot be used: {message}")]
    Schema { server: String, plugin: String, message: String },
    #[error(
        "{name} plugin is enabled but not installed: no plugin server offers it, and it is not bundled{}",
        because(.complaint)
    )]
    NotInstalled {
        name: String,
        /// What a plugin server, or the file of `plugin_dir` with that name, says of it.
        complaint: Option<String>,
    },
}

fn because(complaint: &Option<String>) -> String {
    complaint.as_ref().map_or_else(String::new, |complaint| format!("; {complaint}"))
}

struct Lines<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

struct Below<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Below<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The plugins that may be configured.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) offers: Arc<[Offer]>,
    pub(crate) warnings: Vec<String>,
    /// The files of `plugin_dir` that offer nothing.
    pub(crate) unserved: Vec<plugin_dir::Finding>,
}

/// Asks every plugin server what it offers.
pub(crate) async fn find_plugins(settings: &Settings) -> Result<Found, AssembleError> {
    find_plugins_anew(settings, Vec::new()).await
}

/// As [`find_plugins`]; servers of which there is an offer already are not asked again.
pub(crate) async fn find_plugins_anew(settings: &Settings, known: Vec<Offer>) -> Result<Found, AssembleError> {
    let Asked { offers, remarks, unserved } = ask(settings, known).await?;
    let mut found = select_plugins(settings, &offers.into(), unserved)?;
    found.warnings.splice(0..0, remarks);
    Ok(found)
}

struct Asked {
    offers: Vec<Offer>,
    remarks: Vec<String>,
    unserved: Vec<plugin_dir::Finding>,
}

/// What servers offer, in their order. One that is configured and does not answer is an error; a file of `plugin_dir` that
/// does not is left out, and told of.
async fn ask(settings: &Settings, known: Vec<Offer>) -> Result<Asked, AssembleError> {
    let (mut offers, mut errors, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
    let mut unserved = unserved(settings);
    let answers = silverback_plugin_host::query(&settings.plugin_servers, &settings.main_env, known).await;
    for (server, answer) in settings.plugin_servers.iter().zip(answers) {
        match (answer, file(settings, &server.name)) {
            (Ok(offer), file) => {
                if let (Some(socket), Some(file)) = (offer.socket.as_ref().filter(|s| **s != server.socket), file) {
                    remarks.push(format!(
                        "plugin_dir: {}: it says that it listens on {}, and is looked for at {}: name it in \
                         pluginserver_names, with its socket",
                        file.display(),
                        socket.display(),
                        server.socket.display()
                    ));
                } else if file.is_none()
                    && let Some(elsewhere) = offered_socket::elsewhere(server, &offer)
                {
                    remarks.push(format!("plugin server {}: {elsewhere}", server.name));
                }
                offers.push(offer);
            }
            (Err(error), Some(file)) => {
                let finding = unanswered(file, &error);
                remarks.push(finding.to_string());
                unserved.push(finding);
            }
            (Err(error), None) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(Asked { offers, remarks, unserved }) } else { Err(AssembleError::Query(errors)) }
}

/// The files of `plugin_dir` of which it was known before they were asked that they cannot be served.
pub(crate) fn unserved(settings: &Settings) -> Vec<plugin_dir::Finding> {
    let known = settings.plugin_dir.iter().flat_map(|directory| &directory.unserved);
    known.map(|(file, message)| plugin_dir::Finding { file: file.clone(), message: message.clone() }).collect()
}

/// A file of `plugin_dir` that did not tell what it offers.
pub(crate) fn unanswered(file: &Path, error: &QueryError) -> plugin_dir::Finding {
    plugin_dir::Finding { file: file.to_path_buf(), message: error.what() }
}

/// The file of `plugin_dir` that a server serves.
fn file<'s>(settings: &'s Settings, server: &str) -> Option<&'s PathBuf> {
    settings.plugin_dir.as_ref()?.file(server)
}

/// A server as messages call it.
fn called(settings: &Settings, server: &str) -> String {
    match file(settings, server) {
        Some(file) => format!("the file {}", file.display()),
        None => format!("plugin server {server}"),
    }
}

/// Makes the catalogue out of what servers offer, what is bundled, and what `plugins` names. What `plugin_dir` holds need
/// not be named.
pub(crate) fn select_plugins(
    settings: &Settings,
    offers: &Arc<[Offer]>,
    unserved: Vec<plugin_dir::Finding>,
) -> Result<Found, AssembleError> {
    let enabled = &settings.plugins;
    let mut catalogue = Catalogue::default();
    let mut warnings = Vec::new();
    let mut problems = Vec::new();
    for plugin in silverback_plugins::all() {
        if enabled.bundled || enabled.named.contains(&plugin.name) {
            catalogue.insert(plugin);
        }
    }
    let mut offered: HashMap<&str, &str> = HashMap::new();
    for (offer, info) in offers.iter().flat_map(|offer| offer.plugins.iter().map(move |info| (offer, info))) {
        let server = called(settings, &offer.server);
        let in_directory = file(settings, &offer.server).is_some();
        if let Some(first) = offered.insert(&info.name, &offer.server) {
            problems.push(PluginProblem::OfferedTwice(called(settings, first), server, info.name.clone()));
            continue;
        }
        if !in_directory && !enabled.named.contains(&info.name) {
            warnings
                .push(format!("{server} offers {}, which `plugins` does not name: it cannot be configured", info.name));
            continue;
        }
        if catalogue.get(&info.name).is_some() {
            warnings.push(format!("{server} offers {}, which is bundled: the bundled one is used", info.name));
            continue;
        }
        match definition(&offer.server, info) {
            Ok(plugin) => {
                catalogue.insert(plugin);
            }
            Err(message) => {
                let problem = PluginProblem::Schema { server, plugin: info.name.clone(), message };
                // A file that is broken leaves the others alone.
                if in_directory { warnings.push(problem.to_string()) } else { problems.push(problem) }
            }
        }
    }
    for name in enabled.named.iter().filter(|name| catalogue.get(name).is_none()) {
        if silverback_plugins::is_bundled_name(name) {
            warnings.push(format!(
                "plugin '{name}' comes with Kong and is not available here yet: a configuration cannot use it"
            ));
        } else if !offered.contains_key(name.as_str()) {
            let complaint = complaint(name, offers, &unserved);
            problems.push(PluginProblem::NotInstalled { name: name.clone(), complaint });
        }
    }
    if problems.is_empty() {
        Ok(Found { catalogue: Arc::new(catalogue), offers: Arc::clone(offers), warnings, unserved })
    } else {
        Err(AssembleError::Plugins(problems))
    }
}

/// Why a plugin is not offered, as far as somebody told: its file in `plugin_dir`, or a server that could not load it.
fn complaint(plugin: &str, offers: &[Offer], unserved: &[plugin_dir::Finding]) -> Option<String> {
    if let Some(file) = unserved.iter().find(|file| file.is_of(plugin)) {
        return Some(file.to_string());
    }
    let of =
        |line: &str| line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).any(|word| word == plugin);
    let said = offers.iter().find_map(|offer| Some((offer, offer.complaints.iter().find(|line| of(line))?)));
    said.map(|(offer, line)| format!("plugin server {} said: {line}", offer.server))
}

fn definition(server: &str, info: &PluginInfo) -> Result<PluginDefinition, String> {
    Ok(PluginDefinition {
        name: info.name.clone(),
        version: info.version.clone().unwrap_or_default(),
        priority: info.priority,
        phases: info.phases.iter().filter_map(|phase| Phase::from_name(phase)).collect(),
        schema: config_record(info)?,
        source: PluginSource::Server(server.to_owned()),
    })
}

/// The `config` record among the fields of a plugin's schema; a plugin without one takes no configuration.
fn config_record(info: &PluginInfo) -> Result<Record, String> {
    let fields = info.schema.get("fields").and_then(serde_json::Value::as_array);
    let config = fields.into_iter().flatten().find_map(|field| field.get("config"));
    match config.and_then(|config| config.get("fields")) {
        Some(fields) => Record::from_json(fields),
        None => Ok(Record::default()),
    }
}

/// A declarative configuration as text, and the file it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) text: String,
    pub(crate) file: Option<PathBuf>,
}

impl Declared {
    pub(crate) fn read(path: &Path) -> Result<Self, AssembleError> {
        match fs::read(path) {
            Ok(bytes) => {
                Ok(Self { text: String::from_utf8_lossy(&bytes).into_owned(), file: Some(path.to_path_buf()) })
            }
            Err(source) => Err(AssembleError::Unreadable { path: path.to_path_buf(), source }),
        }
    }

    /// The declarative configuration that the settings name, if any.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, AssembleError> {
        match (&settings.declarative_config, &settings.declarative_config_string) {
            (Some(path), _) => Self::read(path).map(Some),
            (None, text) => Ok(text.clone().map(|text| Self { text, file: None })),
        }
    }
}

/// Validates a declarative configuration; none at all is an empty one.
pub(crate) fn snapshot(
    declared: Option<&Declared>,
    found: &Found,
    settings: &Settings,
) -> Result<Snapshot, AssembleError> {
    let catalogue: &Catalogue = &found.catalogue;
    let Some(declared) = declared else { return Ok(Snapshot::default()) };
    let now = jiff::Timestamp::now().as_second();
    let mut enabled = settings.plugins.clone();
    // A file in plugin_dir need not be named.
    let in_directory = |source: &PluginSource| match source {
        PluginSource::Server(server) => file(settings, server).is_some(),
        PluginSource::Bundled => false,
    };
    enabled
        .named
        .extend(catalogue.iter().filter(|plugin| in_directory(&plugin.source)).map(|plugin| plugin.name.clone()));
    parse_declarative(&declared.text, declared.file.as_deref(), catalogue, &enabled, now).map_err(|source| {
        let place = declared.file.as_ref().map_or_else(|| "declarative_config_string".into(), |f| f.to_string_lossy());
        AssembleError::Declarative { place: place.into_owned(), unserved: missed(&source, &found.unserved), source }
    })
}

/// The files that cannot be served, of those plugins that a configuration names and nobody offers.
fn missed(error: &DeclarativeError, unserved: &[plugin_dir::Finding]) -> Vec<plugin_dir::Finding> {
    let text = error.to_string();
    let named = |file: &&plugin_dir::Finding| {
        let mut names = text.split("plugin '").filter_map(|rest| rest.split_once("' not enabled"));
        names.any(|(name, _)| file.is_of(name))
    };
    unserved.iter().filter(named).cloned().collect()
}

/// All that requests need, ready to be put in force, and the snapshot it was made of. Plugins run in the servers of
/// `fleet`.
pub(crate) fn generation(
    settings: &Arc<Settings>,
    declared: Option<&Declared>,
    found: &Found,
    registries: &Registries,
    fleet: &Fleet,
) -> Result<(Generation, Snapshot), AssembleError> {
    let snapshot = snapshot(declared, found, settings)?;
    let generation = Generation::build(&snapshot, &found.catalogue, settings, registries, fleet)?;
    Ok((generation, snapshot))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value as Json, json};
    use silverback_plugin_host::WireProtocol;

    use super::*;

    fn settings(plugins: &str) -> Settings {
        silverback_config::load_text(None, &format!("plugins = {plugins}\n"), &BTreeMap::new()).unwrap().settings
    }

    fn info(name: &str, schema: Json) -> PluginInfo {
        let phases = vec!["access".to_owned(), "log".to_owned(), "dance".to_owned()];
        PluginInfo { name: name.to_owned(), version: None, priority: 7, phases, schema }
    }

    fn offer(server: &str, plugins: Vec<PluginInfo>) -> Offer {
        Offer {
            server: server.to_owned(),
            protocol: WireProtocol::MsgPack,
            socket: None,
            plugins,
            complaints: Vec::new(),
        }
    }

    /// The servers whose name has a dot serve files of `plugin_dir`.
    fn settings_for(plugins: &str, offers: &[Offer]) -> Settings {
        let mut settings = settings(&format!("{plugins}\nplugin_dir = /"));
        let files = offers.iter().filter(|offer| offer.server.contains('.'));
        let files = files.map(|offer| (offer.server.clone(), Path::new("/plugins").join(&offer.server)));
        settings.plugin_dir.as_mut().unwrap().served = files.collect();
        settings
    }

    fn schema(fields: &Json) -> Json {
        json!({ "name": "x", "fields": [{ "config": { "type": "record", "fields": fields } }] })
    }

    /// The names of what can be configured and the warnings, or the problems.
    fn select(plugins: &str, offers: Vec<Offer>) -> Result<(Vec<String>, Vec<String>), String> {
        let found = select_plugins(&settings_for(plugins, &offers), &offers.into(), Vec::new())
            .map_err(|error| error.to_string())?;
        Ok((found.catalogue.iter().map(|plugin| plugin.name.clone()).collect(), found.warnings))
    }

    #[test]
    fn a_plugin_of_a_server_is_known_as_it_describes_itself() {
        let offers = vec![offer("go", vec![info("mine", schema(&json!([{ "m": { "type": "string" } }])))])];
        let found = select_plugins(&settings("mine"), &offers.into(), Vec::new()).unwrap();
        let plugin = found.catalogue.get("mine").unwrap();
        assert_eq!(plugin.source, PluginSource::Server("go".to_owned()));
        assert_eq!((plugin.version.as_str(), plugin.priority), ("", 7));
        assert_eq!(plugin.phases.to_string(), "access,log");
        assert!(plugin.schema.field("m").is_some());
    }

    #[test]
    fn plugins_names_what_can_be_configured() {
        let mine = || offer("go", vec![info("mine", schema(&json!([])))]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(select("off", vec![]).unwrap(), (vec![], vec![]));
        assert_eq!(select("bundled, mine", vec![mine()]).unwrap(), (names(&["key-auth", "mine"]), vec![]));
        assert_eq!(select("key-auth", vec![]).unwrap(), (names(&["key-auth"]), vec![]));

        let (found, warnings) = select("bundled", vec![mine()]).unwrap();
        assert_eq!(found, names(&["key-auth"]));
        assert_eq!(warnings, ["plugin server go offers mine, which `plugins` does not name: it cannot be configured"]);

        let (found, warnings) = select("zipkin", vec![]).unwrap();
        assert_eq!(found, names(&[]));
        assert_eq!(
            warnings,
            ["plugin 'zipkin' comes with Kong and is not available here yet: a configuration cannot use it"]
        );

        let (found, warnings) =
            select("key-auth", vec![offer("go", vec![info("key-auth", schema(&json!([])))])]).unwrap();
        assert_eq!(found, names(&["key-auth"]));
        assert_eq!(warnings, ["plugin server go offers key-auth, which is bundled: the bundled one is used"]);
    }

    #[test]
    fn a_file_in_plugin_dir_need_not_be_named() {
        let good = || offer("mine.py", vec![info("mine", schema(&json!([])))]);
        let odd = offer("odd.js", vec![info("odd", schema(&json!([{ "m": { "type": "?" } }])))]);
        let offers = vec![good(), odd];
        let settings = settings_for("bundled", &offers);
        let found = select_plugins(&settings, &offers.into(), Vec::new()).unwrap();
        assert!(found.catalogue.get("mine").is_some() && found.catalogue.get("odd").is_none());
        assert!(found.warnings[0].starts_with("the file /plugins/odd.js: the schema of odd cannot be used: "));
        let declared = Declared { text: "_format_version: '3.0'\nplugins: [{name: mine}]".to_owned(), file: None };
        assert_eq!(snapshot(Some(&declared), &found, &settings).unwrap().plugins.len(), 1);

        let twice = vec![good(), offer("go", vec![info("mine", schema(&json!([])))])];
        assert_eq!(
            select("mine", twice).unwrap_err(),
            "the file /plugins/mine.py and plugin server go both offer the plugin mine: let only one of them offer it"
        );
    }

    #[test]
    fn a_plugin_that_is_missed_is_told_of_with_what_is_wrong_with_its_file_or_server() {
        let broken = plugin_dir::Finding {
            file: PathBuf::from("/plugins/mine.py"),
            message: "it printed nothing; it said: SyntaxError: invalid syntax".to_owned(),
        };
        let odd = plugin_dir::Finding { file: PathBuf::from("/plugins/odd.py"), message: "odd".to_owned() };
        let offers: Arc<[Offer]> = Vec::new().into();
        let unserved = vec![broken, odd];
        let found = select_plugins(&settings("bundled"), &offers, unserved.clone()).unwrap();
        let text = "_format_version: '3.0'\nplugins: [{name: mine}, {name: none}]".to_owned();
        let error =
            snapshot(Some(&Declared { text, file: None }), &found, &settings("bundled")).unwrap_err().to_string();
        assert!(error.contains("plugin 'mine' not enabled"), "{error}");
        assert!(
            error.ends_with(
                "\n  plugin_dir: /plugins/mine.py: it printed nothing; it said: SyntaxError: invalid syntax"
            )
        );

        let error = select_plugins(&settings("mine"), &offers, unserved).unwrap_err().to_string();
        assert!(
            error.contains("mine plugin is enabled but not installed")
                && error.contains("; plugin_dir: /plugins/mine.py: ")
        );

        let line = "[WARN] error loading plugin \"mine\" from /p/mine.js: Error: nope";
        let mut js = offer("js", vec![info("other", schema(&json!([])))]);
        js.complaints = vec!["[WARN] error loading plugin \"mine-too\"".to_owned(), line.to_owned()];
        let error = select("mine, other", vec![js]).unwrap_err();
        assert!(error.ends_with(&format!("; plugin server js said: {line}")), "{error}");
    }

    #[test]
    fn all_problems_are_told() {
        let offers = vec![
            offer("a", vec![info("twice", schema(&json!([])))]),
            offer(
                "b",
                vec![info("twice", schema(&json!([]))), info("odd", schema(&json!([{ "m": { "type": "?" } }])))],
            ),
        ];
        let problems = select("twice, odd, none", offers).unwrap_err();
        let lines: Vec<&str> = problems.lines().collect();
        assert_eq!(lines.len(), 3, "{problems}");
        assert_eq!(
            lines[0],
            "plugin server a and plugin server b both offer the plugin twice: let only one of them offer it"
        );
        assert!(lines[1].starts_with("plugin server b: the schema of odd cannot be used: "), "{problems}");
        assert!(lines[2].starts_with("none plugin is enabled but not installed"), "{problems}");
    }
}

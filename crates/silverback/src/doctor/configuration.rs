//! `kong.conf`, the prefix, and the declarative configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use silverback_config::{DeclarativeError, LoadError, Settings, advice};

use super::{Finding, certificates, servers};
use crate::{
    assemble::{self, AssembleError, Declared, Found},
    conf::{self, Sources},
    error::CommandError,
};

/// The settings and what is odd about them, or all that is wrong.
pub(super) fn load(sources: &Sources) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let wrong = |text: String| Finding::problem("configuration", "configuration", text, "");
    let loaded = match conf::read(sources) {
        Ok(loaded) => loaded,
        Err(CommandError::Configuration(LoadError::Invalid(problems))) => {
            return Err(problems.iter().map(|problem| wrong(problem.to_string())).collect());
        }
        Err(error) => return Err(vec![wrong(error.to_string())]),
    };
    let mut findings = Vec::new();
    let settings = loaded.settings;
    let file = settings
        .file
        .as_ref()
        .map_or_else(|| "the environment and defaults".to_owned(), |file| file.display().to_string());
    findings.push(Finding::ok("configuration", format!("{file} can be read, and its values are right")));
    for warning in loaded.warnings {
        findings.push(if warning.contains("unknown property") || warning.contains("is ignored: ") {
            Finding::problem("unknown_property", "configuration", warning, "correct the name, or remove the line")
        } else {
            Finding::note("configuration", "configuration", warning)
        });
    }
    for ignored in settings.ignored.iter().filter(|ignored| ignored.important) {
        let message = format!("{} = {} has no effect: {}", ignored.name, ignored.value, ignored.why);
        findings.push(Finding::note("ignored_property", "configuration", message));
    }
    Ok((settings, findings))
}

/// Whether the prefix can be prepared.
pub(super) fn prefix(settings: &Settings) -> Option<Finding> {
    let prefix = settings.prefix.as_path();
    let subject = format!("prefix {}", prefix.display());
    let not_writable = |place: &Path, error: &io::Error| {
        Finding::problem(
            "prefix_not_writable",
            subject.clone(),
            format!("{} cannot be written to: {error}", place.display()),
            "start as a user who may, chown it, or choose another prefix (-p, KONG_PREFIX)",
        )
    };
    if prefix.exists() && !prefix.is_dir() {
        let message = "it is not a directory";
        return Some(Finding::problem(
            "prefix_not_writable",
            subject,
            message,
            "choose another prefix (-p, KONG_PREFIX)",
        ));
    }
    let place = prefix.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let inside = ["logs", "pids", "ssl"].map(|name| prefix.join(name));
    for directory in [place].into_iter().chain(inside.iter().map(PathBuf::as_path).filter(|path| path.exists())) {
        // Only a file that is made (and taken away at once) tells: root may write anywhere, but not where nothing may be.
        if let Err(error) = tempfile::Builder::new().prefix(".silverback-doctor").tempfile_in(directory) {
            return Some(not_writable(directory, &error));
        }
    }
    Some(Finding::ok(subject, "it can be written to"))
}

/// What is wrong with the declarative configuration, given the plugins that there are.
pub(super) fn declared(settings: &Settings, found: &Found) -> Vec<Finding> {
    let declared = match Declared::of(settings) {
        Ok(Some(declared)) => declared,
        Ok(None) => {
            let message = "there is none: name a file in declarative_config";
            return vec![Finding::note("no_configuration", "declarative configuration", message)];
        }
        Err(error) => {
            let cure = "let the user that starts the gateway read it";
            return vec![Finding::problem("configuration", "declarative configuration", error.to_string(), cure)];
        }
    };
    let file = declared
        .file
        .as_ref()
        .map_or_else(|| "declarative_config_string".to_owned(), |file| file.display().to_string());
    match assemble::snapshot(Some(&declared), found, settings) {
        Ok(snapshot) => {
            let mut findings = vec![Finding::ok(file.as_str(), "it is valid, and every plugin in it is there")];
            let remarks = advice(&snapshot, &found.catalogue).into_iter();
            findings.extend(remarks.map(|remark| Finding::note("advice", file.as_str(), remark)));
            findings.extend(certificates::declared(&snapshot));
            findings
        }
        Err(AssembleError::Declarative { source: DeclarativeError::Invalid(violations), .. }) => {
            violations.problems.iter().map(|problem| violation(&file, &problem.to_string(), found)).collect()
        }
        Err(error) => vec![Finding::problem("declarative_configuration", file, error.to_string(), "")],
    }
}

fn violation(declared_in: &str, text: &str, found: &Found) -> Finding {
    let plugin = text.split_once("plugin '").and_then(|(_, rest)| rest.split_once("' not enabled"));
    let Some((name, _)) = plugin else { return Finding::problem("declarative_configuration", declared_in, text, "") };
    let place = text.split_once(": ").map_or("", |(place, _)| place);
    if let Some(file) = found.unserved.iter().find(|file| file.is_of(name)) {
        let message = format!("{place}: plugin {name} is not there, since {} is not served", file.file.display());
        return Finding::problem("plugin_not_offered", declared_in, message, "mend that file: see above");
    }
    let offering = found.offers.iter().find(|offer| offer.plugins.iter().any(|plugin| plugin.name == name));
    let known: Vec<String> = found.catalogue.iter().map(|plugin| plugin.name.clone()).collect();
    let (message, cure) = match (offering, servers::nearest(name, &known)) {
        (Some(offer), _) => (
            format!("{place}: plugin {name}, which the plugin server {} offers, is not enabled", offer.server),
            format!("add it to plugins: plugins = bundled,{name}"),
        ),
        (None, Some(near)) => (format!("{place}: nobody offers a plugin {name}"), format!("did you mean {near}?")),
        (None, None) => (
            format!("{place}: nobody offers a plugin {name}"),
            "name the server that offers it in pluginserver_names and the plugin in plugins, or put its file into \
             plugin_dir"
                .to_owned(),
        ),
    };
    Finding::problem("plugin_not_offered", declared_in, message, cure)
}

//! Declarative configuration: a YAML or JSON file becomes a validated [`Snapshot`].
//!
//! The steps, each of which reports everything it finds: the text is read; paths of formats before 3.0 are migrated;
//! every entity, nested or flat, is checked against its schema and gets its id (`walk`); references are resolved and
//! uniqueness is checked (`link`); the entities get their types (`build`).

mod advice;
mod build;
mod certificates;
mod hosts;
mod identity;
mod kinds;
mod link;
mod paths;
mod schemas;
mod url;
mod validators;
mod walk;
mod yaml;

#[cfg(test)]
mod tests;

pub use advice::advice;

use std::{fmt, path::Path};

use ring::digest;
use serde_json::{Map, Value as Json};
use silverback_model::{Catalogue, Snapshot, schema::ErrorTree};

use crate::settings::EnabledPlugins;

/// A declarative configuration that cannot be used. Displays every problem, a line each, below a first line.
#[derive(Debug, thiserror::Error)]
pub enum DeclarativeError {
    /// The text is neither JSON nor YAML, or not an object.
    #[error("failed parsing declarative configuration: {0}")]
    Syntax(String),
    #[error("{}", Report(.0))]
    Invalid(Box<Violations>),
}

/// What is wrong, twice: for a reader of the file, and in the shape in which Kong's Admin API shows it.
#[derive(Debug)]
pub struct Violations {
    pub problems: Vec<DeclarativeProblem>,
    /// Kong's `fields`.
    pub fields: ErrorTree,
}

/// One problem and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarativeProblem {
    /// `services[1].routes[0].paths[0]`, counted from 0.
    pub path: String,
    /// In the file, from 1; `None` where the text has none (all on one line, say).
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for DeclarativeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        if !self.path.is_empty() || self.line.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

struct Report<'a>(&'a Violations);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.problems.len();
        write!(f, "declarative config is invalid: {count} {}", if count == 1 { "problem" } else { "problems" })?;
        for problem in &self.0.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl DeclarativeError {
    /// Kong's Admin API message: `declarative config is invalid: {services={{...}}}`.
    pub fn kong_message(&self) -> String {
        match self {
            Self::Syntax(_) => self.to_string(),
            Self::Invalid(violations) => format!("declarative config is invalid: {}", violations.fields.to_lua()),
        }
    }

    /// Kong's `fields`: the errors in the shape of the configuration.
    pub fn fields(&self) -> Json {
        match self {
            Self::Syntax(_) => Json::Object([("error".to_owned(), Json::from(self.to_string()))].into_iter().collect()),
            Self::Invalid(violations) => violations.fields.to_json(),
        }
    }
}

/// Reads and checks a declarative configuration. `format_hint` is the path of the file: `.json` and `.yml` or `.yaml`
/// decide how it is read; without one JSON is tried first. `now` (seconds since 1970) is the date of entities that name
/// none.
///
/// # Errors
/// Everything that is wrong with it, each with its path and, where it can be told, its line.
pub fn parse_declarative(
    text: &str,
    format_hint: Option<&Path>,
    catalogue: &Catalogue,
    enabled: &EnabledPlugins,
    now: i64,
) -> Result<Snapshot, DeclarativeError> {
    let root = read(text, format_hint)?;
    let mut snapshot = build_snapshot(root, catalogue, enabled, now).map_err(|failure| locate(failure, text))?;
    snapshot.hash = hash(text);
    Ok(snapshot)
}

fn build_snapshot(
    mut root: Map<String, Json>,
    catalogue: &Catalogue,
    enabled: &EnabledPlugins,
    now: i64,
) -> Result<Snapshot, Violations> {
    migrate(&mut root);
    let walked = walk::walk(root, catalogue, enabled, now);
    match (link::link(walked.entities, &walked.unreadable), walked.violations) {
        (Ok(linked), None) => Ok(build::build(linked)),
        (Ok(_), Some(violations)) | (Err(violations), None) => Err(violations),
        (Err(further), Some(mut violations)) => {
            // `fields` stays what Kong shows, which looks for these only when all entities are right.
            violations.problems.extend(further.problems);
            Err(violations)
        }
    }
}

fn read(text: &str, format_hint: Option<&Path>) -> Result<Map<String, Json>, DeclarativeError> {
    let extension = format_hint.and_then(Path::extension).and_then(|extension| extension.to_str());
    let (json, yaml) = match extension.map(str::to_ascii_lowercase).as_deref() {
        None => (true, true),
        Some("json") => (true, false),
        Some("yml" | "yaml") => (false, true),
        Some(_) => {
            let shown = format_hint.map(|path| path.display().to_string()).unwrap_or_default();
            return Err(DeclarativeError::Syntax(format!("unknown file type: {shown}. (Accepted types: json, yaml)")));
        }
    };
    let mut problem = String::from("expected an object");
    if json {
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(map)) => return Ok(map),
            Ok(_) => {}
            Err(error) => problem = error.to_string(),
        }
    }
    if yaml {
        match yaml::parse(text) {
            Ok(Json::Object(map)) => return Ok(map),
            Ok(_) => "expected an object".clone_into(&mut problem),
            Err(error) => problem = error,
        }
    }
    Err(DeclarativeError::Syntax(problem))
}

/// Formats before 3.0 had no mark for regular expressions in the paths of routes.
fn migrate(root: &mut Map<String, Json>) {
    fn routes(value: Option<&mut Json>) {
        for route in value.and_then(Json::as_array_mut).into_iter().flatten() {
            for path in route.get_mut("paths").and_then(Json::as_array_mut).into_iter().flatten() {
                if let Json::String(text) = path {
                    *text = paths::migrate(text);
                }
            }
        }
    }
    if !matches!(root.get("_format_version").and_then(Json::as_str), Some("1.1" | "2.1")) {
        return;
    }
    routes(root.get_mut("routes"));
    for service in root.get_mut("services").and_then(Json::as_array_mut).into_iter().flatten() {
        routes(service.get_mut("routes"));
    }
    root.insert("_format_version".to_owned(), Json::from("3.0"));
}

/// Adds lines to the problems. The text is read again for this: a configuration that is right pays nothing.
fn locate(mut violations: Violations, text: &str) -> DeclarativeError {
    if text.trim_end().contains('\n') {
        let lines = yaml::lines(text);
        for problem in &mut violations.problems {
            let mut path = problem.path.as_str();
            // What is missing has no place of its own: that of the nearest thing around it will do.
            while problem.line.is_none() && !path.is_empty() {
                problem.line = lines.get(path).copied();
                path = path.rfind(['.', '[']).and_then(|end| path.get(..end)).unwrap_or_default();
            }
        }
    }
    DeclarativeError::Invalid(Box::new(violations))
}

/// 32 hexadecimal digits, like the digest that Kong shows as `configuration_hash`.
fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

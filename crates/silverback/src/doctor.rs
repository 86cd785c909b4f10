//! `silverback doctor`: reads the configuration as the gateway would, tries what can be tried without starting it, and
//! tells what is wrong, a line each, with the cure.
//!
//! Nothing is changed: no file of the prefix is written, and no plugin server is started but for its query command, which
//! the gateway runs at every start, too.

mod certificates;
mod configuration;
mod executable;
mod listeners;
mod program;
mod query;
mod servers;
mod sockets;

use std::{fmt, path::Path};

use serde_json::{Value as Json, json};
use silverback_config::Settings;

use crate::{conf::Sources, pidfile, plugin_dir};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Ok,
    /// Worth knowing; nothing fails for it.
    Note,
    Problem,
}

/// One thing that was looked at, and what it looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What kind of finding it is, for programs: `command_not_found`.
    pub(crate) code: &'static str,
    /// What it is about: `plugin server go`, `proxy_listen`.
    pub(crate) subject: String,
    pub(crate) message: String,
    /// What to do about it; empty where the message says it, or nothing is to be done.
    pub(crate) cure: String,
}

impl Finding {
    fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, code: "ok", subject: subject.into(), message: message.into(), cure: String::new() }
    }

    fn note(code: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { level: Level::Note, code, subject: subject.into(), message: message.into(), cure: String::new() }
    }

    fn problem(
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, code, subject: subject.into(), message: message.into(), cure: cure.into() }
    }

    fn to_json(&self) -> Json {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Problem => "problem",
        };
        json!({
            "level": level,
            "code": self.code,
            "subject": self.subject,
            "message": self.message,
            "cure": self.cure,
        })
    }
}

/// One line, whatever was quoted in it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.level {
            Level::Ok => "ok     ",
            Level::Note => "note   ",
            Level::Problem => "problem",
        };
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "{mark}  {}: {}", one_line(&self.subject), one_line(&self.message))?;
        if !self.cure.is_empty() {
            write!(f, "; {}", one_line(&self.cure))?;
        }
        Ok(())
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level == Level::Problem).count()
    }

    pub(crate) fn to_json(&self) -> Json {
        let findings: Vec<Json> = self.findings.iter().map(Finding::to_json).collect();
        json!({ "problems": self.problems(), "findings": findings })
    }

    fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }
}

/// Looks at everything. `scratch` is an empty directory for what is needed to ask files of `plugin_dir`.
pub(crate) async fn examine(sources: &Sources, scratch: &Path) -> Report {
    let mut report = Report::default();
    let mut settings = match configuration::load(sources) {
        Ok((settings, findings)) => {
            report.extend(findings);
            settings
        }
        Err(findings) => {
            report.extend(findings);
            return report;
        }
    };
    report.extend(configuration::prefix(&settings));
    report.extend(certificates::configured(&settings));
    if let Some(pid) = pidfile::running(&settings.prefix) {
        report.extend([Finding::note(
            "running",
            settings.prefix.display().to_string(),
            format!("a gateway runs here (pid {pid}), so that its addresses are not tried"),
        )]);
    } else {
        report.extend(listeners::all(&settings));
    }
    plugins(&mut settings, scratch, &mut report).await;
    report
}

async fn plugins(settings: &mut Settings, scratch: &Path, report: &mut Report) {
    report.extend(servers::directory(&plugin_dir::include(settings, scratch)));
    let asked = servers::ask(settings).await;
    report.extend(asked.findings);
    if let Some(found) = asked.found {
        report.extend(configuration::declared(settings, &found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes() {
        let finding = Finding::problem("x", "plugin server go", "it said:\n  a\tb", "do\nthis");
        assert_eq!(finding.to_string(), "problem  plugin server go: it said: a b; do this");
        assert_eq!(Finding::ok("prefix", "fine").to_string(), "ok       prefix: fine");
    }
}

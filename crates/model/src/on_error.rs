//! What the failure of a plugin means for its request.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::Phase;

/// `on_error`, of a plugin server or of a plugin: what becomes of a request whose plugin failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnError {
    /// In phases that are not named.
    pub otherwise: Fails,
    /// The phases that are named.
    pub phases: Vec<(Phase, Fails)>,
}

/// What becomes of a request whose event failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fails {
    /// It gets 500.
    #[default]
    Closed,
    /// The failure is logged, and the request goes on.
    Open,
}

/// The text is not a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected closed, open, or a phase with one of them: 'closed, response=open'")]
pub struct NoPolicy;

impl OnError {
    /// What a failure in this phase means. The request is over when `log` runs: it cannot fail it.
    pub fn of(&self, phase: Phase) -> Fails {
        self.phases.iter().find(|(of, _)| *of == phase).map_or(self.otherwise, |(_, fails)| *fails)
    }
}

impl FromStr for Fails {
    type Err = NoPolicy;

    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        match text {
            "closed" => Ok(Self::Closed),
            "open" => Ok(Self::Open),
            _ => Err(NoPolicy),
        }
    }
}

impl fmt::Display for Fails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
        })
    }
}

/// `closed`, `open, log=open`, `access=closed, response=open`.
impl FromStr for OnError {
    type Err = NoPolicy;

    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        let mut policy = Self::default();
        let mut named_otherwise = false;
        for item in text.split(',').map(str::trim) {
            match item.split_once('=') {
                None if !named_otherwise => {
                    policy.otherwise = item.parse()?;
                    named_otherwise = true;
                }
                None => return Err(NoPolicy),
                Some((phase, word)) => {
                    let phase = Phase::from_name(phase.trim()).ok_or(NoPolicy)?;
                    if policy.phases.iter().any(|(known, _)| *known == phase) {
                        return Err(NoPolicy);
                    }
                    policy.phases.push((phase, word.trim().parse()?));
                }
            }
        }
        Ok(policy)
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.otherwise)?;
        self.phases.iter().try_for_each(|(phase, fails)| write!(f, ", {phase}={fails}"))
    }
}

impl Serialize for OnError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_for_failures() {
        let check = |text: &str, expect: Option<(Fails, Fails)>| {
            let read: Option<OnError> = text.parse().ok();
            let read = read.inspect(|policy| assert_eq!(policy.to_string().parse().as_ref(), Ok(policy)));
            assert_eq!(read.map(|policy| (policy.of(Phase::Access), policy.of(Phase::Log))), expect, "{text}");
        };
        check("closed", Some((Fails::Closed, Fails::Closed)));
        check("open", Some((Fails::Open, Fails::Open)));
        check("closed, log=open", Some((Fails::Closed, Fails::Open)));
        check("access = open", Some((Fails::Open, Fails::Closed)));
        check("open, closed", None);
        check("access=open, access=closed", None);
        check("body=open", None);
        check("ajar", None);
        check("", None);
    }
}

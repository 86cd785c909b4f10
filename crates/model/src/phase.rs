//! The phases of a request in which plugins run.

use std::fmt;

/// A phase in which a plugin may have a handler. The names are those that plugin servers announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Certificate,
    Rewrite,
    Access,
    Response,
    Preread,
    Log,
}

impl Phase {
    pub const ALL: [Self; 6] =
        [Self::Certificate, Self::Rewrite, Self::Access, Self::Response, Self::Preread, Self::Log];

    /// The name that plugin servers use, `access` for instance.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Rewrite => "rewrite",
            Self::Access => "access",
            Self::Response => "response",
            Self::Preread => "preread",
            Self::Log => "log",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PhaseSet(u8);

impl PhaseSet {
    pub const EMPTY: Self = Self(0);

    pub const fn of(phases: &[Phase]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < phases.len() {
            bits |= 1 << phases[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    pub const fn contains(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }

    pub const fn with(self, phase: Phase) -> Self {
        Self(self.0 | 1 << phase as u8)
    }

    pub fn iter(self) -> impl Iterator<Item = Phase> {
        Phase::ALL.into_iter().filter(move |phase| self.contains(*phase))
    }
}

impl FromIterator<Phase> for PhaseSet {
    fn from_iter<I: IntoIterator<Item = Phase>>(phases: I) -> Self {
        phases.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for PhaseSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Phase::name).collect();
        f.write_str(&names.join(","))
    }
}

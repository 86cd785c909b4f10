//! Checks and rewritings that the schema language cannot express: what Kong writes as Lua functions in its schemas.

use std::fmt;

use serde_json::{Map, Value as Json};

/// A named check of one value. A plugin server cannot send one; the gateway's own schemas name them.
#[derive(Clone, Copy)]
pub struct Validator {
    pub name: &'static str,
    /// The text is what the user gets to read.
    pub check: fn(&Json) -> Result<(), String>,
}

impl PartialEq for Validator {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Validator({})", self.name)
    }
}

/// A field that stands for others (`url` of a service): its value is taken out, what the function gives is put in.
#[derive(Clone, Copy)]
pub struct Shorthand {
    pub field: &'static str,
    pub expand: fn(&Json) -> Result<Map<String, Json>, String>,
}

impl PartialEq for Shorthand {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field
    }
}

impl fmt::Debug for Shorthand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shorthand({})", self.field)
    }
}

/// What the names in `custom_validator` attributes mean. Empty for the schemas of plugin servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vocabulary {
    pub validators: &'static [Validator],
}

impl Vocabulary {
    pub(crate) fn validator(&self, name: &str) -> Option<Validator> {
        self.validators.iter().copied().find(|validator| validator.name == name)
    }
}

//! Kong's schema language as JSON: what a plugin's `config` record, or an entity, may hold.
//!
//! Behaviour and texts are those of Kong's `kong/db/schema/init.lua`: defaults are filled in first (nested records get
//! theirs too), then every field is checked, then the checks across fields run. What Go, JavaScript and Python plugin
//! servers print in their dump is this language; attributes that are not known are ignored.

mod build;
mod checks;
mod errors;
mod pattern;
mod process;
mod rules;
mod validator;

#[cfg(test)]
mod tests;

pub use checks::EntityCheck;
pub use errors::{ErrorTree, FieldError};
pub use pattern::Pattern;
pub use rules::Rule;
pub use validator::{Shorthand, Validator, Vocabulary};

use std::collections::HashMap;

use serde_json::Value as Json;

/// A record: named fields with types, defaults and constraints, and checks across fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    fields: Vec<(String, Field)>,
    index: HashMap<String, usize>,
    checks: Vec<EntityCheck>,
    shorthands: Vec<Shorthand>,
}

/// What one field, element, key or value may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub kind: Kind,
    /// `None`: not said. Records are required unless they say otherwise.
    required: Option<bool>,
    default: Option<Json>,
    /// May hold a vault reference (`{vault://...}`), which is then not checked.
    referenceable: bool,
    /// Set by the gateway: its absence is no error.
    auto: bool,
    /// Constraints in Kong's order.
    rules: Vec<Rule>,
    /// Text to give instead of a constraint's own.
    err: Option<String>,
    /// The description itself: checks across fields override parts of it.
    source: Json,
}

/// The type of a [`Field`].
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    String,
    Number,
    Integer,
    Boolean,
    Array(Box<Field>),
    /// An array without duplicates.
    Set(Box<Field>),
    Map {
        keys: Box<Field>,
        values: Box<Field>,
    },
    Record(Record),
    /// Any value: `any`, `json`, and `foreign`, whose references the caller resolves.
    Any,
}

impl Record {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).and_then(|&at| self.fields.get(at)).map(|(_, field)| field)
    }

    /// The fields in the order in which the schema declares them.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// Whether no field is declared: an empty configuration is the only one.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The field that a dotted name (`redis.host`) leads to.
    pub(crate) fn field_at(&self, name: &str) -> Option<&Field> {
        match name.split_once('.') {
            None => self.field(name),
            Some((head, rest)) => match &self.field(head)?.kind {
                Kind::Record(record) => record.field_at(rest),
                _ => None,
            },
        }
    }
}

impl Field {
    /// Whether the value may be a vault reference.
    pub const fn is_referenceable(&self) -> bool {
        self.referenceable
    }

    /// Whether a missing value is an error.
    pub fn is_required(&self) -> bool {
        self.required.unwrap_or(matches!(self.kind, Kind::Record(_)))
    }

    /// The default, where the schema states one.
    pub const fn default(&self) -> Option<&Json> {
        self.default.as_ref()
    }

    /// The description as it was read.
    pub const fn source(&self) -> &Json {
        &self.source
    }
}

/// Whether `value` is a reference to a secret: `{vault://...}`.
pub fn is_reference(value: &str) -> bool {
    value.starts_with("{vault://") && value.ends_with('}') && value.len() > "{vault://}".len()
}

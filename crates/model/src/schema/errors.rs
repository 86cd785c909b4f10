//! What is wrong with a value, as a tree in the value's own shape.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value as Json};

/// What is wrong with one field. `path` is dotted (`config.limits[0].x`), `message` is Kong's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub path: String,
    pub message: String,
}

/// Errors in the shape of the value they belong to: what the Admin API shows as `fields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorTree {
    Message(String),
    /// By field name; `@entity` holds what concerns several fields.
    Fields(Vec<(String, Self)>),
    /// By position, from 0.
    Items(BTreeMap<usize, Self>),
}

impl Default for ErrorTree {
    fn default() -> Self {
        Self::Fields(Vec::new())
    }
}

impl From<&str> for ErrorTree {
    fn from(message: &str) -> Self {
        Self::Message(message.to_owned())
    }
}

impl From<String> for ErrorTree {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

impl ErrorTree {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Message(_) => false,
            Self::Fields(fields) => fields.is_empty(),
            Self::Items(items) => items.is_empty(),
        }
    }

    /// The tree below a field name, made if it is not there. A message in its place gives way.
    pub fn field_mut(&mut self, name: &str) -> &mut Self {
        if !matches!(self, Self::Fields(_)) {
            *self = Self::default();
        }
        let Self::Fields(fields) = self else { return self };
        let at = fields.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            fields.push((name.to_owned(), Self::default()));
            fields.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the position was found, or pushed, just above")]
        &mut fields[at].1
    }

    /// The tree below a position, made if it is not there. A message in its place gives way.
    pub fn item_mut(&mut self, at: usize) -> &mut Self {
        if !matches!(self, Self::Items(_)) {
            *self = Self::Items(BTreeMap::new());
        }
        match self {
            Self::Items(items) => items.entry(at).or_default(),
            other => other,
        }
    }

    /// Whether something is wrong with this field.
    pub fn has_field(&self, name: &str) -> bool {
        matches!(self, Self::Fields(fields) if fields.iter().any(|(known, _)| known == name))
    }

    /// Puts an error at a dotted field name.
    pub fn set(&mut self, name: &str, error: impl Into<Self>) {
        let mut place = self;
        for part in name.split('.') {
            place = place.field_mut(part);
        }
        *place = error.into();
    }

    /// Adds an error that concerns the record as a whole.
    pub fn push_entity(&mut self, message: impl Into<String>) {
        let entity = self.field_mut("@entity");
        let next = if let Self::Items(items) = entity { items.len() } else { 0 };
        *entity.item_mut(next) = Self::Message(message.into());
    }

    /// As Kong's Admin API shows it: records are objects, positions are arrays with null for what is right.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Message(text) => Json::String(text.clone()),
            Self::Fields(fields) => {
                Json::Object(fields.iter().map(|(name, tree)| (name.clone(), tree.to_json())).collect::<Map<_, _>>())
            }
            Self::Items(items) => {
                let len = items.last_key_value().map_or(0, |(last, _)| last + 1);
                let mut list = vec![Json::Null; len];
                for (at, tree) in items {
                    if let Some(slot) = list.get_mut(*at) {
                        *slot = tree.to_json();
                    }
                }
                Json::Array(list)
            }
        }
    }

    /// One entry per message, with the path that leads to it.
    pub fn flatten(&self) -> Vec<FieldError> {
        let mut out = Vec::new();
        self.collect(String::new(), &mut out);
        out
    }

    fn collect(&self, path: String, out: &mut Vec<FieldError>) {
        match self {
            Self::Message(message) => out.push(FieldError { path, message: message.clone() }),
            Self::Fields(fields) => {
                for (name, tree) in fields {
                    if name == "@entity" {
                        for error in tree.flatten() {
                            out.push(FieldError { path: path.clone(), message: error.message });
                        }
                    } else {
                        tree.collect(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, out);
                    }
                }
            }
            Self::Items(items) => {
                for (at, tree) in items {
                    tree.collect(format!("{path}[{at}]"), out);
                }
            }
        }
    }

    /// The tree as Kong prints it in the message of a schema violation: a Lua table on one line, keys sorted.
    pub fn to_lua(&self) -> String {
        let mut out = String::new();
        self.write_lua(&mut out);
        out
    }

    fn write_lua(&self, out: &mut String) {
        match self {
            Self::Message(text) => lua_string(text, out),
            Self::Fields(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                out.push('{');
                for (at, (name, tree)) in sorted.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    if is_lua_name(name) {
                        out.push_str(name);
                    } else {
                        out.push('[');
                        lua_string(name, out);
                        out.push(']');
                    }
                    out.push('=');
                    tree.write_lua(out);
                }
                out.push('}');
            }
            Self::Items(items) => {
                out.push('{');
                for (nth, (at, tree)) in items.iter().enumerate() {
                    if nth > 0 {
                        out.push(',');
                    }
                    if nth != *at {
                        let _ = write!(out, "[{}]=", at + 1);
                    }
                    tree.write_lua(out);
                }
                out.push('}');
            }
        }
    }
}

fn is_lua_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn lua_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_the_shape_of_the_value() {
        let mut tree = ErrorTree::default();
        *tree.field_mut("services").item_mut(0).field_mut("host") = "required field missing".into();
        tree.field_mut("services").item_mut(2).push_entity("a");
        tree.field_mut("services").item_mut(2).push_entity("b");
        assert_eq!(
            tree.to_json(),
            serde_json::json!({"services": [{"host": "required field missing"}, null, {"@entity": ["a", "b"]}]})
        );
        assert_eq!(tree.to_lua(), r#"{services={{host="required field missing"},[3]={["@entity"]={"a","b"}}}}"#);
        let paths: Vec<_> = tree.flatten().into_iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
        assert_eq!(paths, ["services[0].host: required field missing", "services[2]: a", "services[2]: b"]);
    }
}

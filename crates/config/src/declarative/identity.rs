//! Ids for entities that name none: the same for the same file, and the same as Kong's where Kong derives one.
//!
//! Kong (`kong/db/schema/others/declarative_config.lua`) makes a UUID of version 5 from the kind and the fields that
//! make an entity unique, and a random one where there are none. Here the content stands in for those.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};
use silverback_model::Id;

use super::kinds::Kind;

/// Kong's namespace for the namespaces of its kinds.
const ROOT: Id = Id::from_u128(0xfd02_801f_0957_4a15_a55a_c8d9_606f_30b5);

/// The workspace in the keys: there is only one.
const WORKSPACE: &str = "*";

/// Derives ids.
#[derive(Default)]
pub(super) struct Ids {
    namespaces: HashMap<&'static str, Id>,
    /// How many entities without a key have had the same content.
    seen: HashMap<String, usize>,
}

impl Ids {
    /// The id of an entity, from its fields as they were written. `parent` is the field that names the entity it is
    /// nested in, and that one's id.
    pub(super) fn derive(&mut self, kind: Kind, item: &Map<String, Json>, parent: Option<(&str, Id)>) -> Id {
        let collection = kind.collection();
        let namespace = *self.namespaces.entry(collection).or_insert_with(|| Id::new_v5(&ROOT, collection.as_bytes()));
        let key = key(kind, item, parent).unwrap_or_else(|| {
            let owner = parent.map(|(_, id)| id.to_string()).unwrap_or_default();
            let content = format!("{collection}:{owner}:{}", canonical(item));
            let count = self.seen.entry(content.clone()).or_default();
            *count += 1;
            format!("{content}:{count}")
        });
        Id::new_v5(&namespace, key.as_bytes())
    }
}

/// The text that Kong derives the id from, if the entity has what it takes.
fn key(kind: Kind, item: &Map<String, Json>, parent: Option<(&str, Id)>) -> Option<String> {
    let Some(fields) = kind.cache_key() else {
        return item.get(kind.endpoint_key()?).and_then(Json::as_str).map(str::to_owned);
    };
    let mut parts = vec![kind.collection().to_owned(), WORKSPACE.to_owned()];
    for field in fields {
        match (item.get(*field), parent) {
            (Some(Json::String(text)), _) => parts.push(text.clone()),
            (Some(Json::Object(reference)), _) => {
                parts.push(reference.get("id").and_then(Json::as_str).unwrap_or_default().to_owned());
            }
            (None | Some(Json::Null), Some((name, id))) if name == *field => parts.push(id.to_string()),
            (None | Some(Json::Null), _) if kind == Kind::Plugin && *field != "name" => parts.push(String::new()),
            _ => return None,
        }
    }
    Some(parts.join(":"))
}

/// The content with its keys sorted, so that their order in the file does not count.
fn canonical(item: &Map<String, Json>) -> String {
    fn write(value: &Json, out: &mut String) {
        match value {
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(name, _)| name.as_str());
                out.push('{');
                for (name, value) in entries {
                    out.push_str(name);
                    out.push(':');
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Json::Array(list) => {
                out.push('[');
                for value in list {
                    write(value, out);
                    out.push(',');
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut entries: Vec<_> = item.iter().collect();
    entries.sort_by_key(|(name, _)| name.as_str());
    let mut out = String::new();
    for (name, value) in entries {
        out.push_str(name);
        out.push(':');
        write(value, &mut out);
        out.push(',');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn derive(kind: Kind, item: &Json, parent: Option<(&str, Id)>) -> String {
        Ids::default().derive(kind, item.as_object().unwrap(), parent).to_string()
    }

    #[test]
    fn ids_are_stable() {
        let service = json!({"name": "a", "host": "h"});
        let by_name = derive(Kind::Service, &service, None);
        assert_eq!(by_name, derive(Kind::Service, &json!({"name": "a", "host": "other"}), None));
        assert_ne!(by_name, derive(Kind::Route, &service, None));
        let unnamed = derive(Kind::Route, &json!({"paths": ["/"], "hosts": ["x"]}), None);
        assert_eq!(unnamed, derive(Kind::Route, &json!({"hosts": ["x"], "paths": ["/"]}), None));
        let parent = Id::from_u128(1);
        assert_ne!(
            derive(Kind::Plugin, &json!({"name": "p"}), Some(("route", parent))),
            derive(Kind::Plugin, &json!({"name": "p"}), Some(("service", parent)))
        );
    }

    #[test]
    fn the_same_content_twice_gets_two_ids() {
        let mut ids = Ids::default();
        let item = json!({"paths": ["/"]});
        let first = ids.derive(Kind::Route, item.as_object().unwrap(), None);
        assert_ne!(first, ids.derive(Kind::Route, item.as_object().unwrap(), None));
    }
}

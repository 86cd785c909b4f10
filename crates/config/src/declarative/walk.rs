//! From the tree of a file to a flat list of entities: each is checked against its schema and gets its id.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};
use silverback_model::{BUNDLED_IN_KONG, Catalogue, CredentialKind, Id, schema::ErrorTree};

use crate::settings::EnabledPlugins;

use super::{DeclarativeProblem, Violations, certificates, identity::Ids, kinds::Kind, schemas};

const FORMAT_VERSIONS: [&str; 3] = ["1.1", "2.1", "3.0"];
const REQUIRED: &str = "required field missing";

/// An entity. If something is wrong with it or another one, its only use is that others may refer to it, so that these
/// are not blamed.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) kind: Kind,
    pub(super) id: Id,
    /// Processed; references are taken out. Of an entity that is wrong by itself, only what others know it by.
    pub(super) fields: Map<String, Json>,
    pub(super) references: Vec<(&'static str, Kind, Reference)>,
    pub(super) place: Place,
}

/// What a field that names another entity holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// Nested in it.
    Parent(Id),
    /// By id or name, as written.
    To(String),
}

/// Where in the file an entity stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) path: String,
    /// Position in its collection.
    pub(super) at: usize,
    /// The kind and position of the entity that it is nested in.
    pub(super) parent: Option<(Kind, usize)>,
}

#[derive(Clone, Copy)]
struct Parent {
    kind: Kind,
    at: usize,
    id: Id,
    field: &'static str,
}

/// Everything that a configuration declares.
pub(super) struct Walked {
    pub(super) entities: Vec<Entity>,
    /// Kinds of which an entity could not be read at all: who knows what it was called.
    pub(super) unreadable: HashSet<Kind>,
    /// What is wrong with the entities, each looked at by itself.
    pub(super) violations: Option<Violations>,
}

pub(super) fn walk(mut root: Map<String, Json>, catalogue: &Catalogue, enabled: &EnabledPlugins, now: i64) -> Walked {
    let mut errors = ErrorTree::default();
    let transform = header(&mut root, &mut errors);
    let mut walker = Walker {
        catalogue,
        enabled,
        now,
        transform,
        ids: Ids::default(),
        entities: Vec::new(),
        unreadable: HashSet::new(),
    };
    for kind in Kind::ALL {
        if !walker.knows(kind) {
            continue;
        }
        if let Some(value) = root.shift_remove(kind.collection()) {
            let mut found = ErrorTree::default();
            walker.collection(kind, value, None, kind.collection(), &mut found);
            if !found.is_empty() {
                *errors.field_mut(kind.collection()) = found;
            }
        }
    }
    for name in root.keys() {
        *errors.field_mut(name) = unknown_collection(name).into();
    }
    let violations = (!errors.is_empty()).then(|| violations(errors));
    Walked { entities: walker.entities, unreadable: walker.unreadable, violations }
}

fn violations(fields: ErrorTree) -> Violations {
    let problems = fields
        .flatten()
        .into_iter()
        .map(|error| DeclarativeProblem { path: error.path, line: None, message: error.message })
        .collect();
    Violations { problems, fields }
}

/// Why a name at the top is not accepted. Kong has entities that have no counterpart here: those are told apart.
fn unknown_collection(name: &str) -> &'static str {
    match name {
        "keys"
        | "key_sets"
        | "parameters"
        | "filter_chains"
        | "workspaces"
        | "clustering_data_planes"
        | "acme_storage"
        | "sessions"
        | "oauth2_tokens"
        | "oauth2_authorization_codes"
        | "ratelimiting_metrics" => "unknown field (this kind of entity is not supported here)",
        _ => "unknown field",
    }
}

/// Checks what stands at the top beside the entities; gives whether secrets are still to be hashed (`_transform`).
fn header(root: &mut Map<String, Json>, errors: &mut ErrorTree) -> bool {
    match root.shift_remove("_format_version") {
        None | Some(Json::Null) => errors.set("_format_version", REQUIRED),
        Some(Json::String(version)) if FORMAT_VERSIONS.contains(&version.as_str()) => {}
        Some(Json::String(_)) => {
            errors.set("_format_version", format!("expected one of: {}", FORMAT_VERSIONS.join(", ")));
        }
        Some(_) => errors.set("_format_version", "expected a string"),
    }
    let transform = match root.shift_remove("_transform") {
        None | Some(Json::Null) => true,
        Some(Json::Bool(transform)) => transform,
        Some(_) => {
            errors.set("_transform", "expected a boolean");
            true
        }
    };
    remarks(root, errors);
    // decK writes these; they say nothing about the gateway.
    root.shift_remove("_info");
    transform
}

/// `_comment` and `_ignore`, which every record may hold.
fn remarks(map: &mut Map<String, Json>, errors: &mut ErrorTree) {
    match map.shift_remove("_comment") {
        None | Some(Json::Null | Json::String(_)) => {}
        Some(_) => errors.set("_comment", "expected a string"),
    }
    match map.shift_remove("_ignore") {
        None | Some(Json::Null | Json::Array(_)) => {}
        Some(_) => errors.set("_ignore", "expected an array"),
    }
}

struct Walker<'a> {
    catalogue: &'a Catalogue,
    enabled: &'a EnabledPlugins,
    now: i64,
    transform: bool,
    ids: Ids,
    entities: Vec<Entity>,
    unreadable: HashSet<Kind>,
}

impl Walker<'_> {
    fn knows(&self, kind: Kind) -> bool {
        kind.plugin().is_none_or(|plugin| self.is_enabled(plugin))
    }

    fn is_enabled(&self, plugin: &str) -> bool {
        (self.enabled.bundled && BUNDLED_IN_KONG.contains(&plugin))
            || self.enabled.named.iter().any(|named| named == plugin)
    }

    fn collection(&mut self, kind: Kind, value: Json, parent: Option<Parent>, path: &str, errors: &mut ErrorTree) {
        let list = match value {
            Json::Null => return,
            Json::Array(list) => list,
            Json::Object(map) if map.is_empty() => return,
            _ => {
                *errors = "expected an array".into();
                self.unreadable.insert(kind);
                return;
            }
        };
        for (at, item) in list.into_iter().enumerate() {
            let place =
                Place { path: format!("{path}[{at}]"), at, parent: parent.map(|parent| (parent.kind, parent.at)) };
            let item = match item {
                Json::Object(map) => map,
                // A certificate lists its server names as text, too.
                Json::String(name) if kind == Kind::Sni && parent.is_some() => {
                    [("name".to_owned(), Json::String(name))].into_iter().collect()
                }
                Json::Null => {
                    *errors.item_mut(at) = REQUIRED.into();
                    continue;
                }
                _ => {
                    self.unreadable.insert(kind);
                    *errors.item_mut(at) = "expected a record".into();
                    continue;
                }
            };
            let mut found = ErrorTree::default();
            self.item(kind, item, parent, &place, &mut found);
            if !found.is_empty() {
                *errors.item_mut(at) = found;
            }
        }
    }

    fn item(
        &mut self,
        kind: Kind,
        mut item: Map<String, Json>,
        parent: Option<Parent>,
        place: &Place,
        errors: &mut ErrorTree,
    ) {
        remarks(&mut item, errors);
        let children: Vec<_> = kind
            .children()
            .filter(|(child, _)| self.knows(*child))
            .filter_map(|(child, field)| item.shift_remove(child.collection()).map(|value| (child, field, value)))
            .collect();
        let given = item.get("id").and_then(Json::as_str).and_then(|text| Id::try_parse(text).ok());
        let id = given.unwrap_or_else(|| self.ids.derive(kind, &item, parent.map(|parent| (parent.field, parent.id))));
        let references = references(kind, &mut item, parent, errors);
        if item.get("id").is_none_or(Json::is_null) {
            item.insert("id".to_owned(), Json::from(id.to_string()));
        }
        self.dates(kind, &mut item);
        let known_by = known_by(kind, &item);
        let fields = match self.check(kind, item) {
            Ok(mut fields) => {
                self.cross_check(kind, &fields, errors);
                for foreign in kind.foreign() {
                    fields.shift_remove(foreign.field);
                }
                errors.is_empty().then(|| {
                    self.complete(kind, &mut fields, &references);
                    fields
                })
            }
            Err(tree) => {
                merge(errors, tree);
                None
            }
        };
        let fields = fields.unwrap_or(known_by);
        self.entities.push(Entity { kind, id, fields, references, place: place.clone() });
        // What is nested is looked at even if this entity is wrong, so that everything is reported at once.
        for (child, field, value) in children {
            let mut found = ErrorTree::default();
            let below = format!("{}.{}", place.path, child.collection());
            self.collection(child, value, Some(Parent { kind, at: place.at, id, field }), &below, &mut found);
            if !found.is_empty() {
                *errors.field_mut(child.collection()) = found;
            }
        }
    }

    fn dates(&self, kind: Kind, item: &mut Map<String, Json>) {
        let schema = schemas::of(kind);
        if item.get("created_at").is_none_or(Json::is_null) {
            item.insert("created_at".to_owned(), Json::from(self.now));
        }
        if schema.field("updated_at").is_some() && item.get("updated_at").is_none_or(Json::is_null) {
            item.insert("updated_at".to_owned(), Json::from(self.now));
        }
    }

    fn check(&self, kind: Kind, item: Map<String, Json>) -> Result<Map<String, Json>, ErrorTree> {
        match kind {
            Kind::Plugin => self.check_plugin(item),
            Kind::Route => {
                let schema = schemas::of_route(item.get("protocols")).map_err(|problem| {
                    let mut errors = ErrorTree::default();
                    errors.set("protocols", problem);
                    errors
                })?;
                schema.process_tree(item)
            }
            Kind::Vault => {
                if let Some(name) = item.get("name").and_then(Json::as_str).filter(|name| *name != "env") {
                    let mut errors = ErrorTree::default();
                    errors.set("name", format!("vault '{name}' is not installed"));
                    return Err(errors);
                }
                schemas::of(kind).process_tree(item)
            }
            kind => schemas::of(kind).process_tree(item),
        }
    }

    fn check_plugin(&self, mut item: Map<String, Json>) -> Result<Map<String, Json>, ErrorTree> {
        let only = |field: &str, message: String| {
            let mut errors = ErrorTree::default();
            errors.set(field, message);
            errors
        };
        let name = match item.get("name") {
            None | Some(Json::Null) => return Err(only("name", REQUIRED.to_owned())),
            Some(Json::String(name)) => name.clone(),
            Some(_) => return Err(only("name", "expected a string".to_owned())),
        };
        if !self.is_enabled(&name) {
            let message = format!("plugin '{name}' not enabled; add it to the 'plugins' configuration property");
            return Err(only("name", message));
        }
        let Some(definition) = self.catalogue.get(&name) else {
            let message = if BUNDLED_IN_KONG.contains(&name.as_str()) {
                format!("plugin '{name}' comes with Kong and is not available here yet")
            } else {
                format!("plugin '{name}' is enabled, but no plugin server offers it")
            };
            return Err(only("name", message));
        };
        let config = match item.shift_remove("config") {
            None => Ok(Map::new()),
            Some(Json::Object(map)) => Ok(map),
            Some(Json::Array(list)) if list.is_empty() => Ok(Map::new()),
            Some(Json::Null) => Err(ErrorTree::from(REQUIRED)),
            Some(_) => Err(ErrorTree::from("expected a record")),
        }
        .and_then(|config| definition.schema.process_tree(config));
        let (config, problem) = match config {
            Ok(config) => (config, None),
            Err(problem) => (Map::new(), Some(problem)),
        };
        item.insert("config".to_owned(), Json::Object(config));
        match (schemas::of(Kind::Plugin).process_tree(item), problem) {
            (result, None) => result,
            (Ok(_), Some(problem)) => {
                let mut errors = ErrorTree::default();
                *errors.field_mut("config") = problem;
                Err(errors)
            }
            (Err(mut errors), Some(problem)) => {
                *errors.field_mut("config") = problem;
                Err(errors)
            }
        }
    }

    fn cross_check(&self, kind: Kind, fields: &Map<String, Json>, errors: &mut ErrorTree) {
        match kind {
            Kind::Certificate => certificates::check_pairs(fields, errors),
            Kind::CaCertificate => certificates::check_authority(fields, self.now, errors),
            _ => {}
        }
    }

    /// Fills in what Kong makes up, and hashes what Kong hashes.
    fn complete(&self, kind: Kind, fields: &mut Map<String, Json>, references: &[(&'static str, Kind, Reference)]) {
        let auto: &[&str] = match kind {
            Kind::Credential(CredentialKind::KeyAuth) => &["key"],
            Kind::Credential(CredentialKind::HmacAuth) => &["secret"],
            Kind::Credential(CredentialKind::Jwt) => &["key", "secret"],
            Kind::Credential(CredentialKind::OAuth2) => &["client_id", "client_secret"],
            _ => &[],
        };
        for field in auto {
            if fields.get(*field).is_none_or(Json::is_null) {
                // 32 random letters and digits; these are secrets, so nothing may tell them beforehand.
                fields.insert((*field).to_owned(), Json::from(Id::new_v4().simple().to_string()));
            }
        }
        if kind == Kind::CaCertificate
            && let Some(digest) = fields.get("cert").and_then(Json::as_str).and_then(certificates::digest_of)
        {
            fields.insert("cert_digest".to_owned(), Json::from(digest));
        }
        if kind == Kind::Credential(CredentialKind::BasicAuth) && self.transform {
            // The salt is the consumer's id, which only a nested credential knows by now; see `link` for the others.
            if let [(_, _, Reference::Parent(consumer))] = references {
                hash_password(fields, *consumer);
            }
        }
        if kind == Kind::Credential(CredentialKind::BasicAuth) {
            let done = !self.transform || matches!(references, [(_, _, Reference::Parent(_))]);
            fields.insert(HASHED.to_owned(), Json::Bool(done));
        }
    }
}

/// Marks a basic-auth credential of which the password is not to be hashed (again); taken out when it is linked.
pub(super) const HASHED: &str = "\0hashed";

/// The password of basic-auth as Kong keeps it: SHA-1 over password and consumer id, in hexadecimal.
pub(super) fn hash_password(fields: &mut Map<String, Json>, consumer: Id) {
    if let Some(Json::String(password)) = fields.get_mut("password") {
        let salted = format!("{password}{consumer}");
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
        *password = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    }
}

/// Reads the fields that name other entities. They stay in the item, for the checks across its fields.
fn references(
    kind: Kind,
    item: &mut Map<String, Json>,
    parent: Option<Parent>,
    errors: &mut ErrorTree,
) -> Vec<(&'static str, Kind, Reference)> {
    let mut found = Vec::new();
    for foreign in kind.foreign() {
        if let Some(parent) = parent.filter(|parent| parent.field == foreign.field) {
            item.shift_remove(foreign.field);
            found.push((foreign.field, foreign.to, Reference::Parent(parent.id)));
            continue;
        }
        match item.get(foreign.field) {
            None | Some(Json::Null) => {
                if foreign.required {
                    errors.set(foreign.field, REQUIRED);
                }
            }
            Some(Json::String(name)) if name.is_empty() => errors.set(foreign.field, "length must be at least 1"),
            Some(Json::String(name)) => found.push((foreign.field, foreign.to, Reference::To(name.clone()))),
            Some(Json::Object(map)) => {
                let by = |field: &str| map.get(field).and_then(Json::as_str);
                match by("id").or_else(|| by(foreign.to.endpoint_key()?)) {
                    Some(name) => found.push((foreign.field, foreign.to, Reference::To(name.to_owned()))),
                    None => errors.set(foreign.field, "expected a string"),
                }
            }
            Some(_) => errors.set(foreign.field, "expected a string"),
        }
    }
    found
}

/// The fields by which others may name an entity, and by which it must be unique.
fn known_by(kind: Kind, item: &Map<String, Json>) -> Map<String, Json> {
    let names = kind.endpoint_key().into_iter().chain(kind.unique().iter().copied()).chain(kind.unique_in_scope());
    names.filter_map(|name| item.get(name).map(|value| (name.to_owned(), value.clone()))).collect()
}

fn merge(errors: &mut ErrorTree, other: ErrorTree) {
    match (errors, other) {
        (errors @ ErrorTree::Fields(_), ErrorTree::Fields(fields)) => {
            for (name, tree) in fields {
                let slot = errors.field_mut(&name);
                if slot.is_empty() {
                    *slot = tree;
                }
            }
        }
        (errors, other) => *errors = other,
    }
}

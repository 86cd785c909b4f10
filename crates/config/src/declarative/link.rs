//! Resolves what entities call each other by, and checks that nothing is there twice.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;
use silverback_model::{CredentialKind, Id, schema::ErrorTree};

use super::{
    DeclarativeProblem, Violations,
    kinds::Kind,
    walk::{Entity, HASHED, Reference, hash_password},
};

/// An entity whose references are ids.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) entity: Entity,
    pub(super) ids: Vec<(&'static str, Id)>,
}

impl Linked {
    /// The id in a field that names another entity.
    pub(super) fn reference(&self, field: &str) -> Option<Id> {
        self.ids.iter().find(|(name, _)| *name == field).map(|(_, id)| *id)
    }
}

#[derive(Default)]
struct Errors {
    fields: ErrorTree,
    problems: Vec<DeclarativeProblem>,
}

impl Errors {
    fn problem(&mut self, path: &str, message: &str) {
        self.problems.push(DeclarativeProblem { path: path.to_owned(), line: None, message: message.to_owned() });
    }
}

/// Links what has been declared; entities that are wrong by themselves count as declared.
pub(super) fn link(entities: Vec<Entity>, unreadable: &HashSet<Kind>) -> Result<Vec<Linked>, Violations> {
    let mut errors = Errors::default();
    let mut by_id: HashSet<(Kind, Id)> = HashSet::with_capacity(entities.len());
    let mut by_key: HashMap<(Kind, String), Id> = HashMap::with_capacity(entities.len());
    for entity in &entities {
        index(entity, &mut by_id, &mut by_key, &mut errors);
    }
    let mut linked = Vec::with_capacity(entities.len());
    for mut entity in entities {
        let mut ids = Vec::with_capacity(entity.references.len());
        for (field, to, reference) in std::mem::take(&mut entity.references) {
            match resolve(to, &reference, &by_id, &by_key) {
                Some(id) => ids.push((field, id)),
                None if unreadable.contains(&to) => {}
                None => dangling(&entity, field, to, &reference, &mut errors),
            }
        }
        if entity.kind == Kind::Credential(CredentialKind::BasicAuth)
            && entity.fields.shift_remove(HASHED) == Some(Json::Bool(false))
            && let Some((_, consumer)) = ids.first()
        {
            hash_password(&mut entity.fields, *consumer);
        }
        linked.push(Linked { entity, ids });
    }
    unique_scopes(&linked, &mut errors);
    if errors.problems.is_empty() {
        Ok(linked)
    } else {
        Err(Violations { problems: errors.problems, fields: errors.fields })
    }
}

fn violation(kind: Kind, field: &str, value: &str) -> String {
    format!("uniqueness violation: '{}' entity with {field} set to '{value}' already declared", kind.collection())
}

fn index(
    entity: &Entity,
    by_id: &mut HashSet<(Kind, Id)>,
    by_key: &mut HashMap<(Kind, String), Id>,
    errors: &mut Errors,
) {
    let (kind, collection) = (entity.kind, entity.kind.collection());
    let mut twice = false;
    if let Some(field) = kind.endpoint_key()
        && let Some(key) = entity.fields.get(field).and_then(Json::as_str)
        && by_key.insert((kind, key.to_owned()), entity.id).is_some()
    {
        let message = violation(kind, field, key);
        *errors.fields.field_mut(collection).item_mut(entity.place.at) = message.as_str().into();
        errors.problem(&entity.place.path, &message);
        twice = true;
    }
    if !by_id.insert((kind, entity.id)) && !twice {
        let message = violation(kind, "primary key", &entity.id.to_string());
        let place = match entity.place.parent {
            Some((parent, at)) => errors.fields.field_mut(parent.collection()).item_mut(at).field_mut(collection),
            None => errors.fields.field_mut(collection),
        };
        *place.item_mut(entity.place.at) = message.as_str().into();
        errors.problem(&entity.place.path, &message);
    }
    for field in kind.unique() {
        let Some(value) = entity.fields.get(*field).and_then(Json::as_str) else { continue };
        // The field is part of the key, so that it cannot be taken for a name.
        if by_key.insert((kind, format!("\0{field}:{value}")), entity.id).is_some() {
            let message = violation(kind, field, value);
            *errors.fields.field_mut(collection).field_mut(&name_of(entity)) = message.as_str().into();
            errors.problem(&entity.place.path, &message);
        }
    }
}

fn name_of(entity: &Entity) -> String {
    let key = entity.kind.endpoint_key().and_then(|field| entity.fields.get(field)).and_then(Json::as_str);
    key.map_or_else(|| entity.id.to_string(), str::to_owned)
}

fn resolve(
    to: Kind,
    reference: &Reference,
    by_id: &HashSet<(Kind, Id)>,
    by_key: &HashMap<(Kind, String), Id>,
) -> Option<Id> {
    match reference {
        Reference::Parent(id) => Some(*id),
        Reference::To(name) => by_key
            .get(&(to, name.clone()))
            .copied()
            .or_else(|| Id::try_parse(name).ok().filter(|id| by_id.contains(&(to, *id)))),
    }
}

fn dangling(entity: &Entity, field: &str, to: Kind, reference: &Reference, errors: &mut Errors) {
    let Reference::To(name) = reference else { return };
    let message = format!("invalid reference '{field}: {name}' (no such entry in '{}')", to.collection());
    let list = errors.fields.field_mut(entity.kind.collection()).field_mut(&name_of(entity));
    let next = if let ErrorTree::Items(items) = list { items.len() } else { 0 };
    *list.item_mut(next) = message.as_str().into();
    errors.problem(&format!("{}.{field}", entity.place.path), &message);
}

/// A plugin may be configured once for each scope, a consumer be in a group once.
fn unique_scopes(linked: &[Linked], errors: &mut Errors) {
    let mut seen: HashMap<(Kind, &str, [Option<Id>; 3]), Id> = HashMap::new();
    for item in linked {
        let entity = &item.entity;
        let Some(name) = entity.kind.unique_in_scope() else { continue };
        let Some(name) = entity.fields.get(name).and_then(Json::as_str) else { continue };
        let scope = ["route", "service", "consumer"].map(|field| item.reference(field));
        let before = seen.insert((entity.kind, name, scope), entity.id);
        // Where the ids are the same, that has been reported.
        if before.is_some_and(|id| id != entity.id) {
            let shown: Vec<String> = ["route", "service", "consumer"]
                .into_iter()
                .zip(scope)
                .filter_map(|(field, id)| id.map(|id| format!("{field}={id}")))
                .collect();
            let scope = if shown.is_empty() { "global".to_owned() } else { shown.join(", ") };
            let message = format!(
                "uniqueness violation: '{}' entity '{name}' ({scope}) already declared",
                entity.kind.collection()
            );
            *errors.fields.field_mut(entity.kind.collection()).field_mut(&entity.id.to_string()) =
                message.as_str().into();
            errors.problem(&entity.place.path, &message);
        }
    }
}

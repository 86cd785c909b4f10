//! Reading a schema from its JSON form.

use serde_json::{Map, Value as Json};

use super::{EntityCheck, Field, Kind, Pattern, Record, Rule, Shorthand, Vocabulary};

/// Descriptions nest; this deep is deeper than any real one.
const MAX_DEPTH: usize = 64;

impl Record {
    /// Reads the `fields` array of a record as plugin servers print it: `[{"name": {"type": ...}}, ...]`.
    /// An empty object stands for an empty array, which is how Lua and Python print it.
    ///
    /// # Errors
    /// A text that names the field whose description makes no sense.
    pub fn from_json(fields: &Json) -> Result<Self, String> {
        Self::read(fields, &Json::Null, Vocabulary::default(), 0)
    }

    /// As [`Self::from_json`], with the checks across fields of an `entity_checks` array, validators that may be
    /// named, and shorthand fields.
    ///
    /// # Errors
    /// A text that names the field whose description makes no sense.
    pub fn from_parts(
        fields: &Json,
        entity_checks: &Json,
        vocabulary: Vocabulary,
        shorthands: Vec<Shorthand>,
    ) -> Result<Self, String> {
        Ok(Self { shorthands, ..Self::read(fields, entity_checks, vocabulary, 0)? })
    }

    fn read(fields: &Json, checks: &Json, vocabulary: Vocabulary, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err("is nested too deeply".to_owned());
        }
        let mut record = Self::default();
        let entries: Vec<(&String, &Json)> = match fields {
            Json::Null => Vec::new(),
            // Some servers print the fields as one object.
            Json::Object(map) => map.iter().collect(),
            Json::Array(list) => {
                let mut entries = Vec::new();
                for entry in list {
                    let Json::Object(entry) = entry else {
                        return Err("each entry of 'fields' must be an object with one field".to_owned());
                    };
                    entries.extend(entry.iter());
                }
                entries
            }
            _ => return Err("'fields' must be an array".to_owned()),
        };
        for (name, description) in entries {
            let field =
                Field::read(description, vocabulary, depth).map_err(|problem| format!("field '{name}': {problem}"))?;
            record.insert(name, field);
        }
        record.checks = EntityCheck::read_all(checks, &record, vocabulary)?;
        Ok(record)
    }

    fn insert(&mut self, name: &str, field: Field) {
        if let Some(&at) = self.index.get(name)
            && let Some(slot) = self.fields.get_mut(at)
        {
            slot.1 = field;
            return;
        }
        self.index.insert(name.to_owned(), self.fields.len());
        self.fields.push((name.to_owned(), field));
    }

    /// The record with this field added, or put in the place of one of the same name.
    #[must_use]
    pub fn with_field(mut self, name: &str, field: Field) -> Self {
        self.insert(name, field);
        self
    }
}

impl Field {
    /// Reads the description of one field.
    ///
    /// # Errors
    /// A text that says what makes no sense in it.
    pub fn from_json(description: &Json, vocabulary: Vocabulary) -> Result<Self, String> {
        Self::read(description, vocabulary, 0)
    }

    fn read(description: &Json, vocabulary: Vocabulary, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err("is nested too deeply".to_owned());
        }
        let Json::Object(map) = description else { return Err("its description must be an object".to_owned()) };
        let nested = |name: &str| -> Result<Box<Self>, String> {
            let inner = map.get(name).ok_or_else(|| format!("'{name}' is missing"))?;
            Self::read(inner, vocabulary, depth + 1).map(Box::new).map_err(|problem| format!("{name}: {problem}"))
        };
        let kind = match map.get("type").and_then(Json::as_str) {
            Some("string") => Kind::String,
            Some("number") => Kind::Number,
            Some("integer") => Kind::Integer,
            Some("boolean") => Kind::Boolean,
            Some("array") => Kind::Array(nested("elements")?),
            Some("set") => Kind::Set(nested("elements")?),
            Some("map") => Kind::Map { keys: nested("keys")?, values: nested("values")? },
            Some("record") => Kind::Record(Record::read(
                map.get("fields").unwrap_or(&Json::Null),
                map.get("entity_checks").unwrap_or(&Json::Null),
                vocabulary,
                depth + 1,
            )?),
            Some("any" | "json" | "foreign") => Kind::Any,
            Some(other) => return Err(format!("invalid type: {other}")),
            None => return Err("'type' is missing".to_owned()),
        };
        let flag = |name: &str| map.get(name).and_then(Json::as_bool);
        let mut rules = rules(map, vocabulary)?;
        if matches!(kind, Kind::String) && !map.contains_key("len_min") {
            // Kong refuses empty strings unless the schema allows them.
            let after = rules.iter().take_while(|rule| precedes_length(rule)).count();
            rules.insert(after, Rule::LenMin(1));
        }
        Ok(Self {
            kind,
            required: flag("required"),
            default: map.get("default").cloned(),
            referenceable: flag("referenceable") == Some(true),
            auto: flag("auto") == Some(true),
            rules,
            err: map.get("err").and_then(Json::as_str).map(str::to_owned),
            source: description.clone(),
        })
    }

    /// The field with some attributes replaced, as the `*_match` arguments of checks across fields do it.
    pub(super) fn overridden(&self, by: &Json, vocabulary: Vocabulary) -> Result<Self, String> {
        let mut merged = match &self.source {
            Json::Object(map) => map.clone(),
            _ => Map::new(),
        };
        if let Json::Object(by) = by {
            // What belongs to another rule of the same field must not hide behind the replaced one.
            for (name, value) in by {
                merged.insert(name.clone(), value.clone());
            }
        }
        Self::read(&Json::Object(merged), vocabulary, 0)
    }
}

fn precedes_length(rule: &Rule) -> bool {
    matches!(
        rule,
        Rule::Eq(_)
            | Rule::Ne(_)
            | Rule::NotOneOf(_)
            | Rule::OneOf(_)
            | Rule::Gt(_)
            | Rule::Timestamp
            | Rule::Uuid
            | Rule::IsRegex
            | Rule::Between(..)
            | Rule::LenEq(_)
    )
}

/// The constraints in the order in which Kong runs them.
fn rules(map: &Map<String, Json>, vocabulary: Vocabulary) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    let given = |name: &str| map.get(name);
    let present = |name: &str| map.get(name).filter(|value| !value.is_null());
    let list = |name: &str, value: &Json| value.as_array().cloned().ok_or_else(|| format!("'{name}' must be an array"));
    let size = |name: &str, value: &Json| {
        value.as_f64().filter(|n| *n >= 0.0).map(|n| n as usize).ok_or_else(|| format!("'{name}' must be a number"))
    };
    let flag = |name: &str| map.get(name).and_then(Json::as_bool) == Some(true);
    let pattern = |name: &str, value: &Json| {
        let source = value.as_str().ok_or_else(|| format!("'{name}' must be a string"))?;
        Pattern::new(source).map_err(|problem| format!("'{name}': {problem}"))
    };
    let patterns = |name: &str, value: &Json| -> Result<Vec<(Pattern, Option<String>)>, String> {
        list(name, value)?
            .iter()
            .map(|entry| {
                let source = entry.get("pattern").unwrap_or(entry);
                Ok((pattern(name, source)?, entry.get("err").and_then(Json::as_str).map(str::to_owned)))
            })
            .collect()
    };

    if let Some(value) = given("eq") {
        rules.push(Rule::Eq(value.clone()));
    }
    if let Some(value) = given("ne") {
        rules.push(Rule::Ne(value.clone()));
    }
    if let Some(value) = present("not_one_of") {
        rules.push(Rule::NotOneOf(list("not_one_of", value)?));
    }
    if let Some(value) = present("one_of") {
        rules.push(Rule::OneOf(list("one_of", value)?));
    }
    if let Some(value) = present("gt") {
        rules.push(Rule::Gt(value.as_f64().ok_or("'gt' must be a number")?));
    }
    if flag("timestamp") {
        rules.push(Rule::Timestamp);
    }
    if flag("uuid") {
        rules.push(Rule::Uuid);
    }
    if flag("is_regex") {
        rules.push(Rule::IsRegex);
    }
    if let Some(value) = present("between") {
        let limits: Vec<f64> = value.as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
        let [low, high] = limits[..] else { return Err("'between' must be an array of two numbers".to_owned()) };
        rules.push(Rule::Between(low, high));
    }
    if let Some(value) = present("len_eq") {
        rules.push(Rule::LenEq(size("len_eq", value)?));
    }
    if let Some(value) = present("len_min") {
        rules.push(Rule::LenMin(size("len_min", value)?));
    }
    if let Some(value) = present("len_max") {
        rules.push(Rule::LenMax(size("len_max", value)?));
    }
    if let Some(value) = present("starts_with") {
        rules.push(Rule::StartsWith(value.as_str().ok_or("'starts_with' must be a string")?.to_owned()));
    }
    if let Some(value) = present("not_match") {
        rules.push(Rule::NotMatch(pattern("not_match", value)?));
    }
    if let Some(value) = present("match_none") {
        rules.push(Rule::MatchNone(patterns("match_none", value)?));
    }
    if let Some(value) = present("match") {
        rules.push(Rule::Match(pattern("match", value)?));
    }
    if let Some(value) = present("match_all") {
        rules.push(Rule::MatchAll(patterns("match_all", value)?));
    }
    if let Some(value) = present("match_any") {
        let sources = list("match_any", value.get("patterns").unwrap_or(value))?;
        let compiled = sources.iter().map(|source| pattern("match_any", source)).collect::<Result<_, _>>()?;
        rules.push(Rule::MatchAny(compiled, value.get("err").and_then(Json::as_str).map(str::to_owned)));
    }
    if let Some(value) = present("contains") {
        rules.push(Rule::Contains(value.clone()));
    }
    if let Some(validator) =
        present("custom_validator").and_then(Json::as_str).and_then(|name| vocabulary.validator(name))
    {
        rules.push(Rule::Custom(validator));
    }
    if let Some(value) = present("mutually_exclusive_subsets") {
        let sets = list("mutually_exclusive_subsets", value)?;
        let sets = sets.iter().map(|set| list("mutually_exclusive_subsets", set)).collect::<Result<_, _>>()?;
        rules.push(Rule::ExclusiveSubsets(sets));
    }
    Ok(rules)
}

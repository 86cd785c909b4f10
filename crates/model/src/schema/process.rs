//! Filling in defaults and checking values.

use std::collections::HashSet;

use serde_json::{Map, Number, Value as Json};

use super::{ErrorTree, Field, FieldError, Kind, Record, Rule, is_reference};

const REQUIRED: &str = "required field missing";
const UNKNOWN: &str = "unknown field";

impl Record {
    /// Checks `config`, fills in defaults, sets absent fields to null. The fields of the result are in the schema's
    /// order. Processing a result again changes nothing.
    ///
    /// # Errors
    /// Every field that is wrong, not only the first.
    pub fn process(&self, config: Map<String, Json>) -> Result<Map<String, Json>, Vec<FieldError>> {
        self.process_tree(config).map_err(|tree| tree.flatten())
    }

    /// As [`Self::process`]; the errors keep the shape of the value.
    ///
    /// # Errors
    /// Every field that is wrong, not only the first.
    pub fn process_tree(&self, mut config: Map<String, Json>) -> Result<Map<String, Json>, ErrorTree> {
        let mut errors = ErrorTree::default();
        self.expand_shorthands(&mut config, &mut errors);
        let mut out = Map::new();
        for (name, field) in &self.fields {
            let value = field.filled(config.shift_remove(name));
            match value {
                Some(value) => match field.process(value) {
                    Ok(value) => {
                        out.insert(name.clone(), value);
                    }
                    Err((value, problem)) => {
                        errors.set_field(name, problem);
                        out.insert(name.clone(), value);
                    }
                },
                None if field.auto => {}
                None => errors.set_field(name, REQUIRED.into()),
            }
        }
        for name in config.keys() {
            if !errors.has_field(name) {
                errors.set_field(name, UNKNOWN.into());
            }
        }
        for check in &self.checks {
            check.run(self, &out, &mut errors);
        }
        if errors.is_empty() { Ok(out) } else { Err(errors) }
    }

    fn expand_shorthands(&self, config: &mut Map<String, Json>, errors: &mut ErrorTree) {
        for shorthand in &self.shorthands {
            let Some(value) = config.get(shorthand.field) else { continue };
            match (shorthand.expand)(value) {
                Ok(fields) => {
                    config.shift_remove(shorthand.field);
                    config.extend(fields);
                }
                Err(problem) => {
                    if self.field(shorthand.field).is_none() {
                        config.shift_remove(shorthand.field);
                    }
                    errors.set_field(shorthand.field, problem.into());
                }
            }
        }
    }
}

impl ErrorTree {
    fn set_field(&mut self, name: &str, error: Self) {
        *self.field_mut(name) = error;
    }
}

impl Field {
    /// The value, or what stands for an absent one; `None` if something is required and has no default.
    fn filled(&self, value: Option<Json>) -> Option<Json> {
        if let Some(value) = value {
            return Some(value);
        }
        if let Some(default) = &self.default {
            return Some(default.clone());
        }
        if !self.is_required() {
            return (!self.auto).then_some(Json::Null);
        }
        matches!(self.kind, Kind::Record(_)).then(|| Json::Object(Map::new()))
    }

    /// Checks a value that is there, without changing it.
    pub(super) fn validate(&self, value: &Json) -> Result<(), ErrorTree> {
        self.process(value.clone()).map(drop).map_err(|(_, problem)| problem)
    }

    /// Checks a value that is there and fills in what is missing inside it. With an error comes the value as far as
    /// it could be processed, for the checks across fields.
    fn process(&self, value: Json) -> Result<Json, (Json, ErrorTree)> {
        if value.is_null() {
            return self.null().map(|()| Json::Null).map_err(|problem| (Json::Null, problem));
        }
        if self.rules.iter().any(|rule| matches!(rule, Rule::Eq(Json::Null))) {
            let text = self.err.clone().unwrap_or_else(|| "value must be null".to_owned());
            return Err((value, text.into()));
        }
        let value = self.typed(value)?;
        if self.referenceable && value.as_str().is_some_and(is_reference) {
            return Ok(value);
        }
        for rule in &self.rules {
            if let Err(problem) = rule.check(&value) {
                let problem = self.err.clone().unwrap_or(problem);
                return Err((value, problem.into()));
            }
        }
        Ok(value)
    }

    fn null(&self) -> Result<(), ErrorTree> {
        for rule in &self.rules {
            match rule {
                Rule::Ne(Json::Null) => {
                    return Err(self.err.clone().unwrap_or_else(|| "value must not be null".to_owned()).into());
                }
                Rule::Eq(wanted) if !wanted.is_null() => {
                    let wanted = wanted.as_str().map_or_else(|| wanted.to_string(), str::to_owned);
                    return Err(format!("value must be {wanted}").into());
                }
                _ => {}
            }
        }
        if self.is_required() { Err(REQUIRED.into()) } else { Ok(()) }
    }

    /// The value with its type checked; what it holds is processed too.
    fn typed(&self, value: Json) -> Result<Json, (Json, ErrorTree)> {
        let refuse = |value: Json, text: &str| Err((value, ErrorTree::from(text)));
        match (&self.kind, value) {
            (Kind::Any, value) | (Kind::String, value @ Json::String(_)) | (Kind::Boolean, value @ Json::Bool(_)) => {
                Ok(value)
            }
            (Kind::Number, Json::Number(number)) => Ok(Json::Number(integral(&number).unwrap_or(number))),
            (Kind::Integer, Json::Number(number)) => match integral(&number) {
                Some(integer) => Ok(Json::Number(integer)),
                None => refuse(Json::Number(number), "expected an integer"),
            },
            (Kind::String, value) => refuse(value, "expected a string"),
            (Kind::Number, value) => refuse(value, "expected a number"),
            (Kind::Integer, value) => refuse(value, "expected an integer"),
            (Kind::Boolean, value) => refuse(value, "expected a boolean"),
            (Kind::Array(elements), value) => match sequence(value) {
                Ok(list) => items(elements, list),
                Err(value) => refuse(value, "expected an array"),
            },
            (Kind::Set(elements), value) => match sequence(value) {
                Ok(list) => items(elements, without_duplicates(list)),
                Err(value) => refuse(value, "expected a set"),
            },
            (Kind::Map { keys, values }, value) => match table(value) {
                Ok(map) => entries(keys, values, map),
                Err(value) => refuse(value, "expected a map"),
            },
            (Kind::Record(record), value) => match table(value) {
                Ok(map) => match record.process_tree(map.clone()) {
                    Ok(map) => Ok(Json::Object(map)),
                    Err(problem) => Err((Json::Object(map), problem)),
                },
                Err(value) => refuse(value, "expected a record"),
            },
        }
    }
}

/// A number without a fraction as an integer; Lua knows no difference.
fn integral(number: &Number) -> Option<Number> {
    /// Above this, a double does not hold every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.is_i64() || number.is_u64() {
        return Some(number.clone());
    }
    let float = number.as_f64()?;
    (float.fract() == 0.0 && float.abs() <= EXACT).then(|| Number::from(float as i64))
}

/// Lua has one empty table: an empty object is an empty list too.
fn sequence(value: Json) -> Result<Vec<Json>, Json> {
    match value {
        Json::Array(list) => Ok(list),
        Json::Object(map) if map.is_empty() => Ok(Vec::new()),
        other => Err(other),
    }
}

/// A list is a table too, with its positions as keys.
fn table(value: Json) -> Result<Map<String, Json>, Json> {
    match value {
        Json::Object(map) => Ok(map),
        Json::Array(list) => Ok(list.into_iter().enumerate().map(|(at, v)| ((at + 1).to_string(), v)).collect()),
        other => Err(other),
    }
}

fn without_duplicates(list: Vec<Json>) -> Vec<Json> {
    let mut seen = HashSet::with_capacity(list.len());
    list.into_iter()
        // Lua tables are equal only to themselves.
        .filter(|value| value.is_object() || value.is_array() || seen.insert(value.to_string()))
        .collect()
}

fn items(elements: &Field, list: Vec<Json>) -> Result<Json, (Json, ErrorTree)> {
    let mut errors = ErrorTree::Items(std::collections::BTreeMap::new());
    let mut out = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        if value.is_null() {
            *errors.item_mut(at) = REQUIRED.into();
            out.push(value);
            continue;
        }
        match elements.process(value) {
            Ok(value) => out.push(value),
            Err((value, problem)) => {
                *errors.item_mut(at) = problem;
                out.push(value);
            }
        }
    }
    if errors.is_empty() { Ok(Json::Array(out)) } else { Err((Json::Array(out), errors)) }
}

fn entries(keys: &Field, values: &Field, map: Map<String, Json>) -> Result<Json, (Json, ErrorTree)> {
    let mut out = Map::new();
    let mut first_problem = None;
    for (key, value) in map {
        let checked_key = match &keys.kind {
            // JSON has only text as keys; a schema may want numbers.
            Kind::Integer | Kind::Number => {
                key.parse::<f64>().map_or_else(|_| Json::String(key.clone()), |n| Number::from_f64(n).into())
            }
            _ => Json::String(key.clone()),
        };
        if let Err(problem) = keys.validate(&checked_key) {
            first_problem.get_or_insert(problem);
        }
        if value.is_null() {
            first_problem.get_or_insert(REQUIRED.into());
            out.insert(key, value);
            continue;
        }
        match values.process(value) {
            Ok(value) => {
                out.insert(key, value);
            }
            Err((value, problem)) => {
                first_problem.get_or_insert(problem);
                out.insert(key, value);
            }
        }
    }
    match first_problem {
        None => Ok(Json::Object(out)),
        Some(problem) => Err((Json::Object(out), problem)),
    }
}

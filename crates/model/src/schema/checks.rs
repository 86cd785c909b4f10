//! Checks across the fields of a record (`entity_checks`), as far as JSON can carry them.

use serde_json::{Map, Value as Json};

use super::{ErrorTree, Field, Record, Vocabulary, is_reference, rules::quoted};

/// One check across fields. Names may be dotted.
#[derive(Clone, Debug, PartialEq)]
pub enum EntityCheck {
    AtLeastOneOf(Vec<String>),
    OnlyOneOf(Vec<String>),
    Distinct(Vec<String>),
    MutuallyRequired(Vec<String>),
    MutuallyExclusive(Vec<String>),
    ExclusiveSets(Vec<String>, Vec<String>),
    Conditional {
        if_field: String,
        if_match: Box<Field>,
        then_field: String,
        then_match: Box<Field>,
        then_err: Option<String>,
    },
    ConditionalAtLeastOneOf {
        if_field: String,
        if_match: Box<Field>,
        then: OneOfThese,
        otherwise: Option<(Box<Field>, OneOfThese)>,
    },
}

/// Fields of which one must be set, and the text to give (`%s` is their list) if none is.
#[derive(Clone, Debug, PartialEq)]
pub struct OneOfThese {
    fields: Vec<String>,
    err: Option<String>,
}

impl EntityCheck {
    pub(super) fn read_all(checks: &Json, record: &Record, vocabulary: Vocabulary) -> Result<Vec<Self>, String> {
        let mut out = Vec::new();
        for entry in checks.as_array().into_iter().flatten() {
            for (name, argument) in entry.as_object().into_iter().flatten() {
                let check = Self::read(name, argument, record, vocabulary)
                    .map_err(|problem| format!("entity check '{name}': {problem}"))?;
                out.extend(check);
            }
        }
        Ok(out)
    }

    /// `None` for a check of which JSON cannot carry the meaning (a Lua function).
    fn read(name: &str, argument: &Json, record: &Record, vocabulary: Vocabulary) -> Result<Option<Self>, String> {
        let names = |value: Option<&Json>| -> Vec<String> {
            value.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
        };
        let text = |key: &str| argument.get(key).and_then(Json::as_str).map(str::to_owned);
        let matcher = |field: &str, key: &str| -> Result<Box<Field>, String> {
            let base = record.field_at(field).ok_or_else(|| format!("there is no field '{field}'"))?;
            base.overridden(argument.get(key).unwrap_or(&Json::Null), vocabulary).map(Box::new)
        };
        Ok(Some(match name {
            "at_least_one_of" => Self::AtLeastOneOf(names(Some(argument))),
            "only_one_of" => Self::OnlyOneOf(names(Some(argument))),
            "distinct" => Self::Distinct(names(Some(argument))),
            "mutually_required" => Self::MutuallyRequired(names(Some(argument))),
            "mutually_exclusive" => Self::MutuallyExclusive(names(Some(argument))),
            "mutually_exclusive_sets" => Self::ExclusiveSets(names(argument.get("set1")), names(argument.get("set2"))),
            "conditional" => {
                let if_field = text("if_field").ok_or("'if_field' is missing")?;
                let then_field = text("then_field").ok_or("'then_field' is missing")?;
                Self::Conditional {
                    if_match: matcher(&if_field, "if_match")?,
                    then_match: matcher(&then_field, "then_match")?,
                    then_err: text("then_err"),
                    if_field,
                    then_field,
                }
            }
            "conditional_at_least_one_of" => {
                let if_field = text("if_field").ok_or("'if_field' is missing")?;
                let then = OneOfThese { fields: names(argument.get("then_at_least_one_of")), err: text("then_err") };
                let otherwise = if argument.get("else_match").is_some() {
                    let fields = names(argument.get("else_then_at_least_one_of"));
                    Some((matcher(&if_field, "else_match")?, OneOfThese { fields, err: text("else_then_err") }))
                } else {
                    None
                };
                Self::ConditionalAtLeastOneOf { if_match: matcher(&if_field, "if_match")?, if_field, then, otherwise }
            }
            _ => return Ok(None),
        }))
    }

    /// Runs the check over a record whose defaults are filled in.
    pub(super) fn run(&self, record: &Record, input: &Map<String, Json>, errors: &mut ErrorTree) {
        let set = |name: &String| nonempty(input, name);
        if self.fields().any(|name| {
            record.field_at(name).is_some_and(Field::is_referenceable)
                && value_at(input, name).and_then(Json::as_str).is_some_and(is_reference)
        }) {
            return;
        }
        let quote = |names: &[String]| quoted(names.iter().map(String::as_str));
        match self {
            Self::AtLeastOneOf(names) => {
                if !names.iter().any(set) {
                    errors.push_entity(format!("at least one of these fields must be non-empty: {}", quote(names)));
                }
            }
            Self::OnlyOneOf(names) => {
                if names.iter().filter(|name| set(name)).count() != 1 {
                    errors.push_entity(format!("exactly one of these fields must be non-empty: {}", quote(names)));
                }
            }
            Self::Distinct(names) => {
                let values: Vec<_> = names.iter().filter(|name| set(name)).filter_map(|n| value_at(input, n)).collect();
                if values.iter().enumerate().any(|(at, value)| values.iter().take(at).any(|other| other == value)) {
                    errors.push_entity(format!("values of these fields must be distinct: {}", quote(names)));
                }
            }
            Self::MutuallyRequired(names) => {
                let count = names.iter().filter(|name| set(name)).count();
                if count != 0 && count != names.len() {
                    errors.push_entity(format!("all or none of these fields must be set: {}", quote(names)));
                }
            }
            Self::MutuallyExclusive(names) => {
                if names.iter().filter(|name| set(name)).count() > 1 {
                    errors.push_entity(format!("only one or none of these fields must be set: {}", quote(names)));
                }
            }
            Self::ExclusiveSets(first, second) => {
                let given = |names: &[String]| names.iter().filter(|name| set(name)).cloned().collect::<Vec<_>>();
                let (first, second) = (given(first), given(second));
                if !first.is_empty() && !second.is_empty() {
                    errors.push_entity(format!(
                        "these sets are mutually exclusive: ({}), ({})",
                        quote(&first),
                        quote(&second)
                    ));
                }
            }
            Self::Conditional { if_field, if_match, then_field, then_match, then_err } => {
                let Some(if_value) = value_at(input, if_field) else { return };
                if if_match.validate(if_value).is_err() {
                    return;
                }
                let then_value = value_at(input, then_field).unwrap_or(&Json::Null);
                if let Err(problem) = then_match.validate(then_value) {
                    errors.set(then_field, problem);
                    errors.push_entity(then_err.as_ref().map_or_else(
                        || format!("failed conditional validation given value of field '{if_field}'"),
                        |text| text.replacen("%s", if_field, 1),
                    ));
                }
            }
            Self::ConditionalAtLeastOneOf { if_field, if_match, then, otherwise } => {
                let Some(if_value) = value_at(input, if_field) else { return };
                let these = if if_match.validate(if_value).is_ok() {
                    then
                } else if let Some((else_match, these)) = otherwise
                    && else_match.validate(if_value).is_ok()
                {
                    these
                } else {
                    return;
                };
                if !these.fields.iter().any(set) {
                    let list = quote(&these.fields);
                    errors.push_entity(these.err.as_ref().map_or_else(
                        || format!("at least one of these fields must be non-empty: {list}"),
                        |text| text.replacen("%s", &list, 1),
                    ));
                }
            }
        }
    }

    fn fields(&self) -> impl Iterator<Item = &String> {
        let lists: [&[String]; 2] = match self {
            Self::AtLeastOneOf(a)
            | Self::OnlyOneOf(a)
            | Self::Distinct(a)
            | Self::MutuallyRequired(a)
            | Self::MutuallyExclusive(a) => [a, &[]],
            Self::ExclusiveSets(a, b) => [a, b],
            Self::Conditional { if_field, then_field, .. } => {
                [std::slice::from_ref(if_field), std::slice::from_ref(then_field)]
            }
            Self::ConditionalAtLeastOneOf { if_field, then, .. } => [std::slice::from_ref(if_field), &then.fields],
        };
        lists.into_iter().flatten()
    }
}

fn value_at<'a>(input: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    match name.split_once('.') {
        None => input.get(name),
        Some((head, rest)) => value_at(input.get(head)?.as_object()?, rest),
    }
}

fn nonempty(input: &Map<String, Json>, name: &str) -> bool {
    match value_at(input, name) {
        None | Some(Json::Null) => false,
        Some(Json::String(text)) => !text.is_empty(),
        Some(Json::Array(list)) => !list.is_empty(),
        Some(Json::Object(map)) => !map.is_empty(),
        Some(_) => true,
    }
}

//! The names of properties: known, meaningless here, or unknown; and the types of their values.

use crate::settings::IgnoredProperty;

use super::{
    directives::{self, Fate},
    properties::{self, Kind, Property, Treatment},
    raw::Origin,
    reader::Reader,
};

/// Checks names and types; what is known and means nothing is listed, what is not known in the file is warned of.
pub(super) fn check(reader: &mut Reader<'_>) -> Vec<IgnoredProperty> {
    let mut ignored = Vec::new();
    for (name, entry) in reader.raw().iter() {
        if let Some(property) = properties::find(name) {
            if let Err(message) = check_type(property, &entry.value) {
                reader.problem(name, message);
            }
            if let Treatment::Ignored { important, why } = property.treatment {
                // Turning off what is not there is no loss.
                let default =
                    property.default == entry.value || (entry.value == "off" && !property.name.starts_with("ssl_"));
                ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: shown(name, &entry.value),
                    important: important && !default,
                    why: why.to_owned(),
                });
            }
        } else if let Some(fate) = directives::fate(name) {
            match fate {
                Fate::Used => {}
                Fate::Refused => reader.problem(
                    name,
                    format!(
                        "{name}: nginx configuration files are not supported; use the properties that say the same"
                    ),
                ),
                Fate::Ignored { important } => ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: entry.value.clone(),
                    important: important && entry.value != "NONE",
                    why: "this nginx directive has no counterpart here".to_owned(),
                }),
            }
        } else if name.starts_with("vault_") {
            if name != "vault_env_prefix" {
                ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: shown("pg_password", &entry.value),
                    important: true,
                    why: "only the env vault exists".to_owned(),
                });
            }
        } else if !name.starts_with("pluginserver_") && matches!(entry.origin, Origin::Line(_)) {
            let hint = nearest(name).map(|known| format!(", did you mean '{known}'?")).unwrap_or_default();
            let place = reader.place(&entry.origin);
            reader.warn(format!("{place}: unknown property '{name}'{hint}"));
        }
    }
    ignored.sort_by_key(|property| !property.important);
    ignored
}

fn shown(name: &str, value: &str) -> String {
    if properties::SENSITIVE.contains(&name) { "******".to_owned() } else { value.to_owned() }
}

fn check_type(property: &Property, value: &str) -> Result<(), String> {
    let Property { name, kind, .. } = property;
    match kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Number => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err(format!("{name} is not a number: '{value}'")),
        },
        Kind::Boolean => match value {
            "on" | "off" | "true" | "false" => Ok(()),
            _ => Err(format!("{name} is not a boolean: '{value}' (on, off)")),
        },
        Kind::OneOf(values) => {
            if values.contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} has an invalid value: '{value}' ({})", values.join(", ")))
            }
        }
    }
}

/// The known name that is fewest edits away, if that is few enough to be a slip.
fn nearest(name: &str) -> Option<&'static str> {
    let others = directives::OTHERS.into_iter();
    closest(name, properties::PROPERTIES.iter().map(|property| property.name).chain(others))
}

/// The one of `known` that is fewest edits away, if that is few enough to be a slip.
pub(super) fn closest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let (distance, known) = known.map(|known| (strsim::damerau_levenshtein(name, known), known)).min()?;
    (distance <= 2.max(name.len() / 3)).then_some(known)
}

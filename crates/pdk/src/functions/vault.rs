//! `kong.vault`: secrets by reference, from the environment.

use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    json, lua, query,
};

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.vault.is_reference",
        run: is_reference,
        phases: PhaseRule::Any,
        args: "reference: string",
        result: "boolean",
        about: "Whether a text has the form of a reference, `{vault://env/name}`.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.parse_reference",
        run: parse_reference,
        phases: PhaseRule::Any,
        args: "reference: string",
        result: "table, or nil and an error",
        about: "Takes a reference apart: `name`, `resource`, `key`, `config`, `version`.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.get",
        run: secret,
        phases: PhaseRule::Any,
        args: "reference: string",
        result: "string, or nil and an error",
        about: "The secret that a reference stands for.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.update",
        run: update,
        phases: PhaseRule::Any,
        args: "options: table",
        result: "table",
        about: "Fills in the secrets that the references in `$refs` stand for.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.flush",
        run: flush,
        phases: PhaseRule::Any,
        args: "",
        result: "nothing",
        about: "Forgets cached secrets; none are cached.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.warmup",
        run: flush,
        phases: PhaseRule::Any,
        args: "input: table",
        result: "nothing",
        about: "Fetches secrets beforehand; none are cached.",
        since: "0.1",
    },
    Function {
        name: "kong.vault.init_worker",
        run: flush,
        phases: PhaseRule::Any,
        args: "",
        result: "nothing",
        about: "Has no effect: there is nothing to prepare.",
        since: "0.1",
    },
];

/// A reference taken apart.
#[derive(Debug, PartialEq)]
struct Reference {
    /// The vault: `env`, or the prefix of an entity.
    name: String,
    resource: String,
    /// A field of the JSON object that the secret is.
    key: Option<String>,
    config: Value,
    version: Option<f64>,
}

fn has_form(text: &[u8]) -> bool {
    text.starts_with(b"{vault://") && text.ends_with(b"}")
}

fn is_reference(_: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    Outcome::value(argument(args, 0).as_bytes().is_some_and(|text| has_form(text)))
}

fn parse(given: &Value) -> Result<Reference, String> {
    let shown = || String::from_utf8_lossy(&lua::to_text(given)).into_owned();
    let text =
        given.as_bytes().filter(|text| has_form(text)).ok_or_else(|| format!("not a reference [{}]", shown()))?;
    let text = String::from_utf8_lossy(text);
    let url = text.trim_start_matches("{vault://").trim_end_matches('}');
    let (url, version) = match url.split_once('#') {
        Some((url, version)) => {
            let number = lua::parse_number(version.as_bytes());
            (url, Some(number.ok_or_else(|| format!("reference url has invalid version [{text}]"))?))
        }
        None => (url, None),
    };
    let (url, arguments) = url.split_once('?').map_or((url, None), |(url, arguments)| (url, Some(arguments)));
    let (name, path) = url.split_once('/').ok_or_else(|| format!("reference url is missing path [{text}]"))?;
    if name.is_empty() {
        return Err(format!("reference url is missing host [{text}]"));
    }
    if path.is_empty() {
        return Err(format!("reference url has empty path [{text}]"));
    }
    let is_directory = path.ends_with('/');
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (resource, key) = match parts.as_slice() {
        [] => return Err(format!("reference url has invalid path [{text}]")),
        [whole @ .., last] if !whole.is_empty() && !is_directory => (whole.join("/"), Some(unescape(last))),
        all => (all.join("/"), None),
    };
    let config = arguments.filter(|arguments| !arguments.is_empty());
    Ok(Reference {
        name: name.to_owned(),
        resource: unescape(&resource),
        key,
        config: config.map_or(Value::Nil, |arguments| query::decode(arguments.as_bytes(), 100)),
        version,
    })
}

fn unescape(text: &str) -> String {
    String::from_utf8_lossy(&query::unescape(text.as_bytes())).into_owned()
}

fn parse_reference(_: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    match parse(argument(args, 0)) {
        Err(error) => Outcome::failed(error),
        Ok(reference) => {
            let fields = [
                ("name", Value::text(reference.name)),
                ("resource", Value::text(reference.resource)),
                ("key", reference.key.into()),
                ("config", reference.config),
                ("version", reference.version.map_or(Value::Nil, lua::from_number)),
            ];
            let present = fields.into_iter().filter(|(_, value)| !value.is_nil());
            Outcome::value(Value::Map(present.map(|(name, value)| (name.to_owned(), value)).collect()))
        }
    }
}

/// The secret that a reference stands for.
///
/// # Errors
/// Why there is none; the text holds the reference, never a secret.
pub(crate) fn resolve(
    reference: &Value,
    env: impl Fn(&str) -> Option<String>,
    vault_prefix: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let parsed = parse(reference)?;
    let shown = String::from_utf8_lossy(&lua::to_text(reference)).into_owned();
    let configured = match parsed.name.as_str() {
        "env" => None,
        name => Some(vault_prefix(name).ok_or_else(|| format!("vault not found ({name}) [{shown}]"))?),
    };
    let given = match &parsed.config {
        Value::Map(fields) => fields.iter().find(|(name, _)| name == "prefix").and_then(|(_, value)| value.as_str()),
        _ => None,
    };
    let prefix = given.map(str::to_owned).or(configured).unwrap_or_default();
    let mut variable = format!("{prefix}{}", parsed.resource).replace('-', "_").to_ascii_uppercase();
    if parsed.version == Some(2.0) {
        variable.push_str("_PREVIOUS");
    }
    let value = env(&variable).ok_or_else(|| format!("unable to load value ({variable}) from vault [{shown}]"))?;
    let Some(key) = parsed.key else { return Ok(value) };
    match json::decode(value.as_bytes()) {
        Some(Value::Map(fields)) => match fields.into_iter().find(|(name, _)| *name == key).map(|(_, field)| field) {
            Some(Value::Text(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
            None | Some(Value::Nil) => {
                Err(format!("could not get subfield value: subfield {key} not found in JSON secret [{shown}]"))
            }
            Some(other) => Err(format!(
                "could not get subfield value: unexpected {} value in JSON secret for subfield {key} [{shown}]",
                lua::type_name(&other)
            )),
        },
        _ => Err(format!("could not get subfield value: unable to json decode value [{shown}]")),
    }
}

fn resolve_for(exchange: &Exchange, reference: &Value) -> Result<String, String> {
    resolve(
        reference,
        |name| exchange.node.surroundings.env(name),
        |vault| exchange.directory.env_vault_prefix(vault).map(str::to_owned),
    )
}

fn secret(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    match resolve_for(exchange, argument(args, 0)) {
        Ok(secret) => Outcome::value(secret),
        Err(error) => Outcome::failed(error),
    }
}

fn update(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let Value::Map(fields) = argument(args, 0) else { return Outcome::value(argument(args, 0).clone()) };
    let mut fields = fields.clone();
    let references = fields.iter().find(|(name, _)| name == "$refs").map(|(_, references)| references.clone());
    if let Some(Value::Map(references)) = references {
        for (name, reference) in references.into_iter().filter(|(_, reference)| reference.as_bytes().is_some()) {
            let secret = resolve_for(exchange, &reference).unwrap_or_default();
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, value)) => *value = Value::text(secret),
                None => fields.push((name, Value::text(secret))),
            }
        }
    }
    Outcome::value(Value::Map(fields))
}

fn flush(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::nothing()
}

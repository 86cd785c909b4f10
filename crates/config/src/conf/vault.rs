//! References to secrets (`{vault://env/name/key}`) in the values of properties.
//!
//! Kong's rules (`kong/pdk/vault.lua`, `kong/vaults/env`): the name in upper case with `-` as `_`, behind the prefix, is
//! an environment variable; a second part of the path is a field of the JSON object that the variable holds.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use silverback_model::schema::is_reference;

/// The value that a reference stands for; `None` if `text` is no reference.
///
/// # Errors
/// Why it cannot be resolved.
pub fn dereference(
    text: &str,
    env_prefix: Option<&str>,
    env: &BTreeMap<String, String>,
) -> Option<Result<String, String>> {
    if !is_reference(text) {
        return None;
    }
    let inner = text.trim_start_matches("{vault://").trim_end_matches('}');
    Some(resolve(inner, env_prefix, env))
}

fn resolve(inner: &str, env_prefix: Option<&str>, env: &BTreeMap<String, String>) -> Result<String, String> {
    let inner = inner.split('#').next().unwrap_or(inner);
    let (inner, query) = inner.split_once('?').unwrap_or((inner, ""));
    let (vault, path) = inner.split_once('/').ok_or("the reference has no path")?;
    if vault != "env" {
        return Err(format!("there is no vault named '{vault}' here, only 'env'"));
    }
    let prefix = query.split('&').find_map(|argument| argument.strip_prefix("prefix=")).or(env_prefix).unwrap_or("");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (resource, key) = match parts[..] {
        [] => return Err("the reference has an empty path".to_owned()),
        [only] => (only.to_owned(), None),
        [ref front @ .., last] if !path.ends_with('/') => (front.join("/"), Some(last)),
        ref all => (all.join("/"), None),
    };
    let variable = format!("{prefix}{resource}").replace('-', "_").to_ascii_uppercase();
    let value = env.get(&variable).ok_or_else(|| format!("the environment variable {variable} is not set"))?;
    let Some(key) = key else { return Ok(value.clone()) };
    match serde_json::from_str::<Json>(value) {
        Ok(Json::Object(map)) => match map.get(key) {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("the field '{key}' of {variable} is not a string")),
            None => Err(format!("{variable} has no field '{key}'")),
        },
        _ => Err(format!("{variable} does not hold a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let env: BTreeMap<_, _> = [("MY_SECRET", "s"), ("P_X", "px"), ("J", r#"{"a": "1", "b": 2}"#)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (text, prefix, expect) in [
            ("plain", None, None),
            ("{vault://env/my-secret}", None, Some(Some("s"))),
            ("{vault://env/x}", Some("p_"), Some(Some("px"))),
            ("{vault://env/x?prefix=P_}", None, Some(Some("px"))),
            ("{vault://env/j/a}", None, Some(Some("1"))),
            ("{vault://env/j/b}", None, Some(None)),
            ("{vault://env/none}", None, Some(None)),
            ("{vault://hcv/none}", None, Some(None)),
            ("{vault://env/}", None, Some(None)),
            ("{vault://env}", None, Some(None)),
        ] {
            let found = dereference(text, prefix, &env).map(Result::ok);
            assert_eq!(found, expect.map(|value| value.map(str::to_owned)), "{text}");
        }
    }
}

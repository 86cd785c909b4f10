//! References to secrets in configuration values (`{vault://env/name}`), resolved before a plugin instance starts.

use silverback_protocol::Value;

use crate::functions;

/// Whether a text has the form of a reference.
pub fn is_reference(text: &str) -> bool {
    text.starts_with("{vault://") && text.ends_with('}')
}

/// The secret that a reference stands for: `env` reads the environment, `vault_prefix` gives the `prefix` setting of
/// the environment vault entity of a name.
///
/// # Errors
/// Why there is none; the text holds the reference, never a secret.
pub fn resolve_reference(
    reference: &str,
    env: impl Fn(&str) -> Option<String>,
    vault_prefix: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    functions::resolve_reference(&Value::text(reference), env, vault_prefix)
}

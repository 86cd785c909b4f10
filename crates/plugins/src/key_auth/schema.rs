//! What the configuration of `key-auth` may hold.

use serde_json::{Value as Json, json};
use silverback_model::{
    Phase, PhaseSet, PluginDefinition, PluginSource,
    schema::{Field, Record, Validator, Vocabulary},
};

const VOCABULARY: Vocabulary =
    Vocabulary { validators: &[Validator { name: "header_name", check: check_header_name }] };

fn check_header_name(value: &Json) -> Result<(), String> {
    let name = value.as_str().unwrap_or_default();
    if name.is_empty() {
        return Err("no header name provided".to_owned());
    }
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        Ok(())
    } else {
        Err(format!("bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"))
    }
}

/// The plugin as the catalogue knows it.
pub(crate) fn definition() -> PluginDefinition {
    PluginDefinition {
        name: super::NAME.to_owned(),
        version: "3.9.3".to_owned(),
        priority: 1250,
        phases: PhaseSet::of(&[Phase::Access]),
        schema: record(),
        source: PluginSource::Bundled,
    }
}

fn record() -> Record {
    let flag = |default: bool| json!({"type": "boolean", "required": true, "default": default});
    let fields = [
        (
            "key_names",
            json!({
                "type": "array",
                "required": true,
                "default": ["apikey"],
                "elements": {"type": "string", "custom_validator": "header_name"},
            }),
        ),
        ("hide_credentials", flag(false)),
        ("anonymous", json!({"type": "string"})),
        ("key_in_header", flag(true)),
        ("key_in_query", flag(true)),
        ("key_in_body", flag(false)),
        ("run_on_preflight", flag(true)),
        ("realm", json!({"type": "string", "required": false})),
    ];
    fields.into_iter().fold(Record::default(), |record, (name, description)| {
        // A description that made no sense would be left out, which the tests would show.
        match Field::from_json(&description, VOCABULARY) {
            Ok(field) => record.with_field(name, field),
            Err(_) => record,
        }
    })
}

//! The text of a `kong.conf`: reading it never panics, and what `.kong_env` says of it reads back.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use silverback_config::{kong_env, load_text};

fuzz_target!(|text: &str| {
    // Names would be looked up, and files opened, outside of the process.
    if ["_listen", "ssl_cert", "error_template", "declarative_config", "prefix"].iter().any(|part| text.contains(part)) {
        return;
    }
    let none = BTreeMap::new();
    if let Ok(first) = load_text(None, text, &none) {
        let second = load_text(None, &kong_env(&first.settings), &none).expect("what was written is valid");
        assert_eq!(first.settings.plugins, second.settings.plugins);
        assert_eq!(first.settings.plugin_servers, second.settings.plugin_servers);
        assert_eq!(first.settings.log_level, second.settings.log_level);
    }
});

//! The text of a declarative configuration, YAML or JSON: reading it never panics, and gives the same ids every time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silverback_config::{parse_declarative, settings::EnabledPlugins};
use silverback_model::Catalogue;

fuzz_target!(|text: &str| {
    let enabled = EnabledPlugins { bundled: true, named: Vec::new() };
    let catalogue = Catalogue::default();
    match parse_declarative(text, None, &catalogue, &enabled, 1) {
        Ok(first) => {
            let second = parse_declarative(text, None, &catalogue, &enabled, 1).expect("it was valid before");
            assert_eq!(first.hash, second.hash);
            assert_eq!(first.services, second.services);
            assert_eq!(first.routes, second.routes);
        }
        Err(problem) => {
            let _ = (problem.to_string(), problem.fields(), problem.kong_message());
        }
    }
});

//! The output of a query command.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silverback_protocol::dump::Dump;

fuzz_target!(|data: &[u8]| {
    if let Ok(dump) = Dump::parse(data) {
        assert!(!dump.plugins.is_empty() || dump.failed > 0);
    }
});

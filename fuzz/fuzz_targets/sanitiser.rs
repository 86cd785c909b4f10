//! Any bytes a client may send, in pieces of any size: nothing panics, what is read does not depend on the pieces, and is
//! never more than came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silverback_proxy::sanitiser::{Limits, Seen, follow};

const LIMITS: Limits = Limits { line: 512, head: 2048, lines: 32, underscores: true };

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let seen = follow(LIMITS, data.chunks(usize::from(size).max(1)));
    let passed: usize = seen.iter().map(|seen| if let Seen::Data(data) = seen { data.len() } else { 0 }).sum();
    assert!(passed <= data.len());
    assert_eq!(seen, follow(LIMITS, [data]));
});

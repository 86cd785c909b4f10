//! Any bytes at the start of a connection: nothing panics, a header is never longer than what came, and more bytes
//! behind a whole header do not change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silverback_proxy::proxy_protocol::parse;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(header)) = parse(data) {
        assert!(header.length <= data.len());
        assert_eq!(parse(&data[..header.length]), Ok(Some(header)));
        for end in 0..header.length {
            assert_eq!(parse(&data[..end]), Ok(None));
        }
    }
});

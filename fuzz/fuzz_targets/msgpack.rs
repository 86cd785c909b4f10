//! What a MessagePack server sends: the scanner finds its end, whatever pieces it comes in; decoding does not panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silverback_protocol::msgpack::{Next, Scanner, ServerMessage, decode};

fuzz_target!(|data: &[u8]| {
    let whole = Scanner::new(1 << 20).scan(data);
    let mut piecewise = Scanner::new(1 << 20);
    let mut found = Ok(None);
    for end in 0..=data.len() {
        found = piecewise.scan(&data[..end]);
        if found != Ok(None) {
            break;
        }
    }
    assert_eq!(whole.is_ok(), found.is_ok());
    let bytes = data.to_vec().into();
    let _ = ServerMessage::decode(&bytes);
    let _ = Next::decode(&bytes);
    if decode(&bytes).is_ok() {
        assert!(!matches!(whole, Ok(None)), "what can be decoded is complete");
    }
});

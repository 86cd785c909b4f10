//! Any bytes an upstream may send, in pieces of any size: nothing panics, and no more is made of them than came.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use silverback_proxy::http1::{answer_head::Heads, decoder::Decoder};

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let mut heads = Heads::new(2048, size & 1 == 1);
    let mut body: Option<Decoder> = None;
    let mut buffer = BytesMut::new();
    let mut passed = 0;
    for piece in data.chunks(usize::from(size).max(1)) {
        buffer.extend_from_slice(piece);
        if body.is_none() {
            match heads.take(&mut buffer) {
                Ok(head) => body = head.map(|head| Decoder::new(head.framing)),
                Err(_) => return,
            }
        }
        let Some(body) = &mut body else { continue };
        loop {
            match body.decode(&mut buffer) {
                Ok(Some(frame)) => passed += frame.data_ref().map_or(0, bytes::Bytes::len),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(passed <= data.len());
    }
});

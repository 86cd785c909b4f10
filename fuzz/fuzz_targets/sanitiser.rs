//! Any bytes a client may send, in pieces of any size: nothing panics, and what is handed on is never more than came.
#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use silverback_proxy::sanitiser::{Limits, Sanitised};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMITS: Limits = Limits {
    line: 512,
    head: 2048,
    lines: 32,
    underscores: true,
    head_timeout: Duration::ZERO,
    idle_timeout: Duration::ZERO,
    body_timeout: Duration::ZERO,
};

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut wire = Sanitised::new(server, LIMITS, BytesMut::new());
        let mut passed = 0;
        for piece in data.chunks(usize::from(size).max(1)) {
            if client.write_all(piece).await.is_err() {
                break;
            }
            let mut bytes = [0; 4096];
            while let Ok(Ok(n)) = tokio::time::timeout(Duration::ZERO, wire.read(&mut bytes)).await {
                passed += n;
                if n == 0 {
                    break;
                }
            }
        }
        assert!(passed <= data.len());
    });
});

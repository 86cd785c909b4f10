//! An end that lets the client read the last answer (nginx's `lingering_close`).

use std::{io, time::Duration};

/// nginx's `lingering_timeout`: how long a client that is to leave may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// nginx's `lingering_time`: how long it may go on sending.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads on for a while after the gateway's last word, so that what the client still sends does not make the kernel
/// throw away what it has not read.
pub(crate) async fn linger(mut read: impl AsyncFnMut(&mut [u8]) -> io::Result<usize>) {
    let reading = async {
        let mut scratch = vec![0; 16 * 1024];
        while matches!(tokio::time::timeout(SILENCE, read(&mut scratch)).await, Ok(Ok(n)) if n > 0) {}
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

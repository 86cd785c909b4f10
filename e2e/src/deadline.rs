//! Waiting for conditions.

use std::{future::Future, time::Duration};

/// How long anything may take before it counts as a failure. Longer than the gateway's own limits (10 s for plugins, 60 s for
/// query commands), and generous: slow machines run these tests too, many at a time.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The result of `future`, or a failure that says what was waited for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    // On the heap: what waits for what waits would not fit on the stack of a test in the end.
    match tokio::time::timeout(DEADLINE, Box::pin(future)).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing after {DEADLINE:?}"),
    }
}

/// Waits until `condition` gives a value.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    eventually_async(what, || std::future::ready(condition())).await
}

/// Waits until a future made by `condition` gives a value.
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

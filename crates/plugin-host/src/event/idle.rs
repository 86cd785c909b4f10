//! Connections that are idle. After a burst there are more of them than are needed: those that nobody has used for a
//! while are closed.

use std::time::Duration;

use tokio::time::Instant;

/// Idle connections that a worker keeps to one server.
const MAX: usize = 128;

/// How long a connection may lie idle before it is closed, while others are in use.
const UNUSED: Duration = Duration::from_secs(1);

/// The one that was used last is used next, so that those that are not needed stay where they are: at the beginning.
pub(super) struct Idle<T> {
    connections: Vec<T>,
    /// So many have not been used since `looked`.
    unused: usize,
    looked: Instant,
}

impl<T> Idle<T> {
    pub(super) fn new() -> Self {
        Self { connections: Vec::new(), unused: 0, looked: Instant::now() }
    }

    pub(super) fn take(&mut self) -> Option<T> {
        let connection = self.connections.pop();
        self.unused = self.unused.min(self.connections.len());
        connection
    }

    pub(super) fn keep(&mut self, connection: T) {
        if self.looked.elapsed() >= UNUSED {
            self.connections.drain(..self.unused.min(self.connections.len()));
            self.unused = self.connections.len();
            self.looked = Instant::now();
        }
        if self.connections.len() < MAX {
            self.connections.push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_is_not_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut idle = Idle::new();
            for connection in 0..MAX + 5 {
                idle.keep(connection);
            }
            assert_eq!(idle.connections.len(), MAX);
            for _ in 0..3 {
                // two are in use at a time
                let (one, two) = (idle.take().unwrap(), idle.take().unwrap());
                idle.keep(two);
                idle.keep(one);
                tokio::time::advance(UNUSED).await;
            }
            assert_eq!(idle.connections.len(), 2);
            assert_eq!(idle.take(), Some(MAX - 1), "the one that was used last");
        });
    }
}

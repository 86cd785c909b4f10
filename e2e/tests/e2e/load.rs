//! Requests without a pause, none of which may fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use silverback_e2e::{Connection, eventually};
use tokio::task::JoinSet;

/// Connections that send one request after the other.
pub(crate) struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

impl Load {
    /// Every answer must be 200 and have the header.
    pub(crate) fn start(address: SocketAddr, path: &'static str, header: &'static str) -> Self {
        let mut load = Self { tasks: JoinSet::new(), stop: Arc::default(), answers: Arc::default() };
        for _ in 0..4 {
            let (stop, answers) = (Arc::clone(&load.stop), Arc::clone(&load.answers));
            load.tasks.spawn(async move {
                let mut connection = Connection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.get(path, &[]).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert!(answer.header(header).is_some(), "a request skipped its plugin");
                    answers.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        connection = Connection::open(address).await;
                    }
                    // the plugin servers are to be busy, not the machine
                    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
                }
            });
        }
        load
    }

    /// Waits until some more requests have been answered.
    pub(crate) async fn goes_on(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        eventually("answers", || (self.answers.load(Ordering::Relaxed) > before + 20).then_some(())).await;
    }

    /// Ends it; how many answers there were.
    pub(crate) async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(result) = self.tasks.join_next().await {
            result.unwrap();
        }
        self.answers.load(Ordering::Relaxed)
    }
}

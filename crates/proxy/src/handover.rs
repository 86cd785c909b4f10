//! Connections that one worker accepts and another serves.
//!
//! The kernel spreads connections over the workers' listeners by a hash: of the two connections that a load balancer opens,
//! both may come to one worker, which is busy then while the other has nothing to do. And a Unix socket has one listener
//! for all. So a worker that has clearly more connections than another hands the next one on. What it costs is paid once
//! for a connection; nothing of it is on a request's way.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use silverback_pdk::exchange::Subsystem;
use tokio::sync::mpsc;

use crate::connection::Kind;

/// Connections on their way from one worker to another. Where there is no room, they stay where they are.
const ON_THEIR_WAY: usize = 1024;

/// A connection that was accepted.
pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) kind: Kind,
    pub(crate) subsystem: Subsystem,
}

/// Its socket, which belongs to no runtime.
pub(crate) enum Socket {
    Tcp { socket: TcpStream, peer: SocketAddr, local: SocketAddr },
    Unix(UnixStream),
}

/// How many connections each worker has, and the ways to them.
pub(crate) struct Workers(Box<[Place]>);

struct Place {
    connections: AtomicUsize,
    hand: mpsc::Sender<Accepted>,
}

/// One of a worker's connections, for as long as it lives.
pub(crate) struct Present {
    workers: Arc<Workers>,
    worker: usize,
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(place) = self.workers.0.get(self.worker) {
            place.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Workers {
    /// So many workers, and for each what is handed to it.
    pub(crate) fn new(count: usize) -> (Arc<Self>, Vec<mpsc::Receiver<Accepted>>) {
        let (places, handed) = (0..count)
            .map(|_| {
                let (hand, handed) = mpsc::channel(ON_THEIR_WAY);
                (Place { connections: AtomicUsize::new(0), hand }, handed)
            })
            .unzip::<_, _, Vec<_>, _>();
        (Arc::new(Self(places.into())), handed)
    }

    /// A worker has a connection more.
    pub(crate) fn enter(self: &Arc<Self>, worker: usize) -> Present {
        if let Some(place) = self.0.get(worker) {
            place.connections.fetch_add(1, Ordering::Relaxed);
        }
        Present { workers: Arc::clone(self), worker }
    }

    /// The worker that a connection is better off with, if it is not the one that accepted it.
    pub(crate) fn better_than(&self, accepting: usize) -> Option<usize> {
        let connections = |place: &Place| place.connections.load(Ordering::Relaxed);
        let own = connections(self.0.get(accepting)?);
        let (least, place) = self.0.iter().enumerate().min_by_key(|(_, place)| connections(place))?;
        is_worth_it(own, connections(place)).then_some(least)
    }

    /// Hands a connection on. It comes back where the other takes no more.
    pub(crate) fn hand_on(&self, worker: usize, accepted: Accepted) -> Result<(), Accepted> {
        let Some(place) = self.0.get(worker) else { return Err(accepted) };
        place.hand.try_send(accepted).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(accepted) | mpsc::error::TrySendError::Closed(accepted) => accepted,
        })
    }
}

/// Whether a worker with so many connections should hand the next one to another with so many. Of many connections some
/// more or less make no difference.
const fn is_worth_it(own: usize, others: usize) -> bool {
    own > others + own / 8
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Workers, is_worth_it};

    #[test]
    fn few_connections_are_spread_evenly_and_many_roughly() {
        for (own, others, expect) in
            [(0, 0, false), (1, 0, true), (1, 1, false), (2, 1, true), (8, 7, false), (9, 7, true), (100, 90, false)]
        {
            assert_eq!(is_worth_it(own, others), expect, "{own} {others}");
        }
    }

    #[test]
    fn connections_go_to_the_worker_that_has_fewest() {
        let (workers, _handed) = Workers::new(3);
        assert_eq!(workers.better_than(0), None);
        let first = workers.enter(0);
        assert_eq!(workers.better_than(0), Some(1));
        let _second = workers.enter(1);
        assert_eq!(workers.better_than(0), Some(2));
        assert_eq!(workers.better_than(2), None);
        let _third = workers.enter(2);
        assert_eq!(workers.better_than(0), None);
        drop(first);
        assert_eq!(workers.better_than(1), Some(0));
        assert_eq!(Arc::strong_count(&workers), 3);
    }
}

//! Ports for gateways. They cannot bind port 0, since their configuration names the port.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those is in the way.
const FIRST: u16 = 20000;
const LAST: u16 = 29999;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1 that nobody listens on, and that this process has not given out before.
pub fn free_port() -> u16 {
    // Another run of these tests at the same time starts elsewhere.
    let offset = (std::process::id() % 10) as u16 * 1000;
    for _ in FIRST..=LAST {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step) % (LAST - FIRST + 1);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {FIRST} to {LAST} is taken");
}

//! UDP: a session for each client address, kept until nothing has come or gone for the service's `read_timeout`, as
//! nginx's stream module does with `proxy_responses` unset.
//!
//! Anybody can write any address as a sender: sessions, and the datagrams that wait for them, are bounded, and what is
//! beyond that is dropped, as the network itself would.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use silverback_log::Level;
use silverback_pdk::exchange::Transport;
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    datagram::{Datagrams, Path},
    relay::Counts,
    session::Session,
    upstream,
};
use crate::{
    connection::{From, Origin},
    worker::{Mode, Worker},
};

/// Sessions of one worker on one listener.
const MAX_SESSIONS: usize = 8192;

/// Datagrams that may wait for one session.
const MAX_WAITING: usize = 64;

/// Bytes that may wait for all sessions of a listener: more than the kernel's own buffer by far.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The longest there can be.
const MAX_DATAGRAM: usize = 65_535;

/// What a listener's sessions share.
struct Sessions {
    datagrams: Datagrams,
    open: RefCell<HashMap<Path, mpsc::Sender<Waiting>>>,
    waiting_bytes: Cell<usize>,
    one_ended: Notify,
}

/// A datagram on its way to its session.
struct Waiting {
    bytes: Bytes,
    sessions: Rc<Sessions>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waiting = &self.sessions.waiting_bytes;
        waiting.set(waiting.get().saturating_sub(self.bytes.len()));
    }
}

/// Serves a listener until a drain: what comes for open sessions still gets to them then.
pub(crate) async fn listen(worker: Rc<Worker>, socket: std::net::UdpSocket) -> io::Result<()> {
    let sessions = Rc::new(Sessions {
        datagrams: Datagrams::new(socket)?,
        open: RefCell::default(),
        waiting_bytes: Cell::new(0),
        one_ended: Notify::new(),
    });
    let mut mode = worker.mode.clone();
    let mut draining = false;
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut complained: Option<Instant> = None;
    while !draining || !sessions.open.borrow().is_empty() {
        let received = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Draining), if !draining => {
                draining = true;
                continue;
            }
            () = sessions.one_ended.notified(), if draining => continue,
            received = sessions.datagrams.receive(&mut buffer) => received,
        };
        let (length, path) = match received {
            Ok(received) => received,
            // An error of an earlier answer (a port that nobody listens on) is told to the next call.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        if !deliver(&worker, &sessions, path, datagram, !draining)
            && complained.is_none_or(|at| at.elapsed().as_secs() >= 1)
        {
            complained = Some(Instant::now());
            silverback_log::write(
                Level::Warn,
                format_args!("datagrams from {} and others are dropped: too many sessions or bytes wait", path.peer),
                None,
            );
        }
    }
    Ok(())
}

/// Hands a datagram to its session, or to a new one. False if there is no room for it.
fn deliver(worker: &Rc<Worker>, sessions: &Rc<Sessions>, path: Path, datagram: &[u8], may_begin: bool) -> bool {
    let room = sessions.waiting_bytes.get().saturating_add(datagram.len()) <= MAX_WAITING_BYTES;
    let known = sessions.open.borrow().get(&path).filter(|sender| !sender.is_closed()).cloned();
    match known {
        Some(sender) => room && sender.try_send(Waiting::new(sessions, datagram)).is_ok(),
        None if !may_begin => true,
        None => {
            if !room || sessions.open.borrow().len() >= MAX_SESSIONS {
                return false;
            }
            let (sender, receiver) = mpsc::channel(MAX_WAITING);
            let accepted = sender.try_send(Waiting::new(sessions, datagram)).is_ok();
            sessions.open.borrow_mut().insert(path, sender);
            worker.spawn(run(Rc::clone(worker), Rc::clone(sessions), path, receiver));
            accepted
        }
    }
}

impl Waiting {
    fn new(sessions: &Rc<Sessions>, datagram: &[u8]) -> Self {
        sessions.waiting_bytes.set(sessions.waiting_bytes.get() + datagram.len());
        Self { bytes: Bytes::copy_from_slice(datagram), sessions: Rc::clone(sessions) }
    }
}

async fn run(worker: Rc<Worker>, sessions: Rc<Sessions>, path: Path, mut receiver: mpsc::Receiver<Waiting>) {
    let shared = Arc::clone(&worker.shared);
    shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
    shared.counters.active.fetch_add(1, Ordering::Relaxed);
    let serial = shared.connection_serial.fetch_add(1, Ordering::Relaxed);
    let origin = Origin { from: From::Tcp { peer: path.peer, local: path.local }, proxied: None, serial };
    let mut session = Session::new(&worker, &origin);
    session.exchange.stream.transport = Transport::Udp;
    proxy(session, &sessions.datagrams, path, &mut receiver).await;
    sessions.open.borrow_mut().remove(&path);
    sessions.one_ended.notify_one();
    shared.counters.active.fetch_sub(1, Ordering::Relaxed);
}

async fn proxy(mut session: Session, client: &Datagrams, path: Path, receiver: &mut mpsc::Receiver<Waiting>) {
    let routed = match session.route(None) {
        Ok(routed) => routed,
        Err(refused) => return session.refuse(&refused),
    };
    if let Err(refused) = session.preread(&routed.entry).await {
        let Some(body) = refused.body.as_ref().filter(|_| refused.status < 400) else {
            return session.refuse(&refused);
        };
        // What an answer comes to is not known in UDP.
        if client.send(body, path).await.is_ok() {
            session.exchange.response.bytes_sent = body.len() as u64;
        }
        return session.finish(refused.status);
    }
    let upstream = match upstream::connect_udp(&mut session, &routed).await {
        Ok(upstream) => upstream,
        Err(refused) => return session.refuse(&refused),
    };
    drop(routed);
    let mut counts = Counts::default();
    let failed = exchange(&mut session, &mut counts, client, path, &upstream, receiver).await.err();
    drop(upstream);
    session.count(&counts);
    // A port that nobody listens on shows only when something was sent there.
    let status = if failed.is_some() && counts.from_upstream == 0 { 502 } else { 200 };
    match failed {
        Some(error) => session.log(Level::Error, format_args!("{error} while proxying to upstream")),
        None => session.log(Level::Info, format_args!("udp client timed out, packets from/to upstream are done")),
    }
    session.finish(status);
}

/// Passes datagrams both ways until nothing has come for a while, or the upstream cannot be reached.
async fn exchange(
    session: &mut Session,
    counts: &mut Counts,
    client: &Datagrams,
    path: Path,
    upstream: &UdpSocket,
    receiver: &mut mpsc::Receiver<Waiting>,
) -> io::Result<()> {
    let idle = session.patience().idle;
    let mut timer = pin!(tokio::time::sleep(idle));
    loop {
        tokio::select! {
            waiting = receiver.recv() => {
                let Some(waiting) = waiting else { return Ok(()) };
                counts.from_client += waiting.bytes.len() as u64;
                counts.to_upstream += upstream.send(&waiting.bytes).await? as u64;
            }
            ready = upstream.readable() => {
                ready?;
                if counts.from_upstream == 0 {
                    session.exchange.timings.upstream_header = Some(session.now());
                }
                answer(counts, client, path, upstream).await?;
            }
            // What came in the same moment is not lost.
            () = timer.as_mut() => if receiver.is_empty() { return Ok(()) },
        }
        timer.as_mut().reset(Instant::now() + idle);
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into_boxed_slice());
}

/// Takes what the upstream has sent, a few datagrams at most, and sends it to the client.
async fn answer(counts: &mut Counts, client: &Datagrams, path: Path, upstream: &UdpSocket) -> io::Result<()> {
    const AT_ONCE: usize = 32;
    for _ in 0..AT_ONCE {
        // A session that is idle has no buffer.
        let kept = SCRATCH.with_borrow_mut(|scratch| {
            let length = match upstream.try_recv(scratch) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            let datagram = scratch.get(..length).unwrap_or_default();
            counts.from_upstream += length as u64;
            Ok(match client.try_send(datagram, path) {
                Ok(()) => {
                    counts.to_client += length as u64;
                    Some(None)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Some(Bytes::copy_from_slice(datagram))),
                // The client's network does not take it: as lost as any datagram.
                Err(_) => Some(None),
            })
        })?;
        match kept {
            None => break,
            Some(None) => {}
            Some(Some(datagram)) => {
                if client.send(&datagram, path).await.is_ok() {
                    counts.to_client += datagram.len() as u64;
                }
            }
        }
    }
    Ok(())
}

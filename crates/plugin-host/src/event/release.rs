//! What is done about a handler whose event was given up, after the request has been answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use silverback_protocol::{
    dump::WireProtocol,
    msgpack::{Next, Request},
    protobuf::Command,
};
use tokio::time::{Instant, timeout};

use super::{
    Handler,
    msgpack::{exchange, response},
};
use crate::{
    connection::{Broken, Connection, connect},
    instance::Started,
    server::Server,
};

/// Connections that may wait for handlers that were given up. More of them, and the server counts as hung.
const MAX_PARKED: usize = 1024;

/// Releases a handler of a MessagePack server.
///
/// One that waits for the result of a PDK call gets an error, and so does every further call, none of which is
/// performed, until it returns or the deadline passes. One that runs is waited for, however long it takes: closing
/// the connection while it runs would kill a Node process.
pub(super) fn spawn(connection: Connection, handler: Handler, server: Arc<Server>, epoch: u64, message: &str) {
    let message = message.to_owned();
    let parked = Parked::new(Arc::clone(&server));
    if parked.number > MAX_PARKED {
        server.replace(epoch, &format!("more than {MAX_PARKED} handlers have not ended"));
    }
    tokio::spawn(async move {
        tokio::select! {
            // whatever comes of it: the request has failed already
            _ = release(connection, handler, &message, server.deadlines.event) => {}
            () = server.epoch_over(epoch) => {}
        }
        drop(parked);
    });
}

async fn release(
    mut connection: Connection,
    handler: Handler,
    message: &str,
    patience: Duration,
) -> Result<(), Broken> {
    let mut result = match handler {
        Handler::Running { request } => response(&mut connection, request).await?,
        Handler::Waiting { event } => step_error(&mut connection, event, message).await?,
    };
    let deadline = Instant::now() + patience;
    while let Ok(value) = result {
        match Next::from_result(value)? {
            Next::Call { event, terminal: false, .. } if Instant::now() < deadline => {
                result = step_error(&mut connection, event, message).await?;
            }
            _ => break,
        }
    }
    Ok(())
}

async fn step_error(
    connection: &mut Connection,
    event: i64,
    message: &str,
) -> Result<Result<silverback_protocol::Value, String>, Broken> {
    let request = connection.next_sequence();
    Request::StepError { event, message }.put(request, &mut connection.output);
    exchange(connection, request).await
}

/// Counts a connection among the parked ones as long as it lives.
struct Parked {
    server: Arc<Server>,
    number: usize,
}

impl Parked {
    fn new(server: Arc<Server>) -> Self {
        let number = server.parked.fetch_add(1, Ordering::Relaxed) + 1;
        Self { server, number }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.server.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Finds out, after a deadline, whether the server as a whole is hung, and has it replaced if it is.
///
/// kong-python-pdk holds a lock from the start of an event to its first PDK call, and keeps it for ever if the handler
/// raises before; a Node process can be in a loop. Such a server does not answer any event, so it is asked to run one
/// of an instance that there is not: a healthy one says so at once.
pub(super) fn spawn_probe(server: Arc<Server>, started: Started) {
    if server.probing.swap(true, Ordering::AcqRel) {
        return;
    }
    tokio::spawn(async move {
        if timeout(server.deadlines.probe, probe(&server, started)).await.is_err() {
            server.replace(started.epoch, "it does not answer any more");
        }
        server.probing.store(false, Ordering::Release);
    });
}

/// Ends when the server has shown that it is alive, or is known to be gone.
async fn probe(server: &Server, started: Started) -> Result<(), Broken> {
    let (mut connection, _) = connect(server).await?;
    let request = connection.next_sequence();
    match server.protocol {
        WireProtocol::ProtoBuf => {
            let instance = i32::try_from(started.id).unwrap_or_default();
            Command::InstanceStatus { instance }.put(request.into(), &mut connection.output);
            connection.flush().await?;
            connection.frame().await?;
        }
        WireProtocol::MsgPack => {
            Request::HandleEvent { instance: -1, phase: "access" }.put(request, &mut connection.output);
            let _ = exchange(&mut connection, request).await?;
        }
    }
    Ok(())
}

//! What is done about a handler whose event was given up, after the request has been answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use silverback_protocol::{
    dump::WireProtocol,
    msgpack::{Next, Request},
    protobuf::Command,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Handler,
    msgpack::{exchange, response},
};
use crate::{
    connection::{Broken, Connection, connect},
    life::Life,
    server::{MAX_PARKED, Server},
};

/// A server that has sent nothing for this long has sent its message.
const SILENCE: Duration = Duration::from_secs(1);

/// Releases a handler of a MessagePack server.
///
/// One that waits for the result of a PDK call gets an error, and so does every further call, none of which is
/// performed, until it returns or the deadline passes. One that runs is waited for, however long it takes: closing
/// the connection while it runs would kill a Node process. What is too large to be read is let through to nowhere.
pub(crate) fn spawn(connection: Connection, handler: Handler, server: Arc<Server>, life: Arc<Life>, message: &str) {
    let message = message.to_owned();
    let parked = Parked::new(Arc::clone(&server), Arc::clone(&life));
    if parked.number > MAX_PARKED {
        life.replace(&format!("more than {MAX_PARKED} handlers have not ended"));
    }
    tokio::spawn(async move {
        // whatever comes of it: the request has failed already
        let release = release(connection, handler, &message, server.deadlines.event);
        if server.managed {
            tokio::select! {
                _ = release => {}
                () = life.over() => {}
            }
        } else {
            // the process may outlive what counts as an epoch
            let _ = release.await;
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
        Handler::Talking => {
            // it is not to be waited for longer than its handler would have been
            let _ = timeout(patience, connection.drain(SILENCE)).await;
            return Ok(());
        }
        Handler::Running { request } => {
            // the deadline may have come in the middle of a request
            connection.flush().await?;
            response(&mut connection, request).await?
        }
        Handler::Waiting { event } => step_error(&mut connection, event, message).await?,
    };
    let deadline = Instant::now() + patience;
    while let Ok(answer) = result {
        match Next::decode(&answer)? {
            Next::Call { event, terminal: false, .. } if Instant::now() < deadline => {
                result = step_error(&mut connection, event, message).await?;
            }
            _ => break,
        }
    }
    Ok(())
}

async fn step_error(connection: &mut Connection, event: i64, message: &str) -> Result<Result<Bytes, String>, Broken> {
    let request = connection.next_sequence();
    Request::StepError { event, message }.put(request, &mut connection.output);
    exchange(connection, request).await
}

/// Counts a connection among the parked ones as long as it lives.
struct Parked {
    server: Arc<Server>,
    life: Arc<Life>,
    number: usize,
}

impl Parked {
    fn new(server: Arc<Server>, life: Arc<Life>) -> Self {
        let of_server = server.parked.fetch_add(1, Ordering::Relaxed) + 1;
        let of_life = life.parked.fetch_add(1, Ordering::Relaxed) + 1;
        let number = if server.managed { of_life } else { of_server };
        Self { server, life, number }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.server.parked.fetch_sub(1, Ordering::Relaxed);
        self.life.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Finds out, after a deadline, whether the server as a whole is hung, and has it replaced if it is.
///
/// kong-python-pdk holds a lock from the start of an event to its first PDK call, and keeps it for ever if the handler
/// raises before, and another one while it makes an instance; a Node process can be in a loop. Such a server answers no
/// event or start, so it is asked to run an event of an instance that there is not, and to start a plugin without a
/// name: a healthy one says no at once.
pub(crate) fn spawn_probe(server: Arc<Server>, life: Arc<Life>, instance: i64) {
    if life.probing.swap(true, Ordering::AcqRel) {
        return;
    }
    tokio::spawn(async move {
        if is_hung(&server, &life, instance).await {
            life.replace("it does not answer any more");
        }
        life.probing.store(false, Ordering::Release);
    });
}

/// Whether the server gives no sign of life. One that is gone is not hung.
async fn is_hung(server: &Arc<Server>, life: &Arc<Life>, instance: i64) -> bool {
    let deadline = Instant::now() + server.deadlines.probe;
    let mut connection = match timeout_at(deadline, connect(life)).await {
        Ok(Ok((connection, _))) => connection,
        Ok(Err(_)) => return false,
        Err(_) => return true,
    };
    if timeout_at(deadline, probe(server, &mut connection, instance)).await.is_ok() {
        return false;
    }
    if server.protocol == WireProtocol::MsgPack {
        let handler = Handler::Running { request: connection.last_sequence() };
        spawn(connection, handler, Arc::clone(server), Arc::clone(life), "it was a probe");
    }
    true
}

/// Ends when the server has shown that it is alive, or is known to be gone.
async fn probe(server: &Server, connection: &mut Connection, instance: i64) -> Result<(), Broken> {
    let request = connection.next_sequence();
    match server.protocol {
        WireProtocol::ProtoBuf => {
            let instance = i32::try_from(instance).unwrap_or_default();
            Command::InstanceStatus { instance }.put(request.into(), &mut connection.output);
            connection.flush().await?;
            connection.frame().await?;
        }
        WireProtocol::MsgPack => {
            Request::HandleEvent { instance: -1, phase: "access" }.put(request, &mut connection.output);
            let _ = exchange(connection, request).await?;
            let request = connection.next_sequence();
            Request::StartInstance { plugin: "", config: "{}" }.put(request, &mut connection.output);
            let _ = exchange(connection, request).await?;
        }
    }
    Ok(())
}

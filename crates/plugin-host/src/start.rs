//! Starting instances: done on the control thread, once however many requests ask for it.

use std::{sync::Arc, time::Duration};

use silverback_protocol::{
    Value,
    dump::WireProtocol,
    msgpack::{Request, ServerMessage},
    protobuf::{Answer, Command},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    FailureKind, Instance,
    connection::{Broken, Connection, connect},
    instance::{StartFailure, StartResult, Started},
    server::{Server, ServerState},
};

/// Pause before a server is asked again that went away while it was asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the starts that workers ask for, each in a task of its own.
pub(crate) async fn serve(mut requests: mpsc::UnboundedReceiver<Arc<Instance>>) {
    while let Some(instance) = requests.recv().await {
        tokio::spawn(async move {
            let result = match instance.running() {
                Some(started) => Ok(started),
                None => start(&instance).await,
            };
            instance.finish(&result);
        });
    }
}

enum Attempt {
    Started(i64),
    /// The server said no.
    Refused(String),
    /// The connection ended without an answer.
    Lost(String),
    TooSlow,
}

async fn start(instance: &Instance) -> StartResult {
    let server = &instance.server;
    let deadline = Instant::now() + server.deadlines.ready;
    let mut closed = 0;
    loop {
        let condition = server.wait_ready(deadline).await.map_err(|state| unavailable(server, state))?;
        let connected = timeout_at(deadline, connect(server)).await;
        let connection = match connected {
            Ok(Ok((connection, identity))) if condition.identity == Some(identity) => connection,
            Ok(_) => {
                server.doubt(condition.epoch);
                continue;
            }
            Err(_) => return Err(unavailable(server, ServerState::Starting)),
        };
        let kind = FailureKind::Start;
        match attempt(instance, connection, condition.epoch).await {
            Attempt::Started(id) => return Ok(Started { epoch: condition.epoch, id }),
            Attempt::Refused(message) => {
                return Err(StartFailure { kind, message: format!("the server did not start an instance: {message}") });
            }
            Attempt::TooSlow => {
                return Err(StartFailure {
                    kind,
                    message: format!(
                        "the server did not start an instance within {} s",
                        server.deadlines.event.as_secs()
                    ),
                });
            }
            // either its process is ending, or go-pdk does not like the configuration: it has no other way to say so
            Attempt::Lost(message) => {
                closed += 1;
                if closed > 1 {
                    return Err(StartFailure { kind, message: format!("{message} instead of starting an instance") });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn unavailable(server: &Server, state: ServerState) -> StartFailure {
    let message = match state {
        ServerState::Draining => "the server is being stopped".to_owned(),
        ServerState::Dead => "the server is stopped".to_owned(),
        _ => format!(
            "the server was not ready within {} s: nothing answers at {}",
            server.deadlines.ready.as_secs(),
            server.socket.display()
        ),
    };
    StartFailure { kind: FailureKind::Unavailable, message }
}

async fn attempt(instance: &Instance, mut connection: Connection, epoch: u64) -> Attempt {
    let config = instance.config_json();
    let plugin = instance.plugin.as_str();
    let sequence = connection.next_sequence();
    let answer = match instance.server.protocol {
        WireProtocol::ProtoBuf => {
            Command::StartInstance { plugin, config: &config }.put(sequence.into(), &mut connection.output);
            timeout(instance.server.deadlines.event, protobuf_answer(&mut connection, sequence)).await
        }
        WireProtocol::MsgPack => {
            Request::StartInstance { plugin, config: &config }.put(sequence, &mut connection.output);
            timeout(instance.server.deadlines.event, msgpack_answer(&mut connection, sequence)).await
        }
    };
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(broken @ (Broken::Closed | Broken::Unread | Broken::Io(_)))) => Attempt::Lost(broken.to_string()),
        Ok(Err(broken)) => Attempt::Refused(broken.to_string()),
        Err(_) => {
            // closing it now, with a call outstanding, could kill a Node process
            let server = Arc::clone(&instance.server);
            tokio::spawn(async move {
                tokio::select! {
                    _ = connection.message() => {}
                    () = server.epoch_over(epoch) => {}
                }
            });
            Attempt::TooSlow
        }
    }
}

async fn protobuf_answer(connection: &mut Connection, sequence: u32) -> Result<Attempt, Broken> {
    connection.flush().await?;
    let answer = Answer::decode(connection.frame().await?)?;
    Ok(match answer.instance {
        Some(id) if answer.sequence == i64::from(sequence) => Attempt::Started(id.into()),
        _ => Attempt::Refused("it answered something else".to_owned()),
    })
}

async fn msgpack_answer(connection: &mut Connection, sequence: u32) -> Result<Attempt, Broken> {
    connection.flush().await?;
    loop {
        let ServerMessage::Response(response) = connection.message().await? else { continue };
        return Ok(match response.outcome {
            Ok(status) if response.id == i64::from(sequence) => match status.field("Id") {
                Value::Int(id) => Attempt::Started(*id),
                _ => Attempt::Refused("its answer has no Id".to_owned()),
            },
            Ok(_) => Attempt::Refused("it answered something else".to_owned()),
            Err(error) => Attempt::Refused(error),
        });
    }
}

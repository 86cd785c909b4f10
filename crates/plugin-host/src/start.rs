//! Starting instances: done on the control thread, once however many requests ask for it.

use std::{sync::Arc, time::Duration};

use silverback_protocol::{
    Value,
    dump::WireProtocol,
    msgpack::Request,
    protobuf::{Answer, Command},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    FailureKind, Instance,
    connection::{Broken, Connection, connect},
    event::{Handler, msgpack, release},
    instance::{StartFailure, StartResult, Started},
    server::{Server, ServerState},
    size,
};

/// Pause before a server is asked again that went away while it was asked.
const PAUSE: Duration = Duration::from_millis(20);

/// A start that a worker asks for. Whatever becomes of it, those who wait for it get to know.
pub(crate) struct Wanted {
    instance: Arc<Instance>,
    finished: bool,
}

impl Wanted {
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        Self { instance, finished: false }
    }

    fn finish(mut self, result: &StartResult) {
        self.finished = true;
        self.instance.finish(result);
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if !self.finished {
            let message = "the start of its instance was cut short, as when the gateway stops".to_owned();
            self.instance.finish(&Err(StartFailure { kind: FailureKind::Unavailable, message }));
        }
    }
}

/// Makes the starts that workers ask for, each in a task of its own.
pub(crate) async fn serve(mut requests: mpsc::UnboundedReceiver<Wanted>) {
    while let Some(wanted) = requests.recv().await {
        tokio::spawn(async move {
            let result = match wanted.instance.running() {
                Some(started) => Ok(started),
                None => start(&wanted.instance).await,
            };
            wanted.finish(&result);
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
    // all attempts together
    let mut answer_by = None;
    let mut lost: Option<String> = None;
    loop {
        if Instant::now() >= deadline {
            return Err(match &lost {
                Some(message) => no_answer(message),
                None => unavailable(server, server.condition().state),
            });
        }
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
        let answer_by = *answer_by.get_or_insert_with(|| Instant::now() + server.deadlines.event);
        match attempt(instance, connection, condition.epoch, answer_by).await {
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
                // One that is managed elsewhere may have been replaced unseen. A Go server need not be doubted: its
                // instances have numbers that no other process knows.
                if !server.managed && server.protocol == WireProtocol::MsgPack {
                    server.doubt(condition.epoch);
                }
                if lost.replace(message.clone()).is_some() {
                    return Err(no_answer(&message));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn no_answer(message: &str) -> StartFailure {
    StartFailure { kind: FailureKind::Start, message: format!("{message} instead of starting an instance") }
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

async fn attempt(instance: &Instance, mut connection: Connection, epoch: u64, deadline: Instant) -> Attempt {
    let server = &instance.server;
    let number = instance.number(epoch);
    let config = instance.config_json(number);
    let plugin = instance.plugin.as_str();
    let sequence = connection.next_sequence();
    let answer = match server.protocol {
        WireProtocol::ProtoBuf => {
            Command::StartInstance { plugin, config: &config }.put(sequence.into(), &mut connection.output);
            timeout_at(deadline, protobuf_answer(&mut connection, server, sequence, number)).await
        }
        WireProtocol::MsgPack => {
            Request::StartInstance { plugin, config: &config }.put(sequence, &mut connection.output);
            timeout_at(deadline, msgpack_answer(&mut connection, sequence)).await
        }
    };
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(broken @ (Broken::Closed | Broken::Unread | Broken::Io(_)))) => Attempt::Lost(broken.to_string()),
        Ok(Err(broken)) => Attempt::Refused(broken.to_string()),
        Err(_) => {
            if server.protocol == WireProtocol::MsgPack {
                // closing it now, with a call outstanding, could kill a Node process
                let handler = Handler::Running { request: sequence };
                release::spawn(connection, handler, Arc::clone(server), epoch, "the start was given up");
            }
            release::spawn_probe(Arc::clone(server), Started { epoch, id: -1 });
            Attempt::TooSlow
        }
    }
}

/// The server takes the instance's number for its id, as go-pdk does since 0.10, or counts by itself. What it must not
/// answer is the number of another instance: the events of the one would run with the configuration of the other.
async fn protobuf_answer(
    connection: &mut Connection,
    server: &Server,
    sequence: u32,
    number: i32,
) -> Result<Attempt, Broken> {
    connection.flush().await?;
    let answer = Answer::decode(connection.frame(size::MESSAGE).await?)?;
    Ok(match answer.instance {
        Some(id) if answer.sequence != i64::from(sequence) => {
            Attempt::Refused(format!("it started instance {id} for another command"))
        }
        Some(id) if id != number && server.is_reserved(id.into()) => {
            Attempt::Refused(format!("it answered with the number of another instance, {id}"))
        }
        Some(id) => Attempt::Started(id.into()),
        None => Attempt::Refused("it answered something else".to_owned()),
    })
}

async fn msgpack_answer(connection: &mut Connection, sequence: u32) -> Result<Attempt, Broken> {
    Ok(match msgpack::exchange(connection, sequence).await? {
        Ok(status) => match status.field("Id") {
            Value::Int(id) => Attempt::Started(*id),
            _ => Attempt::Refused("its answer has no Id".to_owned()),
        },
        Err(error) => Attempt::Refused(error),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use silverback_config::settings::EventPolicy;

    use super::*;
    use crate::Deadlines;

    #[test]
    fn those_who_wait_for_a_start_that_is_not_made_get_to_know() {
        let protocol = WireProtocol::MsgPack;
        let minute = Duration::from_secs(60);
        let deadlines = Deadlines { event: minute, ready: minute, probe: minute };
        let (server, _orders) =
            Server::new("s".to_owned(), protocol, PathBuf::new(), Vec::new(), true, deadlines, EventPolicy::default());
        let instance = Arc::new(Instance::new(Arc::new(server), "p".to_owned(), serde_json::Map::new()));
        let (mut receiver, first) = instance.join();
        assert!(first);
        let (starts, requests) = mpsc::unbounded_channel();
        drop(requests);
        drop(starts.send(Wanted::new(Arc::clone(&instance))));
        assert_eq!(receiver.try_recv().unwrap().unwrap_err().kind, FailureKind::Unavailable);
        // the next one who asks starts anew
        assert!(instance.join().1);
    }
}

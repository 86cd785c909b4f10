//! Starting instances: done on the control thread, once however many requests ask for it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use silverback_protocol::{
    Value,
    dump::WireProtocol,
    msgpack::{Request, decode},
    protobuf::{Answer, Command},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    FailureKind, Instance,
    connection::{Broken, Connection, connect},
    event::{Handler, msgpack, release},
    instance::{NotStarted, StartResult, Started},
    life::Life,
    server::Server,
};

/// Pause before a server is asked again that went away while it was asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Instances that are started at a time in a process that gets no events yet.
const MAX_STARTS: usize = 8;

/// A start that a worker asks for. Whatever becomes of it, those who wait for it get to know.
pub(crate) struct Wanted {
    instance: Arc<Instance>,
    life: Arc<Life>,
    finished: bool,
}

impl Wanted {
    pub(crate) fn new(instance: Arc<Instance>, life: Arc<Life>) -> Self {
        Self { instance, life, finished: false }
    }

    fn finish(mut self, result: &StartResult) {
        self.finished = true;
        self.instance.finish(self.life.epoch, result);
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if !self.finished {
            let message = "the start of its instance was cut short, as when the gateway stops".to_owned();
            self.instance.finish(self.life.epoch, &Err(NotStarted::Refused(FailureKind::Unavailable, message)));
        }
    }
}

/// Makes the starts that workers ask for, each in a task of its own.
pub(crate) async fn serve(mut requests: mpsc::UnboundedReceiver<Wanted>) {
    while let Some(wanted) = requests.recv().await {
        tokio::spawn(async move {
            let result = match wanted.instance.running(wanted.life.epoch) {
                Some(started) => Ok(started),
                None => start(&wanted.instance, &wanted.life).await,
            };
            wanted.finish(&result);
        });
    }
}

/// Starts instances in a life that gets no events yet, a few at a time: those that `wanted` says. The first that the
/// server refuses, or that is not started within its deadline, ends it.
pub(crate) async fn warm(
    server: &Arc<Server>,
    life: &Arc<Life>,
    wanted: impl Fn(&Instance) -> bool,
) -> Result<(), String> {
    let mut instances = server.instances().into_iter().filter(|instance| wanted(instance));
    let mut starts = JoinSet::new();
    loop {
        while starts.len() < MAX_STARTS
            && let Some(instance) = instances.next()
        {
            let life = Arc::clone(life);
            starts.spawn(async move {
                let result = start(&instance, &life).await;
                instance.finish(life.epoch, &result);
                result.map(drop).map_err(|why| {
                    let why = match why {
                        NotStarted::Refused(_, message) | NotStarted::Gone(Some(message)) => message,
                        NotStarted::Gone(None) => "its process went away".to_owned(),
                    };
                    format!("plugin {}: {why}", instance.plugin())
                })
            });
        }
        match starts.join_next().await {
            None => return Ok(()),
            Some(Ok(result)) => result?,
            Some(Err(error)) => return Err(error.to_string()),
        }
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

async fn start(instance: &Arc<Instance>, life: &Arc<Life>) -> StartResult {
    let server = &instance.server;
    let deadline = Instant::now() + server.deadlines.event;
    let refused = |message: String| Err(NotStarted::Refused(FailureKind::Start, message));
    let mut lost: Option<String> = None;
    loop {
        let connection = match timeout_at(deadline, connect(life)).await {
            Ok(Ok((connection, identity))) if life.identity == identity => connection,
            Ok(_) => {
                life.doubt();
                return Err(NotStarted::Gone(lost));
            }
            Err(_) => {
                let seconds = server.deadlines.event.as_secs_f32();
                return refused(format!("no connection to {} within {seconds} s", life.socket.display()));
            }
        };
        match attempt(instance, life, connection, deadline).await {
            Attempt::Started(id) => {
                life.instances.fetch_add(1, Ordering::Relaxed);
                return Ok(Started { epoch: life.epoch, id });
            }
            Attempt::Refused(message) => return refused(format!("the server did not start an instance: {message}")),
            Attempt::TooSlow => {
                let seconds = server.deadlines.event.as_secs_f32();
                return refused(format!("the server did not start an instance within {seconds} s"));
            }
            // either its process is ending, or go-pdk does not like the configuration: it has no other way to say so
            Attempt::Lost(message) => {
                // One that is managed elsewhere may have been replaced unseen. A Go server need not be doubted: its
                // instances have numbers that no other process knows.
                if !server.managed && server.protocol == WireProtocol::MsgPack {
                    life.doubt();
                    return Err(NotStarted::Gone(Some(message)));
                }
                if lost.replace(message.clone()).is_some() {
                    return refused(no_answer(&message));
                }
                tokio::time::sleep(PAUSE).await;
                if life.is_over() {
                    return Err(NotStarted::Gone(Some(message)));
                }
            }
        }
    }
}

/// What a server did that went away when it was asked to start an instance.
pub(crate) fn no_answer(message: &str) -> String {
    format!("{message} instead of starting an instance")
}

async fn attempt(instance: &Arc<Instance>, life: &Arc<Life>, mut connection: Connection, deadline: Instant) -> Attempt {
    let server = &instance.server;
    let number = instance.number(life);
    let config = instance.config_json(number);
    let plugin = instance.plugin.as_str();
    let sequence = connection.next_sequence();
    let answer = match server.protocol {
        WireProtocol::ProtoBuf => {
            Command::StartInstance { plugin, config: &config }.put(sequence.into(), &mut connection.output);
            timeout_at(deadline, protobuf_answer(&mut connection, life, sequence, number)).await
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
                release::spawn(connection, handler, Arc::clone(server), Arc::clone(life), "the start was given up");
            }
            release::spawn_probe(Arc::clone(server), Arc::clone(life), -1);
            Attempt::TooSlow
        }
    }
}

/// The server takes the instance's number for its id, as go-pdk does since 0.10, or counts by itself. What it must not
/// answer is the number of another instance: the events of the one would run with the configuration of the other.
async fn protobuf_answer(
    connection: &mut Connection,
    life: &Life,
    sequence: u32,
    number: i32,
) -> Result<Attempt, Broken> {
    connection.flush().await?;
    let answer = Answer::decode(connection.frame().await?)?;
    Ok(match answer.instance {
        Some(id) if answer.sequence != i64::from(sequence) => {
            Attempt::Refused(format!("it started instance {id} for another command"))
        }
        Some(id) if id != number && life.is_reserved(id.into()) => {
            Attempt::Refused(format!("it answered with the number of another instance, {id}"))
        }
        Some(id) => Attempt::Started(id.into()),
        None => Attempt::Refused("it answered something else".to_owned()),
    })
}

async fn msgpack_answer(connection: &mut Connection, sequence: u32) -> Result<Attempt, Broken> {
    Ok(match msgpack::exchange(connection, sequence).await? {
        Ok(status) => match decode(&status)?.field("Id") {
            Value::Int(id) => Attempt::Started(*id),
            _ => Attempt::Refused("its answer has no Id".to_owned()),
        },
        Err(error) => Attempt::Refused(error),
    })
}

#[cfg(test)]
mod tests {
    use silverback_config::settings::PluginServer;

    use super::*;
    use crate::{Deadlines, Offer, life::tests::life};

    #[test]
    fn those_who_wait_for_a_start_that_is_not_made_get_to_know() {
        let settings = PluginServer::new("s", "", "");
        let deadlines = Deadlines::of(&settings);
        let offer = Offer {
            server: "s".to_owned(),
            protocol: WireProtocol::MsgPack,
            socket: None,
            plugins: Vec::new(),
            complaints: Vec::new(),
        };
        let server = Arc::new(Server::new(settings, &offer, deadlines, false));
        let instance = server.instance("p", serde_json::Map::new());
        let (life, _orders) = life(0);
        let (mut receiver, first) = instance.join(life.epoch);
        assert!(first);
        let (starts, requests) = mpsc::unbounded_channel();
        drop(requests);
        drop(starts.send(Wanted::new(Arc::clone(&instance), Arc::clone(&life))));
        let result = receiver.try_recv().unwrap();
        assert!(matches!(result, Err(NotStarted::Refused(FailureKind::Unavailable, _))), "{result:?}");
        // the next one who asks starts anew
        assert!(instance.join(life.epoch).1);
    }
}

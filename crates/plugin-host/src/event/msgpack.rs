//! An event of a MessagePack server: each answer is either the end or the plugin's next PDK call, whose result the
//! next request carries.

use bytes::Bytes;
use silverback_model::Phase;
use silverback_protocol::msgpack::{Next, Request, Response, ServerMessage};

use super::{Clock, Done, EventEnd, Handler, Pdk, Reply, Stop, broken};
use crate::{
    FailureKind,
    connection::{Broken, Connection},
};

/// Notifications that may come before an answer. go-pluginserver sends one on connect.
const MAX_NOTIFICATIONS: usize = 1000;

/// Runs an event.
pub(super) async fn run<P: Pdk>(
    connection: &mut Connection,
    mut clock: Clock<'_, '_>,
    instance: i64,
    phase: Phase,
    pdk: &mut P,
) -> Result<Done, Stop> {
    let mut request = connection.next_sequence();
    Request::HandleEvent { instance, phase: phase.name() }.put(request, &mut connection.output);
    let mut first = true;
    loop {
        let exchanged = match connection.flush_now() {
            Ok(true) => clock.limit(response(connection, request)).await,
            Ok(false) => clock.limit(exchange(connection, request)).await,
            Err(error) => Some(Err(error)),
        };
        let result = match exchanged {
            Some(Ok(Ok(result))) => result,
            Some(Ok(Err(error))) if first && Response::no_such_instance(&error) => return Err(Stop::Unknown(error)),
            Some(Ok(Err(error))) => return Err(Stop::Failed(FailureKind::Server, error)),
            Some(Err(error @ Broken::Unread)) if first => return Err(Stop::Unsent(error.to_string())),
            Some(Err(error)) if error.is_oversized() => {
                return Err(Stop::Abandoned(error.kind(), error.to_string(), Some(Handler::Talking)));
            }
            Some(Err(error)) => return Err(broken(&error)),
            None => {
                return Err(Stop::Abandoned(
                    FailureKind::Deadline,
                    clock.too_slow(),
                    Some(Handler::Running { request }),
                ));
            }
        };
        first = false;
        let next = Next::decode(&result).map_err(|error| broken(&error.into()))?;
        let Next::Call { event, call, terminal } = next else { return Ok(Done::Reusable(EventEnd::Returned)) };
        let Ok(reply) = clock.pause(pdk.call(&call)).await else {
            let handler = (!terminal).then_some(Handler::Waiting { event });
            return Err(Stop::Abandoned(FailureKind::Busy, clock.no_turn(), handler));
        };
        let result = match reply {
            // after a terminal call the plugin waits for nothing, so there is nobody to give a result to
            Reply::Return(_) if terminal => {
                let message = format!("{} did not end the phase", call.method);
                return Err(Stop::Failed(FailureKind::Protocol, message));
            }
            Reply::Exit if terminal => return Ok(Done::Reusable(EventEnd::Exited)),
            Reply::Exit => return Ok(Done::Release(EventEnd::Exited, Handler::Waiting { event })),
            Reply::Raise(message) => {
                let handler = (!terminal).then_some(Handler::Waiting { event });
                return Err(Stop::Abandoned(FailureKind::Raised, message, handler));
            }
            Reply::Return(result) => result,
        };
        request = connection.next_sequence();
        Request::Step { event, method: &call.method, result: &result }.put(request, &mut connection.output);
        clock.allow_for(connection.output.len());
    }
}

/// Sends what is in the output buffer and waits for the answer.
pub(crate) async fn exchange(connection: &mut Connection, request: u32) -> Result<Result<Bytes, String>, Broken> {
    connection.flush().await?;
    response(connection, request).await
}

/// Waits for the answer to a request.
pub(crate) async fn response(connection: &mut Connection, request: u32) -> Result<Result<Bytes, String>, Broken> {
    for _ in 0..=MAX_NOTIFICATIONS {
        match connection.message().await? {
            ServerMessage::Response(response) if response.id == i64::from(request) => return Ok(response.outcome),
            ServerMessage::Response(_) => {
                return Err(silverback_protocol::msgpack::Error::NotRpc("a response to another request").into());
            }
            // go-pluginserver says its pid on connect; who answers is known from the socket already
            ServerMessage::Notification { .. } => {}
        }
    }
    Err(silverback_protocol::msgpack::Error::NotRpc("notifications without end instead of a response").into())
}

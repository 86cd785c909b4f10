//! An event of a ProtoBuf server: after the command the plugin drives, two frames a PDK call, until an empty frame.

use silverback_model::Phase;
use silverback_protocol::protobuf::{Command, Step, decode_call, put_empty_frame, put_result};

use super::{Clock, Done, EventEnd, Pdk, Reply, Stop, broken};
use crate::{
    FailureKind,
    connection::{Broken, Connection},
};

/// Runs an event. After it the connection can be used again: the `RpcReturn` that follows is left to the next event on
/// it, which saves this one the wait for it.
pub(super) async fn run<P: Pdk>(
    connection: &mut Connection,
    mut clock: Clock<'_, '_>,
    instance: i64,
    phase: Phase,
    pdk: &mut P,
) -> Result<Done, Stop> {
    match clock.limit(connection.settle()).await {
        Some(Ok(())) => {}
        // the event has not been sent: it runs on another connection
        Some(Err(error)) => return Err(Stop::Unsent(error.to_string())),
        None => return Err(deadline(&clock)),
    }
    let sequence = i64::from(connection.next_sequence());
    let instance = i32::try_from(instance).unwrap_or_default();
    Command::HandleEvent { instance, phase: phase.name() }.put(sequence, &mut connection.output);
    match send(connection, &mut clock).await {
        Some(Ok(())) => {}
        Some(Err(error @ (Broken::Unread | Broken::Closed))) => return Err(Stop::Unsent(error.to_string())),
        Some(Err(error)) => return Err(broken(&error)),
        None => return Err(deadline(&clock)),
    }
    let mut step = match clock.limit(connection.step()).await {
        Some(Err(Broken::Unread)) => return Err(Stop::Unsent(Broken::Unread.to_string())),
        // as long as no frame of the event came, it may be that the server does not know the instance: it closes then
        Some(Err(Broken::Closed)) if !connection.has_frame() => {
            return Err(Stop::Unknown("the server closed the connection at once".to_owned()));
        }
        step => next(step, &clock)?,
    };
    while let Step::Call { name, args } = step {
        let (call, method) = match decode_call(&name, args) {
            Ok(call) => call,
            // the plugin made a call that there is not: its fault, not the protocol's
            Err(error) => return Err(Stop::Failed(FailureKind::Raised, error.to_string())),
        };
        let Ok(reply) = clock.pause(pdk.call(&call)).await else {
            return Err(Stop::Failed(FailureKind::Busy, clock.no_turn()));
        };
        match reply {
            Reply::Return(result) => put_result(method, &result, &mut connection.output),
            Reply::Exit => {
                // the plugin waits for an answer, then closes
                put_empty_frame(&mut connection.output);
                connection.say_goodbye();
                return Ok(Done::Gone(EventEnd::Exited));
            }
            Reply::Raise(message) => return Err(Stop::Failed(FailureKind::Raised, message)),
        }
        next(send(connection, &mut clock).await, &clock)?;
        step = next(clock.limit(connection.step()).await, &clock)?;
    }
    connection.owed = Some(sequence);
    connection.settle_early().map_err(|error| broken(&error))?;
    Ok(Done::Reusable(EventEnd::Returned))
}

/// Sends what is in the output buffer; `None` if the deadline comes first. The server has room for it, most often.
async fn send(connection: &mut Connection, clock: &mut Clock<'_, '_>) -> Option<Result<(), Broken>> {
    match connection.flush_now() {
        Ok(true) => Some(Ok(())),
        Ok(false) => clock.limit(connection.flush()).await,
        Err(error) => Some(Err(error)),
    }
}

fn next<T>(result: Option<Result<T, Broken>>, clock: &Clock<'_, '_>) -> Result<T, Stop> {
    result.ok_or_else(|| deadline(clock))?.map_err(|error| broken(&error))
}

/// Closing the connection is what tells the plugin.
fn deadline(clock: &Clock<'_, '_>) -> Stop {
    Stop::Abandoned(FailureKind::Deadline, clock.too_slow(), None)
}

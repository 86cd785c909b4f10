//! `kong.telemetry`: entries for an OpenTelemetry collector. There is no exporter, so none is recorded, as in a Kong
//! without its OpenTelemetry plugin.

use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    lua,
};

pub(crate) const FUNCTIONS: &[Function] = &[Function {
    name: "kong.telemetry.log",
    run: log,
    phases: PhaseRule::Any,
    args: "plugin_name: string, plugin_config: table, message_type: string, message: string?, attributes: table?",
    result: "nil and an error",
    about: "Records an entry for telemetry: an error while nothing exports it.",
    since: "0.1",
}];

fn log(_: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let is_text = |index| argument(args, index).as_bytes().is_some();
    let absent = |index| !lua::truthy(argument(args, index));
    let is_table = |index| lua::is_table(argument(args, index));
    Outcome::failed(if !is_text(0) {
        "plugin_name must be a string"
    } else if !is_table(1) {
        "plugin_config must be a table"
    } else if !is_text(2) {
        "message_type must be a string"
    } else if !absent(3) && !is_text(3) {
        "message must be a string"
    } else if !absent(4) && !is_table(4) {
        "attributes must be a table"
    } else {
        "Telemetry logging is disabled: log entry will not be recorded. Ensure the OpenTelemetry plugin is correctly \
         configured to report logs in order to use this feature."
    })
}

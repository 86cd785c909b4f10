//! `kong.plugin`: the plugin itself.

use silverback_protocol::Value;

use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
};

pub(crate) const FUNCTIONS: &[Function] = &[Function {
    name: "kong.plugin.get_id",
    run: id,
    phases: PhaseRule::Any,
    args: "",
    result: "string",
    about: "The id of the plugin entity on whose behalf the plugin runs.",
    since: "0.1",
}];

fn id(_: &mut Exchange, caller: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(caller.plugin_id.to_string())
}

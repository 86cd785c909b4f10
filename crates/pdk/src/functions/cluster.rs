//! `kong.cluster`: a gateway without a database belongs to no cluster.

use silverback_protocol::Value;

use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
};

pub(crate) const FUNCTIONS: &[Function] = &[Function {
    name: "kong.cluster.get_id",
    run: id,
    phases: PhaseRule::Any,
    args: "",
    result: "nil",
    about: "The id of the cluster: nil without a database, as in Kong.",
    since: "0.1",
}];

fn id(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::nothing()
}

//! `kong.table`: helpers that matter to Lua only, here for completeness.

use std::collections::HashMap;

use silverback_protocol::Value;

use super::argument;
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    lua,
};

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.table.new",
        run: new,
        phases: PhaseRule::Any,
        args: "narr: number?, nrec: number?",
        result: "table",
        about: "An empty table.",
        since: "0.1",
    },
    Function {
        name: "kong.table.clear",
        run: clear,
        phases: PhaseRule::Any,
        args: "table: table",
        result: "nothing",
        about: "Has no effect: a plugin's table is its own.",
        since: "0.1",
    },
    Function {
        name: "kong.table.merge",
        run: merge,
        phases: PhaseRule::Any,
        args: "first: table?, second: table?",
        result: "table",
        about: "A table with the entries of both; those of the second win.",
        since: "0.1",
    },
];

fn new(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(Value::Map(Vec::new()))
}

fn clear(_: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    if lua::is_table(argument(args, 0)) {
        Outcome::nothing()
    } else {
        Outcome::raise("bad argument #1 to 'clear' (table expected)")
    }
}

fn merge(_: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    let mut merged: Vec<(String, Value)> = Vec::new();
    // A table may have so many entries that looking for each among all would take long.
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, value) in entries(argument(args, 0)).chain(entries(argument(args, 1))) {
        match places.get(&name).and_then(|&place| merged.get_mut(place)) {
            Some((_, known)) => *known = value,
            None => {
                places.insert(name.clone(), merged.len());
                merged.push((name, value));
            }
        }
    }
    Outcome::value(Value::Map(merged))
}

fn entries(table: &Value) -> std::vec::IntoIter<(String, Value)> {
    match lua::stored(table.clone()) {
        Value::Map(entries) => entries,
        Value::List(items) => items.into_iter().enumerate().map(|(i, item)| ((i + 1).to_string(), item)).collect(),
        _ => Vec::new(),
    }
    .into_iter()
}

//! `kong.ctx.shared`: values that plugins pass on to each other, for one request.

use silverback_protocol::Value;

use super::{argument, raising};
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    kept::{self, Kept},
    lua,
};

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.ctx.shared.get",
        run: shared,
        phases: PhaseRule::Any,
        args: "key: string",
        result: "any",
        about: "The value that a plugin put under this key.",
        since: "0.1",
    },
    Function {
        name: "kong.ctx.shared.set",
        run: set_shared,
        phases: PhaseRule::Any,
        args: "key: string, value: any",
        result: "nothing",
        about: "Puts a value under this key for all plugins of the request; nil removes it.",
        since: "0.1",
    },
];

fn shared(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    Outcome::value(find(&exchange.shared, argument(args, 0)))
}

fn set_shared(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    put(&mut exchange.shared, &mut exchange.kept, args)
}

/// A key of a Lua table. A number and a text of the same digits are two keys; tables are keys that nobody else has.
fn key(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) | Value::Binary(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
            Some(format!("\0{}", String::from_utf8_lossy(&lua::to_text(value))))
        }
        Value::Nil | Value::List(_) | Value::Map(_) => None,
    }
}

pub(super) fn find(table: &[(String, Value)], name: &Value) -> Option<Value> {
    let key = key(name)?;
    table.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone())
}

/// Puts the second argument under the first.
pub(super) fn put(table: &mut Vec<(String, Value)>, kept: &mut Kept, args: &[Value]) -> Outcome {
    let (name, value) = (argument(args, 0), argument(args, 1));
    if name.is_nil() {
        return Outcome::raise("table index is nil");
    }
    let Some(key) = key(name) else { return Outcome::nothing() };
    let value = numbers_as_doubles(lua::stored(value.clone()));
    let known = table.iter().position(|(known, _)| *known == key);
    if value.is_nil() {
        if let Some(at) = known {
            let (key, value) = table.remove(at);
            kept.remove(kept::of_entry(&key, &value));
        }
        return Outcome::nothing();
    }
    let weight = kept::of_call(&key, &value, args);
    raising((|| {
        if let Some((key, known)) = known.and_then(|at| table.get_mut(at)) {
            kept.replace(kept::of_entry(key, known), weight)?;
            *known = value;
        } else {
            kept::room_in(table.len())?;
            kept.replace(0, weight)?;
            table.push((key, value));
        }
        Ok(Outcome::nothing())
    })())
}

/// Lua keeps every number as a double.
fn numbers_as_doubles(value: Value) -> Value {
    match value {
        Value::Int(_) | Value::Float(_) => lua::number(&value).map_or(Value::Nil, lua::from_number),
        Value::List(items) => Value::List(items.into_iter().map(numbers_as_doubles).collect()),
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, value)| (key, numbers_as_doubles(value))).collect())
        }
        other => other,
    }
}

//! `kong.log`: the error log, and the entry that log plugins send on.

use silverback_model::Phase;
use silverback_protocol::Value;

use super::{argument, raising, string};
use crate::{
    Caller, Exchange, Outcome,
    exchange::{LogLevel, SerializeMode},
    function::{Function, KongPhases, PhaseRule},
    json::{self, EmptyList},
    kept, lua, serialize,
};

const WITH_CONTEXT: PhaseRule = PhaseRule::Only(
    KongPhases::REWRITE
        .or(KongPhases::ACCESS)
        .or(KongPhases::HEADER_FILTER)
        .or(KongPhases::RESPONSE)
        .or(KongPhases::BODY_FILTER)
        .or(KongPhases::LOG),
);

type Run = fn(&mut Exchange, &Caller, &[Value]) -> Outcome;

const fn level(name: &'static str, run: Run, about: &'static str) -> Function {
    Function { name, run, phases: PhaseRule::Any, args: "any...", result: "nothing", about, since: "0.1" }
}

pub(crate) const FUNCTIONS: &[Function] = &[
    level("kong.log", notice, "Writes to the error log, at level notice."),
    level("kong.log.emerg", emerg, "Writes to the error log, at level emerg."),
    level("kong.log.alert", alert, "Writes to the error log, at level alert."),
    level("kong.log.crit", crit, "Writes to the error log, at level crit."),
    level("kong.log.err", err, "Writes to the error log, at level error."),
    level("kong.log.warn", warn, "Writes to the error log, at level warn."),
    level("kong.log.notice", notice, "Writes to the error log, at level notice."),
    level("kong.log.info", info, "Writes to the error log, at level info."),
    level("kong.log.debug", debug, "Writes to the error log, at level debug."),
    level("kong.log.inspect", notice, "Writes values to the error log, tables spelled out, at level notice."),
    level("kong.log.inspect.on", nothing, "Has no effect: `kong.log.inspect` is always on."),
    level("kong.log.inspect.off", nothing, "Has no effect: `kong.log.inspect` is always on."),
    level("kong.log.deprecation", warn, "Writes to the error log that something is deprecated, at level warn."),
    Function {
        name: "kong.log.set_serialize_value",
        run: set_serialize_value,
        phases: WITH_CONTEXT,
        args: "key: string, value: any, options: table?",
        result: "nothing",
        about: "Changes the log entry: a dotted key, a value, and `mode` (`set`, `add`, `replace`). In log the entry \
                is already made.",
        since: "0.1",
    },
    Function {
        name: "kong.log.serialize",
        run: serialize,
        phases: PhaseRule::Only(KongPhases::LOG),
        args: "",
        result: "string",
        about: "The log entry as JSON.",
        since: "0.1",
    },
];

fn write(exchange: &Exchange, caller: &Caller, level: LogLevel, args: &[Value]) -> Outcome {
    if exchange.node.surroundings.logs(level) {
        let message: Vec<u8> = args.iter().flat_map(lua::to_text).collect();
        exchange.node.surroundings.log(level, &caller.plugin_name, &String::from_utf8_lossy(&message), exchange);
    }
    Outcome::nothing()
}

fn nothing(_: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::nothing()
}

fn emerg(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Emerg, args)
}

fn alert(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Alert, args)
}

fn crit(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Crit, args)
}

fn err(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Err, args)
}

fn warn(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Warn, args)
}

fn notice(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Notice, args)
}

fn info(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Info, args)
}

fn debug(exchange: &mut Exchange, caller: &Caller, args: &[Value]) -> Outcome {
    write(exchange, caller, LogLevel::Debug, args)
}

fn mode(options: &Value) -> Result<SerializeMode, String> {
    let mode = match options {
        absent if !lua::truthy(absent) => &Value::Nil,
        Value::Map(fields) => fields.iter().find(|(name, _)| name == "mode").map_or(&Value::Nil, |(_, mode)| mode),
        Value::Text(_) | Value::Binary(_) | Value::List(_) => &Value::Nil,
        other => return Err(format!("attempt to index local 'options' (a {} value)", lua::type_name(other))),
    };
    if !lua::truthy(mode) {
        return Ok(SerializeMode::Set);
    }
    match mode.as_str() {
        Some("set") => Ok(SerializeMode::Set),
        Some("add") => Ok(SerializeMode::Add),
        Some("replace") => Ok(SerializeMode::Replace),
        _ => Err("mode must be 'set', 'add' or 'replace'".to_owned()),
    }
}

fn set_serialize_value(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising((|| {
        let key = string(args, 0, "key must be a string")?;
        let mode = mode(argument(args, 2))?;
        if exchange.phase != Phase::Log {
            if key.iter().filter(|&&byte| byte == b'.').count() > json::MAX_DEPTH {
                return Err(format!("key has more than {} parts", json::MAX_DEPTH));
            }
            let key = String::from_utf8_lossy(key).into_owned();
            let value = argument(args, 1);
            let value = lua::encodable(value).unwrap_or_else(|_| lua::stored(value.clone()));
            kept::room_in(exchange.serialize_values.len())?;
            exchange.kept.replace(0, kept::of_call(&key, &value, args))?;
            exchange.serialize_values.push((key, value, mode));
        }
        Ok(Outcome::nothing())
    })())
}

fn serialize(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    raising(serialize::entry(exchange).and_then(|entry| {
        let text = json::encode(&entry, 14, EmptyList::Array)?;
        Ok(Outcome::value(Value::Text(text)))
    }))
}

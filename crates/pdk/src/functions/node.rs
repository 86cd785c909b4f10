//! `kong.node`: this gateway.

use silverback_protocol::Value;

use super::{argument, raising};
use crate::{
    Caller, Exchange, Outcome,
    function::{Function, PhaseRule},
    lua,
};

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "kong.node.get_id",
        run: id,
        phases: PhaseRule::Any,
        args: "",
        result: "string",
        about: "The id of this node.",
        since: "0.1",
    },
    Function {
        name: "kong.node.get_hostname",
        run: hostname,
        phases: PhaseRule::Any,
        args: "",
        result: "string",
        about: "The name of the host.",
        since: "0.1",
    },
    Function {
        name: "kong.node.get_memory_stats",
        run: memory_stats,
        phases: PhaseRule::Any,
        args: "unit: string?, scale: number?",
        result: "table",
        about: "Memory in use: `lua_shared_dicts` and `workers_lua_vms`, in bytes or in `k`, `m`, `g` as text.",
        since: "0.1",
    },
];

fn id(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.node.id.as_str())
}

fn hostname(exchange: &mut Exchange, _: &Caller, _: &[Value]) -> Outcome {
    Outcome::value(exchange.node.hostname.as_str())
}

/// How sizes are shown.
enum Unit {
    Bytes,
    /// Bytes of the unit, its name, and how many decimals.
    Text(f64, &'static str, usize),
}

impl Unit {
    fn from_arguments(args: &[Value]) -> Result<Self, String> {
        let unit = match argument(args, 0) {
            absent if !lua::truthy(absent) => return Ok(Self::Bytes),
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                return Err("bad argument #1 to 'lower' (string expected)".to_owned());
            }
            given => String::from_utf8_lossy(&lua::to_text(given)).into_owned(),
        };
        let (size, name) = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => return Ok(Self::Bytes),
            "k" => (1024.0, "KiB"),
            "m" => (1_048_576.0, "MiB"),
            "g" => (1_073_741_824.0, "GiB"),
            _ => return Err(format!("invalid unit '{unit}' (expected 'k/K', 'm/M', or 'g/G')")),
        };
        let scale = match argument(args, 1) {
            absent if !lua::truthy(absent) => 2.0,
            given => lua::number(given).filter(|scale| *scale >= 0.0).ok_or("scale must be equal or greater than 0")?,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "C's printf takes 99 decimals at most"
        )]
        Ok(Self::Text(size, name, scale.min(99.0) as usize))
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes of memory")]
    fn show(&self, bytes: u64) -> Value {
        match self {
            Self::Bytes => Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Self::Text(size, name, scale) => Value::text(format!("{:.scale$} {name}", bytes as f64 / size)),
        }
    }
}

fn memory_stats(exchange: &mut Exchange, _: &Caller, args: &[Value]) -> Outcome {
    raising(Unit::from_arguments(args).map(|unit| {
        let memory = exchange.node.surroundings.memory();
        let shared = memory.shared.iter().map(|(name, allocated, capacity)| {
            let sizes = vec![
                ("capacity".to_owned(), unit.show(*capacity)),
                ("allocated_slabs".to_owned(), unit.show(*allocated)),
            ];
            (name.clone(), Value::Map(sizes))
        });
        let workers = memory.workers.iter().map(|(pid, allocated)| {
            Value::Map(vec![
                ("pid".to_owned(), Value::Int(i64::from(*pid))),
                ("http_allocated_gc".to_owned(), unit.show(*allocated)),
            ])
        });
        Outcome::value(Value::Map(vec![
            ("workers_lua_vms".to_owned(), Value::List(workers.collect())),
            ("lua_shared_dicts".to_owned(), Value::Map(shared.collect())),
        ]))
    }))
}

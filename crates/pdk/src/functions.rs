//! The functions, a file a namespace. [`all`] is the one place that names every file.

mod client;
mod client_tls;
mod cluster;
mod ctx;
mod ip;
mod log;
mod nginx;
mod node;
mod plugin;
mod request;
mod response;
mod router;
mod service;
mod service_request;
mod service_response;
mod table;
mod telemetry;
mod vault;

pub(crate) use response::source_name;
pub(crate) use vault::resolve as resolve_reference;

use bytes::Bytes;
use silverback_protocol::Value;

use crate::{function::Function, lua};

/// Every function, namespace by namespace.
pub(crate) fn all() -> impl Iterator<Item = &'static Function> {
    [
        client::FUNCTIONS,
        client_tls::FUNCTIONS,
        cluster::FUNCTIONS,
        ctx::FUNCTIONS,
        ip::FUNCTIONS,
        log::FUNCTIONS,
        nginx::FUNCTIONS,
        node::FUNCTIONS,
        plugin::FUNCTIONS,
        request::FUNCTIONS,
        response::FUNCTIONS,
        router::FUNCTIONS,
        service::FUNCTIONS,
        service_request::FUNCTIONS,
        service_response::FUNCTIONS,
        table::FUNCTIONS,
        telemetry::FUNCTIONS,
        vault::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// The query as a table, within the limit of the node.
pub(crate) fn query_table(exchange: &crate::Exchange) -> Value {
    request::query_table(exchange, None)
}

/// An argument, or nil where there is none.
fn argument(args: &[Value], index: usize) -> &Value {
    args.get(index).unwrap_or(&Value::Nil)
}

/// A text argument.
///
/// # Errors
/// `complaint`, where it is none.
fn string<'a>(args: &'a [Value], index: usize, complaint: &str) -> Result<&'a Bytes, String> {
    argument(args, index).as_bytes().ok_or_else(|| complaint.to_owned())
}

/// An argument that is a whole number within a range.
///
/// # Errors
/// Kong's text, which names the argument.
fn integer(args: &[Value], index: usize, name: &str, low: i64, high: i64) -> Result<i64, String> {
    let given = argument(args, index);
    let Some(number) = lua::number(given).filter(|number| number.fract() == 0.0) else {
        return Err(format!("{name} must be an integer"));
    };
    match lua::from_number(number) {
        Value::Int(n) if (low..=high).contains(&n) => Ok(n),
        _ => {
            let shown = String::from_utf8_lossy(&lua::to_text(given)).into_owned();
            Err(format!("{name} must be an integer between {low} and {high}: given {shown}"))
        }
    }
}

/// Lets a function use `?` on Lua errors.
fn raising(result: Result<crate::Outcome, String>) -> crate::Outcome {
    result.unwrap_or_else(crate::Outcome::Raise)
}

#[cfg(test)]
mod tests;

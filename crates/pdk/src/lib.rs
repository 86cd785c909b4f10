//! The plugin development kit: one request's state ([`Exchange`]) and every `kong.*` function on it.
//!
//! Pure (sans-io): a call that must wait says so ([`Need`]), and is made again when what it needs is there.
//!
//! Every function stands in one table, a file a namespace (`functions/`): its name, its code, the phases in which it
//! may be called, and what the reference page says of it. [`call`] finds it there; `docs/pdk.md` is written from it.

pub mod address;
pub mod body;
pub mod entities;
pub mod error_page;
pub mod exchange;
mod function;
mod functions;
mod headers;
pub mod json;
mod kept;
mod lua;
mod multipart;
pub mod outcome;
mod query;
pub mod reference;
mod serialize;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod uri;
pub mod variables;
pub mod vault;

pub use exchange::Exchange;
pub use function::call;
pub use outcome::{Caller, Need, Outcome};
pub use vault::resolve_reference;

//! What a plugin server can do wrong, done under load, and what it cost whom.
//!
//! A [`row`] is one [`Fault`] in one language under one policy: three routes under steady load, one of which goes through the
//! plugin that goes wrong, one through a healthy plugin of another server, one through none. [`soak`] is a long mixture.

pub mod fault;
mod load;
mod process;
pub mod row;
pub mod soak;

pub use fault::Fault;
pub use row::{Policy, Report, row};
pub use soak::soak;

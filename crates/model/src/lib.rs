//! The entities of the gateway (services, routes, consumers, plugins, ...), the schema language in which plugins
//! describe their configuration, and the validated [`Snapshot`] that everything else is built from.
//!
//! Pure: no socket, no clock, no file.

pub mod catalogue;
pub mod entity;
pub mod on_error;
pub mod phase;
pub mod schema;
pub mod snapshot;

pub use catalogue::{BUNDLED_IN_KONG, Catalogue, PluginDefinition, PluginSource};
pub use entity::*;
pub use on_error::{Fails, NoPolicy, OnError};
pub use phase::{Phase, PhaseSet};
pub use snapshot::{Directory, Snapshot};

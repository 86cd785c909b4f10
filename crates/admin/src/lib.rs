//! The Admin and Status APIs: what `admin_listen` and `status_listen` answer.
//!
//! Both run on the control thread. `/` and `/status` answer on the Admin API, `/status` and `/status/ready` on the
//! Status API, the health of upstreams on the Admin API, in Kong's shapes, and `/metrics` on both; everything else is a 404
//! as JSON.

mod api;
mod exposition;
mod information;
mod listener;
mod metrics;
mod node;
mod status;
mod tls;
mod upstreams;

pub use api::Api;
pub use exposition::{Exposition, Kind, Labels};
pub use listener::{BindError, Listener, bind, spawn};
pub use node::{Configured, Loaded, Node, PluginServer, Readiness, Reports, Statistics};
pub use tls::TlsError;
pub use upstreams::{HealthNotSet, Upstreams};

/// The release of Kong whose behaviour and answers are reproduced.
pub const KONG_VERSION: &str = "3.9.3";

/// What the `Server` header says.
pub const SERVER_TOKEN: &str = concat!("silverback/", env!("CARGO_PKG_VERSION"));

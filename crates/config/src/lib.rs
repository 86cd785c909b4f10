//! What operators write: `kong.conf` and `KONG_*` become [`Settings`], a declarative file becomes a
//! [`silverback_model::Snapshot`].

pub mod conf;
pub mod declarative;
mod restart;
pub mod settings;

pub use conf::{LoadError, Loaded, Problem, kong_env, load, load_text};
pub use declarative::{DeclarativeError, advice, parse_declarative};
pub use restart::keep_what_needs_restart;
pub use settings::Settings;

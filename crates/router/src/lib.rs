//! From a [`Snapshot`](silverback_model::Snapshot) to a [`Router`], from a request to a [`Match`].
//!
//! The rules are those of Kong 3.9's router flavour `traditional_compatible`: every route becomes one or more rules
//! (`rule`), the rules are put in the order of Kong's priorities (`priority`), and the first rule that a request
//! satisfies wins. Rather than trying them one by one, the router files them in an index (`index`) by what tells them
//! apart best, and tries only those that it finds there.
//!
//! Pure: no socket, no clock. A router is immutable; [`Router::clone`] gives a thread regular-expression caches of
//! its own.
#![forbid(unsafe_code)]

mod index;
mod matched;
mod path;
mod pattern;
mod priority;
mod protocol;
mod router;
mod rule;
mod stream;
mod trie;
mod upstream;

pub use matched::{Captures, Match, Query};
pub use path::normalize_path;
pub use protocol::{Refusal, refusal};
pub use router::{BuildError, Problem, Router};
pub use stream::{StreamMatch, StreamQuery, StreamRouter};
pub use upstream::upstream_path;

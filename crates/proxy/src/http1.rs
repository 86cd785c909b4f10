//! HTTP/1.1 as bytes (RFC 9112): what is the same towards clients and towards upstreams. Who says what, and when, is said
//! where connections are.

pub mod answer_head;
pub mod decoder;
pub(crate) mod encoder;
pub(crate) mod incoming;
pub(crate) mod lines;
pub(crate) mod outgoing;
pub(crate) mod spelling;
mod title_case;

//! The host against a stand-in that speaks both protocols, and misbehaves as it is told.

mod events;
mod life;
mod queries;
mod stand_in;
mod support;

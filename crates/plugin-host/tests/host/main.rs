//! The host against a stand-in that speaks both protocols, and misbehaves as it is told.

// marked as tests so that clippy grants them what it grants tests
#[cfg(test)]
mod events;
#[cfg(test)]
mod life;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod support;

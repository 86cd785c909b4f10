//! The router beside the crate `atc-router`: the same routes for both, and the same requests.

pub mod atc;
pub mod workload;

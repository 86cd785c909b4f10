//! The way upstream: which address ([`balancer`], [`dns`], [`health`]), over which connection ([`pool`], [`connect`]),
//! and what to do when it fails ([`send`]).

pub(crate) mod balancer;
pub(crate) mod connect;
pub(crate) mod dns;
pub(crate) mod hash_input;
pub(crate) mod health;
mod pool;
pub(crate) mod send;

pub use self::balancer::{SetHealthError, UpstreamHealth};
pub(crate) use self::{
    balancer::Balancers,
    connect::ClientTls,
    dns::Resolver,
    pool::{Lease, Pool},
};

//! The way upstream: which address ([`balancer`], [`dns`], [`health`]), over which connection ([`pool`], [`http2`],
//! [`connect`], [`tls`]), and what to do when it fails ([`send`]).

pub(crate) mod balancer;
pub(crate) mod connect;
pub(crate) mod dns;
pub(crate) mod hash_input;
pub(crate) mod health;
mod http2;
mod pool;
pub(crate) mod send;
pub(crate) mod tls;
mod verify;

pub use self::balancer::{AddressHealth, HealthState, SetHealthError, UpstreamHealth};
pub(crate) use self::{
    balancer::Balancers,
    dns::Resolver,
    pool::{Lease, Pool},
    tls::ClientTls,
};

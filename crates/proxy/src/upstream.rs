//! The way upstream: which address ([`balancer`], [`dns`], [`health`]), over which connection ([`pool`], [`http1`],
//! [`http2`], [`connect`], [`tls`]), what comes back ([`answer`]), and what to do when it fails ([`send`]).

pub(crate) mod answer;
pub(crate) mod balancer;
pub(crate) mod connect;
pub(crate) mod dns;
pub(crate) mod hash_input;
pub(crate) mod health;
mod http1;
mod http2;
mod pool;
pub(crate) mod send;
pub(crate) mod tls;
mod verify;

pub use self::balancer::{AddressHealth, HealthState, SetHealthError, UpstreamHealth};
pub(crate) use self::{balancer::Balancers, dns::Resolver, pool::Pool, tls::ClientTls};

//! The way upstream: which address ([`balancer`], [`dns`]), over which connection ([`pool`], [`connect`]), and
//! what to do when it fails ([`send`]).

pub(crate) mod balancer;
pub(crate) mod connect;
pub(crate) mod dns;
mod pool;
pub(crate) mod send;

pub(crate) use self::{
    balancer::Balancers,
    connect::ClientTls,
    dns::Resolver,
    pool::{Lease, Pool},
};

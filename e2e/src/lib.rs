//! A harness for tests that read like sentences: a [`Gateway`] with its plugin servers, a scripted [`Upstream`] behind it, and
//! a [`Connection`] that shows exactly which bytes come and go.
//!
//! Everything happens over real sockets and with the executable that users run; it must have been built (`cargo build`).
//! Nothing here depends on how long something takes: what is waited for is a condition, and [`DEADLINE`] is the time after
//! which it is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test harness reports by panicking"
)]

pub mod chaos;
mod client;
mod deadline;
mod dns;
mod gateway;
mod grpc;
mod http2;
pub mod pki;
mod plugin_server;
mod ports;
mod process;
mod streams;
mod tls;
mod upstream;
mod websocket;

pub use client::{Connection, Response};
pub use deadline::{DEADLINE, eventually, eventually_async, within};
pub use dns::Dns;
pub use gateway::{Gateway, Running};
pub use grpc::{GrpcClient, GrpcUpstream};
pub use http2::{Http2, Http2Response};
pub use plugin_server::{Calls, Chaos, Handshake, Language, PluginServer, Trial};
pub use ports::free_port;
pub use process::{Ended, executable, project_file, run_silverback};
pub use streams::{StreamServer, UdpEcho};
pub use tls::{Agreed, TlsClient};
pub use upstream::{Gate, Received, Step, TlsOffer, Upstream};
pub use websocket::WebSocketUpstream;

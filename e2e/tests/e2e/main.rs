//! The gateway as its users see it. Each test's name is a sentence about it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod admin;
mod algorithms;
mod auth;
mod balancing;
mod bodies;
mod buffering;
mod chaos;
mod cli;
mod dns;
mod errors;
mod forwarding;
mod grpc;
mod health;
mod http1;
mod http2;
mod http2_limits;
mod idle;
mod lifecycle;
mod load;
mod logs;
mod observability;
mod pdk;
mod pdk_requests;
mod plugin_dir;
mod plugin_failures;
mod plugins;
mod policies;
mod proxy_protocol;
mod repair;
mod routing;
mod sanitiser;
mod server_processes;
mod streaming;
mod streams;
mod tls;
mod upgrades;
mod upstream_answers;
mod upstream_failures;
mod upstream_time;
mod upstream_tls;
mod websocket;

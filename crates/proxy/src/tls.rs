//! TLS with clients: handshakes and the certificates for them.

mod certificates;
pub(crate) mod handshake;
mod server_config;

pub use certificates::CertificateError;
pub(crate) use certificates::{Certificates, trusted_roots};
pub(crate) use server_config::{Alpn, ServerTls};

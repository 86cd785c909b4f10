//! TLS with clients: handshakes, the certificates for them, the certificates from them, sessions.

mod certificates;
mod client_certificate;
pub(crate) mod handshake;
mod server_config;
mod sessions;

pub use certificates::CertificateError;
pub(crate) use certificates::{Certificates, certified, pem};
pub use server_config::ServerTlsError;
pub(crate) use server_config::{Alpn, ServerTls};
pub(crate) use sessions::Sessions;

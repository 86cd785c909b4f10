//! What the settings say of requests, in the form in which requests use it. Part of a generation: a reload brings new
//! settings as it brings new routes.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use silverback_config::Settings;
use silverback_pdk::exchange::Node;

use crate::{
    access_log::AccessLog,
    generation::Registries,
    surroundings,
    tls::{self, Certificates},
};

/// The settings in force for the requests of a generation.
pub(crate) struct Profile {
    pub(crate) settings: Arc<Settings>,
    /// What plugins see of the node.
    pub(crate) node: Arc<Node>,
    pub(crate) access_log: AccessLog,
}

impl Profile {
    pub(crate) fn build(settings: &Arc<Settings>, registries: &Registries) -> io::Result<Self> {
        Ok(Self {
            settings: Arc::clone(settings),
            node: Arc::new(surroundings::node(settings, registries)),
            access_log: AccessLog::open(&settings.logs.proxy_access)?,
        })
    }
}

/// What TLS listeners do handshakes with; made once, so that sessions can be resumed.
pub(crate) struct ServerTls {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
}

impl ServerTls {
    pub(crate) fn build(certificates: &Arc<Certificates>, settings: &Settings) -> Result<Self, rustls::Error> {
        Ok(Self {
            http1: tls::server_config(certificates, settings, false)?,
            http2: tls::server_config(certificates, settings, true)?,
        })
    }

    /// The configuration of a listener, with HTTP/2 offered or not.
    pub(crate) fn config(&self, http2: bool) -> &Arc<ServerConfig> {
        if http2 { &self.http2 } else { &self.http1 }
    }
}

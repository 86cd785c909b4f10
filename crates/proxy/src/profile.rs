//! What the settings say of requests, in the form in which requests use it. Part of a generation: a reload brings new
//! settings as it brings new routes.

use std::{io, sync::Arc};

use silverback_config::Settings;
use silverback_pdk::exchange::Node;

use crate::{access_log::AccessLog, generation::Registries, surroundings};

/// The settings in force for the requests of a generation.
pub(crate) struct Profile {
    pub(crate) settings: Arc<Settings>,
    /// What plugins see of the node.
    pub(crate) node: Arc<Node>,
    pub(crate) access_log: AccessLog,
    /// `None` where nothing listens for streams.
    pub(crate) stream_access_log: Option<AccessLog>,
}

impl Profile {
    pub(crate) fn build(settings: &Arc<Settings>, registries: &Registries) -> io::Result<Self> {
        Ok(Self {
            settings: Arc::clone(settings),
            node: Arc::new(surroundings::node(settings, registries)),
            access_log: AccessLog::open(&settings.logs.proxy_access)?,
            stream_access_log: (!settings.stream_listen.is_empty())
                .then(|| AccessLog::open(&settings.logs.stream_access))
                .transpose()?,
        })
    }
}

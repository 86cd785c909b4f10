//! A whole configuration, validated: every reference resolves, every id is set.

use std::{collections::HashMap, sync::Arc};

use crate::{
    CaCertificate, Certificate, Consumer, Credential, CredentialKind, Id, Plugin, Route, Service, Sni, Target,
    Upstream, Vault,
};

/// A whole configuration. Built by `config`, read by whoever builds a generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A hash over the source text; Kong calls it `configuration_hash`.
    pub hash: String,
    pub services: Vec<Arc<Service>>,
    /// In the order in which they were declared.
    pub routes: Vec<Arc<Route>>,
    pub plugins: Vec<Arc<Plugin>>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub targets: Vec<Arc<Target>>,
    pub certificates: Vec<Arc<Certificate>>,
    pub snis: Vec<Arc<Sni>>,
    pub ca_certificates: Vec<Arc<CaCertificate>>,
    pub vaults: Vec<Arc<Vault>>,
    pub directory: Arc<Directory>,
}

/// Consumers and their credentials, and the ways to find them.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    by_id: HashMap<Id, Arc<Consumer>>,
    by_username: HashMap<String, Arc<Consumer>>,
    by_custom_id: HashMap<String, Arc<Consumer>>,
    credentials: HashMap<(CredentialKind, String), Arc<Credential>>,
    /// In the order in which they were declared.
    by_consumer: HashMap<Id, Vec<Arc<Credential>>>,
    env_vaults: HashMap<String, String>,
}

impl Directory {
    pub fn new(consumers: Vec<Consumer>, credentials: Vec<Credential>) -> Self {
        let mut directory = Self::default();
        for consumer in consumers {
            let consumer = Arc::new(consumer);
            if let Some(name) = &consumer.username {
                directory.by_username.insert(name.clone(), Arc::clone(&consumer));
            }
            if let Some(custom_id) = &consumer.custom_id {
                directory.by_custom_id.insert(custom_id.clone(), Arc::clone(&consumer));
            }
            directory.by_id.insert(consumer.id, consumer);
        }
        for credential in credentials {
            let credential = Arc::new(credential);
            directory.by_consumer.entry(credential.consumer).or_default().push(Arc::clone(&credential));
            directory.credentials.insert((credential.kind, credential.key.clone()), credential);
        }
        directory
    }

    pub fn consumer(&self, id: Id) -> Option<&Arc<Consumer>> {
        self.by_id.get(&id)
    }

    pub fn consumer_by_username(&self, username: &str) -> Option<&Arc<Consumer>> {
        self.by_username.get(username)
    }

    pub fn consumer_by_custom_id(&self, custom_id: &str) -> Option<&Arc<Consumer>> {
        self.by_custom_id.get(custom_id)
    }

    /// The credential of this kind with this key (user name, client id, ...).
    pub fn credential(&self, kind: CredentialKind, key: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(&(kind, key.to_owned()))
    }

    /// Adds environment vault entities: the name in references, and the entity's `prefix` setting.
    #[must_use]
    pub fn with_env_vaults(mut self, vaults: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env_vaults.extend(vaults);
        self
    }

    /// The `prefix` setting of the environment vault entity of this name.
    pub fn env_vault_prefix(&self, name: &str) -> Option<&str> {
        self.env_vaults.get(name).map(String::as_str)
    }

    /// A consumer's credentials of this kind. Groups (`acls`) are found this way: their keys are not unique.
    pub fn credentials_of(&self, consumer: Id, kind: CredentialKind) -> impl Iterator<Item = &Arc<Credential>> {
        self.by_consumer.get(&consumer).into_iter().flatten().filter(move |credential| credential.kind == kind)
    }

    /// Every credential, in no order.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.by_consumer.values().flatten()
    }

    pub fn consumers(&self) -> impl Iterator<Item = &Arc<Consumer>> {
        self.by_id.values()
    }
}

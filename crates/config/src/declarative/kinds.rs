//! The kinds of entities a declarative file may hold, and how they refer to each other.

use silverback_model::CredentialKind;

/// A kind of entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Certificate,
    Consumer,
    Service,
    Route,
    Sni,
    Upstream,
    Target,
    Plugin,
    CaCertificate,
    Vault,
    Credential(CredentialKind),
}

/// A field by which one entity names another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    pub(super) field: &'static str,
    pub(super) to: Kind,
    pub(super) required: bool,
}

const fn foreign(field: &'static str, to: Kind) -> Foreign {
    Foreign { field, to, required: false }
}

const fn owner(field: &'static str, to: Kind) -> Foreign {
    Foreign { field, to, required: true }
}

impl Kind {
    /// Every kind; one that is referred to comes before those that refer to it.
    pub(super) const ALL: [Self; 16] = [
        Self::Certificate,
        Self::Consumer,
        Self::Service,
        Self::Route,
        Self::Sni,
        Self::Upstream,
        Self::Target,
        Self::Plugin,
        Self::CaCertificate,
        Self::Vault,
        Self::Credential(CredentialKind::KeyAuth),
        Self::Credential(CredentialKind::BasicAuth),
        Self::Credential(CredentialKind::HmacAuth),
        Self::Credential(CredentialKind::Jwt),
        Self::Credential(CredentialKind::OAuth2),
        Self::Credential(CredentialKind::Acl),
    ];

    /// The name of the collection.
    pub(super) const fn collection(self) -> &'static str {
        match self {
            Self::Certificate => "certificates",
            Self::Consumer => "consumers",
            Self::Service => "services",
            Self::Route => "routes",
            Self::Sni => "snis",
            Self::Upstream => "upstreams",
            Self::Target => "targets",
            Self::Plugin => "plugins",
            Self::CaCertificate => "ca_certificates",
            Self::Vault => "vaults",
            Self::Credential(kind) => kind.collection(),
        }
    }

    /// The plugin that brings this kind; it exists only if the plugin is enabled.
    pub(super) const fn plugin(self) -> Option<&'static str> {
        match self {
            Self::Credential(kind) => Some(match kind {
                CredentialKind::KeyAuth => "key-auth",
                CredentialKind::BasicAuth => "basic-auth",
                CredentialKind::HmacAuth => "hmac-auth",
                CredentialKind::Jwt => "jwt",
                CredentialKind::OAuth2 => "oauth2",
                CredentialKind::Acl => "acl",
            }),
            _ => None,
        }
    }

    /// The field by which an entity may be named instead of its id, and by which it is unique.
    pub(super) const fn endpoint_key(self) -> Option<&'static str> {
        match self {
            Self::Consumer => Some("username"),
            Self::Service | Self::Route | Self::Sni | Self::Upstream => Some("name"),
            Self::Plugin => Some("instance_name"),
            Self::Vault => Some("prefix"),
            Self::Credential(CredentialKind::Acl) | Self::Certificate | Self::CaCertificate | Self::Target => None,
            Self::Credential(kind) => Some(kind.key_field()),
        }
    }

    /// Further fields of which no two entities may have the same value.
    pub(super) const fn unique(self) -> &'static [&'static str] {
        match self {
            Self::Consumer => &["custom_id"],
            Self::CaCertificate => &["cert_digest"],
            _ => &[],
        }
    }

    /// The field of which a value may be there only once for a route, service and consumer.
    pub(super) const fn unique_in_scope(self) -> Option<&'static str> {
        match self {
            Self::Plugin => Some("name"),
            Self::Credential(CredentialKind::Acl) => Some("group"),
            _ => None,
        }
    }

    /// The fields that Kong derives an id from, where it does not take the endpoint key.
    pub(super) const fn cache_key(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Plugin => Some(&["name", "route", "service", "consumer"]),
            Self::Target => Some(&["upstream", "target"]),
            Self::Vault => Some(&["prefix"]),
            Self::Credential(CredentialKind::KeyAuth | CredentialKind::Jwt) => Some(&["key"]),
            Self::Credential(CredentialKind::BasicAuth | CredentialKind::HmacAuth) => Some(&["username"]),
            Self::Credential(CredentialKind::OAuth2) => Some(&["client_id"]),
            Self::Credential(CredentialKind::Acl) => Some(&["consumer", "group"]),
            _ => None,
        }
    }

    /// The fields that name other entities.
    pub(super) const fn foreign(self) -> &'static [Foreign] {
        const PLUGIN: [Foreign; 3] =
            [foreign("route", Kind::Route), foreign("service", Kind::Service), foreign("consumer", Kind::Consumer)];
        match self {
            Self::Service | Self::Upstream => &const { [foreign("client_certificate", Self::Certificate)] },
            Self::Route => &const { [foreign("service", Self::Service)] },
            Self::Sni => &const { [owner("certificate", Self::Certificate)] },
            Self::Target => &const { [owner("upstream", Self::Upstream)] },
            Self::Plugin => &PLUGIN,
            Self::Credential(_) => &const { [owner("consumer", Self::Consumer)] },
            Self::Certificate | Self::Consumer | Self::CaCertificate | Self::Vault => &[],
        }
    }

    /// The kinds that may be nested in this one, with the field that names it.
    pub(super) fn children(self) -> impl Iterator<Item = (Self, &'static str)> {
        Self::ALL.into_iter().filter_map(move |child| {
            child.foreign().iter().find(|foreign| foreign.to == self).map(|foreign| (child, foreign.field))
        })
    }
}

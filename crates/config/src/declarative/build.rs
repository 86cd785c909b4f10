//! From checked fields to the types of the model.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use silverback_model::{
    CaCertificate, Certificate, Consumer, Credential, CredentialKind, Directory, Endpoint, Id, PathHandling, Plugin,
    Protocol, Route, Service, Snapshot, Sni, Tags, Target, Upstream, Vault,
};

use super::{hosts, kinds::Kind, link::Linked};

/// The port of a target that names none.
const DEFAULT_TARGET_PORT: u16 = 8000;

pub(super) fn build(linked: Vec<Linked>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let (mut consumers, mut credentials) = (Vec::new(), Vec::new());
    for item in linked {
        match item.entity.kind {
            Kind::Service => snapshot.services.push(Arc::new(service(item))),
            Kind::Route => snapshot.routes.push(Arc::new(route(item))),
            Kind::Plugin => snapshot.plugins.push(Arc::new(plugin(item))),
            Kind::Upstream => snapshot.upstreams.push(Arc::new(upstream(item))),
            Kind::Target => snapshot.targets.push(Arc::new(target(item))),
            Kind::Certificate => snapshot.certificates.push(Arc::new(certificate(item))),
            Kind::Sni => snapshot.snis.push(Arc::new(sni(item))),
            Kind::CaCertificate => snapshot.ca_certificates.push(Arc::new(ca_certificate(item))),
            Kind::Vault => snapshot.vaults.push(Arc::new(vault(item))),
            Kind::Consumer => consumers.push(consumer(item)),
            Kind::Credential(kind) => credentials.push(credential(kind, item)),
        }
    }
    let env_vaults = snapshot.vaults.iter().filter(|vault| vault.name == "env").map(|vault| {
        let prefix = vault.config.get("prefix").and_then(Json::as_str).unwrap_or_default();
        (vault.prefix.clone(), prefix.to_owned())
    });
    snapshot.directory = Arc::new(Directory::new(consumers, credentials).with_env_vaults(env_vaults));
    snapshot
}

/// The fields of an entity, taken out one by one. Validation has seen to it that they are there and of their type.
struct Fields(Map<String, Json>);

impl Fields {
    fn take(&mut self, name: &str) -> Json {
        self.0.get_mut(name).map(Json::take).unwrap_or_default()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name) {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        match self.take(name) {
            Json::Array(list) => Some(texts(list)),
            _ => None,
        }
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name).as_bool()
    }

    fn number<T: TryFrom<i64>>(&mut self, name: &str) -> Option<T> {
        self.take(name).as_i64().and_then(|number| T::try_from(number).ok())
    }

    fn protocols(&mut self) -> Vec<Protocol> {
        self.texts("protocols").unwrap_or_default().iter().filter_map(|name| protocol(name)).collect()
    }

    fn dates(&mut self) -> (i64, i64) {
        (self.number("created_at").unwrap_or_default(), self.number("updated_at").unwrap_or_default())
    }

    fn tags(&mut self) -> Tags {
        self.texts("tags")
    }
}

fn texts(list: Vec<Json>) -> Vec<String> {
    list.into_iter()
        .filter_map(|item| match item {
            Json::String(text) => Some(text),
            _ => None,
        })
        .collect()
}

fn protocol(name: &str) -> Option<Protocol> {
    use Protocol::{Grpc, Grpcs, Http, Https, Tcp, Tls, TlsPassthrough, Udp, Ws, Wss};
    [Http, Https, Grpc, Grpcs, Tcp, Tls, Udp, TlsPassthrough, Ws, Wss].into_iter().find(|p| p.name() == name)
}

fn service(item: Linked) -> Service {
    let client_certificate = item.reference("client_certificate");
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    let default = Service::new(item.entity.id, fields.text("host").unwrap_or_default());
    Service {
        name: fields.text("name"),
        protocol: fields.text("protocol").and_then(|name| protocol(&name)).unwrap_or(default.protocol),
        port: fields.number("port").unwrap_or(default.port),
        path: fields.text("path"),
        retries: fields.number("retries").unwrap_or(default.retries),
        connect_timeout: fields.number("connect_timeout").unwrap_or(default.connect_timeout),
        write_timeout: fields.number("write_timeout").unwrap_or(default.write_timeout),
        read_timeout: fields.number("read_timeout").unwrap_or(default.read_timeout),
        tags: fields.tags(),
        client_certificate,
        tls_verify: fields.flag("tls_verify"),
        tls_verify_depth: fields.number("tls_verify_depth"),
        ca_certificates: fields
            .texts("ca_certificates")
            .map(|list| list.iter().filter_map(|text| Id::try_parse(text).ok()).collect()),
        enabled: fields.flag("enabled").unwrap_or(default.enabled),
        created_at,
        updated_at,
        ..default
    }
}

fn endpoints(value: Json) -> Option<Vec<Endpoint>> {
    let Json::Array(list) = value else { return None };
    Some(
        list.iter()
            .map(|endpoint| Endpoint {
                ip: endpoint.get("ip").and_then(Json::as_str).map(str::to_owned),
                port: endpoint.get("port").and_then(Json::as_u64).and_then(|port| u16::try_from(port).ok()),
            })
            .collect(),
    )
}

fn route(item: Linked) -> Route {
    let service = item.reference("service");
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    let headers = match fields.take("headers") {
        Json::Object(map) => Some(
            map.into_iter()
                .map(|(name, values)| {
                    let values = if let Json::Array(list) = values { texts(list) } else { Vec::new() };
                    (name.to_ascii_lowercase(), values)
                })
                .collect(),
        ),
        _ => None,
    };
    let default = Route::new(item.entity.id);
    Route {
        name: fields.text("name"),
        protocols: fields.protocols(),
        methods: fields.texts("methods"),
        hosts: fields.texts("hosts"),
        paths: fields.texts("paths"),
        headers,
        snis: fields.texts("snis"),
        sources: endpoints(fields.take("sources")),
        destinations: endpoints(fields.take("destinations")),
        https_redirect_status_code: fields
            .number("https_redirect_status_code")
            .unwrap_or(default.https_redirect_status_code),
        regex_priority: fields.number("regex_priority").unwrap_or(default.regex_priority),
        strip_path: fields.flag("strip_path").unwrap_or(default.strip_path),
        preserve_host: fields.flag("preserve_host").unwrap_or(default.preserve_host),
        path_handling: match fields.text("path_handling").as_deref() {
            Some("v0") => PathHandling::V0,
            Some("v1") => PathHandling::V1,
            _ => default.path_handling,
        },
        request_buffering: fields.flag("request_buffering").unwrap_or(default.request_buffering),
        response_buffering: fields.flag("response_buffering").unwrap_or(default.response_buffering),
        tags: fields.tags(),
        service,
        created_at,
        updated_at,
        ..default
    }
}

fn plugin(item: Linked) -> Plugin {
    let (service, route, consumer) = (item.reference("service"), item.reference("route"), item.reference("consumer"));
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    Plugin {
        id: item.entity.id,
        name: fields.text("name").unwrap_or_default(),
        instance_name: fields.text("instance_name"),
        service,
        route,
        consumer,
        config: match fields.take("config") {
            Json::Object(config) => config,
            _ => Map::new(),
        },
        protocols: fields.protocols(),
        enabled: fields.flag("enabled").unwrap_or(true),
        timeout: fields.number("timeout"),
        on_error: fields.text("on_error").and_then(|text| text.parse().ok()),
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn upstream(item: Linked) -> Upstream {
    let client_certificate = item.reference("client_certificate");
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    let (name, algorithm) = (fields.text("name").unwrap_or_default(), fields.text("algorithm").unwrap_or_default());
    let (host_header, tags) = (fields.text("host_header"), fields.tags());
    let mut settings = fields.0;
    for own in ["id", "name", "algorithm", "host_header", "tags", "created_at", "updated_at"] {
        settings.shift_remove(own);
    }
    let reference = client_certificate
        .map_or(Json::Null, |id| Json::Object([("id".to_owned(), Json::from(id.to_string()))].into_iter().collect()));
    settings.insert("client_certificate".to_owned(), reference);
    Upstream { id: item.entity.id, name, algorithm, host_header, tags, settings, created_at, updated_at }
}

fn target(item: Linked) -> Target {
    let upstream = item.reference("upstream").unwrap_or_default();
    let mut fields = Fields(item.entity.fields);
    let written = fields.text("target").unwrap_or_default();
    let (host, port, target) = match hosts::parse(&written) {
        Ok(parsed) => {
            let port = parsed.port.unwrap_or(DEFAULT_TARGET_PORT);
            let target = match parsed.kind {
                hosts::HostKind::V6 => format!("[{}]:{port}", parsed.host),
                _ => format!("{}:{port}", parsed.host),
            };
            (parsed.host, port, target)
        }
        Err(_) => (written.clone(), DEFAULT_TARGET_PORT, written),
    };
    let date = |fields: &mut Fields, name: &str| fields.take(name).as_f64().unwrap_or_default();
    Target {
        id: item.entity.id,
        upstream,
        target,
        host,
        port,
        weight: fields.number("weight").unwrap_or(100),
        tags: fields.tags(),
        created_at: date(&mut fields, "created_at"),
        updated_at: date(&mut fields, "updated_at"),
    }
}

fn certificate(item: Linked) -> Certificate {
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    Certificate {
        id: item.entity.id,
        cert: fields.text("cert").unwrap_or_default(),
        key: fields.text("key").unwrap_or_default(),
        cert_alt: fields.text("cert_alt"),
        key_alt: fields.text("key_alt"),
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn sni(item: Linked) -> Sni {
    let certificate = item.reference("certificate").unwrap_or_default();
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    Sni {
        id: item.entity.id,
        name: fields.text("name").unwrap_or_default(),
        certificate,
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn ca_certificate(item: Linked) -> CaCertificate {
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    CaCertificate {
        id: item.entity.id,
        cert: fields.text("cert").unwrap_or_default(),
        cert_digest: fields.text("cert_digest").unwrap_or_default(),
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn vault(item: Linked) -> Vault {
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    Vault {
        id: item.entity.id,
        prefix: fields.text("prefix").unwrap_or_default(),
        name: fields.text("name").unwrap_or_default(),
        description: fields.text("description"),
        config: match fields.take("config") {
            Json::Object(config) => config,
            _ => Map::new(),
        },
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn consumer(item: Linked) -> Consumer {
    let mut fields = Fields(item.entity.fields);
    let (created_at, updated_at) = fields.dates();
    Consumer {
        id: item.entity.id,
        username: fields.text("username"),
        custom_id: fields.text("custom_id"),
        tags: fields.tags(),
        created_at,
        updated_at,
    }
}

fn credential(kind: CredentialKind, item: Linked) -> Credential {
    let consumer = item.reference("consumer").unwrap_or_default();
    let mut fields = item.entity.fields;
    let reference = [("id".to_owned(), Json::from(consumer.to_string()))].into_iter().collect();
    fields.insert("consumer".to_owned(), Json::Object(reference));
    let key = fields.get(kind.key_field()).and_then(Json::as_str).unwrap_or_default().to_owned();
    Credential { kind, id: item.entity.id, consumer, key, fields }
}

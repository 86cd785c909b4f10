//! From the text of a file to a snapshot, or to everything that is wrong with it.

use proptest::prelude::*;
use serde_json::json;
use silverback_model::{
    CredentialKind, PathHandling, PhaseSet, PluginDefinition, PluginSource, Protocol, schema::Record,
};

use super::*;

const NOW: i64 = 1_700_000_000;

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (name, fields) in [
        ("key-auth", json!([{"key_names": {"type": "array", "elements": {"type": "string"}, "default": ["apikey"]}}])),
        (
            "mine",
            json!([
                {"text": {"type": "string"}},
                {"count": {"type": "integer", "default": 3}},
                {"secret": {"type": "string", "referenceable": true, "len_max": 4}},
            ]),
        ),
        ("strict", json!([{"needed": {"type": "string", "required": true}}])),
    ] {
        catalogue.insert(PluginDefinition {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            priority: 1,
            phases: PhaseSet::EMPTY,
            schema: Record::from_json(&fields).unwrap(),
            source: PluginSource::Bundled,
        });
    }
    catalogue
}

fn enabled() -> EnabledPlugins {
    EnabledPlugins { bundled: true, named: vec!["mine".to_owned(), "strict".to_owned(), "ghost".to_owned()] }
}

fn parse(text: &str) -> Result<Snapshot, DeclarativeError> {
    parse_declarative(text, None, &catalogue(), &enabled(), NOW)
}

fn good(text: &str) -> Snapshot {
    parse(&format!("_format_version: \"3.0\"\n{text}")).unwrap_or_else(|problem| panic!("{text}\n{problem}"))
}

/// The problems as `path: message`.
fn bad(text: &str) -> Vec<String> {
    match parse(&format!("_format_version: \"3.0\"\n{text}")) {
        Err(DeclarativeError::Invalid(violations)) => {
            violations.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
        }
        other => panic!("{text}\n{other:?}"),
    }
}

#[test]
fn what_is_no_configuration() {
    for (text, expect) in [
        ("", "failed parsing declarative configuration: expected an object"),
        ("[]", "failed parsing declarative configuration: expected an object"),
        ("words", "failed parsing declarative configuration: expected an object"),
        ("a: [1", "failed parsing declarative configuration: 2:1: "),
        ("{}", "declarative config is invalid: 1 problem\n  _format_version: required field missing"),
        ("_format_version: 3.0", "declarative config is invalid: 1 problem\n  _format_version: expected a string"),
        (
            "_format_version: \"4.0\"",
            "declarative config is invalid: 1 problem\n  _format_version: expected one of: 1.1, 2.1, 3.0",
        ),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.starts_with(expect), "{text}: {problem}");
    }
    let hinted = parse_declarative("{", Some(Path::new("a.json")), &catalogue(), &enabled(), NOW).unwrap_err();
    assert!(hinted.to_string().starts_with("failed parsing declarative configuration: EOF"), "{hinted}");
    let hinted = parse_declarative("{}", Some(Path::new("a.toml")), &catalogue(), &enabled(), NOW).unwrap_err();
    assert!(hinted.to_string().contains("unknown file type: a.toml. (Accepted types: json, yaml)"));
}

#[test]
fn nested_and_flat_forms_say_the_same() {
    let nested = good(
        "services:\n- name: s\n  url: http://h:8080/x\n  routes:\n  - name: r\n    paths: [/]\n    plugins:\n    - name: mine\n",
    );
    let flat = good(
        "services:\n- {name: s, protocol: http, host: h, port: 8080, path: /x}\nroutes:\n- {name: r, paths: [/], service: s}\n\
         plugins:\n- {name: mine, route: r}\n",
    );
    assert_eq!(nested.services, flat.services);
    assert_eq!(nested.routes, flat.routes);
    assert_eq!(nested.plugins[0].route, Some(nested.routes[0].id));
    assert_eq!(flat.plugins[0].route, nested.plugins[0].route);
    assert_eq!(nested.routes[0].service, Some(nested.services[0].id));
}

#[test]
fn defaults_are_kongs() {
    let snapshot = good(
        "services: [{name: s, host: h}]\nroutes: [{paths: [/a], service: {id: 5bf3c0a8-17d0-4ee2-8a6b-8b6a0b1c1d11}}]"
            .replace("name: s", "name: s, id: 5bf3c0a8-17d0-4ee2-8a6b-8b6a0b1c1d11")
            .as_str(),
    );
    let service = &snapshot.services[0];
    assert_eq!((service.protocol, service.port, service.retries), (Protocol::Http, 80, 5));
    assert_eq!((service.connect_timeout, service.read_timeout), (60_000, 60_000));
    assert!(service.enabled && service.path.is_none() && service.created_at == NOW);
    let route = &snapshot.routes[0];
    assert_eq!(route.protocols, [Protocol::Http, Protocol::Https]);
    assert!(route.strip_path && !route.preserve_host && route.request_buffering && route.response_buffering);
    assert_eq!((route.https_redirect_status_code, route.regex_priority), (426, 0));
    assert_eq!(route.path_handling, PathHandling::V0);
    assert_eq!(route.service, Some(service.id));
}

#[test]
fn plugins_get_their_defaults() {
    let snapshot = good("plugins: [{name: mine, config: {text: a}, tags: [x]}]");
    let plugin = &snapshot.plugins[0];
    assert_eq!(Json::Object(plugin.config.clone()), json!({"text": "a", "count": 3, "secret": null}));
    assert_eq!(plugin.protocols, [Protocol::Grpc, Protocol::Grpcs, Protocol::Http, Protocol::Https]);
    assert!(plugin.enabled && plugin.service.is_none());
    assert_eq!(plugin.tags, Some(vec!["x".to_owned()]));
    // A reference to a secret stays what it is, and is not checked.
    let snapshot = good("plugins: [{name: mine, config: {secret: '{vault://env/long-name}'}}]");
    assert_eq!(snapshot.plugins[0].config["secret"], json!("{vault://env/long-name}"));
}

#[test]
fn fields_are_checked_with_kongs_texts() {
    for (text, expect) in [
        ("nope: 1", "nope: unknown field"),
        ("keys: []", "keys: unknown field (this kind of entity is not supported here)"),
        ("services: 1", "services: expected an array"),
        ("services: [1]", "services[0]: expected a record"),
        ("services: [{}]", "services[0].host: required field missing"),
        ("services: [{host: h, nope: 1}]", "services[0].nope: unknown field"),
        ("services: [{host: h, port: 70000}]", "services[0].port: value should be between 0 and 65535"),
        ("services: [{host: h, port: '80'}]", "services[0].port: expected an integer"),
        ("services: [{host: 'h:80'}]", "services[0].host: must not have a port"),
        ("services: [{host: h, path: a}]", "services[0].path: should start with: /"),
        ("services: [{host: h, path: //a}]", "services[0].path: must not have empty segments"),
        (
            "services: [{host: h, protocol: x}]",
            "services[0].protocol: expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp",
        ),
        ("services: [{host: h, protocol: tcp, path: /a}]", "services[0].path: value must be null"),
        ("services: [{host: h, tls_verify: true}]", "services[0].tls_verify: value must be null"),
        ("services: [{host: h, retries: 40000}]", "services[0].retries: value should be between 0 and 32767"),
        (
            "services: [{host: h, read_timeout: 0}]",
            "services[0].read_timeout: value should be between 1 and 2147483646",
        ),
        ("services: [{host: h, id: x}]", "services[0].id: expected a valid UUID"),
        ("services: [{host: h, tags: ['a,b']}]", "services[0].tags[0]: invalid tag 'a,b'"),
        (
            "routes: [{}]",
            "routes[0]: must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'",
        ),
        (
            "routes: [{protocols: [http]}]",
            "routes[0]: must set one of 'methods', 'hosts', 'headers', 'paths' when 'protocols' is 'http'",
        ),
        ("routes: [{paths: [a]}]", "routes[0].paths[0]: should start with: / (fixed path) or ~/ (regex path)"),
        ("routes: [{paths: ['~/(']}]", "routes[0].paths[0]: invalid regex: '/(' (unclosed group)"),
        ("routes: [{paths: [/a/../b]}]", "routes[0].paths[0]: non-normalized path, consider use '/b' instead"),
        (
            "routes: [{hosts: ['a.*.b']}]",
            "routes[0].hosts[0]: invalid wildcard: must be placed at leftmost or rightmost label",
        ),
        ("routes: [{hosts: ['*.*']}]", "routes[0].hosts[0]: invalid wildcard: must have at most one wildcard"),
        ("routes: [{methods: [get]}]", "routes[0].methods[0]: invalid value: get"),
        (
            "routes: [{headers: {Host: [a]}}]",
            "routes[0].headers: cannot contain 'host' header, which must be specified in the 'hosts' attribute",
        ),
        ("routes: [{headers: {'a b': [a]}}]", "routes[0].headers: bad header name 'a b'"),
        (
            "routes: [{paths: [/], protocols: [http, tcp]}]",
            "routes[0].protocols: these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')",
        ),
        ("routes: [{paths: [/], protocols: [foo]}]", "routes[0].protocols: unknown type: foo"),
        (
            "routes: [{paths: [/], protocols: [tcp]}]",
            "routes[0].paths: cannot set 'paths' when 'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp'",
        ),
        ("routes: [{protocols: [tls_passthrough]}]", "routes[0]: must set snis when 'protocols' is 'tls_passthrough'"),
        (
            "routes: [{paths: [/], protocols: [http], snis: [a.b]}]",
            "routes[0]: 'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        ),
        (
            "routes: [{paths: [/], protocols: [grpc], strip_path: true}]",
            "routes[0].strip_path: cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
        ),
        (
            "routes: [{paths: [/], sources: [{ip: 1.1.1.1}]}]",
            "routes[0].sources: cannot set 'sources' when 'protocols' is 'http' or 'https'",
        ),
        (
            "routes: [{protocols: [tcp], sources: [{}]}]",
            "routes[0].sources[0]: at least one of these fields must be non-empty: 'ip', 'port'",
        ),
        (
            "routes: [{paths: [/], service: nope}]",
            "routes[0].service: invalid reference 'service: nope' (no such entry in 'services')",
        ),
        ("routes: [{paths: [/], name: 'a b'}]", "routes[0].name: invalid value 'a b'"),
        ("consumers: [{}]", "consumers[0]: at least one of these fields must be non-empty: 'custom_id', 'username'"),
        ("upstreams: [{name: 1.2.3.4}]", "upstreams[0].name: Invalid name ('1.2.3.4'); no ip addresses allowed"),
        ("upstreams: [{name: u, hash_on: header}]", "upstreams[0].hash_on_header: required field missing"),
        ("upstreams: [{name: u, slots: 5}]", "upstreams[0].slots: value should be between 10 and 65536"),
        (
            "upstreams: [{name: u, healthchecks: {active: {timeout: -1}}}]",
            "upstreams[0].healthchecks.active.timeout: value should be between 0 and 65535",
        ),
        (
            "upstreams: [{name: u, targets: [{target: 'a b'}]}]",
            "upstreams[0].targets[0].target: Invalid target ('a b'); not a valid hostname or ip address",
        ),
        ("targets: [{target: a}]", "targets[0].upstream: required field missing"),
        ("plugins: [{}]", "plugins[0].name: required field missing"),
        (
            "plugins: [{name: other}]",
            "plugins[0].name: plugin 'other' not enabled; add it to the 'plugins' configuration property",
        ),
        ("plugins: [{name: cors}]", "plugins[0].name: plugin 'cors' comes with Kong and is not available here yet"),
        ("plugins: [{name: ghost}]", "plugins[0].name: plugin 'ghost' is enabled, but no plugin server offers it"),
        ("plugins: [{name: mine, config: {nope: 1}}]", "plugins[0].config.nope: unknown field"),
        ("plugins: [{name: mine, config: {count: a}}]", "plugins[0].config.count: expected an integer"),
        ("plugins: [{name: strict}]", "plugins[0].config.needed: required field missing"),
        ("plugins: [{name: mine, config: 1}]", "plugins[0].config: expected a record"),
        (
            "plugins: [{name: mine, consumer: x}]",
            "plugins[0].consumer: invalid reference 'consumer: x' (no such entry in 'consumers')",
        ),
        ("certificates: [{cert: x, key: y}]", "certificates[0].cert: invalid certificate"),
        ("snis: [{name: a.b}]", "snis[0].certificate: required field missing"),
        ("vaults: [{name: hcv, prefix: my-vault}]", "vaults[0].name: vault 'hcv' is not installed"),
        ("keyauth_credentials: [{key: a}]", "keyauth_credentials[0].consumer: required field missing"),
        ("_comment: 1", "_comment: expected a string"),
    ] {
        let found = bad(text);
        assert!(found.iter().any(|problem| problem.starts_with(expect)), "{text}: {found:?}");
    }
}

#[test]
fn names_and_scopes_are_unique() {
    for (text, expect) in [
        (
            "services: [{name: a, host: h}, {name: a, host: i}]",
            "services[1]: uniqueness violation: 'services' entity with name set to 'a' already declared",
        ),
        (
            "consumers: [{username: a, custom_id: x}, {username: b, custom_id: x}]",
            "consumers[1]: uniqueness violation: 'consumers' entity with custom_id set to 'x' already declared",
        ),
        (
            "consumers: [{username: a, keyauth_credentials: [{key: k}]}, {username: b, keyauth_credentials: [{key: k}]}]",
            "consumers[1].keyauth_credentials[0]: uniqueness violation: 'keyauth_credentials' entity with key set to 'k' already declared",
        ),
        (
            "plugins: [{name: mine}, {name: mine}]",
            "plugins[1]: uniqueness violation: 'plugins' entity with primary key set to",
        ),
        (
            "services: [{name: s, host: h, plugins: [{name: mine, id: 0c61e164-6171-4837-8836-8f5298726d53}, {name: mine}]}]",
            "services[0].plugins[1]: uniqueness violation: 'plugins' entity 'mine' (service=",
        ),
        (
            "upstreams: [{name: u, targets: [{target: 'a:1'}, {target: 'a:1'}]}]",
            "upstreams[0].targets[1]: uniqueness violation: 'targets' entity with primary key set to",
        ),
    ] {
        let found = bad(text);
        assert!(found.iter().any(|problem| problem.starts_with(expect)), "{text}: {found:?}");
    }
    // The same plugin in different scopes is fine, and so is the same target behind different upstreams.
    good("services: [{name: s, host: h, plugins: [{name: mine}]}]\nplugins: [{name: mine}]");
    good("upstreams: [{name: u, targets: [{target: a}]}, {name: v, targets: [{target: a}]}]");
}

#[test]
fn everything_wrong_is_told_at_once_with_its_line() {
    let text = "_format_version: \"3.0\"\nservices:\n- name: s\n  host: h\n  port: x\n  routes:\n  - paths:\n    - /\n    - a\nplugins:\n- name: other\n";
    let problem = parse(text).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "declarative config is invalid: 3 problems\n  services[0].port (line 5): expected an integer\n  \
         services[0].routes[0].paths[1] (line 9): should start with: / (fixed path) or ~/ (regex path)\n  \
         plugins[0].name (line 11): plugin 'other' not enabled; add it to the 'plugins' configuration property"
    );
    assert_eq!(
        problem.fields(),
        json!({
            "services": [{"port": "expected an integer", "routes": [{"paths": [
                null, "should start with: / (fixed path) or ~/ (regex path)",
            ]}]}],
            "plugins": [{"name": "plugin 'other' not enabled; add it to the 'plugins' configuration property"}],
        })
    );
    assert!(problem.kong_message().starts_with("declarative config is invalid: {plugins={{name="));
}

#[test]
fn what_is_wrong_between_entities_is_told_with_the_rest() {
    assert_eq!(
        bad("services: [{name: s, host: h, port: x}, {name: t, host: h}, {name: t, host: i}]\n\
             routes: [{name: r, service: s, paths: [a]}, {name: q, service: gone, paths: [/]}]\n\
             plugins: [{name: mine, route: r}, {name: mine, route: r, config: {count: x}}]"),
        [
            "services[0].port: expected an integer",
            "routes[0].paths[0]: should start with: / (fixed path) or ~/ (regex path)",
            "plugins[1].config.count: expected an integer",
            "services[2]: uniqueness violation: 'services' entity with name set to 't' already declared",
            &duplicate_plugin(),
            "routes[1].service: invalid reference 'service: gone' (no such entry in 'services')",
        ]
    );
    // Nobody is blamed for naming what could not be read.
    assert_eq!(bad("services: s\nroutes: [{service: s, paths: [/]}]"), ["services: expected an array"]);
}

/// The id is derived from the fields that two such plugins have in common.
fn duplicate_plugin() -> String {
    let found = bad("routes: [{name: r, paths: [/]}]\nplugins: [{name: mine, route: r}, {name: mine, route: r}]");
    let [found] = <[String; 1]>::try_from(found).unwrap();
    assert!(found.starts_with("plugins[1]: uniqueness violation: 'plugins' entity with primary key set to"), "{found}");
    found
}

#[test]
fn keys_may_expire() {
    let snapshot = good(
        "consumers:\n- username: a\n  keyauth_credentials:\n  - {key: never}\n  - {key: soon, created_at: 100, ttl: 5}\n  \
         - {key: dated, ttl: 1800000000}\n  - {key: gone, ttl: 0}",
    );
    for (key, expect) in [("never", None), ("soon", Some(105)), ("dated", Some(1_800_000_000)), ("gone", Some(NOW))] {
        let credential = snapshot.directory.credential(CredentialKind::KeyAuth, key).unwrap();
        assert_eq!(credential.expires_at(), expect, "{key}");
    }
    for (ttl, expect) in [("x", "expected an integer"), ("-1", "value should be between 0 and")] {
        let [found] = <[String; 1]>::try_from(bad(&format!(
            "consumers: [{{username: a, keyauth_credentials: [{{key: k, ttl: {ttl}}}]}}]"
        )))
        .unwrap();
        assert!(found.starts_with(&format!("consumers[0].keyauth_credentials[0].ttl: {expect}")), "{found}");
    }
}

#[test]
fn consumers_and_credentials() {
    let snapshot = good(
        "consumers:\n- username: ann\n  custom_id: c1\n  keyauth_credentials: [{key: k1}, {}]\n  \
         basicauth_credentials: [{username: ann, password: p}]\n  hmacauth_credentials: [{username: h}]\n  \
         jwt_secrets: [{key: j}]\n  oauth2_credentials: [{name: app, client_id: c}]\n  acls: [{group: g}, {group: g2}]\n\
         - username: bob\n  acls: [{group: g}]\n\
         keyauth_credentials: [{key: k2, consumer: ann}]\n",
    );
    let directory = &snapshot.directory;
    let ann = directory.consumer_by_username("ann").unwrap();
    assert_eq!(directory.consumer_by_custom_id("c1").unwrap().id, ann.id);
    for key in ["k1", "k2"] {
        let credential = directory.credential(CredentialKind::KeyAuth, key).unwrap();
        assert_eq!(credential.consumer, ann.id);
        assert_eq!(credential.fields["consumer"], json!({"id": ann.id.to_string()}));
        assert_eq!(credential.fields["created_at"], json!(NOW));
    }
    // A key that is not given is made up.
    assert_eq!(directory.credentials_of(ann.id, CredentialKind::KeyAuth).count(), 3);
    assert!(directory.credentials_of(ann.id, CredentialKind::KeyAuth).all(|c| !c.key.is_empty()));
    assert_eq!(directory.credentials_of(ann.id, CredentialKind::Acl).count(), 2);
    let basic = directory.credential(CredentialKind::BasicAuth, "ann").unwrap();
    assert_eq!(basic.fields["password"].as_str().map(str::len), Some(40));
    assert!(!basic.fields.contains_key(walk::HASHED));
    assert_eq!(directory.credential(CredentialKind::Jwt, "j").unwrap().fields["algorithm"], json!("HS256"));
}

#[test]
fn passwords_that_are_hashed_already_stay() {
    let snapshot =
        good("_transform: false\nconsumers: [{username: a, basicauth_credentials: [{username: a, password: p}]}]");
    let basic = snapshot.directory.credential(CredentialKind::BasicAuth, "a").unwrap();
    assert_eq!(basic.fields["password"], json!("p"));
    let nested = good("consumers: [{username: a, basicauth_credentials: [{username: a, password: p}]}]");
    let flat = good("consumers: [{username: a}]\nbasicauth_credentials: [{username: a, password: p, consumer: a}]");
    let password = |snapshot: &Snapshot| {
        snapshot.directory.credential(CredentialKind::BasicAuth, "a").unwrap().fields["password"].clone()
    };
    assert_eq!(password(&nested), password(&flat));
}

#[test]
fn credentials_need_their_plugin() {
    let text = "{\"_format_version\": \"3.0\", \"consumers\": [{\"username\": \"a\", \"acls\": [{\"group\": \"g\"}]}]}";
    let enabled = EnabledPlugins { bundled: false, named: vec!["key-auth".to_owned()] };
    let problem = parse_declarative(text, None, &catalogue(), &enabled, NOW).unwrap_err();
    assert_eq!(problem.fields(), json!({"consumers": [{"acls": "unknown field"}]}));
}

#[test]
fn upstreams_and_targets() {
    let snapshot = good(
        "upstreams:\n- name: u\n  hash_on: ip\n  host_header: h.test\n  targets:\n  - {target: 'a.test'}\n  - {target: '1.2.3.4:80', weight: 0}\n  - {target: '[::1]:90'}\n\
         - {name: v, algorithm: least-connections}\n",
    );
    let [first, second] = &snapshot.upstreams[..] else { panic!("{:?}", snapshot.upstreams) };
    assert_eq!((first.algorithm.as_str(), second.algorithm.as_str()), ("consistent-hashing", "least-connections"));
    assert_eq!(first.settings["hash_on"], json!("ip"));
    assert_eq!(second.settings["hash_on"], json!("none"));
    assert_eq!(first.settings["slots"], json!(10000));
    assert_eq!(first.settings["healthchecks"]["active"]["healthy"]["http_statuses"], json!([200, 302]));
    let targets: Vec<_> =
        snapshot.targets.iter().map(|t| (t.target.as_str(), t.port, t.weight, t.upstream == first.id)).collect();
    assert_eq!(
        targets,
        [
            ("a.test:8000", 8000, 100, true),
            ("1.2.3.4:80", 80, 0, true),
            ("[0000:0000:0000:0000:0000:0000:0000:0001]:90", 90, 100, true),
        ]
    );
}

#[test]
fn certificates_and_names() {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let document = |cert: &str, key: &str| {
        json!({
            "_format_version": "3.0",
            "certificates": [{"cert": cert, "key": key, "snis": [{"name": "a.test"}, "*.b.test"]}],
        })
        .to_string()
    };
    let snapshot = parse(&document(&made.cert.pem(), &made.signing_key.serialize_pem())).unwrap();
    assert_eq!(snapshot.snis.len(), 2);
    assert!(snapshot.snis.iter().all(|sni| sni.certificate == snapshot.certificates[0].id));
    let problem = parse(&document(&made.cert.pem(), &other.signing_key.serialize_pem())).unwrap_err();
    assert!(problem.to_string().contains("certificates[0]: certificate does not match key"), "{problem}");

    let authority = |ca: bool| {
        let mut params = rcgen::CertificateParams::new(vec!["ca.test".to_owned()]).unwrap();
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        json!({"_format_version": "3.0", "ca_certificates": [{"cert": pem}]}).to_string()
    };
    let snapshot = parse(&authority(true)).unwrap();
    assert_eq!(snapshot.ca_certificates[0].cert_digest.len(), 64);
    let problem = parse(&authority(false)).unwrap_err().to_string();
    assert!(problem.contains("certificate does not appear to be a CA"), "{problem}");
}

#[test]
fn vaults_are_found_by_their_prefix() {
    let snapshot = good("vaults: [{name: env, prefix: mine, config: {prefix: MY_}}]");
    assert_eq!(snapshot.directory.env_vault_prefix("mine"), Some("MY_"));
    assert_eq!(snapshot.vaults.len(), 1);
}

#[test]
fn older_formats_are_migrated() {
    let text = |version: &str| {
        format!("_format_version: \"{version}\"\nservices: [{{host: h, routes: [{{paths: ['/a/\\d+$', /b]}}]}}]")
    };
    for version in ["1.1", "2.1"] {
        let snapshot = parse(&text(version)).unwrap();
        assert_eq!(snapshot.routes[0].paths, Some(vec!["~/a/\\d+$".to_owned(), "/b".to_owned()]), "{version}");
    }
    assert_eq!(parse(&text("3.0")).unwrap().routes[0].paths, Some(vec!["/a/\\d+$".to_owned(), "/b".to_owned()]));
}

#[test]
fn remarks_and_tools_are_passed_over() {
    let snapshot =
        good("_comment: x\n_ignore: [a]\n_info: {select_tags: [a]}\nservices: [{host: h, _comment: y, _ignore: [1]}]");
    assert_eq!(snapshot.services.len(), 1);
}

#[test]
fn ids_and_hashes_are_stable() {
    let text = "services: [{name: s, host: h, routes: [{paths: [/a]}, {paths: [/b]}]}]\nplugins: [{name: mine}]";
    let (first, second) = (good(text), good(text));
    assert_eq!(first.hash, second.hash);
    assert_eq!(first.hash.len(), 32);
    assert_eq!(first.routes, second.routes);
    assert_eq!(first.plugins, second.plugins);
    assert_ne!(first.routes[0].id, first.routes[1].id);
    // Without a change to itself, an entity keeps its id when others come and go.
    let more = good(&text.replace("{paths: [/a]}", "{paths: [/z]}, {paths: [/a]}"));
    assert!(more.routes.iter().any(|route| route.id == first.routes[0].id));
}

#[test]
fn a_service_id_is_the_one_that_kong_derives() {
    // Kong: UUID version 5 of the name, in the namespace that is version 5 of the kind in its own namespace.
    let root = "fd02801f-0957-4a15-a55a-c8d9606f30b5".parse().unwrap();
    let services = silverback_model::Id::new_v5(&root, b"services");
    let plugins = silverback_model::Id::new_v5(&root, b"plugins");
    let snapshot = good("services: [{name: s, host: h, plugins: [{name: mine}]}]");
    let id = silverback_model::Id::new_v5(&services, b"s");
    assert_eq!(snapshot.services[0].id, id);
    assert_eq!(
        snapshot.plugins[0].id,
        silverback_model::Id::new_v5(&plugins, format!("plugins:*:mine::{id}:").as_bytes())
    );
}

#[test]
fn large_files_load() {
    let mut text = String::from("_format_version: \"3.0\"\nservices:\n- name: s\n  host: h\n  routes:\n");
    for at in 0..10_000 {
        text.push_str(&format!(
            "  - name: r{at}\n    paths: [/p/{at}, '~/q/{at}/(?<id>\\d+)$']\n    hosts: [h{at}.test]\n"
        ));
    }
    assert_eq!(parse(&text).unwrap().routes.len(), 10_000);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_field_panics(
        collection in prop::sample::select(vec!["services", "routes", "plugins", "consumers", "upstreams", "targets", "certificates", "snis"]),
        field in prop::sample::select(vec!["name", "host", "url", "paths", "hosts", "protocols", "target", "id", "config", "service", "tags", "snis", "key", "cert"]),
        value in "[ -~]{0,24}",
    ) {
        for value in [json!(value), json!([value]), json!({"x": value}), json!(null), json!(1)] {
            let document = json!({"_format_version": "3.0", collection: [{field: value, "name": "mine"}]});
            let _ = parse(&document.to_string());
        }
    }
}

//! From what was typed to [`Settings`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::settings::{
    ApiCertificates, Debug, EnabledPlugins, IgnoredProperty, Listen, ListenAddress, LogLevel, LuaLimits, Settings,
    UpstreamKeepalive,
};

use super::{
    LoadError, Loaded, Problem, clients, directives, dns, http,
    listen::{self, Subsystem},
    names, plugin_dir, plugin_servers,
    properties::{self, Kind},
    raw::{HTTP_LOG_FORMAT, Origin, RawConf, STREAM_LOG_FORMAT},
    reader::{Reader, from_base64, split_list},
    tls, units, upstream_tls, vault,
};

pub(super) fn resolve(
    path: Option<&Path>,
    mut raw: RawConf,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, LoadError> {
    let written = raw.clone();
    let vault_problems = dereference_all(&mut raw, env);
    let mut reader = Reader::new(path, &raw, vault_problems);
    for (line, text) in &raw.oddities {
        let place = reader.place(&Origin::Line(*line));
        reader.warn(format!("{place}: {text}"));
    }
    let ignored = names::check(&mut reader);
    let settings = assemble(&mut reader, ignored, &written);
    let mut problems: Vec<Problem> = Vec::new();
    let mut found = reader.take_problems();
    found.sort_by_key(|(origin, _)| match origin {
        Some(Origin::Line(line)) => (0, *line),
        Some(Origin::Variable(_)) => (1, 0),
        None => (2, 0),
    });
    for (origin, message) in found {
        let place = origin.map(|origin| reader.place(&origin)).unwrap_or_default();
        problems.push(Problem { place, message });
    }
    if problems.is_empty() {
        Ok(Loaded { settings, warnings: reader.into_warnings() })
    } else {
        Err(LoadError::Invalid(problems))
    }
}

fn dereference_all(raw: &mut RawConf, env: &BTreeMap<String, String>) -> Vec<(Option<Origin>, String)> {
    let env_prefix = raw.given("vault_env_prefix").map(|entry| entry.value.clone());
    let mut replaced = Vec::new();
    let mut problems = Vec::new();
    for (name, entry) in raw.iter() {
        if !entry.value.contains("{vault://") {
            continue;
        }
        let list = properties::find(name).is_some_and(|property| property.kind == Kind::List);
        let parts = if list { split_list(&entry.value) } else { vec![entry.value.clone()] };
        let mut values = Vec::new();
        for part in parts {
            match vault::dereference(&part, env_prefix.as_deref(), env) {
                None => values.push(part),
                Some(Ok(value)) => values.push(value),
                Some(Err(why)) => problems.push((
                    Some(entry.origin.clone()),
                    format!("failed to dereference '{part}': {why} for config option '{name}'"),
                )),
            }
        }
        replaced.push((name.to_owned(), values.join(",")));
    }
    for (name, value) in replaced {
        raw.replace(&name, value);
    }
    problems
}

fn assemble(reader: &mut Reader<'_>, ignored: Vec<IgnoredProperty>, written: &RawConf) -> Settings {
    let prefix = absolute(&reader.text("prefix").unwrap_or_else(|| "/usr/local/kong/".to_owned()));
    // Kong's default is postgres; where nothing is said, a node without a database is what runs here.
    if reader.given("database").is_some_and(|entry| entry.value == "postgres") {
        reader.problem("database", "database = postgres is not supported yet: use database = off".to_owned());
    }
    let listens = |reader: &mut Reader<'_>, name: &str, subsystem| -> Vec<Listen> {
        let entries = reader.list(name);
        listen::parse(&entries, subsystem).unwrap_or_else(|problem| {
            reader.problem(name, format!("{name} {problem}"));
            Vec::new()
        })
    };
    let proxy_listen = listens(reader, "proxy_listen", Subsystem::Http);
    let admin_listen = listens(reader, "admin_listen", Subsystem::Http);
    let status_listen = listens(reader, "status_listen", Subsystem::Http);
    let stream_listen = listens(reader, "stream_listen", Subsystem::Stream);
    refuse_odd_datagrams(reader, &stream_listen);
    for (name, listens) in [("admin_listen", &admin_listen), ("status_listen", &status_listen)] {
        refuse_proxy_protocol(reader, name, listens);
    }
    unique_addresses(
        reader,
        &[
            ("proxy_listen", &proxy_listen),
            ("admin_listen", &admin_listen),
            ("status_listen", &status_listen),
            ("stream_listen", &stream_listen),
        ],
    );
    let ssl_listens =
        [&proxy_listen, &admin_listen, &status_listen, &stream_listen].into_iter().flatten().any(|listen| listen.ssl);
    let tls = tls::read(reader, ssl_listens);
    let api_certificates = ApiCertificates {
        admin: tls::of_api(reader, "admin", &admin_listen),
        status: tls::of_api(reader, "status", &status_listen),
    };
    let (declarative_config, declarative_config_string) = declarative(reader);
    let plugin_dir = plugin_dir::read(reader);
    Settings {
        log_level: log_level(reader),
        daemon: alias(reader, "nginx_main_daemon", "nginx_daemon").as_deref().is_none_or(|v| v == "on" || v == "true"),
        workers: workers(reader),
        user: user(reader),
        port_maps: port_maps(reader),
        plugins: plugins(reader),
        plugin_servers: plugin_servers::read(reader, &prefix, plugin_dir.as_ref()),
        plugin_dir,
        main_env: main_env(reader),
        declarative_config,
        declarative_config_string,
        real_ip: clients::real_ip(reader),
        headers: clients::added_headers(reader),
        upstream_request_id: clients::upstream_headers(reader),
        tls,
        api_certificates,
        upstream: UpstreamKeepalive {
            pool_size: usize::try_from(reader.integer("upstream_keepalive_pool_size", 0, u64::MAX))
                .unwrap_or(usize::MAX),
            max_requests: reader.integer("upstream_keepalive_max_requests", 0, u64::MAX),
            idle_timeout: seconds(reader, "upstream_keepalive_idle_timeout"),
        },
        dns: dns::read(reader),
        upstream_tls: upstream_tls::read(reader),
        ready_needs_plugin_servers: reader.flag("status_ready_plugin_servers"),
        logs: http::logs(reader, &prefix),
        debug: Debug {
            request: reader.flag("request_debug"),
            token: reader.text("request_debug_token"),
            header: reader.flag("allow_debug_header"),
        },
        http: http::limits(reader),
        buffering: http::buffering(reader),
        errors: http::error_pages(reader),
        lua: LuaLimits {
            max_req_headers: lua_limit(reader, "lua_max_req_headers"),
            max_resp_headers: lua_limit(reader, "lua_max_resp_headers"),
            max_uri_args: lua_limit(reader, "lua_max_uri_args"),
            max_post_args: lua_limit(reader, "lua_max_post_args"),
        },
        shutdown_timeout: optional_time(reader, "nginx_main_worker_shutdown_timeout"),
        rlimit_nofile: rlimit(reader),
        vault_env_prefix: reader.text("vault_env_prefix"),
        raw: written_properties(written),
        file: reader.file().map(Path::to_owned),
        prefix,
        proxy_listen,
        admin_listen,
        status_listen,
        stream_listen,
        ignored,
    }
}

/// What goes into `.kong_env`: everything that is known by name.
fn written_properties(written: &RawConf) -> Vec<(String, String)> {
    written
        .iter()
        .filter(|(name, _)| {
            properties::find(name).is_some()
                || directives::fate(name).is_some()
                || name.starts_with("pluginserver_")
                || name.starts_with("vault_")
        })
        .filter(|(name, _)| ![HTTP_LOG_FORMAT, STREAM_LOG_FORMAT].contains(name))
        .map(|(name, entry)| (name.to_owned(), from_anywhere(name, &entry.value)))
        .chain(written.log_formats.iter().map(|entry| (HTTP_LOG_FORMAT.to_owned(), entry.value.clone())))
        .chain(written.stream_log_formats.iter().map(|entry| (STREAM_LOG_FORMAT.to_owned(), entry.value.clone())))
        .collect()
}

/// The value of a property with the paths in it made whole: `.kong_env` is read from other directories, too.
fn from_anywhere(name: &str, value: &str) -> String {
    let whole = |path: &str| absolute(path).display().to_string();
    match name {
        _ if value.contains("{vault://") => value.to_owned(),
        "error_template_html"
        | "error_template_json"
        | "error_template_plain"
        | "error_template_xml"
        | "dns_hostsfile"
        | "resolver_hosts_file"
        | "plugin_dir"
        | "plugin_dir_js_pluginserver" => whole(value),
        // A name without a slash is looked for in PATH.
        "plugin_dir_python" | "plugin_dir_node" if value.contains('/') => whole(value),
        _ if name.ends_with("_ssl_client_certificate") || name.ends_with("_ssl_trusted_certificate") => whole(value),
        // These may be the text itself, or base64 of it: what is a file is known by being there.
        "ssl_cert"
        | "ssl_cert_key"
        | "admin_ssl_cert"
        | "admin_ssl_cert_key"
        | "status_ssl_cert"
        | "status_ssl_cert_key"
        | "client_ssl_cert"
        | "client_ssl_cert_key"
        | "lua_ssl_trusted_certificate" => {
            let parts = split_list(value).into_iter();
            let parts = parts.map(|part| if Path::new(&part).exists() { whole(&part) } else { part });
            parts.collect::<Vec<_>>().join(",")
        }
        _ => value.to_owned(),
    }
}

/// The path as seen from the directory in which the configuration is loaded.
pub(super) fn absolute(path: &str) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    // "/usr/local/kong/" and "/usr/local/kong" are the same place and should print alike.
    path.components().collect()
}

/// A property and the injected directive that it stands for; the directive wins.
fn alias(reader: &Reader<'_>, directive: &str, property: &str) -> Option<String> {
    reader.given(directive).map(|entry| entry.value.clone()).or_else(|| reader.text(property))
}

/// What nginx refuses, too: there is no connection that TLS or the PROXY protocol could be spoken on.
fn refuse_odd_datagrams(reader: &mut Reader<'_>, listens: &[Listen]) {
    for listen in listens.iter().filter(|listen| listen.udp) {
        let unix = matches!(listen.address, ListenAddress::Unix(_));
        for (given, what) in [(listen.ssl, "ssl"), (listen.proxy_protocol, "proxy_protocol"), (unix, "a Unix socket")] {
            if given {
                let message = format!("stream_listen: {}: {what} does not go together with udp", listen.address);
                reader.problem("stream_listen", message);
            }
        }
    }
}

fn refuse_proxy_protocol(reader: &mut Reader<'_>, name: &str, listens: &[Listen]) {
    for listen in listens.iter().filter(|listen| listen.proxy_protocol) {
        let message = format!(
            "{name}: {}: the PROXY protocol is spoken on proxy_listen and stream_listen only; remove proxy_protocol from \
             the listener",
            listen.address
        );
        reader.problem(name, message);
    }
}

fn unique_addresses(reader: &mut Reader<'_>, groups: &[(&str, &[Listen])]) {
    let mut seen: Vec<(&Listen, &str)> = Vec::new();
    for (name, listens) in groups {
        for listen in *listens {
            let before = seen.iter().find(|(known, _)| known.address == listen.address && known.udp == listen.udp);
            if let Some((_, owner)) = before {
                if matches!(&listen.address, ListenAddress::Tcp(address) if address.port() == 0) {
                    continue;
                }
                let message = format!("{name}: {} is listened on by {owner} already", listen.address);
                reader.problem(name, message);
            } else {
                seen.push((listen, name));
            }
        }
    }
}

fn log_level(reader: &Reader<'_>) -> LogLevel {
    // Other values are reported by the check of types.
    match reader.text("log_level").as_deref() {
        Some("debug") => LogLevel::Debug,
        Some("info") => LogLevel::Info,
        Some("warn") => LogLevel::Warn,
        Some("error") => LogLevel::Error,
        Some("crit") => LogLevel::Crit,
        Some("alert") => LogLevel::Alert,
        Some("emerg") => LogLevel::Emerg,
        _ => LogLevel::Notice,
    }
}

fn workers(reader: &mut Reader<'_>) -> usize {
    let name = if reader.given("nginx_main_worker_processes").is_some() {
        "nginx_main_worker_processes"
    } else {
        "nginx_worker_processes"
    };
    match reader.text(name).as_deref() {
        None | Some("auto") => crate::settings::available_cores(),
        Some(text) => match text.parse::<usize>() {
            Ok(number @ 1..=1024) => number,
            _ => {
                let message = format!("{name} must be 'auto' or an integer between 1 and 1024, got '{text}'");
                reader.problem(name, message);
                1
            }
        },
    }
}

fn user(reader: &mut Reader<'_>) -> Option<(String, Option<String>)> {
    let directive = reader.given("nginx_main_user").is_some();
    let name = if directive { "nginx_main_user" } else { "nginx_user" };
    let text = reader.text(name)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let (user, group) = match words[..] {
        ["nobody"] | ["nobody", "nobody"] => return None,
        [user] => (user, None),
        [user, group] => (user, Some(group.to_owned())),
        _ => {
            reader.problem(name, format!("{name} must be a user and, at most, a group: '{text}'"));
            return None;
        }
    };
    let known = nix::unistd::User::from_name(user).ok().flatten().is_some();
    let group_known =
        group.as_deref().is_none_or(|group| nix::unistd::Group::from_name(group).ok().flatten().is_some());
    if user == "kong" && !(known && group_known) {
        // Kong's own default, which is passed over where the user does not exist.
        return None;
    }
    Some((user.to_owned(), group))
}

fn port_maps(reader: &mut Reader<'_>) -> Vec<(u16, u16)> {
    let mut maps = Vec::new();
    for map in reader.list("port_maps") {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match map.split_once(':').and_then(|(host, kong)| port(host).zip(port(kong))) {
            Some(pair) => maps.push(pair),
            None => reader.problem("port_maps", format!("invalid port mapping (`port_maps`): {map}")),
        }
    }
    maps
}

fn plugins(reader: &Reader<'_>) -> EnabledPlugins {
    let mut plugins = EnabledPlugins { bundled: false, named: Vec::new() };
    let names = reader.list("plugins");
    if names.first().is_some_and(|first| first == "off") {
        return plugins;
    }
    for name in names {
        match name.as_str() {
            "off" => {}
            "bundled" => plugins.bundled = true,
            _ if plugins.named.contains(&name) => {}
            _ => plugins.named.push(name),
        }
    }
    plugins
}

fn main_env(reader: &Reader<'_>) -> Vec<String> {
    // Kong injects the value as it is, so that `A; env B=2` names two.
    reader
        .given("nginx_main_env")
        .map(|entry| {
            entry
                .value
                .split(';')
                .map(|part| part.trim().trim_start_matches("env ").trim().trim_matches(['"', '\'']).to_owned())
                .filter(|part| !part.is_empty())
                .collect()
        })
        .unwrap_or_default()
}

fn declarative(reader: &mut Reader<'_>) -> (Option<PathBuf>, Option<String>) {
    let path = reader.text("declarative_config").map(|path| absolute(&path));
    if let Some(path) = &path
        && !path.exists()
    {
        let message = format!("declarative_config: no file at {}", path.display());
        reader.problem("declarative_config", message);
    }
    let text = reader.text("declarative_config_string").map(|text| {
        // Base64 is accepted, because a file such as .kong_env cannot hold several lines.
        from_base64(&text).filter(|decoded| decoded.contains("_format_version")).unwrap_or(text)
    });
    (path, text)
}

fn seconds(reader: &mut Reader<'_>, name: &str) -> Duration {
    let number = reader.text(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Duration::try_from_secs_f64(number).unwrap_or_else(|_| {
        reader.problem(name, format!("{name} must be 0 or greater"));
        Duration::ZERO
    })
}

fn lua_limit(reader: &mut Reader<'_>, name: &str) -> usize {
    usize::try_from(reader.integer(name, 1, 1000)).unwrap_or(1000)
}

fn optional_time(reader: &mut Reader<'_>, name: &str) -> Option<Duration> {
    let text = reader.text(name)?;
    let time = units::parse_time(&text);
    if time.is_none() {
        reader.problem(name, format!("{name} is not a time: '{text}' (60s, 1m, 1h30m, ...)"));
    }
    // For nginx, 0 is no limit.
    time.filter(|time| !time.is_zero())
}

fn rlimit(reader: &mut Reader<'_>) -> Option<u64> {
    let name = "nginx_main_worker_rlimit_nofile";
    let text = reader.text(name).filter(|text| text != "auto")?;
    let number = text.parse().ok();
    if number.is_none() {
        reader.problem(name, format!("{name} must be 'auto' or a number: '{text}'"));
    }
    number
}

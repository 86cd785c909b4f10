//! From what was typed to [`Settings`].

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose};
use ipnet::IpNet;

use crate::settings::{
    AddedHeaders, EnabledPlugins, ErrorPages, Http, IgnoredProperty, Listen, LogLevel, LogTarget, Logs, LuaLimits,
    RealIp, Settings, UpstreamKeepalive,
};

use super::{
    LoadError, Loaded, Problem,
    directives::{self, Fate},
    listen::{self, Subsystem},
    log_format::{self, Formats},
    plugin_servers,
    properties::{self, Kind, Property, Treatment},
    raw::{Entry, Origin, RawConf},
    tls, units, vault,
};

/// Gives access to values by name, defaults included, and gathers what is wrong.
pub(super) struct Reader<'a> {
    path: Option<&'a Path>,
    raw: &'a RawConf,
    problems: Vec<(Option<Origin>, String)>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) const fn raw(&self) -> &'a RawConf {
        self.raw
    }

    pub(super) fn given(&self, name: &str) -> Option<&'a Entry> {
        self.raw.given(name)
    }

    /// The value as text: what was given, else the default, if there is one.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given(name)
            .map(|entry| entry.value.as_str())
            .or_else(|| properties::find(name).map(|property| property.default))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).map(|text| split_list(&text)).unwrap_or_default()
    }

    /// `on` or `true`; what is neither that nor `off` or `false` is reported by the check of types.
    fn flag(&self, name: &str) -> bool {
        matches!(self.text(name).as_deref(), Some("on" | "true"))
    }

    pub(super) fn problem(&mut self, name: &str, message: String) {
        let origin = self.given(name).map(|entry| entry.origin.clone());
        self.problems.push((origin, message));
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    pub(super) fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Variable(name) => name.clone(),
            Origin::Line(line) => match self.path {
                Some(path) => format!("{}:{line}", path.display()),
                None => format!("line {line}"),
            },
        }
    }

    /// An integer within limits.
    fn integer(&mut self, name: &str, low: u64, high: u64) -> u64 {
        let Some(text) = self.text(name) else { return low };
        // Other types of value are reported by the check of types.
        let Ok(number) = text.parse::<f64>() else { return low };
        if number.fract() != 0.0 || number < low as f64 || number > high as f64 {
            let message = match high {
                u64::MAX => format!("{name} must be {low} or greater"),
                _ => format!("{name} must be an integer between {low} and {high}"),
            };
            self.problem(name, message);
            return low;
        }
        number as u64
    }

    /// An injected directive of the HTTP side: the most specific of location, server and http.
    fn directive(&self, directive: &str) -> Option<(String, String)> {
        ["nginx_location_", "nginx_proxy_", "nginx_http_"].into_iter().find_map(|namespace| {
            let name = format!("{namespace}{directive}");
            self.given(&name).map(|entry| (name, entry.value.trim_end_matches(';').to_owned()))
        })
    }

    fn size(&mut self, directive: &str, default: u64) -> u64 {
        let Some((name, text)) = self.directive(directive) else { return default };
        units::parse_size(&text).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a size: '{text}' (bytes, or with k, m, g)"));
            default
        })
    }

    fn time(&mut self, directive: &str, default: Duration) -> Duration {
        let Some((name, text)) = self.directive(directive) else { return default };
        // keepalive_timeout takes a second value, which only goes into a header.
        let first = text.split_whitespace().next().unwrap_or_default();
        units::parse_time(first).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a time: '{text}' (60s, 1m, 1h30m, ...)"));
            default
        })
    }

    fn number_of_sizes(&mut self, directive: &str, default: (usize, usize)) -> (usize, usize) {
        let Some((name, text)) = self.directive(directive) else { return default };
        let words: Vec<&str> = text.split_whitespace().collect();
        let parsed = match words[..] {
            [number, size] => {
                number.parse().ok().zip(units::parse_size(size).and_then(|size| usize::try_from(size).ok()))
            }
            _ => None,
        };
        parsed.filter(|(number, size)| *number > 0 && *size > 0).unwrap_or_else(|| {
            self.problem(&name, format!("{name} is not a number and a size: '{text}' ('4 8k')"));
            default
        })
    }
}

pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Text that was given in base64 (standard or URL alphabet); `None` if it was not.
pub(super) fn from_base64(text: &str) -> Option<String> {
    let compact: String = text.split_whitespace().collect();
    let unpadded = compact.trim_end_matches('=');
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(unpadded)
        .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(unpadded))
        .ok()?;
    String::from_utf8(bytes).ok().filter(|decoded| !decoded.is_empty())
}

pub(super) fn to_base64(text: &str) -> String {
    general_purpose::STANDARD.encode(text)
}

pub(super) fn resolve(
    path: Option<PathBuf>,
    mut raw: RawConf,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, LoadError> {
    let written = raw.clone();
    let vault_problems = dereference_all(&mut raw, env);
    let mut reader = Reader { path: path.as_deref(), raw: &raw, problems: vault_problems, warnings: Vec::new() };
    for (line, text) in &raw.oddities {
        let place = reader.place(&Origin::Line(*line));
        reader.warn(format!("{place}: {text}"));
    }
    let ignored = check_names(&mut reader);
    let settings = assemble(&mut reader, path.clone(), ignored, &written);
    let mut problems: Vec<Problem> = Vec::new();
    let mut found = std::mem::take(&mut reader.problems);
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
        Ok(Loaded { settings, warnings: reader.warnings })
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

/// Checks names and types; what is known and means nothing is listed, what is not known in the file is warned of.
fn check_names(reader: &mut Reader<'_>) -> Vec<IgnoredProperty> {
    let mut ignored = Vec::new();
    for (name, entry) in reader.raw.iter() {
        if let Some(property) = properties::find(name) {
            if let Err(message) = check_type(property, &entry.value) {
                reader.problem(name, message);
            }
            if let Treatment::Ignored { important, why } = property.treatment {
                // Turning off what is not there is no loss.
                let default = property.default == entry.value
                    || (entry.value == "off" && !property.name.starts_with("ssl_"));
                ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: shown(name, &entry.value),
                    important: important && !default,
                    why: why.to_owned(),
                });
            }
        } else if let Some(fate) = directives::fate(name) {
            match fate {
                Fate::Used => {}
                Fate::Refused => reader.problem(
                    name,
                    format!(
                        "{name}: nginx configuration files are not supported; use the properties that say the same"
                    ),
                ),
                Fate::Ignored { important } => ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: entry.value.clone(),
                    important: important && entry.value != "NONE",
                    why: "this nginx directive has no counterpart here".to_owned(),
                }),
            }
        } else if name.starts_with("vault_") {
            if name != "vault_env_prefix" {
                ignored.push(IgnoredProperty {
                    name: name.to_owned(),
                    value: shown("pg_password", &entry.value),
                    important: true,
                    why: "only the env vault exists".to_owned(),
                });
            }
        } else if !name.starts_with("pluginserver_") && matches!(entry.origin, Origin::Line(_)) {
            let hint = nearest(name).map(|known| format!(", did you mean '{known}'?")).unwrap_or_default();
            let place = reader.place(&entry.origin);
            reader.warn(format!("{place}: unknown property '{name}'{hint}"));
        }
    }
    ignored.sort_by_key(|property| !property.important);
    ignored
}

fn shown(name: &str, value: &str) -> String {
    if properties::SENSITIVE.contains(&name) { "******".to_owned() } else { value.to_owned() }
}

fn check_type(property: &Property, value: &str) -> Result<(), String> {
    let Property { name, kind, .. } = property;
    match kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Number => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err(format!("{name} is not a number: '{value}'")),
        },
        Kind::Boolean => match value {
            "on" | "off" | "true" | "false" => Ok(()),
            _ => Err(format!("{name} is not a boolean: '{value}' (on, off)")),
        },
        Kind::OneOf(values) => {
            if values.contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} has an invalid value: '{value}' ({})", values.join(", ")))
            }
        }
    }
}

/// The known name that is fewest edits away, if that is few enough to be a slip.
fn nearest(name: &str) -> Option<&'static str> {
    let others = directives::OTHERS.into_iter();
    let (distance, known) = properties::PROPERTIES
        .iter()
        .map(|property| property.name)
        .chain(others)
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()?;
    (distance <= 2.max(name.len() / 3)).then_some(known)
}

fn assemble(
    reader: &mut Reader<'_>,
    file: Option<PathBuf>,
    ignored: Vec<IgnoredProperty>,
    written: &RawConf,
) -> Settings {
    let prefix = absolute(&reader.text("prefix").unwrap_or_else(|| "/usr/local/kong/".to_owned()));
    match reader.text("database").as_deref() {
        Some("off") | None => {}
        Some(database) if reader.given("database").is_some() => {
            let message = format!("database = {database} is not supported yet: use database = off");
            reader.problem("database", message);
        }
        // Kong's default is postgres; a node without a database is what runs here.
        Some(_) => {}
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
    let (declarative_config, declarative_config_string) = declarative(reader);
    Settings {
        log_level: log_level(reader),
        daemon: alias(reader, "nginx_main_daemon", "nginx_daemon").as_deref().is_none_or(|v| v == "on" || v == "true"),
        workers: workers(reader),
        user: user(reader),
        port_maps: port_maps(reader),
        plugins: plugins(reader),
        plugin_servers: plugin_servers::read(reader, &prefix),
        main_env: main_env(reader),
        declarative_config,
        declarative_config_string,
        real_ip: real_ip(reader),
        headers: added_headers(reader),
        upstream_request_id: upstream_headers(reader),
        tls,
        upstream: UpstreamKeepalive {
            pool_size: usize::try_from(reader.integer("upstream_keepalive_pool_size", 0, u64::MAX))
                .unwrap_or(usize::MAX),
            max_requests: reader.integer("upstream_keepalive_max_requests", 0, u64::MAX),
            idle_timeout: seconds(reader, "upstream_keepalive_idle_timeout"),
        },
        logs: logs(reader, &prefix),
        http: http(reader),
        errors: error_pages(reader),
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
        file,
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
        .filter(|(name, _)| *name != "nginx_http_log_format")
        .map(|(name, entry)| (name.to_owned(), entry.value.clone()))
        .chain(written.log_formats.iter().map(|entry| ("nginx_http_log_format".to_owned(), entry.value.clone())))
        .collect()
}

fn absolute(path: &str) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    // "/usr/local/kong/" and "/usr/local/kong" are the same place and should print alike.
    path.components().collect()
}

/// A property and the injected directive that it stands for; the directive wins.
fn alias(reader: &Reader<'_>, directive: &str, property: &str) -> Option<String> {
    reader.given(directive).map(|entry| entry.value.clone()).or_else(|| reader.text(property))
}

fn unique_addresses(reader: &mut Reader<'_>, groups: &[(&str, &[Listen])]) {
    let mut seen: Vec<(&Listen, &str)> = Vec::new();
    for (name, listens) in groups {
        for listen in *listens {
            let before = seen.iter().find(|(known, _)| known.address == listen.address && known.udp == listen.udp);
            if let Some((_, owner)) = before {
                let message = match &listen.address {
                    crate::settings::ListenAddress::Tcp(address) if address.port() == 0 => continue,
                    crate::settings::ListenAddress::Tcp(address) => {
                        format!("{name}: {address} is listened on by {owner} already")
                    }
                    crate::settings::ListenAddress::Unix(path) => {
                        format!("{name}: {} is listened on by {owner} already", path.display())
                    }
                };
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

fn real_ip(reader: &mut Reader<'_>) -> RealIp {
    let mut real_ip = RealIp {
        trusted: Vec::new(),
        trust_unix: false,
        header: reader
            .directive("real_ip_header")
            .map(|(_, value)| value)
            .or_else(|| reader.text("real_ip_header"))
            .unwrap_or_else(|| "X-Real-IP".to_owned()),
        recursive: reader
            .directive("real_ip_recursive")
            .map_or_else(|| reader.flag("real_ip_recursive"), |(_, value)| value == "on"),
    };
    let injected = reader.directive("set_real_ip_from").map(|(name, value)| (name, split_list(&value)));
    let lists = [Some(("trusted_ips".to_owned(), reader.list("trusted_ips"))), injected];
    for (name, addresses) in lists.into_iter().flatten() {
        for address in addresses {
            if address == "unix:" {
                real_ip.trust_unix = true;
            } else if let Some(net) = network(&address) {
                real_ip.trusted.push(net);
            } else {
                let message = format!(
                    "{name} must be a comma separated list in the form of IPv4 or IPv6 address or CIDR block or \
                     'unix:', got '{address}'"
                );
                reader.problem(&name, message);
            }
        }
    }
    real_ip
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn added_headers(reader: &mut Reader<'_>) -> AddedHeaders {
    let mut headers = AddedHeaders {
        server: false,
        via: false,
        proxy_latency: false,
        response_latency: false,
        upstream_latency: false,
        admin_latency: false,
        upstream_status: false,
        request_id: false,
    };
    let tokens = reader.list("headers");
    let off = tokens.first().is_some_and(|first| first == "off");
    for token in tokens {
        let flags: &mut [&mut bool] = match token.to_ascii_lowercase().as_str() {
            "off" => &mut [],
            "server_tokens" => &mut [&mut headers.server, &mut headers.via],
            "latency_tokens" => &mut [
                &mut headers.proxy_latency,
                &mut headers.response_latency,
                &mut headers.upstream_latency,
                &mut headers.admin_latency,
            ],
            "server" => &mut [&mut headers.server],
            "via" => &mut [&mut headers.via],
            "x-kong-proxy-latency" => &mut [&mut headers.proxy_latency],
            "x-kong-response-latency" => &mut [&mut headers.response_latency],
            "x-kong-upstream-latency" => &mut [&mut headers.upstream_latency],
            "x-kong-admin-latency" => &mut [&mut headers.admin_latency],
            "x-kong-upstream-status" => &mut [&mut headers.upstream_status],
            "x-kong-request-id" => &mut [&mut headers.request_id],
            _ => {
                reader.problem("headers", format!("headers: invalid entry '{token}'"));
                &mut []
            }
        };
        if !off {
            for flag in flags {
                **flag = true;
            }
        }
    }
    headers
}

fn upstream_headers(reader: &mut Reader<'_>) -> bool {
    let mut request_id = false;
    let tokens = reader.list("headers_upstream");
    let off = tokens.first().is_some_and(|first| first == "off");
    for token in tokens {
        match token.to_ascii_lowercase().as_str() {
            "off" => {}
            "x-kong-request-id" => request_id = !off,
            _ => reader.problem("headers_upstream", format!("headers_upstream: invalid entry '{token}'")),
        }
    }
    request_id
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

fn logs(reader: &mut Reader<'_>, prefix: &Path) -> Logs {
    let mut formats = Formats::default();
    let raw = reader.raw;
    for entry in &raw.log_formats {
        if let Err(problem) = formats.define(&entry.value) {
            reader.problems.push((Some(entry.origin.clone()), format!("nginx_http_log_format: {problem}")));
        }
    }
    let mut access = |name: &str, format: &str| {
        let value = reader.text(name).unwrap_or_else(|| "off".to_owned());
        formats.access_log(&value, format, prefix).unwrap_or_else(|problem| {
            reader.problem(name, format!("{name}: {problem}"));
            crate::settings::AccessLog {
                target: LogTarget::Off,
                format: crate::settings::LogFormat { text: String::new(), escape: crate::settings::LogEscape::Default },
            }
        })
    };
    let (proxy_access, admin_access, status_access, stream_access) = (
        access("proxy_access_log", "kong_log_format"),
        access("admin_access_log", "combined"),
        access("status_access_log", "combined"),
        access("proxy_stream_access_log", "basic"),
    );
    let mut error = |name: &str| {
        let value = reader.text(name).unwrap_or_else(|| "off".to_owned());
        // nginx takes a level after the path; log_level says it for all.
        let path = value.split_whitespace().next().unwrap_or("off");
        log_format::target(path, prefix).unwrap_or_else(|problem| {
            reader.problem(name, format!("{name}: {problem}"));
            LogTarget::Off
        })
    };
    Logs {
        proxy_access,
        proxy_error: error("proxy_error_log"),
        admin_access,
        admin_error: error("admin_error_log"),
        status_access,
        status_error: error("status_error_log"),
        stream_access,
        stream_error: error("proxy_stream_error_log"),
    }
}

fn http(reader: &mut Reader<'_>) -> Http {
    let minute = Duration::from_secs(60);
    Http {
        max_body_size: reader.size("client_max_body_size", 0),
        body_buffer_size: usize::try_from(reader.size("client_body_buffer_size", 8 << 10)).unwrap_or(usize::MAX),
        keepalive_timeout: reader.time("keepalive_timeout", Duration::from_secs(75)),
        keepalive_requests: match reader.directive("keepalive_requests") {
            None => 10_000,
            Some((name, text)) => text.parse().unwrap_or_else(|_| {
                reader.problem(&name, format!("{name} is not a number: '{text}'"));
                10_000
            }),
        },
        header_timeout: reader.time("client_header_timeout", minute),
        body_timeout: reader.time("client_body_timeout", minute),
        send_timeout: reader.time("send_timeout", minute),
        header_buffers: reader.number_of_sizes("large_client_header_buffers", (4, 8 << 10)),
        proxy_buffer_size: usize::try_from(reader.size("proxy_buffer_size", 4 << 10)).unwrap_or(usize::MAX),
        proxy_buffers: reader.number_of_sizes("proxy_buffers", (8, 4 << 10)),
        underscores_in_headers: match reader.directive("underscores_in_headers") {
            None => true,
            Some((name, text)) => match text.as_str() {
                "on" => true,
                "off" => false,
                _ => {
                    reader.problem(&name, format!("{name} is neither on nor off: '{text}'"));
                    true
                }
            },
        },
    }
}

fn error_pages(reader: &mut Reader<'_>) -> ErrorPages {
    let mut template = |name: &str| {
        let path = reader.text(name)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(problem) => {
                reader.problem(name, format!("{name}: could not read {path}: {problem}"));
                None
            }
        }
    };
    ErrorPages {
        html: template("error_template_html"),
        json: template("error_template_json"),
        plain: template("error_template_plain"),
        xml: template("error_template_xml"),
        default_type: reader.text("error_default_type").unwrap_or_else(|| "text/plain".to_owned()),
    }
}

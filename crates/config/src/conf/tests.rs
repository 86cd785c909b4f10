//! From text and environment to settings.

use std::{collections::BTreeMap, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::settings::{ClientCertificateDemand, ListenAddress, LogEscape, LogLevel, LogTarget};

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Loaded {
    load_text(Some(Path::new("/etc/kong.conf")), text, &env(variables)).unwrap_or_else(|problem| panic!("{problem}"))
}

fn settings(text: &str) -> Settings {
    loaded(text, &[]).settings
}

/// For tests that call a value `settings`.
fn settings_of(text: &str) -> Settings {
    settings(text)
}

fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load_text(Some(Path::new("/k")), text, &env(variables)) {
        Ok(_) => Vec::new(),
        Err(problem) => problem.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn defaults_are_kongs() {
    let settings = load_text(None, "", &BTreeMap::new()).unwrap().settings;
    assert_eq!(settings.prefix, Path::new("/usr/local/kong"));
    assert_eq!(settings.log_level, LogLevel::Notice);
    assert!(settings.daemon && settings.plugins.bundled && settings.plugins.named.is_empty());
    assert_eq!(settings.proxy_listen.len(), 2);
    assert!(settings.proxy_listen[1].ssl && settings.proxy_listen[1].http2);
    assert_eq!(settings.admin_listen[0].address, ListenAddress::Tcp("127.0.0.1:8001".parse().unwrap()));
    assert_eq!(settings.status_listen[0].address, ListenAddress::Tcp("127.0.0.1:8007".parse().unwrap()));
    assert!(settings.stream_listen.is_empty());
    assert_eq!(settings.upstream.pool_size, 512);
    assert_eq!(settings.http.body_buffer_size, 8192);
    assert_eq!(settings.lua.max_uri_args, 100);
    assert_eq!(settings.errors.default_type, "text/plain");
    assert!(settings.headers.server && settings.headers.upstream_latency && !settings.headers.upstream_status);
    assert!(settings.upstream_request_id && settings.ignored.is_empty() && settings.raw.is_empty());
}

#[test]
fn the_environment_beats_the_file() {
    let text = "log_level = debug\nplugins = a\nprefix = /p";
    let loaded = loaded(text, &[("KONG_LOG_LEVEL", "error"), ("KONG_PLUGINS", "b, bundled"), ("KONG_PORT", "x")]);
    assert_eq!(loaded.settings.log_level, LogLevel::Error);
    assert_eq!(loaded.settings.plugins.named, ["b"]);
    assert!(loaded.settings.plugins.bundled);
    assert_eq!(loaded.settings.prefix, Path::new("/p"));
    // Kubernetes injects KONG_* for a Service named kong: no word about unknown ones.
    assert_eq!(loaded.warnings, Vec::<String>::new());
    // An empty variable unsets what the file says.
    let loaded = loaded_with_empty();
    assert_eq!(loaded.settings.log_level, LogLevel::Notice);
}

fn loaded_with_empty() -> Loaded {
    loaded("log_level = debug", &[("KONG_LOG_LEVEL", "")])
}

#[test]
fn every_problem_has_its_place() {
    for (text, variables, expect) in [
        ("log_level = loud", &[][..], "/k:1: log_level has an invalid value: 'loud' (debug, info,"),
        ("\n\ndatabase = postgres", &[], "/k:3: database = postgres is not supported yet: use database = off"),
        (
            "",
            &[("KONG_DATABASE", "cassandra")],
            "KONG_DATABASE: database has an invalid value: 'cassandra' (postgres, off)",
        ),
        ("proxy_listen = x", &[], "/k:1: proxy_listen must be of form"),
        ("", &[("KONG_ADMIN_LISTEN", "1.1.1.1")], "KONG_ADMIN_LISTEN: admin_listen must be of form"),
        ("proxy_listen = 127.0.0.1:8001", &[], "admin_listen: 127.0.0.1:8001 is listened on by proxy_listen already"),
        ("lua_max_req_headers = 0", &[], "/k:1: lua_max_req_headers must be an integer between 1 and 1000"),
        ("lua_max_req_headers = many", &[], "/k:1: lua_max_req_headers is not a number: 'many'"),
        ("upstream_keepalive_pool_size = -1", &[], "/k:1: upstream_keepalive_pool_size must be 0 or greater"),
        ("real_ip_recursive = maybe", &[], "/k:1: real_ip_recursive is not a boolean: 'maybe' (on, off)"),
        ("headers = via, nope", &[], "/k:1: headers: invalid entry 'nope'"),
        ("headers_upstream = nope", &[], "/k:1: headers_upstream: invalid entry 'nope'"),
        ("trusted_ips = 10.0.0.0/33", &[], "/k:1: trusted_ips must be a comma separated list in the form of IPv4"),
        ("port_maps = 80", &[], "/k:1: invalid port mapping (`port_maps`): 80"),
        ("error_default_type = text/x", &[], "/k:1: error_default_type has an invalid value: 'text/x'"),
        ("error_template_html = /nope", &[], "/k:1: error_template_html: could not read /nope"),
        ("declarative_config = /nope.yml", &[], "/k:1: declarative_config: no file at /nope.yml"),
        ("nginx_http_client_max_body_size = big", &[], "/k:1: nginx_http_client_max_body_size is not a size: 'big'"),
        ("buffered_proxying_max_size = 0", &[], "/k:1: buffered_proxying_max_size is not a size: '0'"),
        ("nginx_proxy_send_timeout = x", &[], "/k:1: nginx_proxy_send_timeout is not a time: 'x'"),
        ("nginx_conf_include = /x", &[], "/k:1: nginx_conf_include: nginx configuration files are not supported"),
        ("nginx_include = /x", &[], "/k:1: nginx_include: nginx configuration files are not supported"),
        ("nginx_http_x_include = /x", &[], "/k:1: nginx_http_x_include: nginx configuration files are not supported"),
        (
            "\nadmin_listen = unix:/a proxy_protocol",
            &[],
            "/k:2: admin_listen: unix:/a: the PROXY protocol is spoken on",
        ),
        (
            "stream_listen = 127.0.0.1:1 udp ssl",
            &[],
            "/k:1: stream_listen: 127.0.0.1:1: ssl does not go together with udp",
        ),
        ("stream_listen = unix:/a udp", &[], "/k:1: stream_listen: unix:/a: a Unix socket does not go together"),
        ("nginx_stream_log_format = x '$host'", &[], "/k:1: nginx_stream_log_format: unknown \"host\" variable"),
        ("pluginserver_names = a b", &[], "/k:1: pluginserver_names: 'a b' cannot be a name: it may have letters,"),
        ("nginx_http_log_format = x '$nope'", &[], "/k:1: nginx_http_log_format: unknown \"nope\" variable"),
        ("nginx_http_include = /x", &[], "/k:1: nginx_http_include: nginx configuration files are not supported"),
        ("nginx_worker_processes = 0", &[], "/k:1: nginx_worker_processes must be 'auto' or an integer between 1 and"),
        ("nginx_http_log_format = x", &[], "/k:1: nginx_http_log_format: must be of form"),
        ("proxy_access_log = a.log mine", &[], "/k:1: proxy_access_log: there is no log format named 'mine'"),
        ("ssl_cipher_suite = custom\nssl_protocols = TLSv1", &[], "/k:2: ssl_protocols: neither TLSv1.2 nor TLSv1.3"),
        ("ssl_cipher_suite = x", &[], "/k:1: Undefined cipher suite x"),
        ("ssl_cert = /nope", &[], "/k:1: ssl_cert_key must be specified"),
        ("pluginserver_names = a,A", &[], "/k:1: query_command undefined for pluginserver a"),
        ("prefix = {vault://env/nope}", &[], "/k:1: failed to dereference '{vault://env/nope}'"),
    ] {
        let found = problems(text, variables);
        assert!(found.iter().any(|problem| problem.starts_with(expect)), "{text}: {found:?}");
    }
}

#[test]
fn all_problems_come_at_once_and_in_order() {
    let found = problems("log_level = x\nheaders = x\nport_maps = x", &[("KONG_ADMIN_LISTEN", "x")]);
    let starts: Vec<&str> = found.iter().filter_map(|problem| problem.split(": ").next()).collect();
    assert_eq!(starts, ["/k:1", "/k:2", "/k:3", "KONG_ADMIN_LISTEN"]);
}

#[test]
fn unknown_names_in_the_file_are_warned_of() {
    for (text, expect) in [
        ("log_levle = info", "/etc/kong.conf:1: unknown property 'log_levle', did you mean 'log_level'?"),
        ("proxy_lisen = off", "/etc/kong.conf:1: unknown property 'proxy_lisen', did you mean 'proxy_listen'?"),
        ("qwertyuiop_asdf = 1", "/etc/kong.conf:1: unknown property 'qwertyuiop_asdf'"),
        ("just words", "/etc/kong.conf:1: ignored, it is not of the form 'name = value': just words"),
        (
            "log_level = info\nlog_level = warn",
            "/etc/kong.conf:2: 'log_level' was set on line 1 already; this one counts",
        ),
    ] {
        assert_eq!(loaded(text, &[]).warnings, [expect], "{text}");
    }
}

#[test]
fn what_means_nothing_here_is_listed() {
    let settings = settings(
        "pg_host = x\npg_password = secret\nwasm = on\nnginx_http_charset = x\nnginx_http_gzip = on\nadmin_gui_listen = off",
    );
    let found: Vec<_> = settings.ignored.iter().map(|p| (p.name.as_str(), p.value.as_str(), p.important)).collect();
    assert_eq!(
        found,
        [
            ("wasm", "on", true),
            ("nginx_http_gzip", "on", true),
            ("pg_host", "x", false),
            ("pg_password", "******", false),
            ("nginx_http_charset", "x", false),
            ("admin_gui_listen", "off", false),
        ]
    );
}

#[test]
fn injected_directives() {
    let settings = settings(
        "nginx_http_client_max_body_size = 8m\nnginx_proxy_client_max_body_size = 1m\nnginx_http_keepalive_timeout = 1m 50s\n\
         nginx_proxy_large_client_header_buffers = 8 16k\nnginx_http_underscores_in_headers = off\n\
         nginx_proxy_real_ip_header = proxy_protocol\nnginx_proxy_real_ip_recursive = on\nreal_ip_header = X\n\
         nginx_main_worker_shutdown_timeout = 1h30m\nnginx_main_env = A; env B=2;\nnginx_proxy_proxy_buffers = 4 8k\n\
         nginx_main_worker_rlimit_nofile = 1024\nnginx_main_worker_processes = 3",
    );
    assert_eq!(settings.http.max_body_size, 1 << 20);
    assert_eq!(settings.http.keepalive_timeout, Duration::from_secs(60));
    assert_eq!(settings.http.header_buffers, (8, 16 << 10));
    assert_eq!(settings.http.proxy_buffers, (4, 8 << 10));
    assert!(!settings.http.underscores_in_headers && settings.real_ip.recursive);
    assert_eq!(settings.real_ip.header, "proxy_protocol");
    assert_eq!(settings.shutdown_timeout, Some(Duration::from_secs(5400)));
    assert_eq!(settings.main_env, ["A", "B=2"]);
    assert_eq!((settings.rlimit_nofile, settings.workers), (Some(1024), 3));
}

#[test]
fn access_logs_pick_their_format_by_name() {
    let settings = settings(
        "prefix = /p\nnginx_http_log_format = a escape=json '{\"s\":$status}'\nnginx_http_log_format = b '$uri' ' $host'\n\
         proxy_access_log = logs/x.log b\nadmin_access_log = /dev/stdout a\nstatus_access_log = off",
    );
    assert_eq!(settings.logs.proxy_access.target, LogTarget::File("/p/logs/x.log".into()));
    assert_eq!(settings.logs.proxy_access.format.text, "$uri $host");
    assert_eq!(settings.logs.admin_access.target, LogTarget::Stdout);
    assert_eq!(settings.logs.admin_access.format.text, "{\"s\":$status}");
    assert_eq!(settings.logs.admin_access.format.escape, LogEscape::Json);
    assert_eq!(settings.logs.status_access.target, LogTarget::Off);
}

#[test]
fn streams_are_listened_on() {
    let set = loaded("\nstream_listen = 127.0.0.1:29000, 127.0.0.1:29443 ssl, 127.0.0.1:29000 udp", &[]);
    assert_eq!(set.warnings, Vec::<String>::new());
    let listens: Vec<_> = set.settings.stream_listen.iter().map(|listen| (listen.ssl, listen.udp)).collect();
    assert_eq!(listens, [(false, false), (true, false), (false, true)]);
    assert!(set.settings.ignored.iter().all(|property| !property.important));
    assert!(loaded("stream_listen = off", &[]).settings.stream_listen.is_empty());
}

#[test]
fn streams_have_log_formats_of_their_own() {
    let settings =
        settings_of("nginx_stream_log_format = mine '$remote_addr $status'\nproxy_stream_access_log = logs/s.log mine");
    assert_eq!(settings.logs.stream_access.format.text, "$remote_addr $status");
    let default = settings_of("");
    assert!(default.logs.stream_access.format.text.ends_with("$session_time"));
    let written = kong_env(&settings);
    assert!(written.contains("nginx_stream_log_format = mine"), "{written}");
}

#[test]
fn dotted_server_names_have_underscores_in_properties() {
    let settings =
        settings("pluginserver_names = a.b-c\npluginserver_a.b-c_query_cmd = q\npluginserver_a_b_c_start_cmd = s\n");
    let [server] = &settings.plugin_servers[..] else { panic!("{:?}", settings.plugin_servers) };
    assert_eq!(
        (server.name.as_str(), server.query_cmd.as_str(), server.start_cmd.as_deref()),
        ("a.b-c", "q", Some("s"))
    );
}

#[test]
fn written_paths_are_whole() {
    let here = tempfile::tempdir_in(".").unwrap();
    let directory = Path::new(here.path().file_name().unwrap());
    let relative = |name: &str| {
        std::fs::write(directory.join(name), "_format_version: '3.0'").unwrap();
        directory.join(name).display().to_string()
    };
    let (template, declared, certificate) = (relative("t.json"), relative("k.yml"), relative("c.pem"));
    let loaded = loaded(
        &format!(
            "proxy_listen = off\nstatus_listen = off\nadmin_listen = off\nerror_template_json = {template}\n\
             declarative_config = {declared}\nssl_cert = {certificate}, dGV4dA==\nssl_cert_key = {{vault://env/key}}"
        ),
        &[("KEY", "text")],
    );
    let written = kong_env(&loaded.settings);
    let current = std::env::current_dir().unwrap();
    for (name, path) in [("error_template_json", template), ("declarative_config", declared)] {
        assert!(written.contains(&format!("{name} = {}\n", current.join(path).display())), "{written}");
    }
    assert!(written.contains(&format!("ssl_cert = {},dGV4dA==\n", current.join(certificate).display())), "{written}");
    assert!(written.contains("ssl_cert_key = {vault://env/key}\n"), "{written}");
}

#[test]
fn plugin_servers() {
    let loaded = loaded(
        "prefix = /p\npluginserver_names = My-Go, py\npluginserver_my_go_query_cmd = /x -dump\n\
         pluginserver_my_go_start_cmd = /x\npluginserver_py_query_cmd = q # comment\npluginserver_py_socket = /s\n\
         pluginserver_rb_socket = /t",
        &[("KONG_PLUGINSERVER_PY_START_CMD", "env A=b python x.py")],
    );
    let servers = loaded.settings.plugin_servers;
    assert_eq!(servers[0].name, "my-go");
    assert_eq!(servers[0].socket, Path::new("/p/my-go.socket"));
    assert_eq!(servers[0].start_cmd.as_deref(), Some("/x"));
    assert_eq!((servers[1].socket.as_path(), servers[1].query_cmd.as_str()), (Path::new("/s"), "q"));
    assert_eq!(servers[1].start_cmd.as_deref(), Some("env A=b python x.py"));
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("pluginserver_rb_socket"));
}

#[test]
fn policies_of_plugin_servers() {
    use silverback_model::Fails;

    use crate::settings::{Breaker, EventPolicy, MaxMemory, ProcessPolicy};
    let base =
        "prefix = /p\npluginserver_names = a-b\npluginserver_a_b_query_cmd = q\npluginserver_a_b_start_cmd = s\n";
    let server = settings(base).plugin_servers.remove(0);
    assert_eq!((server.events, server.process), (EventPolicy::default(), ProcessPolicy::default()));

    let lines = "timeout = 500\non_error = closed, response=open\nmax_inflight = 0\nmax_queue = 7\nbreaker_failures = 3\n\
                 breaker_pause = 250\nworkers = 4\nmax_requests = 1000\nmax_memory = 300m\nshutdown_grace = 0\n\
                 env = A=1\ncwd = /tmp\nuser = nobody\nrlimits = nofile=64\nsocket_mode = 0600\nrepair = off\nwatch = on";
    let lines: String = lines.lines().map(|line| format!("pluginserver_a_b_{line}\n")).collect();
    let loaded = loaded(&format!("{base}{lines}"), &[]);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let server = &loaded.settings.plugin_servers[0];
    let (events, process) = (&server.events, &server.process);
    assert_eq!(events.timeout.as_millis(), 500);
    assert_eq!(events.on_error.of(silverback_model::Phase::Response), Fails::Open);
    assert_eq!((events.max_inflight, events.max_queue, events.repair), (0, 7, false));
    assert_eq!(events.breaker, Some(Breaker { failures: 3, pause: Duration::from_millis(250) }));
    assert_eq!((process.workers, process.max_requests, process.max_memory), (4, 1000, MaxMemory::Bytes(300 << 20)));
    assert_eq!((process.socket_mode, process.watch), (Some(0o600), true));
    assert_eq!(process.user, Some(("nobody".to_owned(), None)));

    let second = load_text(None, &kong_env(&loaded.settings), &BTreeMap::new()).unwrap().settings;
    assert_eq!(second.plugin_servers, loaded.settings.plugin_servers);
}

#[test]
fn wrong_policies_are_told_together() {
    let text = "pluginserver_names = a,b\npluginserver_a_query_cmd = q\npluginserver_a_start_cmd = s\n\
                pluginserver_a_timeout = 10s\npluginserver_a_workers = 0\npluginserver_a_cwd = here\n\
                pluginserver_a_restart_backoff = 5\npluginserver_b_query_cmd = q\npluginserver_b_start_cmd = s\n\
                pluginserver_b_socket = /s\npluginserver_a_socket = /s";
    let error = load_text(None, text, &BTreeMap::new()).unwrap_err().to_string();
    for expect in [
        "pluginserver_a_timeout: '10s' is not a number of milliseconds between 1 and 86400000",
        "pluginserver_a_workers: '0' is not a number of processes between 1 and 256, or 'auto'",
        "pluginserver_a_cwd: 'here' is not an absolute path",
        "pluginserver_a_restart_backoff: '5' is not the first and the longest pause",
        "plugin servers a and b have the same socket, /s",
    ] {
        assert!(error.contains(expect), "{expect}: {error}");
    }
}

#[test]
fn a_property_of_a_server_that_is_not_named_says_which() {
    let loaded = loaded("pluginserver_go_start_timeout = 5", &[("KONG_PLUGINSERVER_PY_TIMEOUT", "5")]);
    let warnings = loaded.warnings.join("\n");
    assert!(warnings.contains("of one of pluginserver_names: does it lack go?"), "{warnings}");
    assert!(warnings.contains("of one of pluginserver_names: does it lack py?"), "{warnings}");
}

#[test]
fn a_slip_in_a_property_of_a_server_is_named() {
    let text = "pluginserver_names = a\npluginserver_a_query_cmd = q\npluginserver_a_start_cmd = s\npluginserver_a_timeuot = 5";
    let loaded = loaded(text, &[]);
    assert!(loaded.warnings[0].contains("did you mean 'pluginserver_a_timeout'?"), "{:?}", loaded.warnings);
}

#[test]
fn a_relative_socket_belongs_to_the_directory_of_the_command() {
    let text =
        "prefix = /p\npluginserver_names = my-go\npluginserver_my_go_query_cmd = q\npluginserver_my_go_start_cmd = s\n";
    let settings = settings(&format!("{text}pluginserver_my_go_socket = run/go.socket"));
    let expect = std::env::current_dir().unwrap().join("run/go.socket");
    assert_eq!(settings.plugin_servers[0].socket, expect);
    let written = kong_env(&settings);
    assert!(written.contains(&format!("pluginserver_my_go_socket = {}\n", expect.display())), "{written}");
}

#[test]
fn a_server_without_a_start_command_is_managed_elsewhere() {
    let loaded = loaded("pluginserver_names = a\npluginserver_a_query_cmd = q", &[]);
    assert_eq!(loaded.settings.plugin_servers[0].start_cmd, None);
    assert!(loaded.warnings[0].starts_with("start_command undefined for pluginserver a"));
}

#[test]
fn the_oldest_form_makes_a_server_named_go() {
    let settings = settings("prefix = /p\ngo_plugins_dir = /go plugins\ngo_pluginserver_exe = /bin/gp");
    let [server] = &settings.plugin_servers[..] else { panic!("{:?}", settings.plugin_servers) };
    assert_eq!(server.name, "go");
    assert_eq!(server.socket, Path::new("/p/go_pluginserver.sock"));
    assert_eq!(server.start_cmd.as_deref(), Some("/bin/gp -kong-prefix /p -plugins-directory '/go plugins'"));
    assert_eq!(server.query_cmd, "/bin/gp -dump-all-plugins -plugins-directory '/go plugins'");
    assert!(settings_of("go_plugins_dir = off").plugin_servers.is_empty());
}

#[test]
fn lists_and_tokens() {
    let settings = settings(
        "plugins = off\nheaders = off\nheaders_upstream = off\ntrusted_ips = 10.0.0.0/8, ::1, unix:\nport_maps = 80:8000, 443:8443",
    );
    assert!(!settings.plugins.bundled && settings.plugins.named.is_empty());
    assert!(!settings.headers.server && !settings.headers.request_id && !settings.upstream_request_id);
    assert_eq!(settings.real_ip.trusted.len(), 2);
    assert!(settings.real_ip.trust_unix);
    assert_eq!(settings.port_maps, [(80, 8000), (443, 8443)]);
    let settings = settings_of("headers = X-Kong-Upstream-Status, via");
    assert!(settings.headers.upstream_status && settings.headers.via && !settings.headers.server);
}

#[test]
fn certificates_come_as_files_text_or_base64() {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let directory = tempfile::tempdir().unwrap();
    let (cert_path, key_path) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    std::fs::write(&cert_path, &cert).unwrap();
    std::fs::write(&key_path, &key).unwrap();
    let (certs, keys) =
        (format!("{},{}", cert_path.display(), reader::to_base64(&cert)), format!("{},{}", key_path.display(), key));
    let loaded = loaded("", &[("KONG_SSL_CERT", &certs), ("KONG_SSL_CERT_KEY", &keys)]);
    assert_eq!(
        loaded.settings.tls.certificates,
        [(cert_path.display().to_string(), key_path.display().to_string()), (cert, key.trim().to_owned())]
    );
    // Several lines become one in .kong_env, and come back.
    let again = load_text(None, &kong_env(&loaded.settings), &BTreeMap::new()).unwrap();
    assert_eq!(again.settings.tls.certificates.len(), 2);
    assert!(!kong_env(&loaded.settings).contains("-----BEGIN"));
}

#[test]
fn certificates_of_apis_and_towards_upstreams_survive_the_environment_file() {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let variables: Vec<_> = ["ADMIN_SSL", "STATUS_SSL", "CLIENT_SSL"]
        .iter()
        .flat_map(|name| [(format!("KONG_{name}_CERT"), &cert), (format!("KONG_{name}_CERT_KEY"), &key)])
        .collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let text = "client_ssl = on\nstatus_listen = 127.0.0.1:1\nadmin_listen = 127.0.0.1:2 ssl";
    let loaded = loaded(text, &variables);
    let again = load_text(None, &kong_env(&loaded.settings), &BTreeMap::new()).unwrap();
    for settings in [&loaded.settings, &again.settings] {
        let given = (cert.trim(), key.trim());
        let (shown, shown_key) = &settings.api_certificates.admin[0];
        assert_eq!((shown.trim(), shown_key.trim()), given);
        let (shown, shown_key) = settings.upstream_tls.client_certificate.as_ref().unwrap();
        assert_eq!((shown.trim(), shown_key.trim()), given);
        assert!(settings.api_certificates.status.is_empty(), "the Status API has no ssl listener");
        assert!(settings.ignored.is_empty());
    }
    let text = "admin_listen = 127.0.0.1:2 ssl\nadmin_ssl_cert = /nope";
    assert_eq!(
        problems(text, &[]),
        ["/k:2: admin_ssl_cert_key must be specified", "/k:2: admin_ssl_cert: failed loading certificate from /nope"]
    );
}

#[test]
fn clients_are_asked_for_certificates() {
    let cert = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap().cert.pem();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, cert).unwrap();
    let path = path.display().to_string();
    let tls = settings(&format!(
        "nginx_proxy_ssl_verify_client = on\nnginx_proxy_ssl_client_certificate = {path}\nnginx_http_ssl_verify_depth = 3"
    ))
    .tls;
    let verification = tls.client_verification.unwrap();
    assert_eq!((verification.demand, verification.depth), (ClientCertificateDemand::Required, 3));
    assert_eq!(verification.authorities, [Path::new(&path)]);
    assert_eq!(settings("nginx_http_ssl_verify_client = off").tls.client_verification, None);
    for (text, expect) in [
        ("nginx_http_ssl_verify_client = on", "no ssl_client_certificate"),
        ("nginx_http_ssl_verify_client = maybe", "invalid value 'maybe'"),
        (
            "nginx_http_ssl_verify_client = optional_no_ca\nnginx_http_ssl_client_certificate = /nope",
            "no certificate can be read from /nope",
        ),
    ] {
        let found = problems(text, &[]);
        assert!(found.iter().any(|problem| problem.contains(expect)), "{text}: {found:?}");
    }
}

#[test]
fn what_rustls_lacks_is_named() {
    assert_eq!(settings("").tls.unavailable, Vec::<String>::new());
    let tls = settings("ssl_cipher_suite = custom\nssl_protocols = TLSv1.1 TLSv1.2\nssl_ciphers = DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256").tls;
    assert_eq!(tls.unavailable, ["DHE-RSA-AES128-GCM-SHA256", "TLSv1.1"]);
    assert!(tls.tls12 && !tls.tls13);
    let modern = settings("ssl_cipher_suite = modern").tls;
    assert!(!modern.tls12 && modern.tls13);
}

#[test]
fn secrets_are_looked_up_and_not_written_down() {
    let loaded = loaded("log_level = {vault://env/level}\nvault_env_prefix = MY_", &[("MY_LEVEL", "crit")]);
    assert_eq!(loaded.settings.log_level, LogLevel::Crit);
    let written = kong_env(&loaded.settings);
    assert!(written.contains("log_level = {vault://env/level}") && !written.contains("crit"), "{written}");
}

#[test]
fn the_file_must_exist_if_it_is_named() {
    let problem = load(Some(Path::new("/does/not/exist")), &BTreeMap::new()).unwrap_err();
    assert_eq!(problem.to_string(), "no file at: /does/not/exist");
}

#[test]
fn declarative_text_may_be_base64() {
    let text = "_format_version: \"3.0\"\nservices: []\n";
    for given in [text.to_owned(), reader::to_base64(text)] {
        let loaded = loaded("", &[("KONG_DECLARATIVE_CONFIG_STRING", &given)]);
        assert_eq!(
            loaded.settings.declarative_config_string.map(|t| t.trim().to_owned()),
            Some(text.trim().to_owned())
        );
    }
}

proptest! {
    #[test]
    fn what_is_written_comes_back(
        level in prop::sample::select(vec!["debug", "warn", "emerg"]),
        cmd in "[ -~]{1,40}",
        plugins in prop::collection::vec("[a-z-]{1,8}", 1..4),
    ) {
        let cmd = cmd.trim();
        prop_assume!(!cmd.is_empty() && !cmd.contains("{vault://"));
        let variables = [
            ("KONG_LOG_LEVEL", level),
            ("KONG_PLUGINS", &plugins.join(",")),
            ("KONG_PLUGINSERVER_NAMES", "x"),
            ("KONG_PLUGINSERVER_X_QUERY_CMD", cmd),
        ];
        let first = load_text(None, "", &env(&variables)).unwrap().settings;
        let second = load_text(None, &kong_env(&first), &BTreeMap::new()).unwrap().settings;
        prop_assert_eq!(first.plugin_servers, second.plugin_servers);
        prop_assert_eq!((first.log_level, first.plugins), (second.log_level, second.plugins));
        prop_assert_eq!(first.prefix, second.prefix);
    }

    #[test]
    fn no_text_panics(text in "([a-z_]{1,12} = [ -~]{0,20}\n){0,6}") {
        let _ = load_text(None, &text, &BTreeMap::new());
    }

    #[test]
    fn no_value_panics(name in prop::sample::select(properties::PROPERTIES.iter().map(|p| p.name).collect::<Vec<_>>()), value in "[ -~]{0,20}") {
        // Host names would be looked up.
        prop_assume!(!name.ends_with("_listen"));
        let _ = load_text(None, &format!("{name} = {value}"), &BTreeMap::new());
    }
}

#[test]
fn a_directory_of_plugins_has_its_properties() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("My-Plugin.py"), "").unwrap();
    let path = directory.path().display();
    let loaded = loaded(
        &format!(
            "plugin_dir = {path}\nplugin_dir_python = /opt/venv/bin/python\nplugin_dir_node = node22\n\
             pluginserver_my_plugin_py_timeout = 300\npluginserver_other_py_timeout = 300"
        ),
        &[("KONG_PLUGIN_DIR_PYTHON_ARGS", "-g")],
    );
    let found = loaded.settings.plugin_dir.unwrap();
    assert_eq!(found.path, directory.path());
    assert_eq!((found.python.as_deref(), found.node.as_deref()), (Some("/opt/venv/bin/python"), Some("node22")));
    assert_eq!(found.python_args.as_deref(), Some("-g"));
    assert_eq!(found.policy("My-Plugin.py").0.timeout, Duration::from_millis(300));
    assert_eq!(found.policy("another.py").0.timeout, Duration::from_secs(10));
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("pluginserver_other_py_timeout"));
    assert_eq!(problems("plugin_dir = /no/where", &[]), ["/k:1: plugin_dir: no directory at /no/where"]);
}

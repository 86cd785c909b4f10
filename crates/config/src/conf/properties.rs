//! Every property of Kong 3.9, with its type, its default and what becomes of it here.

use Kind::{Boolean, List, Number, OneOf, Text};
use Treatment::{Ignored, Used};

/// The type of a property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Separated by commas.
    List,
    Number,
    /// `on`, `off`, `true` or `false`.
    Boolean,
    OneOf(&'static [&'static str]),
}

/// What becomes of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    Used,
    /// Accepted, and listed by `check`.
    Ignored {
        /// Ignoring it changes what a user sees.
        important: bool,
        why: &'static str,
    },
}

/// A property of `kong.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    /// As Kong writes it; empty where there is none.
    pub default: &'static str,
    pub treatment: Treatment,
}

const fn property(name: &'static str, kind: Kind, default: &'static str, treatment: Treatment) -> Property {
    Property { name, kind, default, treatment }
}

/// The property of this name, if there is one. Injected nginx directives, `pluginserver_*` and `vault_*` are not here.
pub fn find(name: &str) -> Option<&'static Property> {
    PROPERTIES.binary_search_by(|property| property.name.cmp(name)).ok().and_then(|at| PROPERTIES.get(at))
}

/// Properties whose values no output may show.
pub const SENSITIVE: [&str; 11] = [
    "admin_gui_ssl_cert_key",
    "admin_ssl_cert_key",
    "client_ssl_cert_key",
    "cluster_cert_key",
    "declarative_config_string",
    "pg_password",
    "pg_ro_password",
    "proxy_server",
    "request_debug_token",
    "ssl_cert_key",
    "status_ssl_cert_key",
];

/// All of them, sorted by name.
pub const PROPERTIES: &[Property] = &[
    property(
        "_debug_pg_ttl_cleanup_interval",
        Number,
        "300",
        Ignored { important: false, why: "there is no database" },
    ),
    property("admin_access_log", Text, "logs/admin_access.log", Used),
    property("admin_error_log", Text, "logs/error.log", Used),
    property(
        "admin_gui_access_log",
        Text,
        "logs/admin_gui_access.log",
        Ignored { important: false, why: "there is no Kong Manager" },
    ),
    property("admin_gui_api_url", Text, "", Ignored { important: false, why: "there is no Kong Manager" }),
    property(
        "admin_gui_error_log",
        Text,
        "logs/admin_gui_error.log",
        Ignored { important: false, why: "there is no Kong Manager" },
    ),
    property(
        "admin_gui_listen",
        List,
        "0.0.0.0:8002, 0.0.0.0:8445 ssl",
        Ignored { important: true, why: "there is no Kong Manager" },
    ),
    property("admin_gui_path", Text, "/", Ignored { important: false, why: "there is no Kong Manager" }),
    property("admin_gui_ssl_cert", List, "", Ignored { important: false, why: "there is no Kong Manager" }),
    property("admin_gui_ssl_cert_key", List, "", Ignored { important: false, why: "there is no Kong Manager" }),
    property("admin_gui_url", List, "", Ignored { important: false, why: "there is no Kong Manager" }),
    property(
        "admin_listen",
        List,
        "127.0.0.1:8001 reuseport backlog=16384, 127.0.0.1:8444 http2 ssl reuseport backlog=16384",
        Used,
    ),
    property("admin_ssl_cert", List, "", Used),
    property("admin_ssl_cert_key", List, "", Used),
    property("allow_debug_header", Boolean, "off", Used),
    property("anonymous_reports", Boolean, "on", Ignored { important: false, why: "no reports are sent" }),
    property("buffered_proxying_max_size", Text, "128m", Used),
    property("buffered_proxying_total_size", Text, "1g", Used),
    property("client_body_buffer_size", Text, "8k", Ignored { important: false, why: "tunes nginx or OpenResty" }),
    property("client_max_body_size", Text, "", Ignored { important: false, why: "tunes nginx or OpenResty" }),
    property("client_ssl", Boolean, "off", Used),
    property("client_ssl_cert", Text, "", Used),
    property("client_ssl_cert_key", Text, "", Used),
    property("cluster_ca_cert", Text, "", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_cert", Text, "", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_cert_key", Text, "", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_cjson", Boolean, "off", Ignored { important: false, why: "there is no hybrid mode" }),
    property(
        "cluster_control_plane",
        Text,
        "127.0.0.1:8005",
        Ignored { important: false, why: "there is no hybrid mode" },
    ),
    property(
        "cluster_data_plane_purge_delay",
        Number,
        "1209600",
        Ignored { important: false, why: "there is no hybrid mode" },
    ),
    property("cluster_dp_labels", List, "", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_incremental_sync", Boolean, "off", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_listen", List, "0.0.0.0:8005", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_max_payload", Number, "16777216", Ignored { important: false, why: "there is no hybrid mode" }),
    property(
        "cluster_mtls",
        OneOf(&["shared", "pki"]),
        "shared",
        Ignored { important: false, why: "there is no hybrid mode" },
    ),
    property(
        "cluster_ocsp",
        OneOf(&["on", "off", "optional"]),
        "off",
        Ignored { important: false, why: "there is no hybrid mode" },
    ),
    property("cluster_rpc", Boolean, "off", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_server_name", Text, "", Ignored { important: false, why: "there is no hybrid mode" }),
    property("cluster_use_proxy", Boolean, "off", Ignored { important: false, why: "there is no hybrid mode" }),
    property("database", OneOf(&["postgres", "off"]), "postgres", Used),
    property("db_cache_neg_ttl", Number, "", Ignored { important: false, why: "there is no database" }),
    property("db_cache_ttl", Number, "0", Ignored { important: false, why: "there is no database" }),
    property("db_cache_warmup_entities", List, "services", Ignored { important: false, why: "there is no database" }),
    property("db_resurrect_ttl", Number, "30", Ignored { important: false, why: "there is no database" }),
    property("db_update_frequency", Number, "5", Ignored { important: false, why: "there is no database" }),
    property("db_update_propagation", Number, "0", Ignored { important: false, why: "there is no database" }),
    property("declarative_config", Text, "", Used),
    property("declarative_config_string", Text, "", Used),
    property(
        "dedicated_config_processing",
        Boolean,
        "on",
        Ignored { important: false, why: "a new configuration is in force as soon as it is built" },
    ),
    property("dns_cache_size", Number, "10000", Used),
    property("dns_error_ttl", Number, "1", Used),
    property("dns_hostsfile", Text, "/etc/hosts", Used),
    property("dns_no_sync", Boolean, "off", Used),
    property("dns_not_found_ttl", Number, "30", Used),
    property("dns_order", List, "LAST,SRV,A,CNAME", Used),
    property("dns_resolver", List, "", Used),
    property("dns_stale_ttl", Number, "3600", Used),
    property("dns_valid_ttl", Number, "", Used),
    property(
        "error_default_type",
        OneOf(&["application/json", "application/xml", "text/html", "text/plain"]),
        "text/plain",
        Used,
    ),
    // Silverback's own: error-log lines as nginx writes them, or as JSON objects.
    property("error_log_format", OneOf(&["nginx", "json"]), "nginx", Used),
    property("error_template_html", Text, "", Used),
    property("error_template_json", Text, "", Used),
    property("error_template_plain", Text, "", Used),
    property("error_template_xml", Text, "", Used),
    property("go_plugins_dir", Text, "off", Used),
    property("go_pluginserver_exe", Text, "/usr/local/bin/go-pluginserver", Used),
    property("headers", List, "server_tokens, latency_tokens, x-kong-request-id", Used),
    property("headers_upstream", List, "x-kong-request-id", Used),
    property("host_ports", Text, "", Ignored { important: false, why: "tunes nginx or OpenResty" }),
    property(
        "kic",
        Boolean,
        "off",
        Ignored { important: true, why: "there is no special mode for the ingress controller" },
    ),
    property(
        "lmdb_environment_path",
        Text,
        "dbless.lmdb",
        Ignored { important: false, why: "configuration is kept in memory" },
    ),
    property("lmdb_map_size", Text, "2048m", Ignored { important: false, why: "configuration is kept in memory" }),
    property(
        "log_level",
        OneOf(&["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"]),
        "notice",
        Used,
    ),
    property("lua_max_post_args", Number, "100", Used),
    property("lua_max_req_headers", Number, "100", Used),
    property("lua_max_resp_headers", Number, "100", Used),
    property("lua_max_uri_args", Number, "100", Used),
    property(
        "lua_package_cpath",
        Text,
        "",
        Ignored { important: true, why: "no Lua runs here: Lua plugins are not loaded" },
    ),
    property(
        "lua_package_path",
        Text,
        "./?.lua;./?/init.lua;",
        Ignored { important: true, why: "no Lua runs here: Lua plugins are not loaded" },
    ),
    property("lua_socket_pool_size", Number, "256", Ignored { important: false, why: "tunes nginx or OpenResty" }),
    property(
        "lua_ssl_protocols",
        Text,
        "TLSv1.2 TLSv1.3",
        Ignored { important: true, why: "connections of the gateway itself use TLS 1.2 and 1.3" },
    ),
    property("lua_ssl_trusted_certificate", List, "system", Used),
    property("lua_ssl_verify_depth", Number, "1", Used),
    property("mem_cache_size", Text, "128m", Ignored { important: false, why: "tunes nginx or OpenResty" }),
    property("new_dns_client", Boolean, "off", Used),
    property("nginx_daemon", Boolean, "on", Used),
    property("nginx_user", Text, "kong kong", Used),
    property("nginx_worker_processes", Text, "auto", Used),
    property("node_id", Text, "", Ignored { important: true, why: "the id of the node is not configurable yet" }),
    property("openresty_path", Text, "", Ignored { important: false, why: "there is no OpenResty" }),
    property("opentelemetry_tracing", List, "off", Ignored { important: true, why: "tracing is not supported yet" }),
    property(
        "opentelemetry_tracing_sampling_rate",
        Number,
        "0.01",
        Ignored { important: true, why: "tracing is not supported yet" },
    ),
    property("pg_backlog", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_database", Text, "kong", Ignored { important: false, why: "there is no database" }),
    property("pg_host", Text, "127.0.0.1", Ignored { important: false, why: "there is no database" }),
    property("pg_keepalive_timeout", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_max_concurrent_queries", Number, "0", Ignored { important: false, why: "there is no database" }),
    property("pg_password", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_pool_size", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_port", Number, "5432", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_backlog", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_database", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_host", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_keepalive_timeout", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_max_concurrent_queries", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_password", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_pool_size", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_port", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_schema", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_semaphore_timeout", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_ssl", Boolean, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_ssl_verify", Boolean, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_timeout", Number, "", Ignored { important: false, why: "there is no database" }),
    property("pg_ro_user", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_schema", Text, "", Ignored { important: false, why: "there is no database" }),
    property("pg_semaphore_timeout", Number, "60000", Ignored { important: false, why: "there is no database" }),
    property("pg_ssl", Boolean, "off", Ignored { important: false, why: "there is no database" }),
    property("pg_ssl_verify", Boolean, "off", Ignored { important: false, why: "there is no database" }),
    property("pg_timeout", Number, "5000", Ignored { important: false, why: "there is no database" }),
    property("pg_user", Text, "kong", Ignored { important: false, why: "there is no database" }),
    property("plugin_dir", Text, "", Used),
    property("plugin_dir_js_pluginserver", Text, "", Used),
    property("plugin_dir_node", Text, "", Used),
    property("plugin_dir_python", Text, "", Used),
    property("plugin_dir_python_args", Text, "", Used),
    property("plugins", List, "bundled", Used),
    property("pluginserver_names", List, "", Used),
    property("port_maps", List, "", Used),
    property("prefix", Text, "/usr/local/kong/", Used),
    property(
        "privileged_worker",
        Boolean,
        "",
        Ignored { important: false, why: "a new configuration is in force as soon as it is built" },
    ),
    property("proxy_access_log", Text, "logs/access.log", Used),
    property("proxy_error_log", Text, "logs/error.log", Used),
    property(
        "proxy_listen",
        List,
        "0.0.0.0:8000 reuseport backlog=16384, 0.0.0.0:8443 http2 ssl reuseport backlog=16384",
        Used,
    ),
    property("proxy_server", Text, "", Ignored { important: true, why: "hybrid mode is not supported" }),
    property("proxy_server_ssl_verify", Boolean, "on", Ignored { important: false, why: "there is no hybrid mode" }),
    property("proxy_stream_access_log", Text, "logs/access.log basic", Used),
    property("proxy_stream_error_log", Text, "logs/error.log", Used),
    property("real_ip_header", Text, "X-Real-IP", Used),
    property("real_ip_recursive", Boolean, "off", Used),
    property("request_debug", Boolean, "on", Used),
    property("request_debug_token", Text, "", Used),
    property("resolver_address", List, "", Used),
    property("resolver_error_ttl", Number, "1", Used),
    property("resolver_family", List, "A,SRV", Used),
    property("resolver_hosts_file", Text, "/etc/hosts", Used),
    property("resolver_lru_cache_size", Number, "10000", Used),
    property(
        "resolver_mem_cache_size",
        Text,
        "5m",
        Ignored { important: false, why: "the cache has room for resolver_lru_cache_size names" },
    ),
    property("resolver_stale_ttl", Number, "3600", Used),
    property("resolver_valid_ttl", Number, "", Used),
    property(
        "role",
        OneOf(&["data_plane", "control_plane", "traditional"]),
        "traditional",
        Ignored { important: true, why: "hybrid mode is not supported: every node is traditional" },
    ),
    property(
        "router_consistency",
        Text,
        "",
        Ignored { important: false, why: "a new configuration is in force as soon as it is built" },
    ),
    property(
        "router_flavor",
        OneOf(&["traditional", "traditional_compatible", "expressions"]),
        "traditional_compatible",
        Ignored { important: true, why: "routes are matched as traditional_compatible does it" },
    ),
    property("ssl_cert", List, "", Used),
    property("ssl_cert_key", List, "", Used),
    property("ssl_cipher_suite", Text, "intermediate", Used),
    property("ssl_ciphers", Text, "", Used),
    property("ssl_dhparam", Text, "", Ignored { important: true, why: "rustls has no DHE key exchange" }),
    property("ssl_prefer_server_ciphers", Boolean, "on", Used),
    property("ssl_protocols", Text, "TLSv1.2 TLSv1.3", Used),
    property("ssl_session_cache_size", Text, "10m", Used),
    property("ssl_session_tickets", Boolean, "on", Used),
    property("ssl_session_timeout", Text, "1d", Used),
    property("status_access_log", Text, "off", Used),
    property("status_error_log", Text, "logs/status_error.log", Used),
    property("status_listen", List, "127.0.0.1:8007 reuseport backlog=16384", Used),
    property("status_ready_plugin_servers", Boolean, "off", Used),
    property("status_ssl_cert", List, "", Used),
    property("status_ssl_cert_key", List, "", Used),
    property("stream_listen", List, "off", Used),
    property("tracing_instrumentations", List, "off", Ignored { important: true, why: "tracing is not supported yet" }),
    property("tracing_sampling_rate", Number, "0.01", Ignored { important: true, why: "tracing is not supported yet" }),
    property("trusted_ips", List, "", Used),
    property(
        "untrusted_lua",
        OneOf(&["on", "off", "sandbox"]),
        "sandbox",
        Ignored { important: true, why: "no Lua runs here" },
    ),
    property("untrusted_lua_sandbox_environment", List, "", Ignored { important: true, why: "no Lua runs here" }),
    property("untrusted_lua_sandbox_requires", List, "", Ignored { important: true, why: "no Lua runs here" }),
    property("upstream_keepalive_idle_timeout", Number, "60", Used),
    property("upstream_keepalive_max_requests", Number, "10000", Used),
    property("upstream_keepalive_pool_size", Number, "512", Used),
    property("vault_env_prefix", Text, "", Used),
    property("vaults", List, "bundled", Ignored { important: true, why: "only the env vault exists" }),
    property("wasm", Boolean, "off", Ignored { important: true, why: "WebAssembly filters are not supported" }),
    property(
        "wasm_dynamic_module",
        Text,
        "",
        Ignored { important: false, why: "WebAssembly filters are not supported" },
    ),
    property(
        "wasm_filters",
        List,
        "bundled,user",
        Ignored { important: true, why: "WebAssembly filters are not supported" },
    ),
    property("wasm_filters_path", Text, "", Ignored { important: true, why: "WebAssembly filters are not supported" }),
    property(
        "worker_consistency",
        OneOf(&["strict", "eventual"]),
        "eventual",
        Ignored { important: false, why: "a new configuration is in force as soon as it is built" },
    ),
    property(
        "worker_events_max_payload",
        Number,
        "65535",
        Ignored { important: false, why: "tunes nginx or OpenResty" },
    ),
    property(
        "worker_state_update_frequency",
        Number,
        "5",
        Ignored { important: false, why: "a new configuration is in force as soon as it is built" },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(PROPERTIES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(SENSITIVE.iter().all(|name| find(name).is_some()));
    }
}

//! Injected nginx directives: `nginx_http_X`, `nginx_proxy_X` and their like.

/// The blocks of nginx's configuration that Kong injects into, by the prefix of the property.
pub(super) const NAMESPACES: [&str; 12] = [
    "nginx_main_",
    "nginx_events_",
    "nginx_http_",
    "nginx_upstream_",
    "nginx_proxy_",
    "nginx_location_",
    "nginx_status_",
    "nginx_admin_",
    "nginx_stream_",
    "nginx_supstream_",
    "nginx_sproxy_",
    "nginx_wasm_",
];

/// Directives of the HTTP side that take effect. The most specific block wins: location, server (`proxy`), http.
pub(super) const HTTP: [&str; 20] = [
    "client_max_body_size",
    "client_body_buffer_size",
    "keepalive_timeout",
    "keepalive_requests",
    "client_header_timeout",
    "client_body_timeout",
    "send_timeout",
    "large_client_header_buffers",
    "proxy_buffer_size",
    "proxy_buffers",
    "underscores_in_headers",
    "real_ip_header",
    "real_ip_recursive",
    "set_real_ip_from",
    "proxy_ssl_verify",
    "proxy_ssl_verify_depth",
    "proxy_ssl_trusted_certificate",
    "grpc_ssl_verify",
    "grpc_ssl_verify_depth",
    "grpc_ssl_trusted_certificate",
];

/// Others that take effect, by full name.
pub(super) const OTHERS: [&str; 29] = [
    "nginx_main_user",
    "nginx_main_daemon",
    "nginx_main_worker_processes",
    "nginx_main_worker_rlimit_nofile",
    "nginx_main_worker_shutdown_timeout",
    "nginx_main_env",
    "nginx_http_log_format",
    "nginx_http_ssl_protocols",
    "nginx_http_ssl_session_timeout",
    "nginx_http_ssl_ciphers",
    "nginx_proxy_ssl_ciphers",
    "nginx_proxy_ssl_protocols",
    "nginx_stream_log_format",
    "nginx_stream_ssl_protocols",
    "nginx_stream_ssl_session_timeout",
    "nginx_stream_ssl_ciphers",
    "nginx_http_ssl_verify_client",
    "nginx_http_ssl_client_certificate",
    "nginx_http_ssl_trusted_certificate",
    "nginx_http_ssl_verify_depth",
    "nginx_proxy_ssl_verify_client",
    "nginx_proxy_ssl_client_certificate",
    "nginx_proxy_ssl_trusted_certificate",
    "nginx_proxy_ssl_verify_depth",
    "nginx_admin_client_max_body_size",
    "nginx_admin_client_body_buffer_size",
    "nginx_http_upstream_keepalive",
    "nginx_http_upstream_keepalive_requests",
    "nginx_http_upstream_keepalive_timeout",
];

/// Directives that tune machinery which is not there: ignoring them changes nothing that a user sees.
const HARMLESS: [&str; 17] = [
    "worker_connections",
    "multi_accept",
    "accept_mutex",
    "use",
    "lua_",
    "charset",
    "server_names_hash_",
    "variables_hash_",
    "types_hash_",
    "map_hash_",
    "proxy_headers_hash_",
    "tcp_nodelay",
    "tcp_nopush",
    "sendfile",
    "aio",
    "pcre_jit",
    "worker_priority",
];

/// The block and the directive that a property injects.
pub(super) fn split(property: &str) -> Option<(&'static str, &str)> {
    NAMESPACES.into_iter().find_map(|prefix| {
        property.strip_prefix(prefix).filter(|directive| !directive.is_empty()).map(|directive| (prefix, directive))
    })
}

/// What becomes of an injected directive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Used,
    /// A whole file of nginx configuration: refused by name.
    Refused,
    Ignored {
        important: bool,
    },
}

pub(super) fn fate(property: &str) -> Option<Fate> {
    // In all spellings that have been seen: nginx_include, nginx_http_include, nginx_conf_include...
    if property.starts_with("nginx_") && property.ends_with("_include") {
        return Some(Fate::Refused);
    }
    let (namespace, directive) = split(property)?;
    let http = matches!(namespace, "nginx_http_" | "nginx_proxy_" | "nginx_location_");
    if (http && HTTP.contains(&directive)) || OTHERS.contains(&property) {
        return Some(Fate::Used);
    }
    let harmless =
        HARMLESS.iter().any(|known| directive == *known || (known.ends_with('_') && directive.starts_with(known)))
            || namespace == "nginx_wasm_";
    Some(Fate::Ignored { important: !harmless })
}

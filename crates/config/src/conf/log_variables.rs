//! The variables that a log format may name: those of nginx 1.25 with the modules that Kong 3.9 builds in, and Kong's own.
//! Some of them are always empty here; that is for their reader to see, not an error.

/// Whose variables: HTTP's, or those of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variables {
    Http,
    Stream,
}

/// Families: what follows the prefix is free.
const FAMILIES: [&str; 9] = [
    "arg_",
    "cookie_",
    "http_",
    "proxy_protocol_tlv_",
    "sent_http_",
    "sent_trailer_",
    "upstream_cookie_",
    "upstream_http_",
    "upstream_trailer_",
];

/// All others of HTTP, sorted.
const KNOWN_VARIABLES: [&str; 128] = [
    "ancient_browser",
    "args",
    "binary_remote_addr",
    "body_bytes_sent",
    "bytes_sent",
    "connection",
    "connection_requests",
    "connection_time",
    "connections_active",
    "connections_reading",
    "connections_waiting",
    "connections_writing",
    "content_length",
    "content_type",
    "ctx_ref",
    "date_gmt",
    "date_local",
    "document_root",
    "document_uri",
    "fastcgi_path_info",
    "fastcgi_script_name",
    "gzip_ratio",
    "host",
    "hostname",
    "http2",
    "http3",
    "https",
    "is_args",
    "kong_proxy_mode",
    "kong_request_id",
    "limit_conn_status",
    "limit_rate",
    "limit_rate_after",
    "limit_req_status",
    "modern_browser",
    "msec",
    "msie",
    "nginx_version",
    "pid",
    "pipe",
    "proxy_add_x_forwarded_for",
    "proxy_host",
    "proxy_internal_body_length",
    "proxy_internal_chunked",
    "proxy_port",
    "proxy_protocol_addr",
    "proxy_protocol_port",
    "proxy_protocol_server_addr",
    "proxy_protocol_server_port",
    "query_string",
    "realip_remote_addr",
    "realip_remote_port",
    "realpath_root",
    "remote_addr",
    "remote_port",
    "remote_user",
    "request",
    "request_body",
    "request_body_file",
    "request_completion",
    "request_filename",
    "request_id",
    "request_length",
    "request_method",
    "request_time",
    "request_uri",
    "scheme",
    "server_addr",
    "server_name",
    "server_port",
    "server_protocol",
    "ssl_alpn_protocol",
    "ssl_cipher",
    "ssl_ciphers",
    "ssl_client_cert",
    "ssl_client_escaped_cert",
    "ssl_client_fingerprint",
    "ssl_client_i_dn",
    "ssl_client_i_dn_legacy",
    "ssl_client_raw_cert",
    "ssl_client_s_dn",
    "ssl_client_s_dn_legacy",
    "ssl_client_serial",
    "ssl_client_v_end",
    "ssl_client_v_remain",
    "ssl_client_v_start",
    "ssl_client_verify",
    "ssl_curve",
    "ssl_curves",
    "ssl_early_data",
    "ssl_protocol",
    "ssl_server_name",
    "ssl_session_id",
    "ssl_session_reused",
    "status",
    "tcpinfo_rcv_space",
    "tcpinfo_rtt",
    "tcpinfo_rttvar",
    "tcpinfo_snd_cwnd",
    "time_iso8601",
    "time_local",
    "uid_got",
    "uid_reset",
    "uid_set",
    "upstream_addr",
    "upstream_bytes_received",
    "upstream_bytes_sent",
    "upstream_cache_last_modified",
    "upstream_cache_status",
    "upstream_connect_time",
    "upstream_connection",
    "upstream_header_time",
    "upstream_host",
    "upstream_response_length",
    "upstream_response_time",
    "upstream_scheme",
    "upstream_status",
    "upstream_te",
    "upstream_upgrade",
    "upstream_uri",
    "upstream_via",
    "upstream_x_forwarded_for",
    "upstream_x_forwarded_host",
    "upstream_x_forwarded_path",
    "upstream_x_forwarded_port",
    "upstream_x_forwarded_prefix",
    "upstream_x_forwarded_proto",
    "uri",
];

/// Those of streams, sorted (ngx_stream_core, ssl, ssl_preread, realip and upstream, and what Kong's template sets).
const STREAM_VARIABLES: [&str; 60] = [
    "binary_remote_addr",
    "bytes_received",
    "bytes_sent",
    "connection",
    "hostname",
    "kong_tls_passthrough_block",
    "kong_tls_preread_block",
    "kong_tls_preread_block_upstream",
    "msec",
    "nginx_version",
    "pid",
    "protocol",
    "proxy_protocol_addr",
    "proxy_protocol_port",
    "proxy_protocol_server_addr",
    "proxy_protocol_server_port",
    "realip_remote_addr",
    "realip_remote_port",
    "remote_addr",
    "remote_port",
    "server_addr",
    "server_name",
    "server_port",
    "session_time",
    "ssl_alpn_protocol",
    "ssl_cipher",
    "ssl_ciphers",
    "ssl_client_cert",
    "ssl_client_fingerprint",
    "ssl_client_i_dn",
    "ssl_client_raw_cert",
    "ssl_client_s_dn",
    "ssl_client_serial",
    "ssl_client_v_end",
    "ssl_client_v_remain",
    "ssl_client_v_start",
    "ssl_client_verify",
    "ssl_curve",
    "ssl_curves",
    "ssl_preread_alpn_protocols",
    "ssl_preread_protocol",
    "ssl_preread_server_name",
    "ssl_protocol",
    "ssl_server_name",
    "ssl_session_id",
    "ssl_session_reused",
    "status",
    "tcpinfo_rcv_space",
    "tcpinfo_rtt",
    "tcpinfo_rttvar",
    "tcpinfo_snd_cwnd",
    "time_iso8601",
    "time_local",
    "upstream_addr",
    "upstream_bytes_received",
    "upstream_bytes_sent",
    "upstream_connect_time",
    "upstream_first_byte_time",
    "upstream_host",
    "upstream_session_time",
];

impl Variables {
    /// Whether nginx knows a variable of this name, in any case.
    pub(super) fn has(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::Http => {
                FAMILIES.iter().any(|family| name.starts_with(family))
                    || KNOWN_VARIABLES.binary_search(&name.as_str()).is_ok()
            }
            Self::Stream => {
                name.starts_with("proxy_protocol_tlv_") || STREAM_VARIABLES.binary_search(&name.as_str()).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        assert!(KNOWN_VARIABLES.is_sorted() && STREAM_VARIABLES.is_sorted());
        for name in
            ["status", "STATUS", "http_x_y", "sent_http_content_type", "cookie_a", "upstream_http_x", "request_id"]
        {
            assert!(Variables::Http.has(name), "{name}");
        }
        for name in ["nonsense", "statu", "", "httpx"] {
            assert!(!Variables::Http.has(name), "{name}");
        }
        for (name, known) in [("session_time", true), ("Protocol", true), ("request", false), ("http_host", false)] {
            assert_eq!(Variables::Stream.has(name), known, "{name}");
        }
    }
}

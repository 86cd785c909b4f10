//! Nothing that a plugin can name is missing: the wire schema's methods, and what the PDKs for Python and JavaScript
//! declare.

use std::collections::BTreeSet;

use silverback_protocol::method::Method;

/// What kong-pdk for Python (0.40) and for JavaScript (0.6) declare, by Kong's names, but for what is in
/// [`NOT_IN_KONG`].
const DECLARED: &str = "
    kong.client.authenticate kong.client.get_consumer kong.client.get_credential kong.client.get_forwarded_ip
    kong.client.get_forwarded_port kong.client.get_ip kong.client.get_port kong.client.get_protocol
    kong.client.load_consumer kong.client.tls.disable_session_reuse kong.client.tls.get_full_client_certificate_chain
    kong.client.tls.request_client_certificate kong.client.tls.set_client_verify kong.cluster.get_id
    kong.ctx.shared.get kong.ctx.shared.set kong.ip.is_trusted kong.log.alert kong.log.crit kong.log.debug
    kong.log.deprecation kong.log.err kong.log.info kong.log.notice kong.log.serialize kong.log.set_serialize_value
    kong.log.warn kong.nginx.get_ctx kong.nginx.get_statistics kong.nginx.get_subsystem
    kong.nginx.get_tls1_version_str kong.nginx.get_var kong.nginx.req_start_time kong.nginx.set_ctx
    kong.node.get_hostname kong.node.get_id kong.node.get_memory_stats kong.plugin.get_id kong.request.get_body
    kong.request.get_forwarded_host kong.request.get_forwarded_path kong.request.get_forwarded_port
    kong.request.get_forwarded_prefix kong.request.get_forwarded_scheme kong.request.get_header
    kong.request.get_headers kong.request.get_host kong.request.get_http_version kong.request.get_method
    kong.request.get_path kong.request.get_path_with_query kong.request.get_port kong.request.get_query
    kong.request.get_query_arg kong.request.get_raw_body kong.request.get_raw_path kong.request.get_raw_query
    kong.request.get_scheme kong.request.get_start_time kong.request.get_uri_captures kong.response.add_header
    kong.response.clear_header kong.response.error kong.response.exit kong.response.get_header
    kong.response.get_headers kong.response.get_source kong.response.get_status kong.response.set_header
    kong.response.set_headers kong.response.set_status kong.router.get_route kong.router.get_service
    kong.service.request.add_header kong.service.request.clear_header kong.service.request.disable_tls
    kong.service.request.enable_buffering kong.service.request.set_body kong.service.request.set_header
    kong.service.request.set_headers kong.service.request.set_method kong.service.request.set_path
    kong.service.request.set_query kong.service.request.set_raw_body kong.service.request.set_raw_query
    kong.service.request.set_scheme kong.service.response.get_body kong.service.response.get_header
    kong.service.response.get_headers kong.service.response.get_raw_body kong.service.response.get_status
    kong.service.set_retries kong.service.set_target kong.service.set_target_retry_callback kong.service.set_timeouts
    kong.service.set_tls_verify kong.service.set_tls_verify_depth kong.service.set_upstream kong.telemetry.log
    kong.vault.flush kong.vault.get kong.vault.init_worker kong.vault.is_reference kong.vault.parse_reference
    kong.vault.update kong.vault.warmup
";

/// Declared there, and not in the free edition of Kong 3.9, which answers nil to them.
const NOT_IN_KONG: [&str; 10] = [
    "kong.client.authenticate_consumer_group_by_consumer_id",
    "kong.client.get_consumer_group",
    "kong.client.get_consumer_groups",
    "kong.client.set_authenticated_consumer_group",
    "kong.client.set_authenticated_consumer_groups",
    "kong.enterprise_edition.jwe.decode",
    "kong.enterprise_edition.jwe.decrypt",
    "kong.enterprise_edition.jwe.encrypt",
    "kong.nginx.shared.get",
    "kong.nginx.shared.set",
];

fn names() -> BTreeSet<&'static str> {
    silverback_pdk::reference::names().collect()
}

#[test]
fn every_method_of_the_wire_schema_is_a_function() {
    let names = names();
    let missing: Vec<_> = Method::all().map(|method| method.name).filter(|name| !names.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn every_function_that_a_pdk_declares_is_there() {
    let names = names();
    let missing: Vec<_> = DECLARED.split_whitespace().filter(|name| !names.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(NOT_IN_KONG.iter().all(|name| !names.contains(name)));
}

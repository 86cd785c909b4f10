//! What concerns clients: their addresses, and the headers that the gateway adds for them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::settings::{AddedHeaders, RealIp};

use super::reader::{Reader, split_list};

pub(super) fn real_ip(reader: &mut Reader<'_>) -> RealIp {
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

pub(super) fn added_headers(reader: &mut Reader<'_>) -> AddedHeaders {
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

pub(super) fn upstream_headers(reader: &mut Reader<'_>) -> bool {
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

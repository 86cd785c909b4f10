//! The HTTP side: logs, limits, error pages.

use std::{path::Path, time::Duration};

use crate::settings::{AccessLog, Buffering, ErrorLogFormat, ErrorPages, Http, LogEscape, LogFormat, LogTarget, Logs};

use super::{
    log_format::{self, Formats},
    reader::Reader,
    units,
};

pub(super) fn logs(reader: &mut Reader<'_>, prefix: &Path) -> Logs {
    let (mut http, mut stream) = (Formats::http(), Formats::stream());
    let raw = reader.raw();
    for (formats, entries) in [(&mut http, &raw.log_formats), (&mut stream, &raw.stream_log_formats)] {
        for entry in entries {
            if let Err(problem) = formats.define(&entry.value) {
                reader.problem_at(&entry.origin, format!("{}: {problem}", formats.property()));
            }
        }
    }
    let mut access = |formats: &Formats, name: &str, format: &str| {
        let value = reader.text(name).unwrap_or_else(|| "off".to_owned());
        formats.access_log(&value, format, prefix).unwrap_or_else(|problem| {
            reader.problem(name, format!("{name}: {problem}"));
            AccessLog { target: LogTarget::Off, format: LogFormat { text: String::new(), escape: LogEscape::Default } }
        })
    };
    let (proxy_access, admin_access, status_access, stream_access) = (
        access(&http, "proxy_access_log", "kong_log_format"),
        access(&http, "admin_access_log", "combined"),
        access(&http, "status_access_log", "combined"),
        access(&stream, "proxy_stream_access_log", "basic"),
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
        error_format: match reader.text("error_log_format").as_deref() {
            Some("json") => ErrorLogFormat::Json,
            _ => ErrorLogFormat::Nginx,
        },
    }
}

pub(super) fn limits(reader: &mut Reader<'_>) -> Http {
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

pub(super) fn buffering(reader: &mut Reader<'_>) -> Buffering {
    let mut size = |name: &str| {
        let text = reader.text(name).unwrap_or_default();
        let size = units::parse_size(&text).filter(|size| *size > 0);
        if size.is_none() {
            reader.problem(name, format!("{name} is not a size: '{text}' (bytes, or with k, m, g; more than 0)"));
        }
        size.unwrap_or(1)
    };
    Buffering { max_size: size("buffered_proxying_max_size"), total_size: size("buffered_proxying_total_size") }
}

pub(super) fn error_pages(reader: &mut Reader<'_>) -> ErrorPages {
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

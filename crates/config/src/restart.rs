//! What a reload cannot change: what was bound, started or decided before the first request.

use crate::Settings;

/// Properties that belong together.
struct Group {
    /// What messages call it.
    name: &'static str,
    changed: fn(&Settings, &Settings) -> bool,
    copy: fn(&Settings, &mut Settings),
    /// Whether a property of this name is one of the group.
    holds: fn(&str) -> bool,
}

const GROUPS: [Group; 8] = [
    Group {
        name: "proxy_listen",
        changed: |a, b| a.proxy_listen != b.proxy_listen,
        copy: |from, to| to.proxy_listen.clone_from(&from.proxy_listen),
        holds: |name| name == "proxy_listen",
    },
    Group {
        name: "admin_listen",
        changed: |a, b| a.admin_listen != b.admin_listen,
        copy: |from, to| to.admin_listen.clone_from(&from.admin_listen),
        holds: |name| name == "admin_listen",
    },
    Group {
        name: "status_listen",
        changed: |a, b| a.status_listen != b.status_listen,
        copy: |from, to| to.status_listen.clone_from(&from.status_listen),
        holds: |name| name == "status_listen",
    },
    Group {
        name: "stream_listen",
        changed: |a, b| a.stream_listen != b.stream_listen,
        copy: |from, to| to.stream_listen.clone_from(&from.stream_listen),
        holds: |name| name == "stream_listen",
    },
    Group {
        name: "admin_ssl_cert",
        changed: |a, b| a.api_certificates.admin != b.api_certificates.admin,
        copy: |from, to| to.api_certificates.admin.clone_from(&from.api_certificates.admin),
        holds: |name| matches!(name, "admin_ssl_cert" | "admin_ssl_cert_key"),
    },
    Group {
        name: "status_ssl_cert",
        changed: |a, b| a.api_certificates.status != b.api_certificates.status,
        copy: |from, to| to.api_certificates.status.clone_from(&from.api_certificates.status),
        holds: |name| matches!(name, "status_ssl_cert" | "status_ssl_cert_key"),
    },
    Group {
        name: "nginx_worker_processes",
        changed: |a, b| a.workers != b.workers,
        copy: |from, to| to.workers = from.workers,
        holds: |name| matches!(name, "nginx_worker_processes" | "nginx_main_worker_processes"),
    },
    Group {
        name: "nginx_user",
        changed: |a, b| a.user != b.user,
        copy: |from, to| to.user.clone_from(&from.user),
        holds: |name| matches!(name, "nginx_user" | "nginx_main_user"),
    },
];

/// Puts back into `new` what only a restart can change, as it is in force in `running`; names what differed. The
/// `.kong_env` of `new` has the values in force afterwards.
pub fn keep_what_needs_restart(running: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut kept = Vec::new();
    for group in &GROUPS {
        if !(group.changed)(running, new) {
            continue;
        }
        (group.copy)(running, new);
        new.raw.retain(|(name, _)| !(group.holds)(name));
        new.raw.extend(running.raw.iter().filter(|(name, _)| (group.holds)(name)).cloned());
        kept.push(group.name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{kong_env, load_text};

    fn settings(text: &str) -> Settings {
        load_text(None, text, &BTreeMap::new()).unwrap().settings
    }

    #[test]
    fn what_is_in_force_stays() {
        let running = settings(
            "proxy_listen = 127.0.0.1:1\nnginx_worker_processes = 2\nlog_level = warn\npluginserver_names = a\n\
             pluginserver_a_query_cmd = q\npluginserver_a_start_cmd = s",
        );
        let mut new = settings(
            "proxy_listen = 127.0.0.1:2\nnginx_main_worker_processes = 3\nlog_level = info\nadmin_listen = off\n\
             stream_listen = 127.0.0.1:3\npluginserver_names = b\npluginserver_b_query_cmd = q\npluginserver_b_start_cmd = s",
        );
        let kept = keep_what_needs_restart(&running, &mut new);
        assert_eq!(kept, ["proxy_listen", "admin_listen", "stream_listen", "nginx_worker_processes"]);
        assert_eq!(keep_what_needs_restart(&running, &mut new), Vec::<&str>::new());
        let written = settings(&kong_env(&new));
        assert_eq!(written.log_level, crate::settings::LogLevel::Info);
        assert_eq!(
            (&written.proxy_listen, &written.admin_listen, written.workers, &written.plugin_servers),
            (&running.proxy_listen, &running.admin_listen, running.workers, &new.plugin_servers)
        );
    }
}

//! The environment and the shell in which the commands of `pluginserver_*` run.

use std::ffi::OsStr;

use tokio::process::Command;

/// `sh -c "exec LINE"`: the server itself has the pid, and signals reach it.
///
/// The command gets the gateway's environment less `KONG_*` secrets; what `nginx_main_env` names is kept or set.
pub(crate) fn shell(line: &str, main_env: &[String]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("exec {line}"));
    let entries: Vec<_> = main_env.iter().flat_map(|entry| entry.split(';')).map(str::trim).collect();
    let kept = |name: &OsStr| entries.iter().any(|entry| OsStr::new(*entry) == name);
    for (name, _) in std::env::vars_os() {
        if is_secret(&name) && !kept(&name) {
            command.env_remove(name);
        }
    }
    // Python holds back what it prints to a pipe
    command.env("PYTHONUNBUFFERED", "1");
    for entry in &entries {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name.trim(), value);
        }
    }
    command
}

/// Whether a variable holds a secret of the gateway: by its name, or because what it configures (entities, a proxy's
/// URL, the sessions and log-in of Kong Manager) has secrets in it.
fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.strip_prefix("KONG_").is_some_and(|rest| {
        let words = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "LICENSE"];
        words.iter().any(|word| rest.contains(word))
            || matches!(rest, "DECLARATIVE_CONFIG_STRING" | "PROXY_SERVER")
            || ["_SESSION_CONF", "_AUTH_CONF"].iter().any(|end| rest.ends_with(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_settings() {
        let check = |name: &str, expect| assert_eq!(is_secret(OsStr::new(name)), expect, "{name}");
        check("KONG_PG_PASSWORD", true);
        check("KONG_SSL_CERT_KEY", true);
        check("KONG_KONNECT_TOKEN", true);
        check("KONG_DECLARATIVE_CONFIG_STRING", true);
        check("KONG_PROXY_SERVER", true);
        check("KONG_ADMIN_GUI_SESSION_CONF", true);
        check("KONG_PORTAL_SESSION_CONF", true);
        check("KONG_ADMIN_GUI_AUTH_CONF", true);
        check("KONG_DECLARATIVE_CONFIG", false);
        check("KONG_PROXY_SERVER_SSL_VERIFY", false);
        check("KONG_PROXY_LISTEN", false);
        check("KONG_PREFIX", false);
        check("DB_PASSWORD", false);
    }

    #[test]
    fn main_env_keeps_and_sets() {
        let command = shell("true", &["KONG_A_TOKEN".to_owned(), "LEVEL=high; MODE=x=y".to_owned()]);
        let set: Vec<_> = command.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))).collect();
        assert!(set.contains(&(OsStr::new("LEVEL"), OsStr::new("high"))));
        assert!(set.contains(&(OsStr::new("MODE"), OsStr::new("x=y"))));
        assert!(set.contains(&(OsStr::new("PYTHONUNBUFFERED"), OsStr::new("1"))));
    }
}

//! The shell, the environment, the account and the limits with which the commands of `pluginserver_*` run.

use std::{
    ffi::{CString, OsStr},
    io,
    path::PathBuf,
};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{Gid, Group, Uid, User, geteuid, getgid, getgrouplist},
};
use silverback_config::settings::{ProcessPolicy, ResourceLimit};
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

/// What the processes of a server have otherwise than the gateway.
pub(crate) struct Circumstances {
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
    account: Option<Account>,
    limits: Vec<(Resource, libc::rlimit)>,
}

/// Who a process runs as.
struct Account {
    user: User,
    gid: Gid,
    groups: Vec<libc::gid_t>,
}

/// What cannot be given to a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CircumstancesError {
    #[error("its cwd {} is no directory", .0.display())]
    Cwd(PathBuf),
    #[error("there is no user or group '{0}'")]
    NoAccount(String),
    #[error("the account '{0}' cannot be looked up: {1}")]
    Lookup(String, nix::Error),
    #[error("only a gateway that runs as root can run it as user {0}")]
    NotRoot(String),
    #[error("the limit {resource} cannot be {value}: the gateway's own is {own} (ulimit -H)")]
    Limit { resource: &'static str, value: String, own: u64 },
}

impl Circumstances {
    /// What a policy asks for, as far as it can be had. Looks accounts up, which may take its time.
    pub(crate) fn of(policy: &ProcessPolicy) -> Result<Self, CircumstancesError> {
        if let Some(cwd) = policy.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            return Err(CircumstancesError::Cwd(cwd.clone()));
        }
        let account = match &policy.user {
            Some((user, group)) => Account::of(user, group.as_deref())?,
            None => None,
        };
        let limits = policy.rlimits.iter().map(limit).collect::<Result<_, _>>()?;
        Ok(Self { env: policy.env.clone(), cwd: policy.cwd.clone(), account, limits })
    }

    /// Gives them to a command that is to be run. What must be done last is added after this.
    pub(crate) fn apply(self, command: &mut Command) {
        let Self { env, cwd, account, limits } = self;
        if let Some(account) = &account {
            let name = &account.user.name;
            command.envs([("HOME", account.user.dir.as_os_str()), ("USER", OsStr::new(name))]);
            command.env("LOGNAME", name);
        }
        command.envs(env);
        if let Some(cwd) = cwd {
            command.current_dir(cwd);
        }
        // SAFETY: between fork and exec only async-signal-safe calls are made: setrlimit, setgroups, setgid, setuid. What
        // they need was made before.
        unsafe {
            command.pre_exec(move || {
                for (resource, limit) in &limits {
                    check(libc::setrlimit(*resource as _, limit))?;
                }
                if let Some(Account { user, gid, groups }) = &account {
                    check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                    check(libc::setgid(gid.as_raw()))?;
                    check(libc::setuid(user.uid.as_raw()))?;
                }
                Ok(())
            });
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Account {
    /// `None`: it is the gateway's own.
    fn of(name: &str, group: Option<&str>) -> Result<Option<Self>, CircumstancesError> {
        let missing = |name: &str| CircumstancesError::NoAccount(name.to_owned());
        let lookup = |name: &str| {
            let name = name.to_owned();
            move |error| CircumstancesError::Lookup(name, error)
        };
        let user = User::from_name(name).map_err(lookup(name))?.ok_or_else(|| missing(name))?;
        let gid = match group {
            Some(group) => Group::from_name(group).map_err(lookup(group))?.ok_or_else(|| missing(group))?.gid,
            None => user.gid,
        };
        if !geteuid().is_root() {
            let own = user.uid == Uid::effective() && gid == getgid();
            return if own { Ok(None) } else { Err(CircumstancesError::NotRoot(name.to_owned())) };
        }
        let c_name = CString::new(name).map_err(|_| missing(name))?;
        let groups = getgrouplist(&c_name, gid).map_err(lookup(name))?;
        Ok(Some(Self { user, gid, groups: groups.into_iter().map(Gid::as_raw).collect() }))
    }
}

fn limit(limit: &ResourceLimit) -> Result<(Resource, libc::rlimit), CircumstancesError> {
    let resource = match limit.resource {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "nproc" => Resource::RLIMIT_NPROC,
        "stack" => Resource::RLIMIT_STACK,
        _ => Resource::RLIMIT_NOFILE, // ResourceLimit::NAMES has no other
    };
    let value = limit.value.unwrap_or(libc::RLIM_INFINITY);
    let own = getrlimit(resource).map_or(libc::RLIM_INFINITY, |(_, hard)| hard);
    if value > own && !geteuid().is_root() {
        let value = limit.value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
        return Err(CircumstancesError::Limit { resource: limit.resource, value, own });
    }
    Ok((resource, libc::rlimit { rlim_cur: value, rlim_max: value }))
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
    fn what_cannot_be_given_is_told() {
        let check = |policy: ProcessPolicy, expect: &str| {
            let error = Circumstances::of(&policy).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expect), "{expect}: {error}");
        };
        let policy = ProcessPolicy::default;
        check(ProcessPolicy { cwd: Some("/no/such/place".into()), ..policy() }, "/no/such/place is no directory");
        let user = Some(("no-such-user".to_owned(), None));
        check(ProcessPolicy { user, ..policy() }, "no user or group 'no-such-user'");
        assert!(Circumstances::of(&policy()).is_ok());
    }

    #[tokio::test]
    async fn a_command_gets_its_circumstances() {
        let policy = ProcessPolicy {
            cwd: Some("/".into()),
            env: vec![("MODE".to_owned(), "a b".to_owned())],
            rlimits: vec![ResourceLimit { resource: "nofile", value: Some(64) }],
            ..ProcessPolicy::default()
        };
        let mut command = shell("sh -c 'pwd; ulimit -n; echo $MODE'", &[]);
        Circumstances::of(&policy).unwrap().apply(&mut command);
        let output = command.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/\n64\na b\n");
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

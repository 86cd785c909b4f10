//! Limits and the change from root to `nginx_user`.

use std::{ffi::CString, io, path::Path};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Gid, Group, Uid, User, chown, geteuid, initgroups, setgid, setuid},
};
use silverback_config::Settings;
use thiserror::Error;

/// Privileges that cannot be changed.
#[derive(Debug, Error)]
pub(crate) enum PrivilegeError {
    #[error("nginx_user: there is no user `{0}`")]
    NoUser(String),
    #[error("nginx_user: there is no group `{0}`")]
    NoGroup(String),
    #[error("nginx_user: cannot look up `{0}`: {1}")]
    Lookup(String, io::Error),
    #[error("nginx_user: cannot become `{0}`: {1}")]
    Change(String, io::Error),
}

/// The user and group that a gateway started as root changes to.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account of `nginx_user`; `None` when there is nothing to change: not root, or root on purpose.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, PrivilegeError> {
        let Some((name, group)) = &settings.user else { return Ok(None) };
        if !geteuid().is_root() {
            return Ok(None);
        }
        let user = User::from_name(name)
            .map_err(|error| PrivilegeError::Lookup(name.clone(), error.into()))?
            .ok_or_else(|| PrivilegeError::NoUser(name.clone()))?;
        // nginx takes the group of the user's name where none is given.
        let group = group.as_ref().unwrap_or(name);
        let gid = Group::from_name(group)
            .map_err(|error| PrivilegeError::Lookup(group.clone(), error.into()))?
            .ok_or_else(|| PrivilegeError::NoGroup(group.clone()))?
            .gid;
        Ok((!user.uid.is_root()).then(|| Self { name: name.clone(), uid: user.uid, gid }))
    }

    /// Gives the account a file or directory that the gateway will write to.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        Ok(chown(path, Some(self.uid), Some(self.gid))?)
    }

    /// Changes to the account, for good.
    pub(crate) fn assume(&self) -> Result<(), PrivilegeError> {
        let change = || -> nix::Result<()> {
            let name = CString::new(self.name.as_str()).map_err(|_| nix::errno::Errno::EINVAL)?;
            initgroups(&name, self.gid)?;
            setgid(self.gid)?;
            setuid(self.uid)
        };
        change().map_err(|error| PrivilegeError::Change(self.name.clone(), error.into()))
    }
}

/// What `auto` raises the limit to, where the system allows it. Plugin servers inherit it, and some walk all of it.
const AUTO_DESCRIPTORS: u64 = 65_536;

/// Raises the number of descriptors to `nginx_main_worker_rlimit_nofile`, `auto` to 65,536. Returns the number
/// that is in force.
pub(crate) fn raise_descriptor_limit(wanted: Option<u64>) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let target = wanted.unwrap_or_else(|| soft.max(hard.min(AUTO_DESCRIPTORS)));
    if target == soft {
        return Ok(soft);
    }
    let ceiling = if geteuid().is_root() { hard.max(target) } else { hard };
    let target = target.min(ceiling);
    match setrlimit(Resource::RLIMIT_NOFILE, target, ceiling) {
        Ok(()) => Ok(target),
        // A container may keep even root from raising the hard limit.
        Err(_) => {
            let target = target.min(hard);
            setrlimit(Resource::RLIMIT_NOFILE, target, hard)?;
            Ok(target)
        }
    }
}

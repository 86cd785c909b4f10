//! Whether the addresses of `*_listen` can be listened on.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
};

use silverback_config::{
    Settings,
    settings::{Listen, ListenAddress},
};

use super::{Finding, sockets::MAX_PATH};

pub(super) fn all(settings: &Settings) -> Vec<Finding> {
    let groups = [
        ("proxy_listen", &settings.proxy_listen),
        ("admin_listen", &settings.admin_listen),
        ("status_listen", &settings.status_listen),
        ("stream_listen", &settings.stream_listen),
    ];
    let each = groups.into_iter().flat_map(|(name, listens)| listens.iter().map(move |listen| (name, listen)));
    each.map(|(name, listen)| one(name, listen)).collect()
}

fn one(property: &str, listen: &Listen) -> Finding {
    let address = &listen.address;
    match address {
        ListenAddress::Tcp(socket) => {
            // Bound and given up at once.
            let bound =
                if listen.udp { UdpSocket::bind(socket).map(drop) } else { TcpListener::bind(socket).map(drop) };
            match bound {
                Ok(()) => Finding::ok(property, format!("{address} can be listened on")),
                Err(error) => refused(property, *socket, &error),
            }
        }
        ListenAddress::Unix(path) => unix(property, path),
    }
}

fn refused(property: &str, address: SocketAddr, error: &io::Error) -> Finding {
    let (code, message, cure) = match error.kind() {
        ErrorKind::AddrInUse => (
            "address_in_use",
            format!("{address} is in use{}", holder(address).map(|who| format!(" by {who}")).unwrap_or_default()),
            format!("stop what listens there, or change {property}"),
        ),
        ErrorKind::PermissionDenied => (
            "port_privileged",
            format!("port {} takes privileges that this user does not have", address.port()),
            "choose a port from 1024 on, start as root (nginx_user is changed to afterwards), or give the executable \
             CAP_NET_BIND_SERVICE"
                .to_owned(),
        ),
        ErrorKind::AddrNotAvailable => (
            "address_not_available",
            format!("{} is no address of this machine", address.ip()),
            "use one that it has, or 0.0.0.0 for all".to_owned(),
        ),
        _ => ("cannot_listen", format!("{address} cannot be listened on: {error}"), format!("change {property}")),
    };
    Finding::problem(code, property, message, cure)
}

fn unix(property: &str, path: &Path) -> Finding {
    let length = path.as_os_str().len();
    if length > MAX_PATH {
        return Finding::problem(
            "socket_path_too_long",
            property,
            format!("the path has {length} bytes, {MAX_PATH} are possible: {}", path.display()),
            "choose a shorter one",
        );
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Finding::problem(
            "socket_directory_missing",
            property,
            format!("there is no directory for {}", path.display()),
            "create it",
        );
    }
    if UnixStream::connect(path).is_ok() {
        return Finding::problem(
            "address_in_use",
            property,
            format!("somebody listens on {}", path.display()),
            format!("stop what listens there, or change {property}"),
        );
    }
    Finding::ok(property, format!("{} can be listened on", path.display()))
}

/// Who listens on a port of this machine, as far as this user may see it.
fn holder(address: SocketAddr) -> Option<String> {
    let port = format!(":{:04X}", address.port());
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A";
            listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
    })?;
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut holding = processes.filter(|process| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|link| link.as_os_str() == inode.as_str())
    });
    let process = holding.next()?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("{} (pid {})", name.trim(), process.file_name()?.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_address_is_refused_is_told() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        for (kind, code, part) in [
            (ErrorKind::PermissionDenied, "port_privileged", "port 80 takes privileges"),
            (ErrorKind::AddrNotAvailable, "address_not_available", "127.0.0.1 is no address of this machine"),
            (ErrorKind::OutOfMemory, "cannot_listen", "127.0.0.1:80 cannot be listened on"),
        ] {
            let finding = refused("proxy_listen", address, &kind.into());
            assert_eq!(finding.code, code);
            assert!(finding.message.contains(part) && !finding.cure.is_empty(), "{finding}");
        }
    }
}

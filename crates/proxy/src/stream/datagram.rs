//! A UDP socket that clients send to. An answer leaves from the very address that was asked: a socket on a wildcard
//! address learns it from each datagram, and says it with each answer (`IP_PKTINFO`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Who sent a datagram, and to which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// The socket of a listener.
pub(super) struct Datagrams {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Datagrams {
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        Ok(Self { socket: UdpSocket::from_std(socket)?, address })
    }

    /// Waits for a datagram. What does not fit `buffer` is cut off.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
        if self.address.ip().is_unspecified() {
            self.socket.async_io(Interest::READABLE, || self.receive_now(buffer)).await
        } else {
            let (length, peer) = self.socket.recv_from(buffer).await?;
            Ok((length, Path { peer, local: self.address }))
        }
    }

    fn receive_now(&self, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
        let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
        let peer = message.address.as_ref().and_then(socket_address).ok_or(Errno::EINVAL)?;
        let local = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
            _ => None,
        });
        let local = SocketAddr::new(local.unwrap_or(self.address.ip()), self.address.port());
        Ok((message.bytes, Path { peer, local }))
    }

    /// Sends a datagram back.
    pub(super) async fn send(&self, bytes: &[u8], path: Path) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || self.send_now(bytes, path)).await
    }

    /// The same, if it can be done at once.
    pub(super) fn try_send(&self, bytes: &[u8], path: Path) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || self.send_now(bytes, path))
    }

    fn send_now(&self, bytes: &[u8], path: Path) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let fd = self.socket.as_raw_fd();
        let peer = SockaddrStorage::from(path.peer);
        let flags = MsgFlags::MSG_DONTWAIT;
        match path.local.ip() {
            local if !self.address.ip().is_unspecified() || local.is_unspecified() => {
                sendmsg(fd, &parts, &[], flags, Some(&peer))?;
            }
            IpAddr::V4(local) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: local.to_bits().to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&peer))?;
            }
            IpAddr::V6(local) => {
                let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: local.octets() }, ipi6_ifindex: 0 };
                sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&peer))?;
            }
        }
        Ok(())
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer comes from the address that was asked, or a connected client would not take it.
    async fn check(listen: &str, ask: &str) {
        let socket = std::net::UdpSocket::bind(listen).unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        let datagrams = Datagrams::new(socket).unwrap();
        let local = SocketAddr::new(ask.parse().unwrap(), port);
        let any = if local.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = UdpSocket::bind(any).await.unwrap();
        client.connect(local).await.unwrap();
        client.send(b"ping").await.unwrap();
        let mut buffer = [0; 100];
        let (length, path) = datagrams.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], path.local), (&b"ping"[..], local), "{listen}");
        assert_eq!(path.peer, client.local_addr().unwrap(), "{listen}");
        datagrams.send(b"pong", path).await.unwrap();
        assert_eq!(client.recv(&mut buffer).await.unwrap(), 4);
        assert_eq!(&buffer[..4], b"pong", "{listen}");
    }

    #[tokio::test]
    async fn answers_come_from_where_was_asked() {
        check("127.0.0.1:0", "127.0.0.1").await;
        check("0.0.0.0:0", "127.0.0.1").await;
        check("0.0.0.0:0", "127.0.0.77").await;
    }
}

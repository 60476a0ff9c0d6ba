//! Datagrams with the local address they were sent to, and answers from the same address.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

/// A datagram that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) length: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<Ipv4Addr>,
}

/// Makes the socket tell local addresses.
pub(crate) fn enable(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&socket.as_fd(), sockopt::Ipv4PacketInfo, &true)?)
}

/// Receives a datagram, without waiting for one.
pub(crate) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
        }
        _ => None,
    });
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let from = SocketAddr::V4(SocketAddrV4::new(from.ip(), from.port()));
    Ok(Datagram { length: message.bytes, from, to })
}

/// Sends a datagram from one of our addresses, without waiting.
pub(crate) fn send(
    socket: &impl AsRawFd,
    datagram: &[u8],
    to: SocketAddr,
    from: Ipv4Addr,
) -> io::Result<usize> {
    let SocketAddr::V4(to) = to else { return Err(io::ErrorKind::InvalidInput.into()) };
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let sent = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(datagram)],
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::MSG_DONTWAIT,
        Some(&SockaddrIn::from(to)),
    )?;
    Ok(sent)
}

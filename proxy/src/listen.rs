//! Making the sockets that listen, each in its network namespace.

use std::io;
use std::net::SocketAddr;

use network::NetNs;
use socket2::{Domain, Protocol as Transport, SockRef, Socket, Type};

use crate::data::{Listening, prepare, wants_packet_info};
use crate::sys::packet_info;
use crate::table::{Entrance, Place, Protocol};

/// Connections that wait to be accepted. The kernel caps it at net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;

/// Makes the sockets for these entrances, in order.
pub(crate) fn listen(services: &NetNs, entrances: &[Entrance]) -> Vec<io::Result<Listening>> {
    let mut made: Vec<Option<io::Result<Listening>>> = entrances.iter().map(|_| None).collect();
    let mut fill = |place| {
        for (entrance, slot) in entrances.iter().zip(&mut made) {
            if entrance.place == place {
                *slot = Some(listen_here(entrance));
            }
        }
    };
    fill(Place::Node);
    if entrances.iter().any(|entrance| entrance.place == Place::Services) {
        // One thread makes them all.
        let entered = services.run(|| fill(Place::Services));
        if let Err(error) = entered {
            tracing::error!(%error, "entering the service namespace");
        }
    }
    made.into_iter().map(|slot| slot.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))).collect()
}

fn listen_here(entrance: &Entrance) -> io::Result<Listening> {
    // Two processes may listen in the service namespace while a new proxy takes over from the old one. On the
    // node, where others live, sharing a port would split its connections between strangers: there it is an error.
    let shared = entrance.place == Place::Services;
    let address = entrance.socket_address();
    match entrance.protocol {
        Protocol::Tcp => tcp(address, shared).map(Listening::Tcp),
        Protocol::Udp => udp(address, shared).map(Listening::Udp),
    }
}

/// A TCP listener.
pub(crate) fn tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier listener that are winding down do not count.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    prepare(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A UDP socket.
pub(crate) fn udp(address: SocketAddr, shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Transport::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    if wants_packet_info(address.ip()) {
        packet_info::enable(&socket)?;
    }
    Ok(socket.into())
}

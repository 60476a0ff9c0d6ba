//! Sockets towards endpoints, from the right network namespace.
//!
//! Data threads live in the service namespace: from there, pods of this node are on the link and everything else is
//! reached through the host, all from the service namespace's own address, whose 64 thousand ports nobody else uses.
//! Endpoints that are this node itself (a hostNetwork pod, an API server on 127.0.0.1) are dialled from the host's
//! namespace: a loopback address means the host's there, and no firewall stands between.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use network::NetNs;
use socket2::{Domain, Protocol as Transport, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// The namespaces of a data thread.
#[derive(Debug)]
pub(crate) struct Dialer {
    services: NetNs,
    node: NetNs,
    node_addresses: BTreeSet<IpAddr>,
}

impl Dialer {
    pub(crate) fn new(services: NetNs, node: NetNs, node_addresses: BTreeSet<IpAddr>) -> Self {
        Self { services, node, node_addresses }
    }

    /// Moves the calling thread to where data threads live.
    pub(crate) fn settle(&self) -> Result<(), network::NetNsError> {
        self.services.enter()
    }

    /// Is this endpoint the node itself?
    fn is_node(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.node_addresses.contains(&address)
    }

    /// A TCP connection to the endpoint.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(address, Type::STREAM, Transport::TCP)?;
        prepare(SockRef::from(&socket))?;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    }

    /// A UDP socket that hears from the endpoint only.
    pub(crate) fn connect_udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(address, Type::DGRAM, Transport::UDP)?;
        socket.connect(&address.into())?;
        UdpSocket::from_std(socket.into())
    }

    fn socket(&self, address: SocketAddr, kind: Type, transport: Transport) -> io::Result<Socket> {
        let make =
            || Socket::new_raw(Domain::for_address(address), kind.nonblocking().cloexec(), Some(transport));
        if !self.is_node(address.ip()) {
            return make();
        }
        // A socket belongs to the namespace its thread is in when it is made. Going there and back is two cheap system
        // calls, with no other task in between.
        self.node.enter().map_err(io::Error::other)?;
        let socket = make();
        if self.services.enter().is_err() {
            // Every later socket of this thread would be made in the wrong namespace, and nothing would notice.
            std::process::abort();
        }
        socket
    }
}

/// What every TCP socket of ours has, listeners included: the sockets they accept inherit it. How often a silent peer is
/// probed is a parameter of the service namespace; on the node it is the node's own.
pub(crate) fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)
}

/// Makes closing the socket a reset, so that its peer sees that something went wrong.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

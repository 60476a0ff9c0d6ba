//! Connections to ports inside of a pod's network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use network::NetNs;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};

use crate::machine::PodSandbox;

/// A port of a pod answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(10);

/// A port that cannot be reached, in the words of those who have forwarded ports before.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect to localhost:{port} inside namespace of the pod, IPv4: {v4} IPv6 {v6}")]
pub(super) struct DialError {
    port: u16,
    v4: String,
    v6: String,
}

/// Connects to a port on the loopback of a pod: what listens there alone is reached too.
pub(super) async fn connect(sandbox: Arc<dyn PodSandbox>, port: u16) -> Result<TcpStream, DialError> {
    let (v4, v6) =
        (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let words = |network: &str, address: SocketAddr, error: io::Error| {
        // Without Rust's own addition of the number.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        format!("dial {network} {address}: connect: {text}")
    };
    let first = match attempt(Arc::clone(&sandbox), v4).await {
        Ok(stream) => return Ok(stream),
        Err(error) => words("tcp4", v4, error),
    };
    match attempt(sandbox, v6).await {
        Ok(stream) => Ok(stream),
        Err(error) => Err(DialError { port, v4: first, v6: words("tcp6", v6, error) }),
    }
}

/// A socket belongs to the namespace in which it was made, wherever it is used.
async fn attempt(sandbox: Arc<dyn PodSandbox>, address: SocketAddr) -> io::Result<TcpStream> {
    let made = tokio::task::spawn_blocking(move || {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let namespace = NetNs::from(sandbox.netns()?);
        let made = namespace.run(|| socket_with(family, SocketType::STREAM, flags, None));
        Ok::<_, io::Error>(made.map_err(io::Error::other)??)
    });
    let socket = made.await.map_err(io::Error::other)??;
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = tokio::time::timeout(CONNECT, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

//! Connections to ports inside of a pod's network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use network::NetNs;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use super::{Body, full, text};
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
    let first = match attempt(Arc::clone(&sandbox), v4).await {
        Ok(stream) => return Ok(stream),
        Err(error) => words("tcp4", v4, error),
    };
    match attempt(sandbox, v6).await {
        Ok(stream) => Ok(stream),
        Err(error) => Err(DialError { port, v4: first, v6: words("tcp6", v6, error) }),
    }
}

/// What every tool that is written in Go says, without Rust's own addition of the number.
fn words(network: &str, address: SocketAddr, error: io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("dial {network} {address}: connect: {text}")
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

/// Connects from this node to a port, and then moves bytes both ways over the connection of the request.
pub(super) async fn pipe(address: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != "tcp") {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: only tcp is spoken here");
    }
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    let connected = connecting
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")))
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return text(StatusCode::BAD_GATEWAY, &words("tcp", address, error)),
    };
    // Detached: it ends with either connection.
    tokio::spawn(async move {
        let copied = async {
            let mut client = TokioIo::new(hyper::upgrade::on(request).await.map_err(io::Error::other)?);
            tokio::io::copy_bidirectional(&mut client, &mut stream).await
        };
        if let Err(error) = copied.await {
            debug!(%error, %address, "a proxied connection broke off");
        }
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "tcp");
    response
        .body(full(""))
        .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be built"))
}

//! The server on its secure port: TLS, HTTP/1.1 and HTTP/2, and who it is that speaks.
//!
//! ```text
//! accept ─▶ TLS handshake (10 s) ─▶ client certificate ─▶ Identity ─▶ hyper ─▶ ApiServer::handle
//! ```
//!
//! Everything is bounded: connections, handshake time, header time and size, streams per connection. Stopping lets requests that
//! are being answered end; watches are ended by [`ApiServer::stop`].

mod peer;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::body::Body;
use crate::server::ApiServer;

/// More connections than this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// A client that has not finished its handshake by then is gone or has no good intentions.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The same for the head of a request.
const HEADER_READ: Duration = Duration::from_secs(30);
/// Requests and watches at a time over one HTTP/2 connection; informers of a busy client need one each.
const MAX_STREAMS: u32 = 250;
/// Idle HTTP/2 connections are asked for a sign of life, so that watches notice a peer that is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// What a client may send ahead before it is read.
const WINDOW: u32 = 256 << 10;
/// After an error of `accept` (no descriptors left, mostly) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long requests that are being answered may take when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (server, acceptor, watcher) = (Arc::clone(&server), acceptor.clone(), graceful.watcher());
        // Detached: the connection holds its place, and `graceful` knows of it.
        tokio::spawn(async move {
            connection(server, acceptor, stream, watcher).await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        debug!("connections were cut off, since they did not end in time");
    }
}

async fn connection(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    graceful: hyper_util::server::graceful::Watcher,
) {
    // Answers are written whole; waiting for more would only add latency.
    _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let identity = peer::identity(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (server, identity) = (Arc::clone(&server), identity.clone());
        async move {
            let response = server.handle(request.map(Body::wrap), identity).await;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = graceful.watch(connection).await {
        debug!(error = %error, "connection ended");
    }
}

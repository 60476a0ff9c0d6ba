//! TCP: accept, choose an endpoint, connect, move bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::balance::Balancer;
use super::dial::reset_on_close;
use super::pump::pump;
use super::shared::{Shared, Waiting};

/// Endpoints tried for one connection.
const ATTEMPTS: usize = 4;

/// How long an endpoint may take to answer while there are others; and the last one.
const TIMEOUT: Duration = Duration::from_secs(1);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts connections until aborted. Those that exist do not depend on it.
pub(super) async fn serve(
    listener: TcpListener,
    balancer: Arc<Mutex<Balancer>>,
    limit: Arc<Semaphore>,
    shared: Arc<Shared>,
) {
    loop {
        // At the limit, clients wait in the listener's queue, which the kernel bounds.
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, from)) => {
                let connection = carry(client, from, balancer.clone(), shared.clone(), permit);
                shared.connections.spawn(connection);
            }
            Err(error) => {
                drop(permit);
                // The client has gone again, or descriptors are short: only the latter goes on for a while.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
                {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn carry(
    mut client: TcpStream,
    from: SocketAddr,
    balancer: Arc<Mutex<Balancer>>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
) {
    let metrics = &shared.metrics;
    metrics.accepted.add(1);
    let Some((mut backend, unanswered)) = connect(from, &balancer, &shared).await else {
        metrics.unreachable.add(1);
        reset_on_close(&client);
        return;
    };
    metrics.open.add(1);
    match pump(&mut client, &mut backend, &shared.pipes, unanswered).await {
        Ok(_moved) => {}
        Err(error) => {
            tracing::trace!(%from, %error, "connection broken");
            reset_on_close(&client);
            reset_on_close(&backend);
        }
    }
    metrics.open.sub(1);
}

/// Connects to the first endpoint that answers, in the balancer's order.
async fn connect(
    from: SocketAddr,
    balancer: &Mutex<Balancer>,
    shared: &Arc<Shared>,
) -> Option<(TcpStream, Waiting)> {
    shared.keep_beating();
    let lock = || balancer.lock().unwrap_or_else(PoisonError::into_inner);
    let candidates = lock().choose(from.ip(), Instant::now()).take(ATTEMPTS);
    let mut left = candidates.len();
    for backend in candidates {
        left -= 1;
        // While others were tried, this one may have left.
        if left > 0 && !lock().leads_to(backend) {
            continue;
        }
        // Counted in the same breath as chosen: who takes the endpoint out and then asks will hear of this connection.
        let unanswered = shared.unanswered.add(backend.ip());
        let patience = if left == 0 { LAST_TIMEOUT } else { TIMEOUT };
        let error = match tokio::time::timeout(patience, shared.dialer.connect(backend)).await {
            Ok(Ok(stream)) => {
                lock().connected(from.ip(), backend, Instant::now());
                return Some((stream, unanswered));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        tracing::debug!(%backend, %error, "connecting to an endpoint");
        shared.metrics.connect_failures.add(1);
        lock().failed(backend, Instant::now());
    }
    None
}

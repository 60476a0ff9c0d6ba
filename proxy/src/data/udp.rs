//! UDP: one flow per client, with a socket of its own towards its endpoint.
//!
//! A flow ends when nothing has come either way for a while, when its endpoint refuses, or when the table no longer
//! has its endpoint: unlike a connection a flow has no state in the endpoint that would be lost.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::balance::Balancer;
use super::shared::Shared;
use crate::sys::packet_info::{self, Datagram};

/// A flow that was never answered, and one that was, ends after so long without a datagram (connection tracking in the
/// kernel has 30 and 120 seconds).
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(120);

/// The longest datagram.
const LONGEST: usize = 65_535;

/// Whom a flow belongs to: the client, and which address of ours it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client {
    address: SocketAddr,
    /// The node's address the client sent to, to answer from the same; only where we listen on all.
    local: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Flow {
    backend: SocketAddr,
    socket: Arc<UdpSocket>,
    activity: Arc<Activity>,
    /// Ends the flow's task when the flow is removed.
    _end: DropGuard,
}

#[derive(Debug)]
struct Activity {
    started: Instant,
    last_millis: AtomicU64,
    answered: AtomicBool,
}

/// A listening socket with its flows.
#[derive(Debug)]
pub(super) struct Entrance {
    socket: UdpSocket,
    /// Listens on every address of the node.
    everywhere: bool,
    balancer: Arc<Mutex<Balancer>>,
    flows: Mutex<HashMap<Client, Flow>>,
    /// The flows' tasks, which hold the listening socket too.
    tasks: TaskTracker,
    shared: Arc<Shared>,
}

impl Entrance {
    pub(super) fn new(
        socket: UdpSocket,
        everywhere: bool,
        balancer: Arc<Mutex<Balancer>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { socket, everywhere, balancer, flows: Mutex::default(), tasks: TaskTracker::new(), shared }
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, HashMap<Client, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn balancer(&self) -> std::sync::MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the flows whose endpoint the table no longer has.
    pub(super) fn drop_stale(&self) {
        let balancer = self.balancer();
        self.flows().retain(|_, flow| balancer.leads_to(flow.backend));
    }

    /// Ends all flows, so that the socket closes. Only when `serve` runs no more.
    pub(super) async fn close(&self) {
        self.flows().clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Passes datagrams on until aborted.
    pub(super) async fn serve(self: Arc<Self>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            match self.receive(&mut buffer).await {
                Ok((client, length)) => self.pass_on(client, &buffer[..length]),
                Err(error) => {
                    tracing::warn!(%error, "receiving a datagram");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(Client, usize)> {
        if !self.everywhere {
            let (length, address) = self.socket.recv_from(buffer).await?;
            return Ok((Client { address, local: None }, length));
        }
        let Datagram { length, from, to } =
            self.socket.async_io(Interest::READABLE, || packet_info::receive(&self.socket, buffer)).await?;
        Ok((Client { address: from, local: to }, length))
    }

    fn pass_on(self: &Arc<Self>, client: Client, datagram: &[u8]) {
        if let Some(flow) = self.flows().get(&client) {
            flow.activity.touch();
            // Full buffers and refusals lose the datagram, as UDP may; a refusal also ends the flow, in its task.
            let _ = SockRef::from(&*flow.socket).send(datagram);
            return;
        }
        let Ok(permit) = self.shared.flows.clone().try_acquire_owned() else {
            self.shared.metrics.flows_refused.add(1);
            return;
        };
        let now = std::time::Instant::now();
        let Some(backend) = self.balancer().choose(client.address.ip(), now).next() else { return };
        let socket = match self.shared.dialer.connect_udp(backend) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::debug!(%backend, %error, "opening a UDP flow");
                self.balancer().failed(backend, now);
                return;
            }
        };
        self.balancer().connected(client.address.ip(), backend, now);
        // Past tokio, which has not heard yet that the fresh socket can be written to.
        if SockRef::from(&*socket).send(datagram).is_err() {
            self.shared.metrics.connect_failures.add(1);
        }
        let end = CancellationToken::new();
        let activity = Arc::new(Activity::new());
        let flow = Flow {
            backend,
            socket: socket.clone(),
            activity: activity.clone(),
            _end: end.clone().drop_guard(),
        };
        self.flows().insert(client, flow);
        let entrance = self.clone();
        self.tasks.spawn(async move {
            entrance.answer(client, backend, &socket, &activity, end, permit).await;
        });
    }

    /// Passes answers back until the flow ends.
    async fn answer(
        &self,
        client: Client,
        backend: SocketAddr,
        socket: &UdpSocket,
        activity: &Activity,
        end: CancellationToken,
        _permit: OwnedSemaphorePermit,
    ) {
        self.shared.metrics.flows.add(1);
        loop {
            let outcome = tokio::select! {
                () = end.cancelled() => break,
                // The endpoint refused (an ICMP message said so). That wakes no reader. The error itself may have
                // gone to whoever sent last.
                _ = socket.ready(Interest::ERROR) => {
                    tracing::debug!(%backend, "UDP endpoint refuses");
                    self.balancer().failed(backend, std::time::Instant::now());
                    break;
                }
                outcome = tokio::time::timeout_at(activity.deadline(), self.answer_one(client, socket)) => outcome,
            };
            match outcome {
                Ok(Ok(())) => {
                    activity.answered.store(true, Ordering::Relaxed);
                    activity.touch();
                }
                Ok(Err(error)) => {
                    tracing::debug!(%backend, %error, "UDP flow ended");
                    self.balancer().failed(backend, std::time::Instant::now());
                    break;
                }
                // The client may have sent since the deadline was computed.
                Err(_) if activity.deadline() <= Instant::now() => break,
                Err(_) => {}
            }
            tokio::task::consume_budget().await;
        }
        if !end.is_cancelled() {
            self.flows().remove(&client);
        }
        self.shared.metrics.flows.sub(1);
    }

    /// Waits for one answer and sends it to the client. Cancelling loses nothing: both happen in one step.
    async fn answer_one(&self, client: Client, socket: &UdpSocket) -> io::Result<()> {
        thread_local! {
            static SHARED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        poll_fn(|cx| {
            SHARED.with_borrow_mut(|shared| {
                shared.resize(LONGEST, 0);
                let mut buffer = ReadBuf::new(shared);
                std::task::ready!(socket.poll_recv(cx, &mut buffer))?;
                // A client whose buffers are full loses an answer, as UDP may.
                let _ = match client.local {
                    Some(local) => packet_info::send(&self.socket, buffer.filled(), client.address, local),
                    None => self.socket.try_send_to(buffer.filled(), client.address),
                };
                Poll::Ready(Ok(()))
            })
        })
        .await
    }
}

impl Activity {
    fn new() -> Self {
        Self { started: Instant::now(), last_millis: AtomicU64::new(0), answered: AtomicBool::new(false) }
    }

    fn touch(&self) {
        let since = self.started.elapsed().as_millis();
        self.last_millis.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        let patience = if self.answered.load(Ordering::Relaxed) { ANSWERED } else { UNANSWERED };
        self.started + Duration::from_millis(self.last_millis.load(Ordering::Relaxed)) + patience
    }
}

/// Who sent to one of several addresses of ours must be answered from that one.
pub(crate) fn wants_packet_info(address: IpAddr) -> bool {
    address.is_unspecified()
}

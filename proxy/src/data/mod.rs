//! The data path: listeners, connections and flows, on a thread of its own that lives in the service namespace.
//!
//! The thread shares nothing with the rest of the process but counters and a channel of commands, so a big table
//! that is being compiled delays no connection.

mod balance;
mod dial;
mod pipe;
mod pump;
mod shared;
mod tcp;
mod udp;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use network::NetNs;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::table::{Entrance, Forward};
use balance::Balancer;
use dial::Dialer;
use pipe::PipePool;
use shared::{Heartbeat, Shared};

pub(crate) use dial::prepare;
pub use shared::{Count, Metrics};
pub(crate) use udp::wants_packet_info;

/// Commands that may wait; the sender of more waits too.
const COMMANDS: usize = 8;

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A step for the data thread.
#[derive(Debug)]
pub(crate) enum Step {
    Close(Entrance),
    Update(Entrance, Forward),
    Open(Entrance, Forward, Listening),
}

#[derive(Debug)]
enum Command {
    Apply(Vec<Step>, oneshot::Sender<()>),
    /// Say when every connection to these addresses has been answered.
    Answered(Vec<IpAddr>, oneshot::Sender<()>),
    /// Close all listeners, and end when the last connection has ended or the time is over.
    Drain(Duration),
}

/// The data thread, from outside.
#[derive(Debug)]
pub(crate) struct DataPlane {
    commands: mpsc::Sender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Bounds of the data path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) flows: usize,
}

impl Limits {
    /// What fits into so many descriptors: two for each connection, one for a flow, the rest for listeners and pipes.
    pub(crate) fn for_descriptors(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX).min(1 << 20);
        let spare = descriptors.saturating_sub(2048).max(descriptors / 4);
        let flows = (spare / 8).min(4096);
        Self { connections: ((spare - flows) / 2).max(16), flows: flows.max(16) }
    }
}

/// The data thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// No thread.
    #[error("starting the data thread")]
    Thread(#[source] io::Error),
    /// It could not enter the service namespace.
    #[error("entering the service namespace")]
    NetNs(#[from] network::NetNsError),
    /// It has ended.
    #[error("the data thread has ended")]
    Ended,
}

impl DataPlane {
    pub(crate) fn start(
        services: NetNs,
        node: NetNs,
        node_addresses: BTreeSet<IpAddr>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, DataPlaneError> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (settled, started) = std::sync::mpsc::channel();
        let dialer = Dialer::new(services, node, node_addresses);
        let thread = std::thread::Builder::new().name("proxy-data".into()).spawn(move || {
            let runtime = dialer.settle().map_err(DataPlaneError::NetNs).and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build()
                    .map_err(DataPlaneError::Thread)
            });
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(settled.send(Err(error))),
            };
            let shared = Shared {
                dialer,
                pipes: PipePool::default(),
                metrics,
                connections: TaskTracker::new(),
                flows: Arc::new(Semaphore::new(limits.flows)),
                heartbeat: Heartbeat::default(),
                unanswered: Arc::default(),
            };
            let limit = Arc::new(Semaphore::new(limits.connections));
            if settled.send(Ok(())).is_ok() {
                runtime.block_on(Listeners::new(Arc::new(shared), limit).run(receiver));
            }
        });
        let thread = thread.map_err(DataPlaneError::Thread)?;
        started.recv().unwrap_or(Err(DataPlaneError::Ended))?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Takes the steps; when this returns, new connections meet the new state.
    pub(crate) async fn apply(&self, steps: Vec<Step>) -> Result<(), DataPlaneError> {
        let (done, wait) = oneshot::channel();
        self.commands.send(Command::Apply(steps, done)).await.map_err(|_| DataPlaneError::Ended)?;
        wait.await.map_err(|_| DataPlaneError::Ended)
    }

    /// Returns a future that is done when each connection that was led to these addresses before has heard from there, or
    /// has ended. Those that come later count too, so take the addresses out of the table first.
    pub(crate) fn answered(&self, addresses: Vec<IpAddr>) -> impl Future<Output = ()> + Send + 'static {
        let commands = self.commands.clone();
        async move {
            let (done, wait) = oneshot::channel();
            if commands.send(Command::Answered(addresses, done)).await.is_ok() {
                let _ = wait.await;
            }
        }
    }

    /// Closes all listeners and waits until the last connection has ended, or the time is over.
    pub(crate) async fn drain(&mut self, deadline: Duration) {
        let _ = self.commands.send(Command::Drain(deadline)).await;
        self.commands.closed().await;
        if let Some(thread) = self.thread.take() {
            // It is about to end: it has dropped its receiver.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Listeners {
    shared: Arc<Shared>,
    limit: Arc<Semaphore>,
    open: HashMap<Entrance, Open>,
}

/// An entrance that is open.
#[derive(Debug)]
struct Open {
    balancer: Arc<Mutex<Balancer>>,
    /// The flows of a UDP entrance.
    udp: Option<Arc<udp::Entrance>>,
    task: JoinHandle<()>,
}

impl Open {
    /// Closes the listening socket; connections have tasks of their own and go on, flows end.
    async fn close(self) {
        self.task.abort();
        // Its socket is gone when the task is.
        let _ = self.task.await;
        if let Some(udp) = self.udp {
            udp.close().await;
        }
    }
}

impl Listeners {
    fn new(shared: Arc<Shared>, limit: Arc<Semaphore>) -> Self {
        Self { shared, limit, open: HashMap::new() }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Apply(steps, done) => {
                    for step in steps {
                        self.take(step).await;
                    }
                    let _ = done.send(());
                }
                Command::Answered(addresses, mut done) => {
                    let unanswered = self.shared.unanswered.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = unanswered.none_left(&addresses) => drop(done.send(())),
                            () = done.closed() => {}
                        }
                    });
                }
                Command::Drain(deadline) => {
                    for (_, open) in self.open.drain() {
                        open.close().await;
                    }
                    self.shared.connections.close();
                    let _ = tokio::time::timeout(deadline, self.shared.connections.wait()).await;
                    return;
                }
            }
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Close(entrance) => {
                if let Some(open) = self.open.remove(&entrance) {
                    open.close().await;
                }
            }
            Step::Update(entrance, forward) => {
                if let Some(open) = self.open.get(&entrance) {
                    open.balancer.lock().unwrap_or_else(PoisonError::into_inner).update(&forward);
                    if let Some(udp) = &open.udp {
                        udp.drop_stale();
                    }
                }
            }
            Step::Open(entrance, forward, listening) => match self.listen(&entrance, &forward, listening) {
                Ok(open) => drop(self.open.insert(entrance, open)),
                Err(error) => tracing::error!(%entrance, service = %forward.service, %error, "listening"),
            },
        }
    }

    fn listen(&self, entrance: &Entrance, forward: &Forward, listening: Listening) -> io::Result<Open> {
        let balancer = Arc::new(Mutex::new(Balancer::new(forward)));
        let shared = self.shared.clone();
        match listening {
            Listening::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let serve = tcp::serve(listener, balancer.clone(), self.limit.clone(), shared);
                Ok(Open { balancer, udp: None, task: tokio::spawn(serve) })
            }
            Listening::Udp(socket) => {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                let everywhere = wants_packet_info(entrance.address);
                let udp = Arc::new(udp::Entrance::new(socket, everywhere, balancer.clone(), shared));
                let task = tokio::spawn(udp.clone().serve());
                Ok(Open { balancer, udp: Some(udp), task })
            }
        }
    }
}

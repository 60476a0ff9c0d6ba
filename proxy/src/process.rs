//! The proxy as a process: start, follow, end.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use network::{NetNs, Network};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::control::{self, Asked, Control, Pong, Request, Response};
use crate::data::{DataPlane, DataPlaneError, Limits, Metrics, Step};
use crate::dns::{BadDomain, Forwarder, ResolvConf, Server, Zone, ZoneConfig};
use crate::listen;
use crate::observe::{News, Source, observe};
use crate::state::State;
use crate::table::{self, DiskError, Entrance, ListenerChange, Place, Table};

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Told to those who ask; another version is replaced.
    pub version: String,
    /// Services and EndpointSlices.
    pub source: Source,
    /// This node's name, for local traffic policies.
    pub node_name: String,
    /// Addresses of this node: endpoints there are dialled from the host's namespace.
    pub node_addresses: Vec<IpAddr>,
    /// Directory of the control socket.
    pub run_dir: PathBuf,
    /// File of the last table.
    pub table_file: PathBuf,
    /// The node's pod network; must have a service range.
    pub network: network::Config,
    /// The cluster's DNS server, within the service range.
    pub dns_address: Ipv4Addr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Who knows all other names: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// How long connections may go on after the proxy was told to stop.
    pub grace: Duration,
}

/// Why the proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No async runtime.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
    /// The network's configuration.
    #[error("configuring the pod network")]
    NetworkConfig(#[from] network::ConfigError),
    /// Bridge or service namespace.
    #[error("setting up the service namespace")]
    Network(#[from] network::Error),
    /// Namespaces.
    #[error("opening a network namespace")]
    NetNs(#[from] network::NetNsError),
    /// The data path.
    #[error("carrying data")]
    Data(#[from] DataPlaneError),
    /// The cluster's domain.
    #[error("setting up DNS")]
    Domain(#[from] BadDomain),
    /// The DNS server's sockets.
    #[error("listening on {address} for DNS")]
    Dns {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part of the process that should live as long as it has died.
    #[error("a task of the proxy has ended")]
    TaskEnded,
    /// The control socket.
    #[error("listening on {path}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long an old proxy may go on carrying its connections beside its successor.
const HANDOVER_DRAIN: Duration = Duration::from_secs(3600);

/// How long a successor waits for the server's word before it relies on the last table.
const HANDOVER_SYNC: Duration = Duration::from_secs(3);

/// Listeners that could not be opened are tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// How long a pod that leaves is held up by a server that does not say who replaces it; and by connections that it does not
/// answer.
const LEAVING: Duration = Duration::from_secs(1);

/// Changes that come in quick succession are written to disk together.
const WRITE_DELAY: Duration = Duration::from_millis(200);

const DNS_PORT: u16 = 53;

/// Runs a proxy until it is told to stop, or to step aside for its successor. Blocks; starts its own threads: this
/// one controls, another one carries the data.
pub fn run(config: Config, stop: &CancellationToken) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(run_here(config, stop.clone()))
}

async fn run_here(config: Config, stop: CancellationToken) -> Result<(), Error> {
    Proxy::start(config).await?.follow(stop).await
}

struct Proxy {
    config: Config,
    services: NetNs,
    data: DataPlane,
    dns: Arc<Server>,
    dns_tasks: tokio::task::JoinSet<()>,
    metrics: Arc<Metrics>,
    state: State,
    /// What is open. Lacks what could not be opened, so that the next comparison tries it again.
    applied: Table,
    /// When to try what could not be opened again.
    retry: Option<tokio::time::Instant>,
    written: watch::Sender<Arc<Table>>,
    news: mpsc::Receiver<News>,
    asked: mpsc::Receiver<Asked>,
    tasks: tokio::task::JoinSet<()>,
    /// Who waits for a pod to have left.
    partings: Vec<Parting>,
    /// Answers that wait for connections to be answered.
    answers: tokio::task::JoinSet<()>,
}

/// A pod that leaves, and who wants to know when it has.
struct Parting {
    pod_uid: String,
    addresses: Vec<IpAddr>,
    /// It has left then, wherever it is.
    until: tokio::time::Instant,
    answer: oneshot::Sender<Response>,
}

impl Proxy {
    async fn start(config: Config) -> Result<Self, Error> {
        let limits = Limits::for_descriptors(raise_descriptor_limit());
        let network = Network::new(config.network.clone())?;
        for warning in network.ensure().await? {
            tracing::warn!(%warning, "pod network");
        }

        // A predecessor's namespace is taken over: its connections live there, and its listeners next to ours until it
        // closes them.
        let mut predecessor = None;
        if let Ok(mut control) = Control::connect(&config.run_dir).await
            && let Ok(pong) = control.ping().await
        {
            predecessor = Some((control, pong));
        }
        let inherited = predecessor.as_ref().and_then(|(_, pong)| NetNs::open(&pong.namespace).ok());
        let services = match inherited {
            Some(services) => services,
            None => NetNs::create()?,
        };
        network.attach_service(services.as_fd()).await?;

        let metrics = Arc::new(Metrics::default());
        let node_addresses: BTreeSet<IpAddr> = config.node_addresses.iter().copied().collect();
        let data = DataPlane::start(
            services.try_clone()?,
            NetNs::current()?,
            node_addresses,
            limits,
            metrics.clone(),
        )?;

        let last = load(&config.table_file);
        let zone = Zone::new(zone_config(&config), &last)?;
        let own = IpAddr::V4(config.dns_address);
        let forwarder = Forwarder::new(ResolvConf::new(config.resolv_conf.clone(), own));
        let dns = Server::new(zone, forwarder, metrics.clone());
        let dns_tasks = start_dns(&services, config.dns_address, &dns)?;

        let (news_sender, news) = mpsc::channel(64);
        let (asked_sender, asked) = mpsc::channel(16);
        let (written, to_write) = watch::channel(Arc::new(last.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(observe(config.source.clone(), news_sender));
        tasks.spawn(write(config.table_file.clone(), to_write));

        let mut proxy = Self {
            state: State::new(config.node_name.clone(), last),
            applied: Table::default(),
            retry: None,
            config,
            services,
            data,
            dns,
            dns_tasks,
            metrics,
            written,
            news,
            asked,
            tasks,
            partings: Vec::new(),
            answers: tokio::task::JoinSet::new(),
        };
        if let Some((_, pong)) = &predecessor {
            for (pod_uid, addresses) in &pong.leaving {
                proxy.state.leaving(pod_uid.clone(), addresses.clone(), Instant::now());
            }
        }
        proxy.apply().await?;
        if let Some((mut control, pong)) = predecessor {
            tracing::info!(pid = pong.pid, version = pong.version, "taking over from another proxy");
            // The table on disk may be a moment old: whoever the old one would have let in, we must too.
            if let Ok(synced) = tokio::time::timeout(HANDOVER_SYNC, proxy.sync()).await {
                synced?;
            }
            if let Err(error) = control.step_aside(HANDOVER_DRAIN).await {
                tracing::warn!(%error, "the other proxy does not step aside");
            }
            // The node's ports are free now.
            proxy.apply().await?;
        }
        let path = control::socket_path(&proxy.config.run_dir);
        let listener =
            control::bind(&proxy.config.run_dir).map_err(|source| Error::Control { path, source })?;
        proxy.tasks.spawn(control::serve(listener, asked_sender));
        Ok(proxy)
    }

    /// Follows the server until it has told everything once.
    async fn sync(&mut self) -> Result<(), Error> {
        while !self.state.is_synced()
            && let Some(news) = self.news.recv().await
        {
            self.hear(news).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, news: News) -> Result<(), Error> {
        let mut changed = self.state.hear(news);
        while let Ok(news) = self.news.try_recv() {
            changed |= self.state.hear(news);
        }
        if changed { self.apply().await } else { Ok(()) }
    }

    /// Follows the server and answers requests, until told to end. An error means that a part of the process has died:
    /// better a new process than half a proxy.
    async fn follow(&mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let retry = self.retry;
            let parting = self.partings.iter().map(|parting| parting.until).min();
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let _ = std::fs::remove_file(control::socket_path(&self.config.run_dir));
                    self.end(self.config.grace).await;
                    return Ok(());
                }
                Some(asked) = self.asked.recv() => {
                    if let Some(drain) = self.answer(asked).await? {
                        // The socket's path is the successor's now.
                        tokio::select! {
                            () = self.end(drain) => {}
                            () = stop.cancelled() => {}
                        }
                        return Ok(());
                    }
                }
                Some(news) = self.news.recv() => self.hear(news).await?,
                () = sleep_until(retry), if retry.is_some() => self.apply().await?,
                () = sleep_until(parting), if parting.is_some() => self.settle_partings(),
                Some(_) = self.answers.join_next() => {}
                Some(_) = self.tasks.join_next() => return Err(Error::TaskEnded),
                Some(_) = self.dns_tasks.join_next() => return Err(Error::TaskEnded),
            }
        }
    }

    /// Answers a request; `Some` when it was to step aside.
    async fn answer(&mut self, asked: Asked) -> Result<Option<Duration>, Error> {
        let response = match asked.request {
            Request::Ping => Response::Pong(Pong {
                version: self.config.version.clone(),
                pid: std::process::id(),
                namespace: format!("/proc/{}/fd/{}", std::process::id(), self.services.as_fd().as_raw_fd())
                    .into(),
                synced: self.state.is_synced(),
                listeners: self.applied.forwards.len(),
                leaving: self.state.all_leaving(),
            }),
            Request::Metrics => Response::Metrics(self.metrics.render()),
            Request::Leaving { pod_uid, addresses } => {
                self.state.leaving(pod_uid.clone(), addresses.clone(), Instant::now());
                let until = tokio::time::Instant::now() + LEAVING;
                self.partings.push(Parting { pod_uid, addresses, until, answer: asked.answer });
                self.apply().await?;
                return Ok(None);
            }
            Request::StepAside { drain_seconds } => {
                self.close().await;
                let _ = asked.answer.send(Response::Done);
                return Ok(Some(Duration::from_secs(drain_seconds)));
            }
        };
        // Who asked may have gone.
        let _ = asked.answer.send(response);
        Ok(None)
    }

    /// Makes listeners and names what the state says; what could not be opened is tried again later.
    async fn apply(&mut self) -> Result<(), Error> {
        let target = self.state.table(Instant::now());
        let changes: Vec<_> =
            table::diff(&self.applied, &target).into_iter().filter(|change| !self.is_dns(change)).collect();
        let opening: Vec<Entrance> = changes
            .iter()
            .filter_map(|change| match change {
                ListenerChange::Open(entrance, _) => Some(*entrance),
                _ => None,
            })
            .collect();
        let mut sockets = listen::listen(&self.services, &opening).into_iter();
        let mut applied = target.clone();
        let mut missing = false;
        let mut steps = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                ListenerChange::Close(entrance) => steps.push(Step::Close(entrance)),
                ListenerChange::Update(entrance, forward) => steps.push(Step::Update(entrance, forward)),
                ListenerChange::Open(entrance, forward) => match sockets.next() {
                    Some(Ok(socket)) => steps.push(Step::Open(entrance, forward, socket)),
                    Some(Err(error)) => {
                        tracing::warn!(%entrance, service = %forward.service, %error, "listening");
                        applied.forwards.remove(&entrance);
                        missing = true;
                    }
                    None => {}
                },
            }
        }
        if !steps.is_empty() {
            self.data.apply(steps).await?;
        }
        if target.names != self.applied.names {
            match Zone::new(zone_config(&self.config), &target) {
                Ok(zone) => self.dns.swap(zone),
                Err(error) => tracing::error!(%error, "making the DNS zone"),
            }
        }
        if **self.written.borrow() != target {
            self.written.send_replace(Arc::new(target));
        }
        self.applied = applied;
        self.settle_partings();
        self.retry = missing.then(|| tokio::time::Instant::now() + RETRY);
        Ok(())
    }

    /// Tells those who wait for pods that have left, once no connection is on its way to them.
    fn settle_partings(&mut self) {
        let now = tokio::time::Instant::now();
        let (state, applied) = (&self.state, &self.applied);
        let over = |parting: &mut Parting| {
            now >= parting.until || state.has_left(&parting.pod_uid, &parting.addresses, applied)
        };
        let (data, answers) = (&self.data, &mut self.answers);
        for parting in self.partings.extract_if(.., over) {
            let answered = data.answered(parting.addresses);
            answers.spawn(async move {
                // An endpoint that has said nothing by then knows of its connection, or never will.
                let _ = tokio::time::timeout(LEAVING, answered).await;
                let _ = parting.answer.send(Response::Done);
            });
        }
    }

    /// The cluster's DNS address answers from the table itself, whatever service claims it.
    fn is_dns(&self, change: &ListenerChange) -> bool {
        let (ListenerChange::Open(entrance, _)
        | ListenerChange::Update(entrance, _)
        | ListenerChange::Close(entrance)) = change;
        entrance.place == Place::Services
            && entrance.address == IpAddr::V4(self.config.dns_address)
            && entrance.port == DNS_PORT
    }

    /// Nobody new gets in from here on.
    async fn close(&mut self) {
        self.dns_tasks.shutdown().await;
        let steps = self.applied.forwards.keys().map(|entrance| Step::Close(*entrance)).collect();
        let _ = self.data.apply(steps).await;
        self.applied.forwards.clear();
    }

    async fn end(&mut self, drain: Duration) {
        self.tasks.shutdown().await;
        let last = self.written.borrow().clone();
        let path = self.config.table_file.clone();
        let _ = tokio::task::spawn_blocking(move || save(&path, &last)).await;
        self.dns_tasks.shutdown().await;
        self.data.drain(drain).await;
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn zone_config(config: &Config) -> ZoneConfig {
    let services = config.network.service_cidr;
    ZoneConfig {
        domain: config.cluster_domain.clone(),
        server: config.dns_address,
        ranges: services.into_iter().chain([config.network.cluster_cidr]).collect(),
    }
}

fn load(path: &std::path::Path) -> Table {
    match table::load(path) {
        Ok(table) => table.unwrap_or_default(),
        Err(error) => {
            // Serving nothing until the server answers is all that is left.
            tracing::warn!(error = &error as &dyn std::error::Error, "the last service table is lost");
            Table::default()
        }
    }
}

fn save(path: &std::path::Path, table: &Table) {
    let saved: Result<(), DiskError> = table::save(path, table);
    if let Err(error) = saved {
        tracing::warn!(error = &error as &dyn std::error::Error, "keeping the service table");
    }
}

/// Keeps the last table on disk.
async fn write(path: PathBuf, mut tables: watch::Receiver<Arc<Table>>) {
    while tables.changed().await.is_ok() {
        tokio::time::sleep(WRITE_DELAY).await;
        let table = tables.borrow_and_update().clone();
        let path = path.clone();
        let _ = tokio::task::spawn_blocking(move || save(&path, &table)).await;
    }
}

fn start_dns(
    services: &NetNs,
    address: Ipv4Addr,
    server: &Arc<Server>,
) -> Result<tokio::task::JoinSet<()>, Error> {
    let address = SocketAddr::new(address.into(), DNS_PORT);
    let fail = |source| Error::Dns { address, source };
    let (udp, tcp) = services.run(|| (listen::udp(address, true), listen::tcp(address, true)))?;
    let udp = tokio::net::UdpSocket::from_std(udp.map_err(fail)?).map_err(fail)?;
    let tcp = tokio::net::TcpListener::from_std(tcp.map_err(fail)?).map_err(fail)?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.clone().serve_udp(udp));
    tasks.spawn(server.clone().serve_tcp(tcp));
    Ok(tasks)
}

/// As many descriptors as we may have without asking anybody; answers how many that are.
fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

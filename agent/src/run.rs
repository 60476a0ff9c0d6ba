//! The agent as a whole: builds its parts from a configuration, runs them, and leaves all pods as they are when it ends.
//!
//! ```text
//!   directory ─┐
//!   URL ───────┼─▶ merge ─▶ pods ─▶ a worker per pod ─▶ runtime, images, network
//!   API ───────┘              │
//!                             └──▶ registry ◀── server (logs, exec, attach, …)
//!   node: object, status, Lease
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Client, ErrorChain, EventType, Informer, TaskError, TaskGroup, cache};
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{ObjectReference, Service};
use network::Network;
use reqwest::Url;
use reqwest::header::HeaderMap;
use runtime::Runtime;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::context::{Context, LogBounds, NodeFacts};
use crate::etc::DnsSettings;
use crate::events::Events;
use crate::eviction::{self, ImagePolicy, Soft, Thresholds};
use crate::machine::{Departures, Images, Machine};
use crate::names::Layout;
use crate::node::{self, Facts, Identity};
use crate::objects::ObjectSource;
use crate::pods::{Pods, Registry};
use crate::probe::HttpProber;
use crate::server;
use crate::sources::file::{FileSource, Problem};
use crate::sources::manifest::ObjectId;
use crate::sources::merge::{Desired, merge};
use crate::sources::url::UrlSource;
use crate::sources::{Objects, Source, Wanted, api};
use crate::volume::reclaim;

/// How long the parts may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything that an agent is made from.
#[derive(Debug)]
pub struct Config {
    /// Name of the node in the API.
    pub node_name: String,
    /// Name of the machine.
    pub hostname: String,
    /// Its addresses, the primary one first.
    pub addresses: Vec<String>,
    /// Labels of the node beyond those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Most pods.
    pub max_pods: u32,
    /// For `status.nodeInfo.kubeletVersion`: `v1.37.0+coracle`.
    pub version: String,
    /// Where pods' files, logs and the agent's own memory are.
    pub data_dir: PathBuf,
    /// The runtime's directories, cgroup and keeper program.
    pub runtime: runtime::Config,
    /// The pod network.
    pub network: network::Config,
    /// The image store.
    pub images: Arc<dyn Images>,
    /// Who has to know that a pod is about to go.
    pub departures: Arc<dyn Departures>,
    /// All services, if somebody in this process follows them already.
    pub services: Option<Cache<Service>>,
    /// A directory of manifests.
    pub manifests: Option<PathBuf>,
    /// Manifests at a URL.
    pub manifest_url: Option<ManifestUrl>,
    /// Who writes objects of other kinds from the manifests to the control plane, if anybody does.
    pub objects: Option<watch::Sender<Objects>>,
    /// The cluster's DNS.
    pub dns: DnsSettings,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// What must be left of the node's supplies; pods are evicted when there is less.
    pub thresholds: Thresholds,
    /// What should be left: pods are evicted when there is less for longer than a while.
    pub soft_thresholds: Soft,
    /// When images that nobody uses go.
    pub image_policy: ImagePolicy,
    /// Bounds of containers' logs.
    pub logs: LogBounds,
    /// The agent's own API, if it is to have one.
    pub server: Option<Serve>,
}

/// Manifests at a URL.
#[derive(Debug, Clone)]
pub struct ManifestUrl {
    /// Where.
    pub url: Url,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Pause between questions.
    pub period: Duration,
}

/// Where the agent's own API is served. The TLS configuration must demand a client certificate.
#[derive(Debug)]
pub struct Serve {
    /// Already bound, so that a port in use is noticed early.
    pub listener: TcpListener,
    /// Certificate, key, and the authority of clients.
    pub tls: Arc<ServerConfig>,
}

/// The agent could not start, or a part of it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime.
    #[error("opening the container runtime")]
    Runtime(#[from] runtime::OpenError),
    /// The network's configuration.
    #[error("configuring the pod network")]
    NetworkConfig(#[from] network::ConfigError),
    /// The network.
    #[error("setting the pod network up")]
    Network(#[from] network::Error),
    /// TLS for probes.
    #[error("setting up requests of probes")]
    Prober(#[from] reqwest::Error),
    /// The address of the agent's own API.
    #[error("reading the address of the agent's API")]
    Listener(#[source] std::io::Error),
    /// A part failed.
    #[error(transparent)]
    Part(#[from] TaskError),
}

/// Runs an agent until told to stop.
pub async fn run(config: Config, client: Option<Client>, stop: CancellationToken) -> Result<(), Error> {
    let mut group = TaskGroup::new(stop);
    let built = build(config, client, &mut group).await;
    if built.is_err() {
        group.stop().cancel();
    }
    let ended = if built.is_ok() {
        // Until told to stop there is no deadline; `join` counts from then.
        group.join(DRAIN).await
    } else {
        Ok(())
    };
    built?;
    Ok(ended?)
}

async fn build(config: Config, client: Option<Client>, group: &mut TaskGroup) -> Result<(), Error> {
    let stop = group.stop().clone();
    let runtime = Runtime::open(config.runtime)?;
    let pod_cidr = config.network.pod_cidr.to_string();
    let network = Network::new(config.network)?;
    for warning in network.ensure().await? {
        tracing::warn!(warning = %ErrorChain(&warning), "pod network");
    }
    if let Some(client) = client.clone() {
        let routes = node::routes::follow(client, config.node_name.clone(), network.clone(), stop.clone());
        group.spawn_infallible("routes to other nodes", routes);
    }
    let machine = Machine {
        sandboxes: Arc::new(runtime),
        images: config.images,
        network: Arc::new(network),
        departures: config.departures,
    };
    let layout = Layout::new(&config.data_dir);
    let layout_base = config.data_dir.clone();
    let facts = {
        let dir = config.data_dir.clone();
        // Only fails when the process is stopping.
        tokio::task::spawn_blocking(move || Facts::read(&dir)).await.unwrap_or_default()
    };

    let recorder = client.clone().map(|client| {
        let (recorder, writer) = client::events::events(client, "kubelet", Some(&config.node_name));
        group.spawn_infallible("events", writer.run(stop.clone()));
        recorder
    });
    let events = Events::new(recorder);
    let services = config.services.or_else(|| {
        client.clone().map(|client| {
            let informer = Informer::with_trim(client.all::<Service>(), trim_service);
            let cache = informer.cache();
            group.spawn_infallible("services", informer.run(stop.clone()));
            cache
        })
    });
    let (node_object, node_objects) = watch::channel(None);
    let registry = Registry::default();
    let context = Arc::new(Context {
        users: Default::default(),
        registry: registry.clone(),
        node: NodeFacts {
            name: config.node_name.clone(),
            hostname: config.hostname.clone(),
            addresses: config.addresses.clone(),
            memory: i64::try_from(facts.memory).unwrap_or(i64::MAX),
            allocatable: node::allocatable(&facts, config.max_pods),
        },
        objects: ObjectSource::new(client.clone(), layout.agent().join("objects")),
        layout: layout.clone(),
        machine: machine.clone(),
        client: client.clone(),
        services,
        events: events.clone(),
        dns: config.dns,
        resolv_conf: config.resolv_conf,
        http: HttpProber::new()?,
        logs: config.logs,
        node_object: node_objects,
    });

    let mut port = 0;
    if let Some(serve) = config.server {
        port = serve.listener.local_addr().map_err(Error::Listener)?.port();
        let access = Arc::new(Access::new(&config.node_name, registry.clone(), layout.clone()));
        group.spawn_infallible("agent API", server::serve(access, serve.listener, serve.tls, stop.clone()));
    }
    if let Some(client) = client.clone() {
        let identity = Identity {
            name: config.node_name.clone(),
            hostname: config.hostname,
            addresses: config.addresses,
            port,
            pod_cidr,
            max_pods: config.max_pods,
            labels: config.labels,
            version: config.version,
            data_dir: config.data_dir,
        };
        let images = machine.images.clone();
        group.spawn_infallible(
            "node",
            node::run(
                client,
                identity,
                config.thresholds.clone().and(config.soft_thresholds.thresholds()),
                images,
                node_object,
                context.objects.clock_set(),
                stop.clone(),
            ),
        );
    }

    let mut sources = Vec::new();
    let (evict, evictions) = mpsc::channel(16);
    let manager = eviction::Manager {
        registry: registry.clone(),
        layout: layout.clone(),
        thresholds: config.thresholds,
        soft: config.soft_thresholds,
        events: events.clone(),
        node: config.node_name.clone(),
        evictions: evict,
        images: machine.images.clone(),
        image_policy: config.image_policy,
    };
    group.spawn_infallible("eviction", manager.run(stop.clone()));
    if let Some(client) = client.clone() {
        let (node, base) = (config.node_name.clone(), reclaim::directory(&layout_base));
        let removing = reclaim::run(client, node, base, events.clone(), stop.clone());
        group.spawn_infallible("released volumes", removing);
    }
    let report = reporter(&config.node_name, events);
    if let Some(dir) = config.manifests {
        let source = FileSource { dir, node: config.node_name.clone() };
        let (sender, wanted) = watch::channel(Wanted::default());
        sources.push((Source::File, wanted));
        group.spawn_infallible("manifest directory", source.run(sender, report.clone(), stop.clone()));
    }
    if let Some(ManifestUrl { url, headers, period }) = config.manifest_url {
        let source = UrlSource { url, headers, period, node: config.node_name.clone() };
        let (sender, wanted) = watch::channel(Wanted::default());
        sources.push((Source::Http, wanted));
        let http = reqwest::Client::builder().build()?;
        group.spawn_infallible("manifest URL", source.run(http, sender, report, stop.clone()));
    }
    if let Some(client) = client {
        let (sender, wanted) = watch::channel(Wanted::default());
        sources.push((Source::Api, wanted));
        let copies = layout.agent().join("pods");
        group.spawn_infallible(
            "pods of the API",
            api::run(client, config.node_name, copies, sender, stop.clone()),
        );
    }
    let (desired, desires) = watch::channel(Desired::default());
    group.spawn_infallible("merging sources", follow_sources(sources, desired, config.objects, stop.clone()));
    let pods = Pods::new(context, registry, evictions, stop).await;
    group.spawn_infallible("pods", pods.run(desires));
    Ok(())
}

/// Only what variables are made from.
fn trim_service(service: &mut Service) {
    cache::trim_managed_fields(service);
    service.status = None;
    service.metadata.annotations = None;
    service.metadata.labels = None;
}

/// A node of somebody else's cluster does not write that cluster's objects.
fn complain(objects: &Objects) {
    for object in &objects.objects {
        let id = ObjectId::of(object);
        tracing::warn!(place = object.source(), object = %id, "only pods can run from the manifests of a node of a cluster");
    }
}

/// Merges what the sources want, whenever one of them wants something else.
async fn follow_sources(
    mut sources: Vec<(Source, watch::Receiver<Wanted>)>,
    desired: watch::Sender<Desired>,
    writer: Option<watch::Sender<Objects>>,
    stop: CancellationToken,
) {
    let mut objects = Objects::default();
    loop {
        let wanted: Vec<(Source, Wanted)> = sources
            .iter_mut()
            .map(|(source, wanted)| (*source, wanted.borrow_and_update().clone()))
            .collect();
        desired.send_replace(merge(wanted.iter().map(|(source, wanted)| (*source, wanted))));
        let next = Objects::merge(&wanted);
        if !next.is_same(&objects) {
            match &writer {
                Some(writer) => drop(writer.send_replace(next.clone())),
                None => complain(&next),
            }
            objects = next;
        }
        let changed = sources.iter_mut().map(|(_, wanted)| {
            Box::pin(async move {
                if wanted.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            return stop.cancelled().await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = futures_util::future::select_all(changed) => {}
        }
    }
}

/// Broken manifests are events about the node: there is no object that they could be about.
fn reporter(node: &str, events: Events) -> impl Fn(Problem) + Send + Clone + use<> {
    let node = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    move |problem: Problem| {
        let message = format!("{} ({})", problem.message, Timestamp::now());
        events.about(node.clone(), EventType::Warning, "FailedManifest", message);
    }
}

//! The node agent of an instance: what it is made from.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::machine::Departures;
use agent::machine::store_images::StoreImages;
use anyhow::Context;
use apiserver::pki::{Pki, Subject};
use async_trait::async_trait;
use client::{Client, TaskGroup};
use image::ImageStore;
use proxy::Control;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::node::Node;
use super::proxy as proxy_process;
use crate::flags::NodeArgs;
use crate::instance::Instance;

/// The port where others look for a node's own API.
const PORT: u16 = 10250;
/// The Kubernetes version whose behaviour this is.
const KUBERNETES: &str = "v1.37.0";
/// How often a manifest at a URL is asked for.
const URL_PERIOD: Duration = Duration::from_secs(20);
/// A proxy that does not answer must not keep pods from ending.
const PROXY_PATIENCE: Duration = Duration::from_secs(3);

/// Starts the agent and keeps the proxy running. `objects` goes to whoever writes what is no pod in the manifests.
pub(crate) async fn start(
    instance: &Instance,
    node: &Node,
    args: &NodeArgs,
    tls: rustls::ServerConfig,
    client: Client,
    objects: Option<watch::Sender<agent::sources::Objects>>,
    group: &mut TaskGroup,
) -> anyhow::Result<()> {
    let (store, shared) = match &args.image_dir {
        Some(directory) => (directory.clone(), true),
        None => (instance.image_dir(), false),
    };
    let images = tokio::task::spawn_blocking(move || ImageStore::open(store))
        .await?
        .context("opening the image store")?;
    let listener = listen(args.agent_listen, node).await?;
    let manifest_url = match &args.manifest_url {
        None => None,
        Some(url) => {
            let url = url.parse().with_context(|| format!("--manifest-url {url:?} is not a URL"))?;
            Some(agent::ManifestUrl { url, headers: http::HeaderMap::new(), period: URL_PERIOD })
        }
    };
    let soft_thresholds = agent::eviction::Soft::parse(
        &args.eviction_soft,
        &args.eviction_soft_grace_period,
        Duration::from_secs(args.eviction_max_pod_grace_period),
    )
    .with_context(|| format!("--eviction-soft {}", args.eviction_soft))?;
    let thresholds = match &args.eviction_hard {
        None => agent::eviction::Thresholds::default(),
        Some(text) => text.parse().with_context(|| format!("--eviction-hard {text}"))?,
    };
    let config = agent::Config {
        node_name: node.name.clone(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        addresses: vec![node.address.to_string()],
        labels: Default::default(),
        max_pods: args.max_pods,
        version: format!("{KUBERNETES}+coracle-{}", env!("CARGO_PKG_VERSION")),
        data_dir: instance.data_dir.clone(),
        runtime: super::runtime_config(instance, &node.names.group),
        network: node.network.clone(),
        images: Arc::new(if shared { StoreImages::shared(images) } else { StoreImages::new(images) }),
        departures: Arc::new(ProxyDepartures { run_dir: instance.proxy_dir() }),
        services: None,
        manifests: args.manifests.clone(),
        manifest_url,
        objects,
        thresholds,
        soft_thresholds,
        image_policy: agent::eviction::ImagePolicy {
            high: args.image_gc_high_threshold,
            low: args.image_gc_low_threshold.min(args.image_gc_high_threshold),
            min_age: Duration::from_secs(args.image_gc_min_age),
        },
        dns: agent::etc::DnsSettings {
            servers: vec![node.cluster.dns.to_string()],
            domain: node.cluster.domain.clone(),
        },
        resolv_conf: "/etc/resolv.conf".into(),
        logs: log_bounds(args)?,
        server: Some(agent::Serve { listener, tls: Arc::new(tls) }),
    };
    let stop = group.stop().clone();
    group.spawn("agent", agent::run(config, Some(client), stop.clone()));
    // One that was given is the administrator's word.
    if args.node_ip.is_none() {
        group.spawn("this machine's address", super::address::follow(node.address, stop.clone()));
    }
    group.spawn_infallible("proxy's keeper", proxy_process::supervise(instance.clone(), node.clone(), stop));
    Ok(())
}

/// TLS for the agent's API where the authority is at hand, or has been asked beforehand.
pub(crate) fn own_tls(pki: &Pki, node: &Node) -> anyhow::Result<rustls::ServerConfig> {
    let pair = pki.pair("node", &subject(node))?;
    pair.server_config(pki.ca(), true).context("setting up TLS for the agent's API")
}

fn log_bounds(args: &NodeArgs) -> anyhow::Result<agent::context::LogBounds> {
    let size = &args.container_log_max_size;
    let parsed =
        manifests::quantity::Quantity::parse(size).ok().and_then(|size| u64::try_from(size.value()).ok());
    let max_size = parsed
        .filter(|size| *size > 0)
        .with_context(|| format!("--container-log-max-size {size:?} is not a size such as 10Mi"))?;
    Ok(agent::context::LogBounds { max_size, max_files: args.container_log_max_files })
}

/// The well-known port if it is free, and any other if it is not: the node's object says which. An address that was
/// asked for is the only one that will do.
async fn listen(asked: Option<SocketAddr>, node: &Node) -> anyhow::Result<TcpListener> {
    if let Some(address) = asked {
        return TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {address} (--agent-listen)"));
    }
    // The node's address may be that of a bridge that does not exist yet.
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    match TcpListener::bind((any, PORT)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((any, 0)).await.context("listening for the agent's API")?;
            warn!(
                port = listener.local_addr()?.port(),
                node = node.name,
                "port {PORT} is in use; the agent's API is on another one"
            );
            Ok(listener)
        }
        Err(error) => Err(error).with_context(|| format!("listening on port {PORT} for the agent's API")),
    }
}

fn subject(node: &Node) -> Subject {
    Subject {
        common_name: format!("system:node:{}", node.name),
        organization: Some("system:nodes".to_owned()),
        dns_names: vec![node.name.clone()],
        addresses: vec![node.address.into(), std::net::Ipv4Addr::LOCALHOST.into()],
    }
}

/// Tells the proxy that a pod is about to go. The proxy may take a moment to answer, and pods do not wait for each other:
/// each has a connection of its own.
#[derive(Debug)]
struct ProxyDepartures {
    run_dir: PathBuf,
}

impl ProxyDepartures {
    async fn tell(&self, pod_uid: &str, addresses: &[IpAddr]) -> Result<(), proxy::ControlError> {
        Control::connect(&self.run_dir).await?.leaving(pod_uid, addresses).await
    }
}

#[async_trait]
impl Departures for ProxyDepartures {
    async fn leaving(&self, pod_uid: &str, addresses: &[String]) {
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        if addresses.is_empty() {
            return;
        }
        match tokio::time::timeout(PROXY_PATIENCE, self.tell(pod_uid, &addresses)).await {
            Ok(Ok(())) => {}
            // Without a proxy nobody is sent to the pod.
            Ok(Err(error)) => {
                tracing::debug!(error = %client::ErrorChain(&error), "the proxy is not there to be told")
            }
            Err(_) => warn!(pod_uid, "the proxy does not answer; the pod ends without its word"),
        }
    }
}

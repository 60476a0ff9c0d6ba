//! Builds the parts of an instance and runs them until a signal says that it is enough.

mod address;
mod agent;
pub(crate) mod control_plane;
mod directory;
pub(crate) mod down;
pub(crate) mod node;
pub(crate) mod proxy;
mod range;
mod shutdown;
mod signals;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::ApiServer;
use client::TaskGroup;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::flags::{AgentArgs, ClusterArgs, ControlPlaneArgs, NodeArgs, ServerArgs, UpArgs};
use crate::instance::{self, Instance, Part};
use crate::join::Membership;
use crate::nodes::layout::Layout;
use crate::{join, nodes};
use control_plane::ControlPlane;
use directory::Directory;
use node::{ClusterNetwork, Node};

/// How long everything may take to end in order.
const DRAIN: Duration = Duration::from_secs(10);

/// `coracle up`
pub(crate) fn run_up(args: UpArgs) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    let _locks = instance.lock(&Part::ALL)?;
    let network = ClusterNetwork::new(&args.cluster, &Default::default())?;
    let present = Layout::open(&instance)?;
    if args.nodes.is_some() || present.is_some() {
        nodes::check(&args)?;
        let layout = Layout::settle(&instance, present, args.nodes, args.nodes_cidr)?;
        return run(async |group: &mut TaskGroup| {
            Ok(Some(nodes::start(&instance, &args, layout, &network, group).await?))
        });
    }
    run(async |group: &mut TaskGroup| {
        let control_plane =
            ControlPlane::start(&instance, &args.control_plane, &network, None, group).await?;
        control_plane.start_controllers(group);
        start_agent(&instance, &args.cluster, &args.node, &control_plane, group).await?;
        Ok(Some(control_plane.server))
    })
}

/// `coracle agent`: of a server's cluster with a kubeconfig; without one, a whole control plane in this process, whose only
/// writer is the node's own manifests. It keeps what it made on disk: see `docs/adr/0007-directory-cluster.md`.
pub(crate) fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    // Without a server, this process is one for its own manifests.
    let remote = args.kubeconfig.is_some() || args.server.is_some();
    let parts: &[Part] = if remote { &[Part::Node] } else { &Part::ALL };
    let _locks = instance.lock(parts)?;
    // Wrong flags are told at once.
    let name = Node::new(&instance, &args.cluster, &args.node)?.name;
    run(async |group: &mut TaskGroup| match (&args.kubeconfig, &args.server) {
        (None, Some(server)) => {
            join::join(&instance, server, token(&args)?.as_deref(), &name).await?;
            member(&instance, &args, &name, group).await?;
            Ok(None)
        }
        // Somebody has prepared this node's place in the cluster.
        (Some(kubeconfig), _) if *kubeconfig == join::Files::of(&instance).kubeconfig => {
            member(&instance, &args, &name, group).await?;
            Ok(None)
        }
        (Some(kubeconfig), _) => {
            let client = client::Client::from_kubeconfig(kubeconfig)?;
            let pki = apiserver::pki::Pki::open_node(instance.pki_dir())?;
            let node = settled(&instance, &args.cluster, &args.node, &client).await?;
            let tls = agent::own_tls(&pki, &node)?;
            agent::start(&instance, &node, &args.node, tls, client, None, group).await?;
            Ok(None)
        }
        (None, None) => {
            if args.node.manifests.is_none() && args.node.manifest_url.is_none() {
                bail!(
                    "nothing to run: give --manifests DIR, --manifest-url URL, or the --server of a cluster with a --token"
                );
            }
            let flags = ControlPlaneArgs::local(instance.local_port().await);
            let network = ClusterNetwork::new(&args.cluster, &Default::default())?;
            let control_plane = ControlPlane::start(&instance, &flags, &network, None, group).await?;
            control_plane.start_controllers(group);
            start_agent(&instance, &args.cluster, &args.node, &control_plane, group).await?;
            Ok(Some(control_plane.server))
        }
    })
}

/// The token as a flag or in a file.
fn token(args: &AgentArgs) -> anyhow::Result<Option<String>> {
    match (&args.token, &args.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map(Some).with_context(|| format!("reading {}", file.display()))
        }
        (None, None) => Ok(None),
    }
}

/// A node of a cluster whose server is elsewhere.
async fn member(
    instance: &Instance,
    args: &AgentArgs,
    name: &str,
    group: &mut TaskGroup,
) -> anyhow::Result<()> {
    let membership = Membership::open(instance, name).await?;
    let renewal = membership.renewal(group.stop().clone());
    group.spawn_infallible("renewal of certificates", renewal);
    let node = settled(instance, &args.cluster, &args.node, &membership.client).await?;
    let tls = membership.serving.server_config(&membership.authority, true);
    let tls = tls.context("setting up TLS for the agent's API")?;
    agent::start(instance, &node, &args.node, tls, membership.client, None, group).await
}

/// The node with its share of the pod addresses.
async fn settled(
    instance: &Instance,
    cluster: &ClusterArgs,
    args: &NodeArgs,
    client: &client::Client,
) -> anyhow::Result<Node> {
    let node = Node::new(instance, cluster, args)?;
    match (&args.node_cidr, range::remembered(instance)) {
        (None, Some(_)) => Ok(node),
        (None, None) => {
            range::ask(instance, client, &node.name).await?;
            Node::new(instance, cluster, args)
        }
        (Some(_), remembered) => {
            if remembered != Some(node.network.pod_cidr) {
                range::bring(instance, client, &node.name, node.network.pod_cidr).await?;
            }
            Ok(node)
        }
    }
}

async fn start_agent(
    instance: &Instance,
    cluster: &ClusterArgs,
    args: &NodeArgs,
    control_plane: &ControlPlane,
    group: &mut TaskGroup,
) -> anyhow::Result<()> {
    let user = format!("system:node:{}", instance::node_name(args.node_name.as_deref())?);
    let client = control_plane.client(&user, &["system:nodes"]);
    let node = &settled(instance, cluster, args, &client).await?;
    // What is no pod in the manifests is written by somebody who may: a node may not.
    let objects = (args.manifests.is_some() || args.manifest_url.is_some()).then(|| {
        let (sender, objects) = watch::channel(::agent::sources::Objects::default());
        let stop = group.stop().clone();
        let admin = control_plane.client("system:coracle:manifests", &["system:masters"]);
        let (recorder, writer) = client::events::events(admin.clone(), "kubelet", Some(&node.name));
        group.spawn_infallible("events of manifests", writer.run(stop.clone()));
        let ledger = instance.data_dir.join("agent/manifests.json");
        let directory = Directory::new(admin, ledger, objects, recorder, node.name.clone());
        group.spawn_infallible("objects of manifests", directory.run(stop));
        sender
    });
    let tls = agent::own_tls(&control_plane.pki, node)?;
    agent::start(instance, node, args, tls, client, objects, group).await
}

/// `coracle server`, and without scheduler and controllers `coracle apiserver`.
pub(crate) fn run_server(args: ServerArgs, controllers: bool) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    let _locks = instance.lock(&[Part::ControlPlane])?;
    let network = ClusterNetwork::new(&args.cluster, &Default::default())?;
    run(async |group: &mut TaskGroup| {
        let control_plane =
            ControlPlane::start(&instance, &args.control_plane, &network, None, group).await?;
        if controllers {
            control_plane.start_controllers(group);
        }
        Ok(Some(control_plane.server))
    })
}

/// Builds the parts in a group of tasks, then waits until the process is asked to end or a part fails.
fn run(
    build: impl AsyncFnOnce(&mut TaskGroup) -> anyhow::Result<Option<Arc<ApiServer>>>,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(async {
        // One listener from beginning to end: between two, a signal would be lost.
        let mut asked = std::pin::pin!(signals::asked_to_end()?);
        let mut group = TaskGroup::new(CancellationToken::new());
        let stop = group.stop().clone();
        let built = tokio::select! {
            built = build(&mut group) => Some(built),
            _ = &mut asked => None,
        };
        let server = match built {
            Some(Ok(server)) => server,
            // Asked to end before all was built, or unable to build: what runs already ends in order.
            unfinished => {
                stop.cancel();
                let ended = group.join(DRAIN).await;
                unfinished.transpose()?;
                return ended.context("a part of coracle failed");
            }
        };
        let stopper = async {
            tokio::select! {
                signal = &mut asked => info!(signal, "ending; pods, services and DNS go on"),
                () = stop.cancelled() => {}
            }
            // Watches first: they would keep connections open until the deadline.
            if let Some(server) = &server {
                server.stop().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(group.join(DRAIN), stopper);
        ended.context("a part of coracle failed")
    });
    // What still runs on blocking threads is not waited for: it is repeated on the next start.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Err(error) if address::is_cause(&error) => Err(address::begin_again(&error)),
        result => result,
    }
}

/// Many pods and connections need many descriptors; the hard limit is the administrator's word.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Where this instance's sandboxes are and how its keepers start.
pub(crate) fn runtime_config(instance: &Instance, group: &str) -> runtime::Config {
    runtime::Config {
        run_dir: instance.keeper_dir(),
        state_dir: instance.data_dir.join("sandboxes"),
        cgroup_parent: group.to_owned(),
        // The directory says to whoever looks at processes whose keeper it is.
        keeper_argv: vec!["/proc/self/exe".into(), crate::KEEPER.into(), instance.keeper_dir().into()],
    }
}

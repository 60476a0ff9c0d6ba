//! Builds the parts of an instance and runs them until a signal says that it is enough.

mod agent;
pub(crate) mod control_plane;
mod directory;
pub(crate) mod down;
mod node;
pub(crate) mod proxy;
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

use crate::flags::{AgentArgs, ControlPlaneArgs, NodeArgs, ServerArgs, UpArgs};
use crate::instance::{Instance, Part};
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
    let node = Node::new(&instance, &args.cluster, &args.node)?;
    run(async |group: &mut TaskGroup| {
        let control_plane =
            ControlPlane::start(&instance, &args.control_plane, node.cluster.services, group).await?;
        control_plane.start_controllers(group);
        start_agent(&instance, &node, &args.node, &control_plane, group).await?;
        Ok(Some(control_plane.server))
    })
}

/// `coracle agent`: of a server's cluster with a kubeconfig; without one, a whole control plane in this process, whose only
/// writer is the node's own manifests. It keeps what it made on disk: see `docs/adr/0007-directory-cluster.md`.
pub(crate) fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    // Without a server, this process is one for its own manifests.
    let parts: &[Part] = if args.kubeconfig.is_some() { &[Part::Node] } else { &Part::ALL };
    let _locks = instance.lock(parts)?;
    let node = Node::new(&instance, &args.cluster, &args.node)?;
    run(async |group: &mut TaskGroup| match &args.kubeconfig {
        Some(kubeconfig) => {
            let client = client::Client::from_kubeconfig(kubeconfig)?;
            let pki = apiserver::pki::Pki::open_node(instance.pki_dir())?;
            agent::start(&instance, &node, &args.node, &pki, client, None, group).await?;
            Ok(None)
        }
        None => {
            if args.node.manifests.is_none() && args.node.manifest_url.is_none() {
                bail!(
                    "nothing to run: give --manifests DIR, --manifest-url URL, or the --kubeconfig of a cluster"
                );
            }
            let flags = ControlPlaneArgs::local(instance.local_port().await);
            let control_plane = ControlPlane::start(&instance, &flags, node.cluster.services, group).await?;
            control_plane.start_controllers(group);
            start_agent(&instance, &node, &args.node, &control_plane, group).await?;
            Ok(Some(control_plane.server))
        }
    })
}

async fn start_agent(
    instance: &Instance,
    node: &Node,
    args: &NodeArgs,
    control_plane: &ControlPlane,
    group: &mut TaskGroup,
) -> anyhow::Result<()> {
    let user = format!("system:node:{}", node.name);
    let client = control_plane.client(&user, &["system:nodes"]);
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
    agent::start(instance, node, args, &control_plane.pki, client, objects, group).await
}

/// `coracle server`, and without scheduler and controllers `coracle apiserver`.
pub(crate) fn run_server(args: ServerArgs, controllers: bool) -> anyhow::Result<()> {
    let instance = Instance::new(&args.instance)?;
    instance.create_directories()?;
    let _locks = instance.lock(&[Part::ControlPlane])?;
    let network = ClusterNetwork::new(&args.cluster)?;
    run(async |group: &mut TaskGroup| {
        let control_plane =
            ControlPlane::start(&instance, &args.control_plane, network.services, group).await?;
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
        let asked = signals::asked_to_end();
        let mut group = TaskGroup::new(CancellationToken::new());
        let stop = group.stop().clone();
        let built = tokio::select! {
            built = build(&mut group) => Some(built),
            asked = asked => asked.map(|_| None)?,
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
                asked = signals::asked_to_end() => match asked {
                    Ok(signal) => info!(signal, "ending; pods, services and DNS go on"),
                    Err(error) => tracing::error!(%error, "signals cannot be received"),
                },
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
    result
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

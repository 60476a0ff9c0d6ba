//! `coracle up --nodes N`: a cluster of several nodes on one machine, without virtual machines. Each node is a network namespace with an
//! agent of its own; the control plane is this process.
//!
//! ```text
//!   coracle up --nodes 3 ── API server 127.0.0.1:6443 and 10.45.0.1:6443, scheduler, controllers
//!     ├─ coracle agent n1     in <run>/nodes/n1.net, 10.45.0.10      pods 10.42.0.0/24
//!     ├─ coracle agent n2     in <run>/nodes/n2.net, 10.45.0.11      pods 10.42.1.0/24
//!     └─ coracle agent n3     in <run>/nodes/n3.net, 10.45.0.12      pods 10.42.2.0/24
//! ```
//!
//! Nodes join as other machines do: by a token, once. They share the image store, and with it this machine's images.

pub(crate) mod cables;
pub(crate) mod control;
pub(crate) mod layout;
mod power;
mod supervise;

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{ApiServer, pki};
use client::{Client, Informer, TaskGroup};
use manifests::k8s_openapi::api::core::v1::Node as ApiNode;
use network::Network;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::commands::token::mint;
use crate::flags::{NodeArgs, UpArgs};
use crate::instance::Instance;
use crate::up::control_plane::ControlPlane;
use crate::up::node::ClusterNetwork;
use cables::Cables;
use layout::Layout;
use supervise::{AgentLine, Nodes};

/// Nodes join within seconds; the token is worth nothing afterwards.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// Starts the control plane and the nodes.
pub(crate) async fn start(
    instance: &Instance,
    args: &UpArgs,
    layout: Layout,
    network: &ClusterNetwork,
    group: &mut TaskGroup,
) -> anyhow::Result<Arc<ApiServer>> {
    let cables = Cables::new(instance, &layout);
    cables.ensure_bridge().await?;
    let host = Some(layout.host());
    let control_plane = ControlPlane::start(instance, &args.control_plane, network, host, group).await?;
    control_plane.start_controllers(group);
    let admin = control_plane.client("system:coracle:nodes", &["system:masters"]);

    let joined = |place: &layout::Place| place.instance(instance).pki_dir().join("agent-client.pem").exists();
    let token = if layout.nodes.iter().all(joined) {
        None
    } else {
        let authority = pki::fingerprint(control_plane.pki.ca()).context("the authority's certificate")?;
        let token = mint(&admin, &authority, "coracle up --nodes", TOKEN_LIFE).await?;
        Some(token.to_string())
    };
    let line = AgentLine { server: control_plane.url_for_nodes.clone(), token, flags: flags(&args.node) };
    let nodes = Nodes::new(instance, &layout, cables, network.services, line);
    let stop = group.stop().clone();
    group.spawn("nodes", async move { nodes.run(stop).await.map_err(anyhow::Error::into_boxed_dyn_error) });
    group.spawn_infallible("news of nodes", tell(admin.clone(), group.stop().clone()));
    // This machine is no node, and reaches pods all the same.
    let routes = routes_of_machine(instance, network)?;
    group.spawn_infallible(
        "routes to pods",
        ::agent::node::routes::follow(admin, String::new(), routes, group.stop().clone()),
    );
    Ok(control_plane.server)
}

/// What of a node's flags makes sense for several.
fn flags(args: &NodeArgs) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: String| flags.extend([name.into(), value.into()]);
    if let Some(hard) = &args.eviction_hard {
        flag("--eviction-hard", hard.clone());
    }
    flag("--eviction-soft", args.eviction_soft.clone());
    flag("--eviction-soft-grace-period", args.eviction_soft_grace_period.clone());
    flag("--eviction-max-pod-grace-period", args.eviction_max_pod_grace_period.to_string());
    flag("--container-log-max-size", args.container_log_max_size.clone());
    flag("--container-log-max-files", args.container_log_max_files.to_string());
    flag("--max-pods", args.max_pods.to_string());
    flags
}

/// What belongs to one node cannot be said of several.
pub(crate) fn check(args: &UpArgs) -> anyhow::Result<()> {
    let node = &args.node;
    let single = [
        ("--node-name", node.node_name.is_some()),
        ("--node-ip", node.node_ip.is_some()),
        ("--node-cidr", node.node_cidr.is_some()),
        ("--manifests", node.manifests.is_some()),
        ("--manifest-url", node.manifest_url.is_some()),
        ("--agent-listen", node.agent_listen.is_some()),
        ("--bridge", node.bridge.is_some()),
        ("--cgroup-parent", node.cgroup_parent.is_some()),
    ];
    if let Some((flag, _)) = single.iter().find(|(_, given)| *given) {
        bail!("{flag} is for one node, and --nodes makes several");
    }
    Ok(())
}

/// The routes of this machine are kept as a node keeps its own; all nodes are its neighbours, so it never needs a tunnel.
fn routes_of_machine(instance: &Instance, network: &ClusterNetwork) -> anyhow::Result<Network> {
    let name = format!("{}-n", instance.kernel_names(None).group);
    Ok(Network::new(network::Config {
        // There is no such bridge: what is on one's own bridge would be no neighbour.
        bridge: "none".to_owned(),
        pod_cidr: network.pods,
        cluster_cidr: network.pods,
        service_cidr: Some(network.services),
        address: None,
        mtu: Some(1500),
        nft_table: name,
        state_dir: instance.run_dir.join("routes"),
    })?)
}

/// Says when nodes become Ready, and when they are no longer.
async fn tell(client: Client, stop: CancellationToken) {
    let informer = Informer::new(client.all::<ApiNode>());
    let nodes = informer.cache();
    let mut changes = nodes.changes();
    let told = async {
        let mut known = std::collections::BTreeMap::new();
        loop {
            for node in nodes.list() {
                let name = node.metadata.name.clone().unwrap_or_default();
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let ready = conditions.filter(|one| one.type_ == "Ready").any(|one| one.status == "True");
                if known.insert(name.clone(), ready).unwrap_or(false) != ready {
                    info!(node = name, ready, "node");
                }
            }
            changes.next().await;
        }
    };
    tokio::select! {
        () = informer.run(stop) => {}
        () = told => {}
    }
}

/// Ends all nodes and leaves the machine as it was; what is stored stays.
pub(crate) async fn down(instance: &Instance, layout: &Layout, grace: [u64; 2]) -> anyhow::Result<()> {
    let cables = Cables::new(instance, layout);
    let mut failures = Vec::new();
    let ends = layout.nodes.iter().map(|place| {
        let (place, instance, cables) = (place.clone(), instance.clone(), cables.clone());
        tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            if let Some(netns) = cables.open(&place) {
                let node = place.instance(&instance);
                // As on a machine of its own.
                let mut command = Command::new("/proc/self/exe");
                command.arg("down").arg("--data-dir").arg(&node.data_dir).arg("--run-dir").arg(&node.run_dir);
                command.args(["--cgroup-parent", &place.group(&instance)]);
                command.args(["--grace-period", &grace[0].to_string()]);
                command.args(["--grace-period-critical", &grace[1].to_string()]);
                let output = netns.run(|| command.stdin(Stdio::null()).output())??;
                if !output.status.success() {
                    bail!("{}: {}", place.name, String::from_utf8_lossy(&output.stderr).trim());
                }
            }
            cables.disconnect(&place)
        })
    });
    for end in futures_util::future::join_all(ends).await {
        if let Err(error) = end.map_err(anyhow::Error::from).and_then(|end| end) {
            failures.push(format!("{error:#}"));
        }
    }
    if let Err(error) = cables.remove_bridge().await {
        failures.push(format!("{error:#}"));
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

//! The node in the API: its object, its status, its heartbeat.
//!
//! The node is Ready with its first report. A heartbeat renews a Lease every ten seconds; the status is written when it has changed,
//! and every five minutes so that its times move on.

mod facts;
pub mod routes;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, Error, Object as _, Patch};
use manifests::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use manifests::k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::volumes::LOCAL_PATH;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clocks;
use crate::eviction::Thresholds;
use crate::machine::Images;
use crate::volume::reclaim;
pub use facts::{Facts, Pressure};
pub use status::{allocatable, capacity};

/// Upstream's: four heartbeats may be lost.
const LEASE_SECONDS: i32 = 40;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// An unchanged status is written as seldom as this.
const REPORT: Duration = Duration::from_secs(300);
const LEASES: &str = "kube-node-lease";
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7));

/// What the node says of itself that does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name in the API.
    pub name: String,
    /// The machine's name.
    pub hostname: String,
    /// Addresses at which others reach it, the primary one first.
    pub addresses: Vec<String>,
    /// Port of the node's own API.
    pub port: u16,
    /// Addresses of its pods.
    pub pod_cidr: String,
    /// Most pods.
    pub max_pods: u32,
    /// Labels beyond those that every node has.
    pub labels: BTreeMap<String, String>,
    /// `v1.37.0+coracle-0.1.0`.
    pub version: String,
    /// The directory whose file system pods share.
    pub data_dir: PathBuf,
}

/// Keeps the node's object, status and Lease until told to stop. `object` follows what the server has. Each heartbeat looks
/// at the clock as well, for `clock_set`.
pub async fn run(
    client: Client,
    identity: Identity,
    thresholds: Thresholds,
    images: Arc<dyn Images>,
    object: watch::Sender<Option<Arc<Node>>>,
    clock_set: watch::Sender<()>,
    stop: CancellationToken,
) {
    let mut reporter = Reporter { client, identity, thresholds, images, object, reported: None };
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    let mut clocks = Clocks::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if clocks.was_set() {
            info!("the machine's clock was set");
            clock_set.send_replace(());
        }
        while let Err(error) = reporter.report().await {
            failures += 1;
            if failures == 3 {
                warn!(error = %client::ErrorChain(&error), "the node cannot report; trying on");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BACKOFF.delay(failures)) => {}
            }
        }
        if failures >= 3 {
            info!("the node reports again");
        }
        failures = 0;
    }
}

struct Reporter {
    client: Client,
    identity: Identity,
    thresholds: Thresholds,
    images: Arc<dyn Images>,
    object: watch::Sender<Option<Arc<Node>>>,
    /// The last status that the server has taken, and when.
    reported: Option<(NodeStatus, Instant)>,
}

impl Reporter {
    /// Status first: a node is Ready with its first report, before its first heartbeat.
    async fn report(&mut self) -> Result<(), Error> {
        let nodes = self.client.all::<Node>();
        let data_dir = self.identity.data_dir.clone();
        // Reading /proc and asking a file system can block.
        let facts = tokio::task::spawn_blocking(move || Facts::read(&data_dir)).await.unwrap_or_default();
        let images = self.images.list().await;
        let before = self.reported.as_ref().map(|(status, _)| status);
        let status = {
            let pressure = Pressure::of(&self.thresholds.shortages(&facts.supplies));
            status::status(&self.identity, &facts, pressure, &images, before, Timestamp::now())
        };
        // What the server has may be somebody else's word: a node that was silent for too long is given up, and only it can say that
        // it is back.
        let found = nodes.get_opt(&self.identity.name).await?;
        let due = found.as_ref().is_none_or(|node| status::is_contradicted(node, &status))
            || self
                .reported
                .as_ref()
                .is_none_or(|(have, at)| at.elapsed() >= REPORT || !status::same(have, &status));
        if due {
            let node = match found {
                None => nodes.create(&self.node(&status)).await?,
                Some(node) => self.refresh(node).await?,
            };
            let patch = Patch::Strategic(serde_json::json!({"status": status}));
            let node = nodes.patch_status(node.name(), &patch).await?;
            if self.reported.is_none() {
                info!(node = node.name(), "the node is registered");
            }
            self.object.send_replace(Some(Arc::new(node)));
            self.reported = Some((status, Instant::now()));
        }
        match self.heartbeat().await {
            // Somebody deleted the node: register anew.
            Err(error) if error.is_not_found() => {
                self.reported = None;
                Err(error)
            }
            result => result,
        }
    }

    fn node(&self, status: &NodeStatus) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.identity.name.clone()),
                labels: Some(status::labels(&self.identity)),
                annotations: Some(self.annotations()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: Some(self.identity.pod_cidr.clone()),
                pod_cidrs: Some(vec![self.identity.pod_cidr.clone()]),
                ..NodeSpec::default()
            }),
            status: Some(status.clone()),
        }
    }

    /// Where claims get their directories.
    fn annotations(&self) -> BTreeMap<String, String> {
        let base = reclaim::directory(&self.identity.data_dir);
        [(LOCAL_PATH.to_owned(), base.display().to_string())].into()
    }

    /// Labels of ours that an existing object lacks, and its range, if it has none.
    async fn refresh(&self, node: Node) -> Result<Node, Error> {
        let wanted = status::labels(&self.identity);
        let have = node.metadata.labels.clone().unwrap_or_default();
        let noted = node.metadata.annotations.clone().unwrap_or_default();
        let notes = self.annotations();
        let missing = wanted.iter().any(|(key, value)| have.get(key) != Some(value))
            || notes.iter().any(|(key, value)| noted.get(key) != Some(value));
        let no_range = node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none());
        if !missing && !no_range {
            return Ok(node);
        }
        let mut patch = serde_json::json!({"metadata": {"labels": wanted, "annotations": notes}});
        if no_range {
            patch["spec"] =
                serde_json::json!({"podCIDR": self.identity.pod_cidr, "podCIDRs": [self.identity.pod_cidr]});
        }
        self.client.all::<Node>().patch(node.name(), &Patch::Strategic(patch)).await
    }

    async fn heartbeat(&self) -> Result<(), Error> {
        let leases = self.client.namespaced::<Lease>(LEASES);
        let name = &self.identity.name;
        let renew = serde_json::json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
        match leases.patch(name, &Patch::Merge(renew)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        // The Lease goes with the node; a missing node is found here.
        let node = self.client.all::<Node>().get(name).await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.clone(),
                    uid: node.uid().to_owned(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        leases.create(&lease).await.map(drop)
    }
}

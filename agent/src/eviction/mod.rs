//! Evicting pods: those that use more of the disk than they may, and, when the node runs short of something, one after the
//! other until it does not.
//!
//! ```text
//!   every ten seconds: observe (what is left, what pods use) ─▶ decide (who goes, and why) ─▶ tell its worker
//! ```
//!
//! There is no event for "the disk is getting full"; the look is a few numbers from the kernel, and a walk over the files of
//! pods that have bounds. One pod goes at a time, and the next only when the one before has ended: what it frees may be
//! enough. Static pods and pods of system priority stay: nobody could bring them back.

mod decide;
mod measure;
mod thresholds;

use std::time::Duration;

use client::EventType;
use jiff::SignedDuration;
use manifests::k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::decide::{Candidate, has_disk_limits, is_critical, message, over_limit, rank};
use crate::events::Events;
use crate::names::{Layout, pod_id, uid};
use crate::node::Facts;
use crate::pod::decide::PodFailure;
use crate::pod::status::is_terminal;
use crate::pod::worker::View;
use crate::pods::Registry;
pub use thresholds::{Shortage, Signal, Supplies, Supply, ThresholdError, Thresholds};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a pod that goes is waited for before the next has to.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is left to processes when the node is in trouble.
const GRACE: SignedDuration = SignedDuration::from_secs(1);

/// A pod has to go.
#[derive(Debug)]
pub struct Evict {
    /// Of the pod.
    pub uid: String,
    /// Why.
    pub failure: PodFailure,
}

/// Looks after the node's supplies.
#[derive(Debug)]
pub struct Manager {
    /// All pods.
    pub registry: Registry,
    /// Where their files are.
    pub layout: Layout,
    /// What must be left.
    pub thresholds: Thresholds,
    /// For events about the node.
    pub events: Events,
    /// The node's name.
    pub node: String,
    /// Who tells the workers.
    pub evictions: mpsc::Sender<Evict>,
}

impl Manager {
    /// Looks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut going: Option<(String, Instant)> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let views: Vec<View> = self.registry.all().into_iter().filter(runs).collect();
            if views.is_empty() {
                continue;
            }
            self.hold_to_limits(&views).await;
            let waits = going.as_ref().is_some_and(|(pod, since)| {
                since.elapsed() < PATIENCE
                    && self.registry.all().iter().any(|view| uid(&view.pod) == pod && lives(view))
            });
            if !waits {
                going = self.relieve(&views).await.map(|pod| (pod, Instant::now()));
            }
        }
    }

    /// Pods that use more of the disk than they may.
    async fn hold_to_limits(&self, views: &[View]) {
        for view in views.iter().filter(|view| has_disk_limits(&view.pod) && !is_critical(&view.pod)) {
            let usage = self.disk_usage(view).await;
            if let Some(message) = over_limit(&view.pod, &usage) {
                self.evict(view, PodFailure::over_limit(message)).await;
            }
        }
    }

    async fn disk_usage(&self, view: &View) -> decide::Usage {
        let (view, layout) = (view.clone(), self.layout.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let mut usage = decide::Usage::default();
            measure::on_disk(&view, &layout, &mut usage);
            usage
        });
        // Only fails when the process is stopping.
        measured.await.unwrap_or_default()
    }

    /// If something is short, one pod goes; says which.
    async fn relieve(&self, views: &[View]) -> Option<String> {
        let dir = self.layout.data_dir().to_owned();
        let supplies = tokio::task::spawn_blocking(move || Facts::supplies(&dir)).await.ok()?;
        let shortages = self.thresholds.shortages(&supplies);
        let shortage = shortages.first()?;
        self.say(shortage);
        let mut candidates = Vec::new();
        for view in views.iter().filter(|view| !is_critical(&view.pod)) {
            let usage = match shortage.signal {
                Signal::Memory | Signal::Pids => measure::running(view).await,
                Signal::Disk | Signal::Inodes => self.disk_usage(view).await,
            };
            candidates.push(Candidate { pod: view.pod.clone(), usage });
        }
        rank(shortage.signal, &mut candidates);
        let first = candidates.first()?;
        let view = views.iter().find(|view| uid(&view.pod) == uid(&first.pod))?;
        self.evict(view, PodFailure::evicted(message(shortage, first), Some(GRACE))).await;
        Some(uid(&first.pod).to_owned())
    }

    fn say(&self, shortage: &Shortage) {
        let resource = shortage.signal.resource();
        tracing::warn!(resource, %shortage, "the node is running short; a pod has to go");
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        let message = format!("Attempting to reclaim {resource}");
        self.events.about(node, EventType::Warning, "EvictionThresholdMet", message);
    }

    async fn evict(&self, view: &View, failure: PodFailure) {
        tracing::warn!(pod = %pod_id(&view.pod), message = failure.message, "evicting a pod");
        // Fails only when the agent is stopping.
        let _ = self.evictions.send(Evict { uid: uid(&view.pod).to_owned(), failure }).await;
    }
}

/// Whether a pod is not over and not on its way out.
fn runs(view: &View) -> bool {
    let over = view.status.phase.as_deref().is_some_and(is_terminal);
    !over && view.pod.metadata.deletion_timestamp.is_none()
}

fn lives(view: &View) -> bool {
    view.containers.values().any(|container| container.running)
}

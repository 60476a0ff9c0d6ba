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
mod images;
mod measure;
mod soft;
mod thresholds;

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::SignedDuration;
use manifests::k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::decide::{Candidate, has_disk_limits, is_critical, message, over_limit, rank};
use self::images::Collector;
use self::soft::Since;
use crate::events::Events;
use crate::machine::Images;
use crate::names::{Layout, pod_id, uid};
use crate::node::Facts;
use crate::pod::decide::PodFailure;
use crate::pod::decide::grace_period;
use crate::pod::status::is_terminal;
use crate::pod::worker::View;
use crate::pods::Registry;
pub use images::ImagePolicy;
pub use soft::Soft;
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
    /// What should be left.
    pub soft: Soft,
    /// For events about the node.
    pub events: Events,
    /// The node's name.
    pub node: String,
    /// Who tells the workers.
    pub evictions: mpsc::Sender<Evict>,
    /// The images of the machine.
    pub images: Arc<dyn Images>,
    /// When those that nobody uses go.
    pub image_policy: ImagePolicy,
}

impl Manager {
    /// Looks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut going: Option<(String, Instant)> = None;
        let mut since = Since::new();
        let mut collector = Collector::new(self.images.clone(), self.image_policy);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.collect_images(&mut collector).await;
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
                going =
                    self.relieve(&views, &mut collector, &mut since).await.map(|pod| (pod, Instant::now()));
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

    /// Images that nobody uses, when the disk fills.
    async fn collect_images(&self, collector: &mut Collector) {
        let Some(supplies) = self.supplies("images").await else { return };
        if let Some((kind, message)) = collector.relieve(supplies.disk, &self.registry.all()).await {
            tracing::warn!(message, "the disk is filling");
            self.events.about(self.node(), kind, "FreeDiskSpaceFailed", message);
        }
    }

    async fn supplies(&self, below: &str) -> Option<Supplies> {
        let dir = self.layout.data_dir().join(below);
        // Only fails when the process is stopping.
        tokio::task::spawn_blocking(move || Facts::supplies(&dir)).await.ok()
    }

    /// What is short, and the most that pods have to end because of it.
    async fn shortage(&self, since: &mut Since) -> Option<(Shortage, SignedDuration)> {
        let supplies = self.supplies("").await?;
        let overdue = self.soft.overdue(&supplies, since, Instant::now());
        if let Some(shortage) = self.thresholds.shortages(&supplies).into_iter().next() {
            return Some((shortage, GRACE));
        }
        Some((overdue?, SignedDuration::try_from(self.soft.max_grace).unwrap_or(SignedDuration::MAX)))
    }

    /// If something is short, one pod goes; says which.
    async fn relieve(&self, views: &[View], collector: &mut Collector, since: &mut Since) -> Option<String> {
        let (mut shortage, mut grace) = self.shortage(since).await?;
        self.say(&shortage);
        if matches!(shortage.signal, Signal::Disk | Signal::Inodes)
            && collector.remove_unused(&self.registry.all()).await > 0
        {
            // What images took may be enough.
            (shortage, grace) = self.shortage(since).await?;
        }
        let shortage = &shortage;
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
        let own = view.pod.spec.as_ref().map_or(SignedDuration::ZERO, grace_period);
        self.evict(view, PodFailure::evicted(message(shortage, first), Some(grace.min(own)))).await;
        Some(uid(&first.pod).to_owned())
    }

    fn say(&self, shortage: &Shortage) {
        let resource = shortage.signal.resource();
        tracing::warn!(resource, %shortage, "the node is running short");
        let message = format!("Attempting to reclaim {resource}");
        self.events.about(self.node(), EventType::Warning, "EvictionThresholdMet", message);
    }

    fn node(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        }
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

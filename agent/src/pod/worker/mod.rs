//! A pod's worker: one task that owns everything about its pod.
//!
//! ```text
//!   sources, runtime events, probe verdicts, objects, timers, outcomes
//!        │ one at a time
//!        ▼
//!   facts ──observe──▶ decide ──▶ plan ──apply──▶ operations (run beside each other, each once at a time)
//!              │                                      │
//!              └──▶ status ──▶ publisher              └── outcome ──▶ facts
//! ```
//!
//! The worker sleeps until one of its inputs has something, or the plan's own time has come. Nothing is polled.

mod adopt;
mod facts;
mod hear;
mod mirror;
mod operations;
mod probes;
mod publish;
mod record;
mod target;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Container, Node, Pod};
use runtime::SandboxEvent;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::target::Target;
use self::view::ResizeSaid;
pub use self::view::{ContainerView, View};

use self::adopt::{Found, adopt};
use self::facts::Facts;
use self::hear::next_event;
use self::mirror::MirrorState;
use self::operations::{Done, Operations};
use self::publish::Publisher;
use self::record::Record;
use super::apply::remove_files;
use super::decide::decide;
use super::observe::{Stop, containers, ephemeral};
use super::resize::Verdict;
use super::status::status;
use crate::clock::is_early;
use crate::context::Context;
use crate::machine::PodSandbox;
use crate::names::{self, is_static};
use crate::objects::{Subscription, references};
use crate::probe::{Kind, ProbeResult, Probing};

/// The worker of one pod.
#[derive(Debug)]
pub struct Worker {
    context: Arc<Context>,
    target: watch::Receiver<Target>,
    node: watch::Receiver<Option<Arc<Node>>>,
    /// Changes when a pod of the node needs nothing any more.
    freed: watch::Receiver<()>,
    view: watch::Sender<View>,
    facts: Facts,
    subscription: Subscription,
    publisher: Publisher,
    operations: Operations,
    sandbox_events: Option<broadcast::Receiver<SandboxEvent>>,
    /// What is there of the pod from before, to be adopted first.
    found: Option<Found>,
    probes: BTreeMap<(String, Kind), Probing>,
    verdicts: (mpsc::Sender<ProbeResult>, mpsc::Receiver<ProbeResult>),
    /// When the containers that are being stopped will be killed.
    stop_deadline: BTreeMap<String, watch::Sender<Timestamp>>,
    /// Since when the pod is to go, and for how long it may.
    stop: Option<Stop>,
    /// What was said about waiting containers.
    said: BTreeMap<String, String>,
    failed_said: bool,
    /// What was said about other resources.
    resize_said: ResizeSaid,
    mirror: MirrorState,
    /// Ends of containers whose start is not known to be over yet.
    early_exits: BTreeMap<String, runtime::Exit>,
}

impl Worker {
    /// A worker for a pod; `sandboxes` are those that the runtime already has for it.
    pub fn new(
        context: Arc<Context>,
        target: watch::Receiver<Target>,
        sandboxes: Vec<Arc<dyn PodSandbox>>,
    ) -> (Self, watch::Receiver<View>) {
        let first = target.borrow().clone();
        let pod = first.pod.clone();
        let dir = context.layout.pod(names::uid(&pod));
        let record = Record::read(&dir);
        // What the API knows may be newer or older than the record; it is the record that we wrote last.
        let last_status = record
            .as_ref()
            .map(|record| record.status.clone())
            .or_else(|| first.mirror.as_ref().and_then(|mirror| mirror.status.clone()))
            .or_else(|| pod.status.clone())
            .unwrap_or_default();
        let facts = Facts::new(pod.clone(), last_status.clone());
        let subscription = context.objects.subscribe(&pod, &references(&pod), &dir);
        let publisher = Publisher::new(context.client.clone(), &dir, record.clone());
        let (view, views) = watch::channel(View {
            pod,
            status: Arc::new(last_status),
            sandbox: None,
            containers: BTreeMap::new(),
        });
        let worker = Self {
            node: context.node_object.clone(),
            freed: context.registry.freed(),
            context,
            target,
            view,
            facts,
            subscription,
            publisher,
            operations: Operations::default(),
            sandbox_events: None,
            found: Some(Found { record, sandboxes }),
            probes: BTreeMap::new(),
            verdicts: mpsc::channel(16),
            stop_deadline: BTreeMap::new(),
            stop: None,
            said: BTreeMap::new(),
            failed_said: false,
            resize_said: ResizeSaid::default(),
            mirror: MirrorState::default(),
            early_exits: BTreeMap::new(),
        };
        (worker, views)
    }

    /// Works until the pod is gone, or until told to stop; then everything is left as it is, to be adopted later.
    pub async fn run(mut self, stop: CancellationToken) {
        if let Some(found) = self.found.take() {
            self.sandbox_events = adopt(&self.context, &mut self.facts, found).await;
        }
        self.take_target();
        loop {
            let now = Timestamp::now();
            let seen = self.facts.observe(&self.context, self.intent(now), now);
            let plan = decide(&seen);
            if plan.resize == Some(Verdict::Give) {
                self.give();
                continue;
            }
            self.facts.last_status = status(&seen, &plan);
            self.say(&plan);
            self.publish();
            self.reconcile_probes();
            self.apply(&plan, now);
            self.reconcile_mirror(now);
            if self.facts.confirmed && self.target.borrow().removed.is_some() && !self.mirror.busy {
                drop(self.probes);
                self.publisher.settle_record().await;
                remove_files(&self.context, &self.facts.pod).await;
                return;
            }
            if !self.wait(plan.wake_at, now, &stop).await {
                self.publisher.settle_record().await;
                return;
            }
        }
    }

    /// Waits for the next input and takes it in; false when told to stop.
    async fn wait(&mut self, wake_at: Option<Timestamp>, now: Timestamp, stop: &CancellationToken) -> bool {
        let wake_at = [wake_at, self.retry_at(now)].into_iter().flatten().min();
        let sleep = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        tokio::select! {
            () = stop.cancelled() => return false,
            done = self.operations.next() => match done {
                Done::Outcome(outcome) => self.absorb(*outcome).await,
                Done::Mirror(worked) => self.mirror_done(worked),
            },
            event = next_event(&mut self.sandbox_events) => self.sandbox_event(event).await,
            // The sender is ours too, so the channel never closes.
            verdict = self.verdicts.1.recv() => if let Some(verdict) = verdict {
                self.facts.absorb_probe(&verdict);
            },
            changed = self.target.changed() => {
                if changed.is_err() {
                    return false;
                }
                self.take_target();
            }
            () = self.subscription.changed() => self.objects_changed().await,
            () = self.publisher.next() => {}
            _ = self.node.changed(), if self.needs_node() => {}
            _ = self.freed.changed(), if self.waits_for_room() => {}
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
        }
        true
    }

    /// When something that failed while the pod is going is to be tried again.
    fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        let failures = [&self.facts.tear_down_failure, &self.facts.confirm_failure];
        let times = failures.into_iter().flatten().map(|failure| failure.retry_at);
        times.chain(self.mirror.not_before).filter(|at| is_early(now, *at)).min()
    }

    /// Waits until other pods have less, for a pod that wants what they have.
    fn waits_for_room(&self) -> bool {
        !Arc::ptr_eq(&self.facts.pod, &self.facts.wanted)
    }

    fn needs_node(&self) -> bool {
        is_static(&self.facts.pod) && self.context.client.is_some()
    }
}

/// A container of a pod by its name, whatever part it has.
fn find<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let known = containers(spec).map(|(container, _)| container).find(|container| container.name == name);
    let passing = || ephemeral(spec).into_iter().find(|container| container.name == name).map(Cow::Owned);
    known.map(Cow::Borrowed).or_else(passing)
}

//! The scheduler as a task: one owner of queue and snapshot, fed by caches, acting through jobs.
//!
//! ```text
//!   pod and node caches ──keys──▶ observe ──▶ snapshot, queue
//!                                               │ pop
//!                                            schedule (pure)
//!                               fits │                        │ fits nowhere
//!                     assume, bind as a job              condition and event, wait for a helpful event;
//!                         │                               perhaps make others of lower priority go
//!                         │ done: event   │ failed: forget the assumption, look again, retry
//! ```
//!
//! A pod is counted on its node from the decision on (assumed), so the next decision sees it. Binding
//! carries the pod's uid; if its outcome is unknown, the API server is asked before anything else is
//! done with the pod: it is never bound twice. Everything is rebuilt from the caches after a restart.

mod bind;
mod condition;
mod evict;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;

use client::lease::{Leadership, LeaseOptions, lead};
use client::{
    Cache, Client, Error, ErrorChain, EventRecorder, Informers, Object, ObjectKey, TaskError, TaskGroup,
    events,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use manifests::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use self::bind::Outcome;
use self::condition::Nomination;
use crate::plugins::Plugin;
use crate::plugins::volume_binding::Catalog;
use crate::pod_info::PodInfo;
use crate::preempt::{Candidate, Preemption};
use crate::queue::{Plugins, Queue};
use crate::schedule::{Placement, schedule};
use crate::snapshot::Snapshot;
use crate::unschedulable::Unschedulable;

/// Requests under way at once; decisions wait when there are more.
const JOBS: usize = 128;

/// Decisions in a row before changes are looked at again.
const BATCH: usize = 32;

/// Tasks end within this after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How the scheduler runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Decide only while holding this lease; None for a single server.
    pub lease: Option<LeaseOptions>,
    /// Caches that the process shares, and runs; None makes some for the scheduler alone.
    pub informers: Option<Informers>,
}

impl Default for Options {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned(), lease: None, informers: None }
    }
}

/// Assigns pods to nodes until told to stop.
pub async fn run(client: Client, options: Options, stop: CancellationToken) -> Result<(), TaskError> {
    let mut tasks = TaskGroup::new(stop.child_token());
    let stop = tasks.stop().clone();
    let informers = options.informers.clone().unwrap_or_else(|| {
        let own = Informers::new(client.clone(), stop.clone());
        let running = own.clone();
        tasks.spawn_infallible("scheduler informers", async move { running.run().await });
        own
    });
    let (recorder, writer) = events::events(client.clone(), &options.scheduler_name, None);
    tasks.spawn_infallible("scheduler events", writer.run(stop.clone()));
    tasks.spawn_infallible("scheduler", async move {
        let scheduler = |stop| Scheduler::new(&client, &options, &informers, recorder.clone()).run(stop);
        let Some(lease) = &options.lease else { return scheduler(stop).await };
        while let Leadership::Lost(()) = lead(&client, lease, &stop, scheduler).await {}
    });
    tasks.join(DRAIN).await
}

/// What became of a pod that we know.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// In the queue.
    Waiting { uid: String },
    /// Counted on a node; the cache does not show it there yet.
    Assumed { uid: String },
    /// Counted on a node, and the cache shows it there.
    Bound { uid: String, info: Arc<PodInfo>, node: String },
}

impl Known {
    fn uid(&self) -> &str {
        match self {
            Self::Waiting { uid } | Self::Assumed { uid } | Self::Bound { uid, .. } => uid,
        }
    }
}

enum Done {
    Bind {
        pod: Arc<Pod>,
        node: String,
        outcome: Outcome,
    },
    Condition,
    /// Others were told to go for a pod, or not.
    Evict {
        key: ObjectKey,
        error: Option<Error>,
    },
}

struct Scheduler {
    client: Client,
    name: String,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    events: EventRecorder,
    snapshot: Snapshot,
    queue: Queue,
    known: HashMap<ObjectKey, Known>,
    /// Nodes as last seen, to tell what has changed.
    seen: HashMap<String, Arc<Node>>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Scheduler {
    fn new(client: &Client, options: &Options, informers: &Informers, events: EventRecorder) -> Self {
        Self {
            client: client.clone(),
            name: options.scheduler_name.clone(),
            pods: informers.cache::<Pod>(),
            nodes: informers.cache::<Node>(),
            claims: informers.cache(),
            volumes: informers.cache(),
            classes: informers.cache(),
            events,
            snapshot: Snapshot::with(Catalog::default()),
            queue: Queue::new(),
            known: HashMap::new(),
            seen: HashMap::new(),
            jobs: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            // Half a snapshot would show nodes emptier than they are.
            () = async {
                self.nodes.wait_synced().await;
                self.pods.wait_synced().await;
                self.claims.wait_synced().await;
                self.volumes.wait_synced().await;
                self.classes.wait_synced().await;
            } => {}
        }
        let mut pod_keys = self.pods.changes();
        let mut node_keys = self.nodes.changes();
        let mut claim_keys = self.claims.changes();
        let mut volume_keys = self.volumes.changes();
        let mut class_keys = self.classes.changes();
        loop {
            while let Some(key) = claim_keys.try_next() {
                self.observe_claim(key);
            }
            while let Some(key) = volume_keys.try_next() {
                self.observe_volume(&key);
            }
            while let Some(key) = class_keys.try_next() {
                self.observe_class(&key);
            }
            while let Some(key) = node_keys.try_next() {
                self.observe_node(&key);
            }
            while let Some(key) = pod_keys.try_next() {
                self.observe_pod(&key);
            }
            self.decide_some();
            let now = Instant::now();
            let free = self.jobs.len() < JOBS;
            if free && self.queue.is_ready(now) {
                // More to decide: only let other tasks run in between.
                tokio::task::yield_now().await;
                while let Some(done) = futures_util::FutureExt::now_or_never(self.jobs.next()).flatten() {
                    self.settle(done);
                }
                if stop.is_cancelled() {
                    return;
                }
                continue;
            }
            let wake = self.queue.next_wake().filter(|_| free);
            // Every branch is cancel safe: keys stay in their subscription, jobs in their set.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.jobs.next() => self.settle(done),
                key = node_keys.next() => self.observe_node(&key),
                key = claim_keys.next() => self.observe_claim(key),
                key = volume_keys.next() => self.observe_volume(&key),
                key = class_keys.next() => self.observe_class(&key),
                key = pod_keys.next() => self.observe_pod(&key),
                () = async { match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                } } => {}
            }
        }
    }

    fn observe_node(&mut self, key: &ObjectKey) {
        let now = Instant::now();
        let Some(node) = self.nodes.get(key) else {
            self.seen.remove(&key.name);
            self.snapshot.remove_node(&key.name);
            return;
        };
        let before = self.seen.insert(key.name.clone(), node.clone());
        let helps = match &before {
            None => Plugins::ALL,
            Some(before) => node_change(before, &node),
        };
        self.snapshot.set_node(node);
        if helps != Plugins::default() {
            self.queue.event(helps, now);
        }
    }

    fn observe_claim(&mut self, key: ObjectKey) {
        let claim = self.claims.get(&key);
        let claims = &mut self.snapshot.catalog.get_or_insert_default().claims;
        match claim {
            Some(claim) => drop(claims.insert(key, claim)),
            None => drop(claims.remove(&key)),
        }
        self.queue.event(storage_changed(), Instant::now());
    }

    fn observe_volume(&mut self, key: &ObjectKey) {
        let volume = self.volumes.get(key);
        let volumes = &mut self.snapshot.catalog.get_or_insert_default().volumes;
        match volume {
            Some(volume) => drop(volumes.insert(key.name.clone(), volume)),
            None => drop(volumes.remove(&key.name)),
        }
        self.queue.event(storage_changed(), Instant::now());
    }

    fn observe_class(&mut self, key: &ObjectKey) {
        let class = self.classes.get(key);
        let classes = &mut self.snapshot.catalog.get_or_insert_default().classes;
        match class {
            Some(class) => drop(classes.insert(key.name.clone(), class)),
            None => drop(classes.remove(&key.name)),
        }
        self.queue.event(storage_changed(), Instant::now());
    }

    /// Brings what we know of a pod in line with the cache, whatever happened in between.
    fn observe_pod(&mut self, key: &ObjectKey) {
        let now = Instant::now();
        let Some(pod) = self.pods.get(key) else { return self.forget(key, now) };
        if self.known.get(key).is_some_and(|known| known.uid() != pod.uid()) {
            self.forget(key, now);
        }
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.forget(key, now);
        }
        let uid = pod.uid().to_owned();
        if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
            let info = Arc::new(PodInfo::of(&pod));
            self.queue.remove(key);
            self.snapshot.add_pod(node, info.clone());
            let bound = Known::Bound { uid, info, node: node.to_owned() };
            let before = self.known.insert(key.clone(), bound);
            if let Some(Known::Bound { .. }) = &before
                && before.as_ref() != self.known.get(key)
            {
                // It asks for something else than before, which may leave room for others.
                self.queue.event(pods_take_less(), now);
            }
            return;
        }
        let ours = spec.and_then(|spec| spec.scheduler_name.as_deref()) == Some(self.name.as_str());
        let gated =
            spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            return self.forget(key, now);
        }
        if !matches!(self.known.get(key), Some(Known::Assumed { .. })) {
            // Before a restart, others had to go for it.
            let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
            if let Some(node) = nominated.filter(|node| !node.is_empty())
                && !self.known.contains_key(key)
            {
                self.snapshot.nominate(node, Arc::new(PodInfo::of(&pod)));
            }
            self.known.insert(key.clone(), Known::Waiting { uid });
            self.queue.upsert(pod, now);
        }
    }

    fn forget(&mut self, key: &ObjectKey, now: Instant) {
        let Some(known) = self.known.remove(key) else { return };
        self.queue.remove(key);
        let kept = self.snapshot.drop_nomination(known.uid());
        if self.snapshot.remove_pod(known.uid()) || kept {
            self.queue.event(pods_take_less(), now);
        }
    }

    fn decide_some(&mut self) {
        for _ in 0..BATCH {
            if self.jobs.len() >= JOBS {
                return;
            }
            let Some(pod) = self.queue.pop(Instant::now()) else { return };
            match schedule(&self.snapshot, &pod) {
                Ok(placement) => self.assume(pod, placement),
                Err(unschedulable) => self.refuse(&pod, &unschedulable),
            }
        }
    }

    fn assume(&mut self, pod: Arc<Pod>, Placement { node, volumes: decisions, .. }: Placement) {
        self.snapshot.add_pod(&node, Arc::new(PodInfo::of(&pod)));
        self.known.insert(pod.key(), Known::Assumed { uid: pod.uid().to_owned() });
        let (client, claims) = (self.client.clone(), self.claims.clone());
        self.jobs.push(Box::pin(async move {
            if let Err(why) = volumes::bind(&client, &claims, &decisions, &node).await {
                return Done::Bind { pod, node, outcome: Outcome::NoVolumes(why) };
            }
            let outcome = bind::bind(&client, &pod, &node).await;
            Done::Bind { pod, node, outcome }
        }));
    }

    fn refuse(&mut self, pod: &Arc<Pod>, unschedulable: &Unschedulable) {
        let message = unschedulable.to_string();
        let because = match unschedulable.nodes.is_empty() {
            true => Plugins::ALL,
            false => unschedulable.plugins().collect(),
        };
        self.queue.unschedulable(&pod.key(), because, Instant::now());
        tracing::debug!(pod = %pod.key(), message, "unschedulable");
        self.events.warning(&**pod, "FailedScheduling", message.as_str());
        let nomination = match &unschedulable.preemption {
            Preemption::Possible(candidate) => {
                self.make_room(pod, candidate);
                Nomination::Set(&candidate.node)
            }
            Preemption::UnderWay => Nomination::Keep,
            Preemption::Never | Preemption::Unhelpful(_) => {
                self.snapshot.drop_nomination(pod.uid());
                Nomination::Clear
            }
        };
        self.report(pod, "Unschedulable", message, nomination);
    }

    /// Lets others go, and keeps the room that they leave.
    fn make_room(&mut self, pod: &Arc<Pod>, candidate: &Candidate) {
        let info = Arc::new(PodInfo::of(pod));
        let lower: Vec<String> = self
            .snapshot
            .nominated_on(&candidate.node, pod.uid())
            .filter(|other| other.priority < info.priority)
            .map(|other| other.uid.clone())
            .collect();
        for uid in lower {
            self.snapshot.drop_nomination(&uid);
        }
        self.snapshot.nominate(&candidate.node, info);
        let (client, events, name) = (self.client.clone(), self.events.clone(), self.name.clone());
        let (pod, candidate) = (pod.clone(), candidate.clone());
        self.jobs.push(Box::pin(async move {
            let error = evict::evict(&client, &events, &name, &pod, &candidate).await.err();
            Done::Evict { key: pod.key(), error }
        }));
    }

    /// Writes the pod's PodScheduled condition and nomination if they say something else.
    fn report(&mut self, pod: &Arc<Pod>, reason: &'static str, message: String, nomination: Nomination<'_>) {
        let newest = self.pods.get(&pod.key()).filter(|newest| newest.uid() == pod.uid());
        let Some(newest) = newest else { return };
        let now = jiff::Timestamp::now();
        let Some(patch) = condition::patch(&newest, reason, &message, nomination, now) else { return };
        let client = self.client.clone();
        self.jobs.push(Box::pin(async move {
            let api = client.namespaced::<Pod>(newest.namespace());
            if let Err(error) = api.patch_status(newest.name(), &patch).await {
                tracing::debug!(pod = %newest.key(), error = %ErrorChain(&error), "condition not written");
            }
            Done::Condition
        }));
    }

    fn settle(&mut self, done: Done) {
        let (pod, node, outcome) = match done {
            Done::Bind { pod, node, outcome } => (pod, node, outcome),
            Done::Condition | Done::Evict { error: None, .. } => return,
            Done::Evict { key, error: Some(error) } => {
                tracing::warn!(pod = %key, error = %ErrorChain(&error), "others could not be made to go");
                return self.queue.retry(&key, Instant::now());
            }
        };
        let key = pod.key();
        match outcome {
            Outcome::Bound => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.events.normal(&*pod, "Scheduled", message);
                return;
            }
            Outcome::Gone => {}
            Outcome::NoVolumes(why) => {
                let message = format!("running PreBind plugin \"VolumeBinding\": {why}");
                tracing::warn!(pod = %key, node, message, "no volumes");
                self.events.warning(&*pod, "FailedScheduling", message.as_str());
                self.report(&pod, "SchedulerError", message, Nomination::Keep);
            }
            Outcome::Failed(error) => {
                let message = format!("binding rejected: {}", ErrorChain(&error));
                tracing::warn!(pod = %key, node, message, "binding failed");
                self.events.warning(&*pod, "FailedScheduling", message.as_str());
                self.report(&pod, "SchedulerError", message, Nomination::Keep);
            }
        }
        // The assumption was wrong; unless the cache has shown more meanwhile, it ends here.
        let now = Instant::now();
        let assumed = matches!(self.known.get(&key), Some(Known::Assumed { uid }) if uid == pod.uid());
        if assumed {
            self.snapshot.remove_pod(pod.uid());
            self.known.insert(key.clone(), Known::Waiting { uid: pod.uid().to_owned() });
            self.queue.retry(&key, now);
            self.queue.event(pods_take_less(), now);
            self.observe_pod(&key);
        }
    }
}

/// Whose verdict may change when pods leave a node.
fn pods_take_less() -> Plugins {
    [Plugin::NodeResourcesFit, Plugin::NodePorts].into_iter().collect()
}

/// Whose verdict may change with claims, volumes and classes.
fn storage_changed() -> Plugins {
    [Plugin::VolumeBinding].into_iter().collect()
}

/// Whose verdict may change with what has changed about a node.
fn node_change(before: &Node, after: &Node) -> Plugins {
    let mut plugins = Vec::new();
    let (old, new) = (before.spec.as_ref(), after.spec.as_ref());
    if before.metadata.labels != after.metadata.labels {
        plugins.extend([Plugin::NodeAffinity, Plugin::VolumeBinding]);
    }
    if old.and_then(|spec| spec.taints.as_ref()) != new.and_then(|spec| spec.taints.as_ref()) {
        plugins.extend([Plugin::TaintToleration, Plugin::NodeUnschedulable]);
    }
    if old.and_then(|spec| spec.unschedulable) != new.and_then(|spec| spec.unschedulable) {
        plugins.push(Plugin::NodeUnschedulable);
    }
    if before.metadata.annotations != after.metadata.annotations {
        plugins.push(Plugin::VolumeBinding);
    }
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    if allocatable(before) != allocatable(after) {
        plugins.push(Plugin::NodeResourcesFit);
    }
    plugins.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use testkit::node;

    use super::*;

    #[test]
    fn what_a_node_change_can_help() {
        let check = |after: testkit::NodeBuilder, plugin: Option<Plugin>| {
            let helps = node_change(&node("n").build(), &after.build());
            assert_eq!(helps.intersects(Plugins::ALL), plugin.is_some());
            if let Some(plugin) = plugin {
                assert!(helps.intersects([plugin].into_iter().collect()));
            }
        };
        check(node("n"), None);
        check(node("n").condition("Ready", "Unknown").image("x", 1), None);
        check(node("n").label("a", "b"), Some(Plugin::NodeAffinity));
        check(node("n").taint("a", "b", "NoSchedule"), Some(Plugin::TaintToleration));
        check(node("n").unschedulable(), Some(Plugin::NodeUnschedulable));
        check(node("n").allocatable("cpu", "9"), Some(Plugin::NodeResourcesFit));
    }
}

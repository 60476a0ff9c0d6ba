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

mod facts;
mod publish;
mod record;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::ErrorChain;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::{Container, Node, Pod, PodStatus};
use runtime::{SandboxEvent, Signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::facts::Facts;
use self::publish::Publisher;
use self::record::Record;
use super::apply::{
    ImageInput, Outcome, SandboxInput, StartInput, StopInput, TearDownInput, VolumesInput, attach, confirm,
    create_sandbox, delete_mirror, ensure_image, prepare_volumes, remove_files, start_container,
    stop_container, tear_down,
};
use super::decide::{Action, Plan, PodFailure, decide, grace_period};
use super::observe::{Failure, Intent, Operation, RunState, StepSeen, Stop, containers, ephemeral};
use super::runs::{self, Messages};
use super::status::{is_terminal, status};
use crate::context::Context;
use crate::machine::PodSandbox;
use crate::names::{self, is_static, label};
use crate::objects::{Subscription, references};
use crate::probe::{Kind, ProbeResult, ProbeTarget, Probing};
use crate::sources::Source;
use crate::sources::mirror::{self, MirrorAction};

/// What a pod is to be, as its sources have it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it comes from.
    pub source: Source,
    /// Its definition.
    pub pod: Arc<Pod>,
    /// The pod in the API that stands for it, if it comes from elsewhere.
    pub mirror: Option<Arc<Pod>>,
    /// No source wants it any more, since then.
    pub removed: Option<Timestamp>,
    /// It has to go although it is wanted.
    pub evicted: Option<PodFailure>,
}

/// What others may see of a pod.
#[derive(Debug, Clone)]
pub struct View {
    /// Its definition.
    pub pod: Arc<Pod>,
    /// How it is.
    pub status: Arc<PodStatus>,
    /// Where it runs.
    pub sandbox: Option<Arc<dyn PodSandbox>>,
    /// Its containers that have run, the newest run of each.
    pub containers: BTreeMap<String, ContainerView>,
}

/// What others may see of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// Its id.
    pub id: String,
    /// How many runs came before; also the name of its log.
    pub attempt: u32,
    /// Whether it runs.
    pub running: bool,
}

/// The worker of one pod.
#[derive(Debug)]
pub struct Worker {
    context: Arc<Context>,
    target: watch::Receiver<Target>,
    node: watch::Receiver<Option<Arc<Node>>>,
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
    mirror: MirrorState,
    /// Ends of containers whose start is not known to be over yet.
    early_exits: BTreeMap<String, runtime::Exit>,
}

/// What is there of a pod when its worker begins.
#[derive(Debug)]
struct Found {
    record: Option<Record>,
    sandboxes: Vec<Arc<dyn PodSandbox>>,
}

/// What is under way about the mirror pod.
#[derive(Debug, Default)]
struct MirrorState {
    busy: bool,
    /// How often in a row it failed, and until when to wait.
    failures: u32,
    not_before: Option<Timestamp>,
}

/// What is under way, with the means to give it up.
#[derive(Default)]
struct Operations {
    running: FuturesUnordered<Abortable<BoxFuture<'static, Done>>>,
    aborts: BTreeMap<Operation, AbortHandle>,
}

/// Something that was under way is over.
enum Done {
    Outcome(Box<Outcome>),
    Mirror(bool),
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.aborts.keys()).finish()
    }
}

impl Operations {
    fn begin(&mut self, operation: Operation, future: BoxFuture<'static, Outcome>) {
        let (handle, registration) = AbortHandle::new_pair();
        self.aborts.insert(operation, handle);
        let done: BoxFuture<'static, Done> = Box::pin(async move { Done::Outcome(Box::new(future.await)) });
        self.running.push(Abortable::new(done, registration));
    }

    fn begin_mirror(&mut self, future: BoxFuture<'static, bool>) {
        let (_, registration) = AbortHandle::new_pair();
        let done: BoxFuture<'static, Done> = Box::pin(async move { Done::Mirror(future.await) });
        self.running.push(Abortable::new(done, registration));
    }

    /// Gives an operation up; it leaves nothing behind that has to be removed.
    fn give_up(&mut self, operation: &Operation) {
        if let Some(handle) = self.aborts.remove(operation) {
            handle.abort();
        }
    }

    async fn next(&mut self) -> Done {
        loop {
            match self.running.next().await {
                Some(Ok(done)) => {
                    if let Done::Outcome(outcome) = &done {
                        self.aborts.remove(&outcome.operation());
                    }
                    return done;
                }
                Some(Err(Aborted)) => {}
                None => std::future::pending().await,
            }
        }
    }
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
                Done::Outcome(outcome) => self.absorb(*outcome),
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
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
        }
        true
    }

    /// When something that failed while the pod is going is to be tried again.
    fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        let failures = [&self.facts.tear_down_failure, &self.facts.confirm_failure];
        let times = failures.into_iter().flatten().map(|failure| failure.retry_at);
        times.chain(self.mirror.not_before).filter(|at| *at > now).min()
    }

    fn needs_node(&self) -> bool {
        is_static(&self.facts.pod) && self.context.client.is_some()
    }

    fn take_target(&mut self) {
        let target = self.target.borrow_and_update().clone();
        let object = match target.source {
            Source::Api => target.removed.is_none().then(|| target.pod.clone()),
            Source::File | Source::Http => target.mirror.clone(),
        };
        self.publisher.object(object);
        if !Arc::ptr_eq(&self.facts.pod, &target.pod) {
            let changed = self.facts.pod.metadata.labels != target.pod.metadata.labels
                || self.facts.pod.metadata.annotations != target.pod.metadata.annotations;
            let before = std::mem::replace(&mut self.facts.pod, target.pod.clone());
            let passing = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
            if passing(&before) != passing(&target.pod) {
                // The new ones may refer to objects that nobody follows yet.
                let dir = self.context.layout.pod(names::uid(&target.pod));
                self.subscription =
                    self.context.objects.subscribe(&target.pod, &references(&target.pod), &dir);
            }
            // Labels and annotations may be in files of the pod.
            if changed && self.facts.volumes == StepSeen::Done {
                self.facts.volumes = StepSeen::Stale { retry_at: Timestamp::now() };
            }
        }
        // There is no way back: what was begun to end cannot be called off.
        if self.facts.evicted.is_none() {
            self.facts.evicted.clone_from(&target.evicted);
        }
        self.take_end(&target);
        self.take_stop(&target);
    }

    /// Somebody else may say that a pod is over, for example who evicts it: then it is.
    fn take_end(&mut self, target: &Target) {
        let said = target.pod.status.as_ref().filter(|_| target.source == Source::Api);
        let Some(said) = said.filter(|status| status.phase.as_deref().is_some_and(is_terminal)) else {
            return;
        };
        let own = &mut self.facts.last_status;
        if !own.phase.as_deref().is_some_and(is_terminal) {
            own.phase.clone_from(&said.phase);
            own.reason.clone_from(&said.reason);
            own.message.clone_from(&said.message);
        }
    }

    fn take_stop(&mut self, target: &Target) {
        let meta = &target.pod.metadata;
        let own = target.pod.spec.as_ref().map_or(SignedDuration::ZERO, grace_period);
        let next = match (target.removed, &meta.deletion_timestamp) {
            // A pod that has left the API without our word was forced out: nobody waits for it any more.
            (Some(since), _) if target.source == Source::Api => {
                Stop { since, grace: SignedDuration::ZERO, removed: true }
            }
            (Some(since), _) => Stop { since, grace: own, removed: true },
            (None, Some(_)) => {
                let grace = meta.deletion_grace_period_seconds.map_or(own, SignedDuration::from_secs);
                Stop { since: Timestamp::now(), grace, removed: false }
            }
            (None, None) => return,
        };
        let next = match self.stop {
            // Only shorter: a pod that is going does not come back.
            Some(stop) => {
                Stop { since: stop.since, grace: stop.grace.min(next.grace), removed: next.removed }
            }
            None => next,
        };
        if self.stop != Some(next) {
            self.stop = Some(next);
            for deadline in self.stop_deadline.values() {
                deadline.send_if_modified(|at| {
                    let earlier = next.deadline() < *at;
                    if earlier {
                        *at = next.deadline();
                    }
                    earlier
                });
            }
        }
    }

    fn intent(&self, _now: Timestamp) -> Intent {
        self.stop.map_or(Intent::Run, Intent::Stop)
    }

    fn absorb(&mut self, outcome: Outcome) {
        if let Outcome::Sandbox(Ok((sandbox, _))) = &outcome {
            self.sandbox_events = Some(sandbox.events());
            self.facts.runs.values_mut().flatten().for_each(|run| run.in_sandbox = false);
        }
        if let Outcome::Stopped { id } = &outcome {
            self.stop_deadline.remove(id);
        }
        let started = match &outcome {
            Outcome::Started { result: Ok(started), .. } => Some(started.run.id.clone()),
            _ => None,
        };
        self.facts.absorb(outcome);
        if let Some((id, exit)) = started.and_then(|id| self.early_exits.remove_entry(&id)) {
            self.container_exited(&id, &exit);
        }
        let starting = self.facts.in_progress.iter().any(|op| matches!(op, Operation::Start(_)));
        if !starting {
            self.early_exits.clear();
        }
    }

    async fn sandbox_event(&mut self, event: Result<SandboxEvent, broadcast::error::RecvError>) {
        match event {
            Ok(SandboxEvent::ContainerExited { id, exit }) => self.container_exited(&id, &exit),
            Ok(SandboxEvent::KeeperDied) | Err(broadcast::error::RecvError::Closed) => {
                self.sandbox_events = None;
                self.relist(false).await;
            }
            Err(broadcast::error::RecvError::Lagged(_)) => self.relist(true).await,
        }
    }

    fn container_exited(&mut self, id: &str, exit: &runtime::Exit) {
        let pod = self.facts.pod.clone();
        let Some((name, run)) = self.facts.run_mut(id) else {
            self.early_exits.insert(id.to_owned(), exit.clone());
            return;
        };
        if !run.is_alive() {
            return;
        }
        let (name, attempt) = (name.to_owned(), run.attempt);
        let labels = BTreeMap::from([(
            label::TERMINATION_LOG.to_owned(),
            self.context
                .layout
                .pod(names::uid(&pod))
                .join("containers")
                .join(&name)
                .join(id)
                .display()
                .to_string(),
        )]);
        let container = find(&pod, &name);
        let log = self.context.layout.container_logs(&pod, &name).join(format!("{attempt}.log"));
        let message =
            container.and_then(|container| runs::termination_message(&container, &labels, exit.code, &log));
        if let Some((_, run)) = self.facts.run_mut(id) {
            run.state = RunState::Exited(runs::exit_of(exit, message));
        }
    }

    /// Asks the runtime how things are, after events were missed or the keeper died.
    async fn relist(&mut self, ready: bool) {
        let Some(sandbox) = self.facts.sandbox.clone() else { return };
        let (context, pod) = (self.context.clone(), self.facts.pod.clone());
        let reader = Reader { context: &context, pod: &pod };
        let seen = match sandbox.containers().await {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "listing containers");
                Vec::new()
            }
        };
        for state in &seen {
            let run = runs::from_runtime(&state.id, &state.labels, &state.status, ready, &reader);
            if let Some((_, known)) = self.facts.run_mut(&state.id)
                && known.is_alive()
            {
                known.state = run.state;
            }
        }
        if !ready {
            for run in self.facts.runs.values_mut().flatten() {
                run.in_sandbox = false;
                if run.is_alive() {
                    let status = runtime::ContainerStatus::Unknown;
                    run.state = runs::from_runtime(&run.id, &BTreeMap::new(), &status, false, &reader).state;
                }
            }
        }
    }

    async fn objects_changed(&mut self) {
        if self.facts.volumes != StepSeen::Done {
            // Volumes or starts that wait for an object are worth another try at once.
            match &mut self.facts.volumes {
                StepSeen::Failed(Failure { retry_at, .. }) | StepSeen::Stale { retry_at } => {
                    *retry_at = Timestamp::now();
                }
                StepSeen::Todo | StepSeen::Done => {}
            }
        } else if self.facts.objects.as_ref() != Some(&self.subscription.fork().snapshot().await) {
            self.facts.volumes = StepSeen::Stale { retry_at: Timestamp::now() };
        }
        for failure in self.facts.failures.values_mut() {
            if failure.reason == "CreateContainerConfigError" {
                failure.retry_at = Timestamp::now();
            }
        }
    }

    /// Events that are about waiting, not about something that happened; each once.
    fn say(&mut self, plan: &Plan) {
        let pod = &self.facts.pod;
        let events = &self.context.events;
        for (name, waiting) in &plan.waiting {
            if self.said.get(name) == Some(&waiting.reason) {
                continue;
            }
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let message =
                        format!("Back-off restarting failed container {name} in pod {}", names::pod_id(pod));
                    events.container_warning(pod, name, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    let image = find(pod, name).and_then(|container| container.image.clone());
                    let image = manifests::go::quote(&image.unwrap_or_default());
                    events.container_normal(pod, name, "BackOff", format!("Back-off pulling image {image}"));
                    events.container_warning(pod, name, "Failed", "Error: ImagePullBackOff");
                }
                _ => {}
            }
        }
        self.said = plan.waiting.iter().map(|(name, w)| (name.clone(), w.reason.clone())).collect();
        if let Some(failed) = &plan.failed
            && !self.failed_said
        {
            self.failed_said = true;
            match &failed.warning {
                Some(warning) => events.warning(pod, &failed.reason, warning.clone()),
                None => events.normal(pod, &failed.reason, failed.message.clone()),
            }
        }
    }

    fn publish(&mut self) {
        self.publisher.status(&self.facts.last_status);
        self.publisher.record(Record::of(&self.facts));
        let containers: BTreeMap<String, ContainerView> = self
            .facts
            .runs
            .iter()
            .filter_map(|(name, runs)| {
                let run = runs.iter().find(|run| !Facts::is_ghost(run))?;
                let running = matches!(run.state, RunState::Running { .. });
                Some((name.clone(), ContainerView { id: run.id.clone(), attempt: run.attempt, running }))
            })
            .collect();
        let (pod, status, sandbox) = (&self.facts.pod, &self.facts.last_status, &self.facts.sandbox);
        self.view.send_if_modified(|view| {
            let same = Arc::ptr_eq(&view.pod, pod)
                && *view.status == *status
                && view.containers == containers
                && view.sandbox.as_ref().map(|sandbox| sandbox.id()) == sandbox.as_ref().map(|s| s.id());
            if !same {
                *view = View {
                    pod: pod.clone(),
                    status: Arc::new(status.clone()),
                    sandbox: sandbox.clone(),
                    containers,
                };
            }
            !same
        });
    }

    /// Probes run for containers that run: first the startup probe alone, then the others.
    fn reconcile_probes(&mut self) {
        let mut wanted = BTreeMap::new();
        let address = self.facts.addresses.first().cloned().unwrap_or_default();
        if let (Some(sandbox), Some(spec)) = (&self.facts.sandbox, &self.facts.pod.spec) {
            for (container, _) in containers(spec) {
                let run = self.facts.runs.get(&container.name).and_then(|runs| runs.first());
                let Some(run) = run.filter(|run| run.in_sandbox) else { continue };
                let RunState::Running { started_at } = run.state else { continue };
                let target = || ProbeTarget {
                    pod: self.facts.pod.clone(),
                    container: container.clone(),
                    id: run.id.clone(),
                    sandbox: sandbox.clone(),
                    address: address.clone(),
                    started_at,
                };
                let mut want = |kind, probe: &Option<_>| {
                    if let Some(probe) = probe {
                        wanted.insert((run.id.clone(), kind), (target(), Clone::clone(probe)));
                    }
                };
                if container.startup_probe.is_some() && run.probes.startup != Some(true) {
                    want(Kind::Startup, &container.startup_probe);
                } else {
                    // A container that is going is not restarted for being unhealthy.
                    if self.stop.is_none() {
                        want(Kind::Liveness, &container.liveness_probe);
                    }
                    want(Kind::Readiness, &container.readiness_probe);
                }
            }
        }
        self.probes.retain(|key, _| wanted.contains_key(key));
        for ((id, kind), (target, probe)) in wanted {
            self.probes.entry((id, kind)).or_insert_with(|| {
                let (http, events) = (self.context.http.clone(), self.context.events.clone());
                Probing::start(target, kind, probe, http, events, self.verdicts.0.clone())
            });
        }
    }

    fn apply(&mut self, plan: &Plan, now: Timestamp) {
        if plan.finished && self.facts.torn_down {
            // Nothing will be made from them any more.
            self.subscription = Subscription::default();
        }
        if plan.finished {
            let spec = self.facts.pod.spec.as_ref();
            for name in spec.into_iter().flat_map(containers).map(|(container, _)| container.name.clone()) {
                let operation = Operation::Image(name);
                self.operations.give_up(&operation);
                self.facts.in_progress.remove(&operation);
            }
        }
        for action in &plan.actions {
            if let Some((operation, future)) = self.operation(action, now) {
                self.facts.in_progress.insert(operation.clone());
                self.operations.begin(operation, future);
            }
        }
    }

    fn operation(
        &mut self,
        action: &Action,
        now: Timestamp,
    ) -> Option<(Operation, BoxFuture<'static, Outcome>)> {
        let (context, pod) = (self.context.clone(), self.facts.pod.clone());
        let address = self.facts.addresses.first().cloned().unwrap_or_default();
        Some(match action {
            // What the runtime knows of a sandbox goes with it: first it has to be written down.
            Action::CreateSandbox { replaces: true, .. } | Action::TearDown if self.must_record_first() => {
                return None;
            }
            Action::CreateSandbox { attempt, replaces } => {
                let replaces = if *replaces { self.facts.sandbox.clone() } else { None };
                let input = SandboxInput { context, pod, attempt: *attempt, replaces };
                (Operation::Sandbox, Box::pin(create_sandbox(input)))
            }
            Action::PrepareVolumes => {
                let input = VolumesInput { context, pod, objects: self.subscription.fork() };
                (Operation::Volumes, Box::pin(prepare_volumes(input)))
            }
            Action::EnsureImage { container } => {
                let failures = self.facts.images.get(container).map_or(0, |fact| fact.failures);
                let definition = find(&pod, container)?.into_owned();
                let objects = self.subscription.fork();
                let input = ImageInput { context, pod, container: definition, objects, failures };
                (Operation::Image(container.clone()), Box::pin(ensure_image(input)))
            }
            Action::StartContainer { container, attempt, delay } => {
                let input = StartInput {
                    context,
                    container: find(&pod, container)?.into_owned(),
                    pod,
                    image: self.facts.images.get(container)?.image.clone()?,
                    sandbox: self.facts.sandbox.clone()?,
                    addresses: self.facts.addresses.clone(),
                    objects: self.subscription.fork(),
                    attempt: *attempt,
                    delay: *delay,
                    obsolete: self.facts.obsolete(container),
                };
                (Operation::Start(container.clone()), Box::pin(start_container(input)))
            }
            Action::StopContainer { container, id, deadline, cause } => {
                let (sender, receiver) = watch::channel(*deadline);
                self.stop_deadline.insert(id.clone(), sender);
                let definition = find(&pod, container)?.into_owned();
                let run = self.facts.runs.values().flatten().find(|run| run.id == *id)?;
                let input = StopInput {
                    context,
                    signal: run.stop_signal.parse().unwrap_or(Signal::TERM),
                    pod,
                    container: definition,
                    id: id.clone(),
                    sandbox: self.facts.sandbox.clone()?,
                    address,
                    cause: *cause,
                    deadline: receiver,
                };
                (Operation::Stop(id.clone()), Box::pin(stop_container(input)))
            }
            Action::Leave => {
                let addresses = self.facts.addresses.clone();
                let future = async move {
                    context.machine.departures.leaving(names::uid(&pod), &addresses).await;
                    Outcome::Left
                };
                (Operation::Leave, Box::pin(future))
            }
            Action::TearDown => {
                let failed = self.facts.tear_down_failure.as_ref();
                if failed.is_some_and(|failure| now < failure.retry_at) {
                    return None;
                }
                let input = TearDownInput { context, pod, sandbox: self.facts.sandbox.clone() };
                (Operation::TearDown, Box::pin(tear_down(input)))
            }
            Action::Confirm => {
                let failed = self.facts.confirm_failure.as_ref();
                if failed.is_some_and(|failure| now < failure.retry_at) || !self.publisher.is_settled() {
                    return None;
                }
                let target = self.target.borrow();
                let object = match target.source {
                    Source::Api => target.removed.is_none().then(|| target.pod.clone()),
                    Source::File | Source::Http => target.mirror.clone(),
                };
                (Operation::Confirm, Box::pin(confirm(context, object)))
            }
        })
    }

    fn must_record_first(&self) -> bool {
        !self.stop.is_some_and(|stop| stop.removed) && !self.publisher.is_recorded()
    }

    /// Keeps the pod in the API that stands for this one.
    fn reconcile_mirror(&mut self, now: Timestamp) {
        let Some(client) = self.context.client.clone() else { return };
        let waiting = self.mirror.not_before.is_some_and(|at| now < at);
        if !is_static(&self.facts.pod) || self.stop.is_some() || self.mirror.busy || waiting {
            return;
        }
        let node = self.node.borrow_and_update().clone();
        // The owner has to be there first, or the mirror would be collected as an orphan.
        let Some(node) = node else { return };
        let mirror = self.target.borrow().mirror.clone();
        let context = self.context.clone();
        match mirror::decide(&self.facts.pod, mirror.as_deref(), Some(&node)) {
            MirrorAction::Keep => {}
            MirrorAction::Delete { .. } => {
                self.mirror.busy = true;
                self.operations.begin_mirror(Box::pin(async move {
                    match mirror {
                        Some(mirror) => delete_mirror(&context, &mirror).await.is_ok(),
                        None => true,
                    }
                }));
            }
            MirrorAction::Create(mirror) => {
                self.mirror.busy = true;
                self.operations.begin_mirror(Box::pin(async move {
                    let api = client.namespaced::<Pod>(names::namespace(&mirror));
                    match api.create(&mirror).await {
                        Ok(_) => true,
                        Err(error) if error.is_already_exists() => true,
                        Err(error) => {
                            let pod = names::pod_id(&mirror);
                            tracing::warn!(%pod, error = %ErrorChain(&error), "creating a mirror pod");
                            false
                        }
                    }
                }));
            }
        }
    }

    fn mirror_done(&mut self, worked: bool) {
        self.mirror.busy = false;
        self.mirror.failures = if worked { 0 } else { self.mirror.failures.saturating_add(1) };
        // The watch tells what came of it; until then, and after failures, there is nothing to do.
        let pause = 1_i64.checked_shl(self.mirror.failures.min(6)).unwrap_or(64);
        self.mirror.not_before = Timestamp::now().checked_add(SignedDuration::from_secs(pause)).ok();
    }
}

/// Takes what the runtime has of the pod: the newest sandbox is the pod's, others go.
async fn adopt(
    context: &Context,
    facts: &mut Facts,
    Found { record, mut sandboxes }: Found,
) -> Option<broadcast::Receiver<SandboxEvent>> {
    let attempt = |sandbox: &Arc<dyn PodSandbox>| {
        sandbox.labels().get(label::ATTEMPT).and_then(|attempt| attempt.parse::<u32>().ok()).unwrap_or(0)
    };
    sandboxes.sort_by_key(attempt);
    let pod = facts.pod.clone();
    let newest = sandboxes.pop();
    let mut events = None;
    if let Some(sandbox) = newest {
        // Before looking: what happens meanwhile is then heard, at worst twice.
        events = sandbox.is_ready().then(|| sandbox.events());
        facts.sandbox_attempt = attempt(&sandbox);
        let reader = Reader { context, pod: &pod };
        match sandbox.containers().await {
            Ok(list) => {
                for state in list {
                    let Some(name) = state.labels.get(label::CONTAINER_NAME) else { continue };
                    let ready = sandbox.is_ready();
                    let run = runs::from_runtime(&state.id, &state.labels, &state.status, ready, &reader);
                    facts.runs.entry(name.clone()).or_default().push(run);
                }
            }
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id(), error = %ErrorChain(&error), "listing containers");
            }
        }
        if sandbox.is_ready() {
            match attach(context, &pod, &*sandbox).await {
                Ok(addresses) => facts.addresses = addresses,
                Err(failure) => {
                    tracing::error!(pod = %names::pod_id(&pod), error = failure.message, "finding the address of a pod");
                    let known = facts.last_status.pod_ips.iter().flatten();
                    facts.addresses = known.map(|ip| ip.ip.clone()).collect();
                }
            }
        }
        facts.sandbox = Some(sandbox);
    }
    for old in sandboxes {
        if let Err(error) = old.remove().await {
            tracing::warn!(sandbox = old.id(), error = %ErrorChain(&error), "removing an old sandbox");
        }
        if let Err(error) = context.machine.network.detach(old.id()).await {
            tracing::warn!(sandbox = old.id(), error = %ErrorChain(&error), "detaching an old sandbox");
        }
    }
    for (name, run) in record.as_ref().map(Record::runs).unwrap_or_default() {
        let runs = facts.runs.entry(name).or_default();
        // What the runtime says is newer, if it knows the run at all.
        if !runs.iter().any(|known| known.id == run.id || known.attempt >= run.attempt) {
            runs.push(run);
        }
    }
    for runs in facts.runs.values_mut() {
        runs.sort_by_key(|run| std::cmp::Reverse(run.attempt));
    }
    // Probes begin anew, and what was ready is ready until they say otherwise: a restart of the agent is no outage.
    restore_probes(facts, &pod);
    events
}

fn restore_probes(facts: &mut Facts, pod: &Pod) {
    let Some(spec) = &pod.spec else { return };
    let old = facts.last_status.clone();
    let statuses = old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
    let statuses: BTreeMap<&str, _> = statuses.map(|status| (status.name.as_str(), status)).collect();
    for (container, _) in containers(spec) {
        let Some(run) = facts.runs.get_mut(&container.name).and_then(|runs| runs.first_mut()) else {
            continue;
        };
        let Some(status) = statuses.get(container.name.as_str()) else { continue };
        if status.container_id.as_deref() == Some(super::status::container_id(run).as_str()) {
            run.probes.startup =
                container.startup_probe.as_ref().and(status.started.filter(|started| *started));
            run.probes.readiness = container.readiness_probe.as_ref().and(status.ready.then_some(true));
        }
    }
}

struct Reader<'a> {
    context: &'a Context,
    pod: &'a Pod,
}

impl Messages for Reader<'_> {
    fn message(&self, labels: &BTreeMap<String, String>, code: i32) -> Option<String> {
        let name = labels.get(label::CONTAINER_NAME)?;
        let attempt = labels.get(label::RESTART_COUNT).map_or("0", String::as_str);
        let log = self.context.layout.container_logs(self.pod, name).join(format!("{attempt}.log"));
        runs::termination_message(&*find(self.pod, name)?, labels, code, &log)
    }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let known = containers(spec).map(|(container, _)| container).find(|container| container.name == name);
    let passing = || ephemeral(spec).into_iter().find(|container| container.name == name).map(Cow::Owned);
    known.map(Cow::Borrowed).or_else(passing)
}

async fn next_event(
    events: &mut Option<broadcast::Receiver<SandboxEvent>>,
) -> Result<SandboxEvent, broadcast::error::RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

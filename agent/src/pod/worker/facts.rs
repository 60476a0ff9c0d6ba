//! What a worker knows of its pod. Everything here can be found again after a restart of the agent: in the runtime, in
//! the pod's record on disk, or by trying once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::super::apply::{Outcome, StartFailure};
use super::super::decide::PodFailure;
use super::super::observe::{
    ContainerSeen, Failure, ImageSeen, Intent, Observed, Operation, RunState, SandboxSeen, StepSeen,
};
use super::super::resize::{self, Resizing, Room};
use super::super::runs;
use super::super::status::is_terminal;
use super::View;
use crate::context::Context;
use crate::machine::{Image, PodSandbox};
use crate::names::uid;
use crate::objects::Snapshot;
use crate::probe::{Kind, ProbeResult};

/// How many runs of a container are kept: the current one and the one before.
const KEPT_RUNS: usize = 2;

/// Memory of one pod.
#[derive(Debug)]
pub(super) struct Facts {
    /// The pod with the resources that it was given.
    pub(super) pod: Arc<Pod>,
    /// The pod as it is wanted; the same, unless it waits for other resources.
    pub(super) wanted: Arc<Pod>,
    pub(super) resize_failures: BTreeMap<String, Failure>,
    pub(super) sandbox: Option<Arc<dyn PodSandbox>>,
    pub(super) sandbox_attempt: u32,
    pub(super) sandbox_failure: Option<Failure>,
    pub(super) addresses: Vec<String>,
    pub(super) runs: BTreeMap<String, Vec<ContainerSeen>>,
    pub(super) images: BTreeMap<String, ImageFact>,
    pub(super) volumes: StepSeen,
    /// What the volumes were made from.
    pub(super) objects: Option<Snapshot>,
    pub(super) failures: BTreeMap<String, Failure>,
    pub(super) in_progress: BTreeSet<Operation>,
    pub(super) evicted: Option<PodFailure>,
    pub(super) left: bool,
    pub(super) torn_down: bool,
    pub(super) tear_down_failure: Option<Failure>,
    pub(super) confirmed: bool,
    pub(super) confirm_failure: Option<Failure>,
    pub(super) last_status: PodStatus,
}

/// What is known of the image that a container needs next.
#[derive(Debug, Clone, Default)]
pub(super) struct ImageFact {
    pub(super) image: Option<Image>,
    pub(super) failed: Option<ImageSeen>,
    /// In a row.
    pub(super) failures: u32,
}

impl Facts {
    pub(super) fn new(pod: Arc<Pod>, last_status: PodStatus) -> Self {
        Self {
            pod: resize::with_resources_of_status(&pod, &last_status),
            wanted: pod,
            resize_failures: BTreeMap::new(),
            sandbox: None,
            sandbox_attempt: 0,
            sandbox_failure: None,
            addresses: Vec::new(),
            runs: BTreeMap::new(),
            images: BTreeMap::new(),
            volumes: StepSeen::Todo,
            objects: None,
            failures: BTreeMap::new(),
            in_progress: BTreeSet::new(),
            evicted: None,
            left: false,
            torn_down: false,
            tear_down_failure: None,
            confirmed: false,
            confirm_failure: None,
            last_status,
        }
    }

    /// One snapshot of everything.
    pub(super) fn observe(&self, context: &Context, intent: Intent, now: Timestamp) -> Observed {
        let images = self.images.iter().filter_map(|(name, fact)| {
            let seen = match (&fact.failed, &fact.image) {
                (Some(failed), _) => failed.clone(),
                (None, Some(_)) => ImageSeen::Ready,
                (None, None) => return None,
            };
            Some((name.clone(), seen))
        });
        Observed {
            pod: self.pod.clone(),
            now,
            intent,
            sandbox: match (&self.sandbox, &self.sandbox_failure) {
                (Some(sandbox), _) if sandbox.is_ready() => {
                    SandboxSeen::Ready { attempt: self.sandbox_attempt }
                }
                (Some(_), _) => SandboxSeen::Dead { attempt: self.sandbox_attempt },
                (None, Some(failure)) => SandboxSeen::Failed(failure.clone()),
                (None, None) => SandboxSeen::None,
            },
            containers: self.runs.clone(),
            images: images.collect(),
            volumes: self.volumes.clone(),
            failures: self.failures.clone(),
            in_progress: self.in_progress.clone(),
            evicted: self.evicted.clone(),
            left: self.left,
            torn_down: self.torn_down,
            confirmed: self.confirmed,
            pod_ips: self.addresses.clone(),
            host_ips: context.node.addresses.clone(),
            resizing: self.resizing(context),
            resize_failures: self.resize_failures.clone(),
            last_status: self.last_status.clone(),
        }
    }

    fn resizing(&self, context: &Context) -> Option<Resizing> {
        if Arc::ptr_eq(&self.pod, &self.wanted) {
            return None;
        }
        let views = context.registry.all();
        let over = |view: &View| view.status.phase.as_deref().is_some_and(is_terminal);
        let others = views.iter().filter(|view| uid(&view.pod) != uid(&self.pod) && !over(view));
        let room = Room::new(&context.node.allocatable, others.map(|view| &*view.pod));
        Some(Resizing { wanted: self.wanted.clone(), room })
    }

    /// Takes the outcome of an operation in.
    pub(super) fn absorb(&mut self, outcome: Outcome) {
        self.in_progress.remove(&outcome.operation());
        match outcome {
            Outcome::Sandbox(Ok((sandbox, addresses))) => {
                if let Some(attempt) = sandbox.labels().get(crate::names::label::ATTEMPT) {
                    self.sandbox_attempt = attempt.parse().unwrap_or(self.sandbox_attempt);
                }
                self.leave_sandbox();
                self.sandbox = Some(sandbox);
                self.sandbox_failure = None;
                self.addresses = addresses;
                (self.left, self.torn_down) = (false, false);
            }
            Outcome::Sandbox(Err(failure)) => {
                // A dead one that could not be removed is still there, and is tried again.
                if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_ready()) {
                    self.sandbox = None;
                }
                self.sandbox_failure = Some(failure);
            }
            Outcome::Volumes(Ok(objects)) => {
                self.volumes = StepSeen::Done;
                self.objects = Some(objects);
                self.torn_down = false;
            }
            // Volumes that were there before are still there, only older than they should be.
            Outcome::Volumes(Err(failure)) => {
                self.volumes = match self.volumes {
                    StepSeen::Stale { .. } => StepSeen::Stale { retry_at: failure.retry_at },
                    _ => StepSeen::Failed(failure),
                };
            }
            Outcome::Image { container, result } => {
                let fact = self.images.entry(container).or_default();
                match result {
                    Ok(image) => *fact = ImageFact { image: Some(image), failed: None, failures: 0 },
                    Err(failed) => {
                        fact.failures = fact.failures.saturating_add(1);
                        fact.failed = Some(failed);
                    }
                }
            }
            Outcome::Started { container, result } => {
                // The next start asks for its image again, as its policy may want it pulled.
                self.images.remove(&container);
                match result {
                    Ok(started) => {
                        self.failures.remove(&container);
                        let mut run = *started.run;
                        run.hook_failed = started.hook_failure.is_some();
                        self.add_run(&container, run);
                    }
                    Err(StartFailure::Ended(run)) => {
                        self.failures.remove(&container);
                        self.add_run(&container, *run);
                    }
                    Err(StartFailure::Retry(failure)) => drop(self.failures.insert(container, failure)),
                }
            }
            Outcome::Stopped { .. } => {}
            Outcome::Resized { id, result: Ok(resources) } => {
                self.resize_failures.remove(&id);
                if let Some((_, run)) = self.run_mut(&id) {
                    run.resources = Some(resources);
                }
            }
            Outcome::Resized { id, result: Err(failure) } => drop(self.resize_failures.insert(id, failure)),
            Outcome::Left => self.left = true,
            Outcome::TornDown(Ok(())) => {
                self.sandbox = None;
                self.torn_down = true;
                self.tear_down_failure = None;
                self.volumes = StepSeen::Todo;
                self.leave_sandbox();
            }
            Outcome::TornDown(Err(failure)) => self.tear_down_failure = Some(failure),
            Outcome::Confirmed(Ok(())) => {
                self.confirmed = true;
                self.confirm_failure = None;
            }
            Outcome::Confirmed(Err(failure)) => self.confirm_failure = Some(failure),
        }
    }

    fn add_run(&mut self, container: &str, run: ContainerSeen) {
        let runs = self.runs.entry(container.to_owned()).or_default();
        match runs.iter_mut().find(|known| known.id == run.id) {
            // Its end may have been heard of before its start was.
            Some(known) if known.is_alive() => *known = run,
            Some(known) => known.hook_failed = run.hook_failed,
            None => {
                runs.insert(0, run);
                runs.sort_by_key(|run| std::cmp::Reverse(run.attempt));
                runs.truncate(KEPT_RUNS);
            }
        }
    }

    /// The sandbox is gone, and no run in it goes on: one whose end was not heard of has ended all the same. It counts,
    /// so that whatever comes next is a restart.
    pub(super) fn leave_sandbox(&mut self) {
        for run in self.runs.values_mut().flatten() {
            run.in_sandbox = false;
            if run.is_alive() {
                run.state = RunState::Exited(runs::unseen(run.created_at));
            }
        }
    }

    /// Runs that will not be kept once the next one of this container is there.
    pub(super) fn obsolete(&self, container: &str) -> Vec<String> {
        let runs = self.runs.get(container).map(Vec::as_slice).unwrap_or_default();
        runs.iter().skip(KEPT_RUNS - 1).filter(|run| run.in_sandbox).map(|run| run.id.clone()).collect()
    }

    /// A run by its id.
    pub(super) fn run_mut(&mut self, id: &str) -> Option<(&str, &mut ContainerSeen)> {
        let runs =
            self.runs.iter_mut().flat_map(|(name, runs)| runs.iter_mut().map(|run| (name.as_str(), run)));
        runs.into_iter().find(|(_, run)| run.id == id)
    }

    /// Takes a verdict of a probe in.
    pub(super) fn absorb_probe(&mut self, result: &ProbeResult) {
        if let Some((_, run)) = self.run_mut(&result.container) {
            let verdict = match result.kind {
                Kind::Startup => &mut run.probes.startup,
                Kind::Liveness => &mut run.probes.liveness,
                Kind::Readiness => &mut run.probes.readiness,
            };
            *verdict = Some(result.success);
        }
    }

    /// Whether a run is one that the runtime never had: it could not be started.
    pub(super) fn is_ghost(run: &ContainerSeen) -> bool {
        matches!(&run.state, RunState::Exited(exit) if exit.reason == "StartError")
    }
}

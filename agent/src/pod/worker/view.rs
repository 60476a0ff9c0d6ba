//! What others may see of a pod, and what is said about it: the registry's view, the status, the record, and events.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::super::decide::Plan;
use super::super::observe::RunState;
use super::super::resize::{self, Verdict};
use super::super::status::is_terminal;
use super::facts::Facts;
use super::record::Record;
use super::{Worker, find};
use crate::machine::PodSandbox;
use crate::names;

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

/// What was said about other resources, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct ResizeSaid {
    pending: Option<String>,
    in_progress: bool,
}

impl Worker {
    /// Events that are about waiting, not about something that happened; each once.
    pub(super) fn say(&mut self, plan: &Plan) {
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
        self.say_resize(plan);
        let (pod, events) = (&self.facts.pod, &self.context.events);
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

    /// The pod gets what it is wanted with.
    pub(super) fn give(&mut self) {
        self.facts.pod = self.facts.wanted.clone();
        self.facts.resize_failures.clear();
        let started = format!("Pod resize started: {}", resize::told(&self.facts.pod, None));
        self.context.events.normal(&self.facts.pod, "ResizeStarted", started);
        self.resize_said = ResizeSaid { pending: None, in_progress: true };
    }

    fn say_resize(&mut self, plan: &Plan) {
        let (pod, events) = (&self.facts.pod, &self.context.events);
        let pending = match &plan.resize {
            None | Some(Verdict::Give) => None,
            Some(Verdict::Deferred(message)) => Some(("Deferred", message)),
            Some(Verdict::Infeasible(message)) => Some(("Infeasible", message)),
        };
        if let Some((reason, message)) = pending {
            let told = resize::told(&self.facts.wanted, Some(message));
            if self.resize_said.pending.as_ref() != Some(&told) {
                events.warning(pod, &format!("Resize{reason}"), format!("Pod resize {reason}: {told}"));
                self.resize_said.pending = Some(told);
            }
        } else {
            self.resize_said.pending = None;
        }
        let conditions = self.facts.last_status.conditions.iter().flatten();
        let in_progress = conditions.into_iter().any(|condition| condition.type_ == "PodResizeInProgress");
        if self.resize_said.in_progress && !in_progress {
            let told = resize::told(pod, None);
            events.normal(pod, "ResizeCompleted", format!("Pod resize completed: {told}"));
        }
        self.resize_said.in_progress = in_progress;
    }

    pub(super) fn publish(&mut self) {
        let is_over = |status: &PodStatus| status.phase.as_deref().is_some_and(is_terminal);
        if is_over(&self.facts.last_status) && !is_over(&self.view.borrow().status) {
            self.context.registry.free();
        }
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
}

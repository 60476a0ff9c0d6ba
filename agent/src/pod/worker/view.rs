//! What others may see of a pod, and what is said about it: the registry's view, the status, the record, and events.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::super::decide::Plan;
use super::super::observe::RunState;
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

    pub(super) fn publish(&mut self) {
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

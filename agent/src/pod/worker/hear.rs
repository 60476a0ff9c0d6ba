//! Taking news in: outcomes of operations, events of the runtime, changes of objects.

use std::collections::BTreeMap;

use client::ErrorChain;
use jiff::Timestamp;
use runtime::SandboxEvent;
use tokio::sync::broadcast;

use super::super::apply::Outcome;
use super::super::observe::{Failure, Operation, RunState, StepSeen};
use super::super::runs;
use super::adopt::Reader;
use super::{Worker, find};
use crate::names::{self, label};

impl Worker {
    pub(super) async fn absorb(&mut self, outcome: Outcome) {
        if let Outcome::Sandbox(Ok((sandbox, _))) = &outcome {
            self.sandbox_events = Some(sandbox.events());
        }
        if let Outcome::Stopped { id } = &outcome {
            self.stop_deadline.remove(id);
        }
        let started = match &outcome {
            Outcome::Started { result: Ok(started), .. } => Some(started.run.id.clone()),
            _ => None,
        };
        self.facts.absorb(outcome);
        if let Some(id) = started {
            if let Some(exit) = self.early_exits.remove(&id) {
                self.container_exited(&id, &exit);
            } else if self.sandbox_events.is_none() {
                // Its keeper died as soon as it had told of the start, and was heard of first.
                self.relist(false).await;
            }
        }
        let starting = self.facts.in_progress.iter().any(|op| matches!(op, Operation::Start(_)));
        if !starting {
            self.early_exits.clear();
        }
    }

    pub(super) async fn sandbox_event(&mut self, event: Result<SandboxEvent, broadcast::error::RecvError>) {
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
            self.facts.leave_sandbox();
        }
    }

    pub(super) async fn objects_changed(&mut self) {
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
}

pub(super) async fn next_event(
    events: &mut Option<broadcast::Receiver<SandboxEvent>>,
) -> Result<SandboxEvent, broadcast::error::RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

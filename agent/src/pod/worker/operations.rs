//! What is under way for the pod, with the means to give it up; and how an action becomes an operation.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use runtime::Signal;
use tokio::sync::watch;

use super::super::apply::{
    Beside, ImageInput, Outcome, ResizeInput, SandboxInput, StartInput, StopInput, TearDownInput,
    VolumesInput, confirm, create_sandbox, ensure_image, prepare_volumes, resize_container, start_container,
    stop_container, tear_down,
};
use super::super::decide::{Action, Plan};
use super::super::observe::{Operation, containers};
use super::{Worker, find};
use crate::clock::is_early;
use crate::names;
use crate::objects::Subscription;
use crate::sources::Source;

/// What is under way, with the means to give it up.
#[derive(Default)]
pub(super) struct Operations {
    running: FuturesUnordered<Abortable<BoxFuture<'static, Done>>>,
    aborts: BTreeMap<Operation, AbortHandle>,
}

/// Something that was under way is over.
pub(super) enum Done {
    Outcome(Box<Outcome>),
    Mirror(bool),
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.aborts.keys()).finish()
    }
}

impl Operations {
    pub(super) fn begin(&mut self, operation: Operation, future: BoxFuture<'static, Outcome>) {
        let (handle, registration) = AbortHandle::new_pair();
        self.aborts.insert(operation, handle);
        let done: BoxFuture<'static, Done> = Box::pin(async move { Done::Outcome(Box::new(future.await)) });
        self.running.push(Abortable::new(done, registration));
    }

    pub(super) fn begin_mirror(&mut self, future: BoxFuture<'static, bool>) {
        let (_, registration) = AbortHandle::new_pair();
        let done: BoxFuture<'static, Done> = Box::pin(async move { Done::Mirror(future.await) });
        self.running.push(Abortable::new(done, registration));
    }

    /// Gives an operation up; it leaves nothing behind that has to be removed.
    pub(super) fn give_up(&mut self, operation: &Operation) {
        if let Some(handle) = self.aborts.remove(operation) {
            handle.abort();
        }
    }

    pub(super) async fn next(&mut self) -> Done {
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
    pub(super) fn apply(&mut self, plan: &Plan, now: Timestamp) {
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
                    beside: self.beside(container),
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
            Action::ResizeContainer { container, id } => {
                let input = ResizeInput {
                    context,
                    container: find(&pod, container)?.into_owned(),
                    pod,
                    id: id.clone(),
                    sandbox: self.facts.sandbox.clone()?,
                };
                (Operation::Resize(id.clone()), Box::pin(resize_container(input)))
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
                if failed.is_some_and(|failure| is_early(now, failure.retry_at)) {
                    return None;
                }
                let input = TearDownInput { context, pod, sandbox: self.facts.sandbox.clone() };
                (Operation::TearDown, Box::pin(tear_down(input)))
            }
            Action::Confirm => {
                let failed = self.facts.confirm_failure.as_ref();
                if failed.is_some_and(|failure| is_early(now, failure.retry_at))
                    || !self.publisher.is_settled()
                {
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

    /// The container that an ephemeral one names as its target.
    fn beside(&self, container: &str) -> Option<Beside> {
        let spec = self.facts.pod.spec.as_ref()?;
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|own| own.name == container)?;
        let name = ephemeral.target_container_name.clone().filter(|name| !name.is_empty())?;
        let run = self.facts.runs.get(&name).and_then(|runs| runs.first()).filter(|run| run.in_sandbox);
        Some(Beside { id: run.map(|run| run.id.clone()), name })
    }

    fn must_record_first(&self) -> bool {
        !self.stop.is_some_and(|stop| stop.removed) && !self.publisher.is_recorded()
    }
}

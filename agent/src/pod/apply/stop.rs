//! Stopping a container: preStop hook, stop signal, and SIGKILL when its time is over.

use std::sync::Arc;
use std::time::Duration;

use client::ErrorChain;
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use runtime::{ErrorClass, Signal};
use tokio::sync::watch;

use super::super::decide::StopCause;
use super::Outcome;
use crate::context::Context;
use crate::hooks;
use crate::machine::PodSandbox;

/// How long the kernel may take to end a process that was killed before it is killed again.
const AGAIN: Duration = Duration::from_secs(5);

/// What a container has after its preStop hook, however long that took.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// What is stopped, and how.
#[derive(Debug)]
pub(in super::super) struct StopInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) container: Container,
    pub(in super::super) id: String,
    pub(in super::super) sandbox: Arc<dyn PodSandbox>,
    pub(in super::super) address: String,
    pub(in super::super) signal: Signal,
    pub(in super::super) cause: StopCause,
    /// When it is killed; may be moved forward while this goes on.
    pub(in super::super) deadline: watch::Receiver<Timestamp>,
}

pub(in super::super) async fn stop_container(mut input: StopInput) -> Outcome {
    let message = message(input.cause, &input.container.name);
    input.context.events.container_normal(&input.pod, &input.container.name, "Killing", message);
    let ended = {
        let (sandbox, id) = (input.sandbox.clone(), input.id.clone());
        async move {
            // Whatever the error is, there is nothing left to wait for.
            let _ = sandbox.wait(&id).await;
        }
    };
    let mut ended = std::pin::pin!(ended);
    let mut deadline = input.deadline.clone();
    // A hook has the container's own time; one that takes it all leaves a little for the signal that follows it.
    let has_time = *deadline.borrow() > Timestamp::now();
    let hooked = has_time && pre_stop_hook(&input.container).is_some();
    if hooked {
        tokio::select! {
            biased;
            () = &mut ended => return Outcome::Stopped { id: input.id },
            () = pre_stop(&input) => {}
            () = passed(&mut deadline) => {}
        }
    }
    let signalled = async {
        if has_time && let Err(error) = input.sandbox.signal(&input.id, input.signal).await {
            tracing::debug!(id = input.id, error = %ErrorChain(&error), "signalling a container");
        }
    };
    tokio::select! {
        biased;
        () = &mut ended => return Outcome::Stopped { id: input.id },
        () = signalled => {}
    }
    let least = tokio::time::Instant::now() + if hooked { MINIMUM_GRACE } else { Duration::ZERO };
    let over = async {
        passed(&mut input.deadline).await;
        tokio::time::sleep_until(least).await;
    };
    tokio::select! {
        biased;
        () = &mut ended => return Outcome::Stopped { id: input.id },
        () = over => {}
    }
    loop {
        if let Err(error) = input.sandbox.kill(&input.id).await
            && error.class() != ErrorClass::Gone
        {
            tracing::warn!(id = input.id, error = %ErrorChain(&error), "killing a container");
        }
        tokio::select! {
            () = &mut ended => return Outcome::Stopped { id: input.id },
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn pre_stop_hook(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Runs the preStop hook, if there is one.
async fn pre_stop(input: &StopInput) {
    let StopInput { context, pod, container, id, .. } = input;
    let Some(hook) = pre_stop_hook(container) else { return };
    let target = hooks::Target {
        sandbox: &*input.sandbox,
        container,
        id,
        address: &input.address,
        http: &context.http,
    };
    if let Err(error) = hooks::run(hook, target).await {
        let message = format!("PreStopHook failed: {error}");
        context.events.container_warning(pod, &container.name, "FailedPreStopHook", message);
    }
}

/// Waits for the deadline, wherever it is moved to.
async fn passed(deadline: &mut watch::Receiver<Timestamp>) {
    loop {
        let at = *deadline.borrow_and_update();
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    // The worker is gone; the last deadline holds.
                    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                    return tokio::time::sleep(left).await;
                }
            }
        }
    }
}

fn message(cause: StopCause, container: &str) -> String {
    match cause {
        StopCause::PodStops => format!("Stopping container {container}"),
        StopCause::Liveness => format!("Container {container} failed liveness probe, will be restarted"),
        StopCause::Startup => format!("Container {container} failed startup probe, will be restarted"),
        StopCause::Changed => format!("Container {container} definition changed, will be restarted"),
        StopCause::PostStartHook => "FailedPostStartHook".to_owned(),
        StopCause::Resized => format!("Container {container} resize requires restart"),
    }
}

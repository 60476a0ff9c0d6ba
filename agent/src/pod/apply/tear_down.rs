//! Removing what the kernel and the disk have of a pod.

use std::path::PathBuf;
use std::sync::Arc;

use client::ErrorChain;
use jiff::SignedDuration;
use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::observe::Failure;
use super::{Outcome, failure};
use crate::context::Context;
use crate::machine::PodSandbox;
use crate::names;
use crate::volume::mount;

/// What is in the way of a removal is usually gone soon: a process that hangs in the kernel, a mount in use.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// What is removed.
#[derive(Debug)]
pub(in super::super) struct TearDownInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) sandbox: Option<Arc<dyn PodSandbox>>,
}

/// Processes, network and mounts go; logs and the last status stay until nobody can ask for them.
pub(in super::super) async fn tear_down(input: TearDownInput) -> Outcome {
    Outcome::TornDown(run(input).await)
}

async fn run(input: TearDownInput) -> Result<(), Failure> {
    let TearDownInput { context, pod, sandbox } = input;
    if let Some(sandbox) = sandbox {
        sandbox.remove().await.map_err(|error| failed(&error))?;
        if !pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
            context.machine.network.detach(sandbox.id()).await.map_err(|error| failed(&error))?;
        }
    }
    let dir = context.layout.pod(names::uid(&pod));
    let removed = tokio::task::spawn_blocking(move || {
        ["rootfs", "volume-subpaths", "volumes", "etc"]
            .iter()
            .try_for_each(|part| mount::remove(&dir.join(part)))
    });
    match removed.await {
        Ok(result) => result.map_err(|error| failed(&error)),
        Err(error) => Err(failure("FailedKillPod", error.to_string(), RETRY)),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    let message = ErrorChain(error).to_string();
    tracing::warn!(message, "cannot tear a pod down yet");
    failure("FailedKillPod", message, RETRY)
}

/// Removes the rest: logs, last status.
pub(in super::super) async fn remove_files(context: &Context, pod: &Pod) {
    let directories: [PathBuf; 2] = [
        context.layout.pod(names::uid(pod)),
        context.layout.pod_logs(names::namespace(pod), names::name(pod), names::uid(pod)),
    ];
    let removed = tokio::task::spawn_blocking(move || {
        for directory in directories {
            if let Err(error) = mount::remove(&directory) {
                tracing::warn!(error = %ErrorChain(&error), "removing what is left of a pod");
            }
        }
    });
    // Only fails when the process is stopping; what is left is collected at the next start.
    let _ = removed.await;
}

//! Holding a running container, and its pod, to other limits.

use std::sync::Arc;

use client::ErrorChain;
use manifests::k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::super::observe::Failure;
use super::{Outcome, RETRY, failure};
use crate::context::Context;
use crate::machine::PodSandbox;
use crate::names;
use crate::resources::{container_limits, pod_cgroup, pod_limits_of};

/// What is resized.
#[derive(Debug)]
pub(in super::super) struct ResizeInput {
    pub(in super::super) context: Arc<Context>,
    /// With the new resources.
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) container: Container,
    pub(in super::super) id: String,
    pub(in super::super) sandbox: Arc<dyn PodSandbox>,
}

pub(in super::super) async fn resize_container(input: ResizeInput) -> Outcome {
    let result = resize(&input).await;
    let resources = input.container.resources.clone().unwrap_or_default();
    Outcome::Resized { id: input.id, result: result.map(|()| resources) }
}

async fn resize(input: &ResizeInput) -> Result<(), Failure> {
    let ResizeInput { context, pod, container, id, sandbox } = input;
    let failed = |message: String| failure("Error", message, RETRY);
    let limits = container_limits(container);
    // The kernel would rather kill than refuse.
    let used = sandbox.stats(id).await.ok().and_then(|stats| stats.memory_working_set);
    if let (Some(limit), Some(used)) = (limits.memory, used)
        && u64::try_from(limit).is_ok_and(|limit| limit < used)
    {
        return Err(failed(format!(
            "attempting to set container {} memory limit ({limit}) below current usage ({used})",
            container.name
        )));
    }
    let whole = || {
        let path = pod_cgroup(pod, names::uid(pod));
        context.machine.sandboxes.limit(&path, &pod_limits_of(pod).to_oci())
    };
    // A part may not have more than the whole: the whole grows first, and shrinks last.
    let grown = whole();
    let changed = sandbox.update(id, limits.to_oci()).await;
    changed.map_err(|error| failed(ErrorChain(&error).to_string()))?;
    if grown.is_err() {
        whole().map_err(|error| failed(ErrorChain(&error).to_string()))?;
    }
    Ok(())
}

/// What a container that was not resized yet runs with.
pub(in super::super) fn resources_of(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

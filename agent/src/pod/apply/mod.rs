//! Carrying a plan out: one operation per action, each with a typed outcome. No operation decides anything; what an
//! outcome means is decided when the pod is looked at again.

mod confirm;
mod image;
mod resize;
mod sandbox;
mod start;
mod stop;
mod tear_down;
mod volumes;

use std::sync::Arc;

pub(super) use confirm::{confirm, delete_mirror};
pub(super) use image::{ImageInput, ensure_image};
pub(super) use resize::{ResizeInput, resize_container, resources_of};
pub(crate) use sandbox::HANDLERS;
pub(super) use sandbox::{SandboxInput, attach, create_sandbox};
pub(super) use start::{Beside, StartInput, start_container};
pub(super) use stop::{StopInput, stop_container};
pub(super) use tear_down::{TearDownInput, remove_files, tear_down};
pub(super) use volumes::{VolumesInput, prepare_volumes};

use manifests::k8s_openapi::api::core::v1::ResourceRequirements;

use super::observe::{ContainerSeen, Failure, ImageSeen, Operation};
use crate::machine::{Image, PodSandbox};
use crate::objects::Snapshot;

/// What came of an operation.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A sandbox, with the pod's addresses.
    Sandbox(Result<(Arc<dyn PodSandbox>, Vec<String>), Failure>),
    /// Volumes, made from these objects.
    Volumes(Result<Snapshot, Failure>),
    /// The image of a container.
    Image { container: String, result: Result<Image, ImageSeen> },
    /// A container.
    Started { container: String, result: Result<Started, StartFailure> },
    /// A container has ended, or is gone.
    Stopped { id: String },
    /// A container is held to these, or not.
    Resized { id: String, result: Result<ResourceRequirements, Failure> },
    /// The proxy knows.
    Left,
    /// Nothing is left, or something still is.
    TornDown(Result<(), Failure>),
    /// The server knows, or could not be told.
    Confirmed(Result<(), Failure>),
}

/// A container that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) run: Box<ContainerSeen>,
    /// What its postStart hook said, if it failed.
    pub(super) hook_failure: Option<String>,
}

/// A container that was not started.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// It can be tried again, and does not count as a run.
    Retry(Failure),
    /// It counts as a run that ended at once.
    Ended(Box<ContainerSeen>),
}

impl Outcome {
    /// The operation that this is the outcome of.
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Sandbox(_) => Operation::Sandbox,
            Self::Volumes(_) => Operation::Volumes,
            Self::Image { container, .. } => Operation::Image(container.clone()),
            Self::Started { container, .. } => Operation::Start(container.clone()),
            Self::Stopped { id } => Operation::Stop(id.clone()),
            Self::Resized { id, .. } => Operation::Resize(id.clone()),
            Self::Left => Operation::Leave,
            Self::TornDown(_) => Operation::TearDown,
            Self::Confirmed(_) => Operation::Confirm,
        }
    }
}

/// How long to wait before trying something again that failed for a reason outside the pod.
pub(super) const RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// A failure to be tried again after `after`.
pub(super) fn failure(reason: &str, message: impl Into<String>, after: jiff::SignedDuration) -> Failure {
    let now = jiff::Timestamp::now();
    let retry_at = now.saturating_add(after).unwrap_or(jiff::Timestamp::MAX);
    Failure { reason: reason.to_owned(), message: message.into(), retry_at }
}

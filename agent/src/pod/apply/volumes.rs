//! Putting a pod's volumes in place. Doing it again changes nothing, except files whose objects changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use client::ErrorChain;
use jiff::SignedDuration;
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::observe::Failure;
use super::{Outcome, RETRY, failure};
use crate::context::Context;
use crate::images::credentials_for;
use crate::names;
use crate::objects::{Snapshot, Subscription};
use crate::volume::mount::{self, MountError};
use crate::volume::payload::payload;
use crate::volume::persistent::{self, Group};
use crate::volume::plan::{Kind, VolumePlan, plan};

/// What volumes are made from.
#[derive(Debug)]
pub(in super::super) struct VolumesInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) objects: Subscription,
}

pub(in super::super) async fn prepare_volumes(mut input: VolumesInput) -> Outcome {
    let snapshot = input.objects.snapshot().await;
    let layers = match images(&input, &snapshot).await {
        Ok(layers) => layers,
        Err(failure) => {
            input.context.events.warning(&input.pod, "FailedMount", failure.message.clone());
            return Outcome::Volumes(Err(failure));
        }
    };
    let made = tokio::task::spawn_blocking(move || {
        let result = prepare(&input.context, &input.pod, &snapshot, &layers);
        result.map(|()| snapshot).inspect_err(|failure| {
            input.context.events.warning(&input.pod, "FailedMount", failure.message.clone());
        })
    });
    Outcome::Volumes(match made.await {
        Ok(result) => result,
        Err(error) => Err(failure("FailedMount", error.to_string(), RETRY)),
    })
}

/// Layers of the images that are volumes, by the volume's name.
type Layers = BTreeMap<String, Vec<PathBuf>>;

/// Gets the images that are volumes, by their pull policies.
async fn images(input: &VolumesInput, objects: &Snapshot) -> Result<Layers, Failure> {
    let VolumesInput { context, pod, .. } = input;
    let images = &context.machine.images;
    let mut layers = Layers::new();
    let dir = context.layout.pod(names::uid(pod));
    for volume in plan(pod, &dir).unwrap_or_default() {
        let Kind::Image { reference, policy } = &volume.kind else { continue };
        let failed = |reason: &str, error: &dyn std::fmt::Display| {
            let message =
                format!("MountVolume.SetUp failed for volume {} : {reason}: {error}", quote(&volume.name));
            failure("FailedMount", message, RETRY)
        };
        if mount::is_mount_point(&volume.path) {
            continue;
        }
        let found = images.find(reference).await.map_err(|error| failed("ImageInspectError", &error))?;
        let image = match (policy.as_str(), found) {
            ("IfNotPresent" | "Never", Some(image)) => image,
            ("Never", None) => {
                let message =
                    format!("Container image {} is not present with pull policy of Never", quote(reference));
                return Err(failed("ErrImageNeverPull", &message));
            }
            _ => {
                context.events.normal(pod, "Pulling", format!("Pulling image {}", quote(reference)));
                let credentials = credentials_for(pod, objects, &**images, reference);
                let pulled = images.pull(reference, &credentials).await;
                pulled.map_err(|error| failed("ErrImagePull", &error))?
            }
        };
        layers.insert(volume.name, image.layers);
    }
    Ok(layers)
}

fn prepare(context: &Context, pod: &Pod, objects: &Snapshot, layers: &Layers) -> Result<(), Failure> {
    let dir = context.layout.pod(names::uid(pod));
    let plans = plan(pod, &dir).map_err(|error| {
        // Only another pod would have other volumes.
        failure("FailedMount", error.to_string(), SignedDuration::from_mins(2))
    })?;
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    for plan in &plans {
        prepare_one(context, pod, plan, objects, layers, group).map_err(|reason| {
            let message = format!("MountVolume.SetUp failed for volume {} : {reason}", quote(&plan.name));
            failure("FailedMount", message, RETRY)
        })?;
    }
    Ok(())
}

/// Whether a container wants the volume as a device.
fn is_device(pod: &Pod, volume: &str) -> bool {
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers
        .flat_map(|container| container.volume_devices.iter().flatten())
        .any(|device| device.name == volume)
}

fn prepare_one(
    context: &Context,
    pod: &Pod,
    plan: &VolumePlan,
    objects: &Snapshot,
    layers: &Layers,
    group: Option<u32>,
) -> Result<(), String> {
    let told = |error: MountError| ErrorChain(&error).to_string();
    match &plan.kind {
        Kind::EmptyDir => mount::empty_dir(&plan.path, group).map_err(told),
        Kind::Memory { size } => mount::memory(&plan.path, *size, group).map_err(told),
        Kind::HostPath { expect } => mount::host_path(&plan.path, *expect).map_err(told),
        Kind::Claim { .. } if is_device(pod, &plan.name) => {
            Err("this node has no block volumes: volumeDevices cannot be used".to_owned())
        }
        Kind::Claim { claim, read_only } => {
            let bound = objects.claim(claim).map_err(|error| error.to_string())?;
            let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
            let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
            let group = group.map(|id| Group { id, root_only: policy == Some("OnRootMismatch") });
            persistent::mount(&bound.volume, &plan.path, *read_only, group)
                .map_err(|error| ErrorChain(&error).to_string())
        }
        // Without layers it is mounted already, and stays what it was when the pod began.
        Kind::Image { .. } => match layers.get(&plan.name) {
            Some(layers) => {
                let users = context.users.assign(&context.layout, pod);
                let users = users.map_err(|error| ErrorChain(&error).to_string())?;
                mount::image(&plan.path, layers, users).map_err(told)
            }
            None => Ok(()),
        },
        Kind::Files { sources, mode } => {
            let facts = context.downward(&[]);
            let files = payload(sources, *mode, pod, objects, &facts).map_err(|error| error.to_string())?;
            mount::files(&plan.path, &files, group).map_err(told)
        }
    }
}

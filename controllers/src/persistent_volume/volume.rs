//! What a volume needs next, by what became of its claim.
//!
//! ```text
//!   Available ──claimRef──▶ Bound ──its claim is gone──▶ Released ──Delete──▶ removed by who made it
//!                                                            └────Retain──▶ stays
//! ```

use client::{EventType, Object as _};
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::volumes::{self, BOUND_BY_CONTROLLER, PROVISIONED_BY, VOLUME_PROTECTION, annotation};

use super::claim::{Told, has_finalizer};

/// The next write.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Volume(PersistentVolume),
    Status(PersistentVolume),
    /// It was made for a claim that has got another one, and was never used.
    Delete,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) write: Option<Write>,
    pub(super) event: Option<Told>,
}

/// `claim` is the one that the volume refers to, if it still exists.
pub(super) fn decide(
    volume: &PersistentVolume,
    claim: Option<&PersistentVolumeClaim>,
    now: Timestamp,
) -> Plan {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let protected = has_finalizer(&volume.metadata, VOLUME_PROTECTION);
    let leaving = volume.metadata.deletion_timestamp.is_some();
    if leaving && protected && phase != "Bound" {
        let mut volume = volume.clone();
        volume.metadata.finalizers.get_or_insert_default().retain(|name| name != VOLUME_PROTECTION);
        return Plan { write: Some(Write::Volume(volume)), event: None };
    }
    if !leaving && !protected {
        let mut volume = volume.clone();
        volume.metadata.finalizers.get_or_insert_default().push(VOLUME_PROTECTION.to_owned());
        return Plan { write: Some(Write::Volume(volume)), event: None };
    }
    let is_now = |phase: &str| status(volume, phase, None, now);
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return is_now("Available");
    };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        return is_now("Available");
    }
    let Some(claim) = claim.filter(|claim| claim.uid() == uid) else {
        return match phase {
            "Released" => reclaim(volume, now),
            "Failed" => Plan::default(),
            _ => is_now("Released"),
        };
    };
    match volumes::volume_name(claim) {
        Some(name) if name == volume.name() => is_now("Bound"),
        // The claim is on its way to it.
        None => Plan::default(),
        Some(_) => unbind(volume),
    }
}

fn status(volume: &PersistentVolume, phase: &str, message: Option<String>, now: Timestamp) -> Plan {
    if volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some(phase)) {
        return Plan::default();
    }
    let status = PersistentVolumeStatus {
        phase: Some(phase.to_owned()),
        message,
        last_phase_transition_time: Some(Time(now)),
        ..PersistentVolumeStatus::default()
    };
    let told = PersistentVolume { status: Some(status), ..volume.clone() };
    Plan { write: Some(Write::Status(told)), event: None }
}

/// The claim has another volume.
fn unbind(volume: &PersistentVolume) -> Plan {
    if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        return Plan { write: Some(Write::Delete), event: None };
    }
    let mut volume = volume.clone();
    let by_controller = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    let spec = volume.spec.get_or_insert_default();
    if by_controller {
        spec.claim_ref = None;
        volume.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER);
    } else if let Some(reference) = &mut spec.claim_ref {
        // A user reserved it: only whom it was bound to is forgotten.
        (reference.uid, reference.resource_version) = (None, None);
    }
    Plan { write: Some(Write::Volume(volume)), event: None }
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Its claim is gone.
fn reclaim(volume: &PersistentVolume, now: Timestamp) -> Plan {
    let failed = |reason, message: String| {
        let plan = status(volume, "Failed", Some(message.clone()), now);
        Plan { event: Some((EventType::Warning, reason, message)), ..plan }
    };
    match policy(volume) {
        "Delete" if annotation(&volume.metadata, PROVISIONED_BY).is_some() => Plan::default(),
        "Delete" => {
            let name = quote(volume.name());
            failed(
                "VolumeFailedDelete",
                format!(
                    "error getting deleter volume plugin for volume {name}: no deletable volume plugin matched"
                ),
            )
        }
        "Recycle" => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => Plan::default(),
    }
}

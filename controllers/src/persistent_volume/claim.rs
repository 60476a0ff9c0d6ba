//! What a claim needs next: at most one write, so that a crash between two of them is a pass like any other.
//!
//! ```text
//!   pending ──(a volume that does, or one is made)──▶ volume.spec.claimRef ──▶ claim.spec.volumeName ──▶ status Bound
//!      └─ its class waits for a consumer: until the scheduler names a volume or a node
//! ```

use std::sync::Arc;

use client::{EventType, Object as _};
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, VolumeNodeAffinity,
};
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::volumes::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, LOCAL_PATH, LOCAL_PATH_NODE,
    LOCAL_PATH_PROVISIONER, PROVISIONED_BY, PROVISIONER, PROVISIONER_BETA, SELECTED_NODE, annotation,
};

use crate::pod_state;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Everything that a decision about a claim looks at.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) claim: Arc<PersistentVolumeClaim>,
    pub(super) volumes: Vec<Arc<PersistentVolume>>,
    pub(super) classes: Vec<Arc<StorageClass>>,
    pub(super) nodes: Vec<Arc<Node>>,
    /// Pods that use the claim.
    pub(super) pods: Vec<Arc<Pod>>,
}

/// The next write.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Volume(PersistentVolume),
    NewVolume(PersistentVolume),
    Claim(PersistentVolumeClaim),
    ClaimStatus(PersistentVolumeClaim),
}

/// Something to tell the user about the claim.
pub(super) type Told = (EventType, &'static str, String);

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) write: Option<Write>,
    pub(super) event: Option<Told>,
}

impl Plan {
    fn write(write: Write) -> Self {
        Self { write: Some(write), event: None }
    }

    fn tell(kind: EventType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { write: None, event: Some((kind, reason, message.into())) }
    }
}

pub(super) fn decide(seen: &Observed) -> Plan {
    let claim = &*seen.claim;
    if claim.metadata.deletion_timestamp.is_some() {
        return unprotect(seen);
    }
    if !has_finalizer(&claim.metadata, CLAIM_PROTECTION) {
        let mut claim = claim.clone();
        claim.metadata.finalizers.get_or_insert_default().push(CLAIM_PROTECTION.to_owned());
        return Plan::write(Write::Claim(claim));
    }
    match volumes::volume_name(claim) {
        Some(name) => {
            let volume = seen.volumes.iter().find(|volume| volume.name() == name);
            if volumes::is_bound(claim) { settled(claim, volume) } else { asked_for(claim, name, volume) }
        }
        None => unbound(seen),
    }
}

pub(super) fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// A claim on its way out stays while a pod that has not ended uses it.
fn unprotect(seen: &Observed) -> Plan {
    let in_use = seen.pods.iter().any(|pod| !pod_state::has_ended(pod));
    if in_use || !has_finalizer(&seen.claim.metadata, CLAIM_PROTECTION) {
        return Plan::default();
    }
    let mut claim = (*seen.claim).clone();
    claim.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != CLAIM_PROTECTION);
    Plan::write(Write::Claim(claim))
}

/// A claim whose binding is complete.
fn settled(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> Plan {
    let lost = |reason, message: &str| {
        if phase(claim) == "Lost" {
            return Plan::default();
        }
        let mut lost = claim.clone();
        let status = lost.status.get_or_insert_default();
        (status.phase, status.access_modes, status.capacity) = (Some("Lost".to_owned()), None, None);
        Plan {
            write: Some(Write::ClaimStatus(lost)),
            event: Some((EventType::Warning, reason, message.to_owned())),
        }
    };
    let Some(volume) = volume else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    if volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) {
        return bind(claim, volume);
    }
    if !volumes::is_reserved_for(volume, claim) {
        return lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        );
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Bound".to_owned());
    status.access_modes = spec.access_modes;
    status.capacity = spec.capacity;
    if claim.status.as_ref() == Some(&status) {
        return Plan::default();
    }
    Plan::write(Write::ClaimStatus(PersistentVolumeClaim { status: Some(status), ..claim.clone() }))
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A claim that names the volume that it wants.
fn asked_for(claim: &PersistentVolumeClaim, name: &str, volume: Option<&Arc<PersistentVolume>>) -> Plan {
    let Some(volume) = volume else { return Plan::default() };
    if volumes::is_reserved_for(volume, claim) {
        return bind(claim, volume);
    }
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        let message = format!("volume {} already bound to a different claim.", quote(name));
        return Plan::tell(EventType::Warning, "FailedBinding", message);
    }
    match volumes::mismatch(volume, claim) {
        Some(why) => {
            let message = format!("Cannot bind to requested volume {}: {why}", quote(name));
            Plan::tell(EventType::Warning, "VolumeMismatch", message)
        }
        None => bind(claim, volume),
    }
}

/// The next step of a binding: first the volume, which others want too, then the claim.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let mine = volumes::is_reserved_for(volume, claim)
        && volume.spec.iter().any(|spec| spec.claim_ref.iter().any(|reference| reference.uid.is_some()));
    if !mine {
        let mut volume = volume.clone();
        let spec = volume.spec.get_or_insert_default();
        if spec.claim_ref.is_none() {
            annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        spec.claim_ref = Some(reference(claim));
        return Plan::write(Write::Volume(volume));
    }
    let mut claim = claim.clone();
    let spec = claim.spec.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
        spec.volume_name = Some(volume.name().to_owned());
        annotate(&mut claim.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    annotate(&mut claim.metadata, BIND_COMPLETED, "yes");
    Plan::write(Write::Claim(claim))
}

fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// A claim that takes what it gets.
fn unbound(seen: &Observed) -> Plan {
    let claim = &*seen.claim;
    let reserved = seen.volumes.iter().find(|volume| {
        let fits = !matches!(
            volumes::mismatch(volume, claim),
            Some("requested PV is too small" | "incompatible volumeMode")
        );
        volumes::is_reserved_for(volume, claim) && fits
    });
    if let Some(volume) = reserved {
        return bind(claim, volume);
    }
    let Some(name) = volumes::claim_class(claim) else {
        let default = volumes::default_class(seen.classes.iter().map(|class| &**class));
        if let Some(class) = default {
            let mut claim = claim.clone();
            claim.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
            return Plan::write(Write::Claim(claim));
        }
        return static_only(seen);
    };
    if name.is_empty() {
        return static_only(seen);
    }
    let class = seen.classes.iter().find(|class| class.name() == name);
    if !class.is_some_and(|class| volumes::waits_for_consumer(class))
        && let Some(volume) = volumes::smallest(&seen.volumes, claim)
    {
        return bind(claim, volume);
    }
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {} not found", quote(name));
        return Plan::tell(EventType::Warning, "ProvisioningFailed", message);
    };
    if volumes::waits_for_consumer(class) && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return consumer(seen);
    }
    if class.provisioner == LOCAL_PATH_PROVISIONER { provision(seen, class) } else { leave_to(claim, class) }
}

fn static_only(seen: &Observed) -> Plan {
    match volumes::smallest(&seen.volumes, &seen.claim) {
        Some(volume) => bind(&seen.claim, volume),
        None => Plan::tell(
            EventType::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
    }
}

/// A claim that waits for its first user. One that was put on its node by hand never meets the scheduler.
fn consumer(seen: &Observed) -> Plan {
    let living = || seen.pods.iter().filter(|pod| !pod_state::has_ended(pod));
    if let Some(node) = living().find_map(|pod| pod_state::node(pod)) {
        let mut claim = (*seen.claim).clone();
        annotate(&mut claim.metadata, SELECTED_NODE, node);
        return Plan::write(Write::Claim(claim));
    }
    match living().next() {
        Some(pod) => {
            let message = format!("waiting for pod {} to be scheduled", pod.name());
            Plan::tell(EventType::Normal, "WaitForPodScheduled", message)
        }
        None => Plan::tell(
            EventType::Normal,
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
    }
}

/// Somebody else makes the volume.
fn leave_to(claim: &PersistentVolumeClaim, class: &StorageClass) -> Plan {
    let who = class.provisioner.as_str();
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{who}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    let event = Some((EventType::Normal, "ExternalProvisioning", message));
    let write = (annotation(&claim.metadata, PROVISIONER) != Some(who)).then(|| {
        let mut claim = claim.clone();
        annotate(&mut claim.metadata, PROVISIONER, who);
        annotate(&mut claim.metadata, PROVISIONER_BETA, who);
        Write::Claim(claim)
    });
    Plan { write, event }
}

/// A directory of a node becomes a volume. The node makes it when the first pod mounts it.
fn provision(seen: &Observed, class: &StorageClass) -> Plan {
    let claim = &*seen.claim;
    let failed = |why: String| {
        let message = format!("failed to provision volume with StorageClass {}: {why}", quote(class.name()));
        Plan::tell(EventType::Warning, "ProvisioningFailed", message)
    };
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return failed("directories are no block devices".to_owned());
    }
    if spec.selector.is_some() {
        return failed("claim.Spec.Selector is not supported for dynamic provisioning".to_owned());
    }
    let base = |node: &Node| annotation(&node.metadata, LOCAL_PATH).map(str::to_owned);
    let node = match annotation(&claim.metadata, SELECTED_NODE) {
        Some(name) => seen.nodes.iter().find(|node| node.name() == name),
        // Without a consumer there is no choice if there is one node.
        None => Some(&seen.nodes).filter(|nodes| nodes.len() == 1).and_then(|nodes| nodes.first()),
    };
    let Some(node) = node else {
        return failed("configuration error, no node was specified".to_owned());
    };
    let Some(base) = base(node) else {
        return failed(format!("node {} has no directory for volumes", quote(node.name())));
    };
    let name = format!("pvc-{}", claim.uid());
    let hostname = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME).cloned());
    let mut metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    annotate(&mut metadata, PROVISIONED_BY, LOCAL_PATH_PROVISIONER);
    annotate(&mut metadata, LOCAL_PATH_NODE, node.name());
    let place = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.unwrap_or_else(|| node.name().to_owned())]),
    };
    let volume = PersistentVolume {
        metadata,
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(reference(claim)),
            host_path: Some(HostPathVolumeSource {
                path: format!("{base}/{name}_{}_{}", claim.namespace(), claim.name()),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![place]),
                        match_fields: None,
                    }],
                }),
            }),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(class.name().to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    let message = format!("Successfully provisioned volume {name}");
    Plan {
        write: Some(Write::NewVolume(volume)),
        event: Some((EventType::Normal, "ProvisioningSucceeded", message)),
    }
}

//! What a pod of a StatefulSet is called, and what makes it the one of its number.

use std::collections::BTreeMap;

use client::Object as _;
use manifests::k8s_openapi::api::apps::v1::StatefulSet;
use manifests::k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::retention::set_reference;
use crate::history::HASH;
use crate::ownership::controller_reference;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The first number of the set's pods.
pub(super) fn start_of(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name())
}

/// The number in a pod's name, if the name is one of the set's.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let digits = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+', '-']);
    digits.parse().ok().filter(|_| canonical)
}

/// The revision that a pod was made from.
pub(super) fn revision_of(pod: &Pod) -> &str {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
    label.map(String::as_str).unwrap_or_default()
}

/// The pod of a number, from the template of a revision.
pub(super) fn pod_of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = pod_name(set, ordinal);
    let meta = template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH.to_owned(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let claims = set.spec.volume_claim_templates.iter().flatten();
    let own: Vec<Volume> = claims
        .map(|claim| Volume {
            name: claim.name().to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(claim, &name),
                read_only: Some(false),
            }),
            ..Volume::default()
        })
        .collect();
    if !own.is_empty() {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| own.iter().all(|own| own.name != volume.name));
        volumes.extend(own);
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn claim_name(claim: &PersistentVolumeClaim, pod: &str) -> String {
    format!("{}-{pod}", claim.name())
}

/// The claims of the pod of a number.
pub(super) fn claims_of(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let pod = pod_name(set, ordinal);
    let selected: BTreeMap<String, String> = set.spec.selector.match_labels.clone().unwrap_or_default();
    let claims = set.spec.volume_claim_templates.iter().flatten();
    claims
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selected.clone());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name(template, &pod)),
                    namespace: set.metadata.namespace.clone(),
                    labels: (!labels.is_empty()).then_some(labels),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: set_reference(set).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            }
        })
        .collect()
}

//! Who a claim of a StatefulSet goes with: nobody, the set, or a pod that is one too many. Whoever it is owns the claim, and
//! the garbage collector does the rest. Follows upstream's retention policy.

use client::Object as _;
use manifests::k8s_openapi::api::apps::v1::StatefulSet;
use manifests::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity::start_of;
use crate::ownership::controller_reference;

/// Whether claims may ever be owned by anybody.
pub(super) fn deletes(set: &StatefulSet) -> bool {
    goes(set, |policy| policy.0) || goes(set, |policy| policy.1)
}

/// Whether the set has no pod of this number any more.
pub(super) fn is_condemned(set: &StatefulSet, ordinal: i32) -> bool {
    let start = start_of(set);
    let end = start.saturating_add(set.spec.replicas.unwrap_or(1).max(0));
    !(start..end).contains(&ordinal)
}

fn goes(set: &StatefulSet, which: impl Fn((bool, bool)) -> bool) -> bool {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let delete = |value: Option<&str>| value == Some("Delete");
    which((
        delete(policy.and_then(|policy| policy.when_deleted.as_deref())),
        delete(policy.and_then(|policy| policy.when_scaled.as_deref())),
    ))
}

/// The set as an owner of a claim.
pub(super) fn set_reference(set: &StatefulSet) -> Option<OwnerReference> {
    let reference =
        || OwnerReference { controller: None, block_owner_deletion: None, ..controller_reference(set) };
    goes(set, |policy| policy.0).then(reference)
}

/// A pod that is being scaled away, as an owner of a claim.
fn pod_reference(set: &StatefulSet, pod: &Pod, condemned: bool) -> Option<OwnerReference> {
    let reference = || OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        ..OwnerReference::default()
    };
    (condemned && goes(set, |policy| policy.1)).then(reference)
}

/// The claim as it is to be, if it is not. Owners that somebody else has given it stay.
pub(super) fn settled(
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<PersistentVolumeClaim> {
    let of_pod = pod_reference(set, pod, condemned);
    let of_set = set_reference(set).filter(|_| of_pod.is_none());
    let before = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_set = |owner: &OwnerReference| owner.kind == "StatefulSet" && owner.name == set.name();
    let is_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == pod.name();
    let foreign = before.iter().filter(|owner| !is_set(owner) && !is_pod(owner)).cloned();
    let owners: Vec<OwnerReference> = foreign.chain(of_set).chain(of_pod).collect();
    let uids = |owners: &[OwnerReference]| {
        let mut uids: Vec<String> = owners.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    if uids(&before) == uids(&owners) {
        return None;
    }
    let mut claim = claim.clone();
    claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
    Some(claim)
}

/// Whether a claim is on its way out: because it is being deleted, or because it went with an earlier pod of that name.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod: &str) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut pods = owners.filter(|owner| owner.kind == "Pod" && owner.name == pod);
    claim.metadata.deletion_timestamp.is_some() || pods.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(deleted: &str, scaled: &str, replicas: i32) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "set"},
            "spec": {
                "replicas": replicas, "serviceName": "web", "selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
            },
        }))
        .unwrap()
    }

    fn owned(owners: &[(&str, &str, &str)]) -> PersistentVolumeClaim {
        let owners: Vec<_> = owners
            .iter()
            .map(|(kind, name, uid)| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}))
            .collect();
        serde_json::from_value(
            json!({"metadata": {"name": "data-web-1", "ownerReferences": owners}, "spec": {}}),
        )
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "pod"}})).unwrap()
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        let check = |deleted: &str, scaled: &str, condemned: bool, expected: &[&str]| {
            for before in
                [owned(&[]), owned(&[("StatefulSet", "web", "set")]), owned(&[("Pod", "web-1", "pod")])]
            {
                let set = set(deleted, scaled, 1);
                let after = settled(&set, &pod(), condemned, &before);
                let settled_claim = after.unwrap_or(before);
                let owners = settled_claim.metadata.owner_references.clone().unwrap_or_default();
                let uids: Vec<&str> = owners.iter().map(|owner| owner.uid.as_str()).collect();
                assert_eq!(uids, expected, "{deleted} {scaled} {condemned}");
                assert_eq!(
                    settled(&set, &pod(), condemned, &settled_claim),
                    None,
                    "deciding again changes nothing"
                );
            }
        };
        check("Retain", "Retain", false, &[]);
        check("Retain", "Retain", true, &[]);
        check("Delete", "Retain", false, &["set"]);
        check("Delete", "Retain", true, &["set"]);
        check("Retain", "Delete", false, &[]);
        check("Retain", "Delete", true, &["pod"]);
        check("Delete", "Delete", false, &["set"]);
        check("Delete", "Delete", true, &["pod"]);
    }

    #[test]
    fn owners_of_others_stay() {
        let claim = owned(&[("Backup", "b", "backup"), ("StatefulSet", "web", "set")]);
        let after = settled(&set("Retain", "Retain", 2), &pod(), false, &claim).unwrap();
        assert_eq!(after.metadata.owner_references.unwrap().len(), 1);
    }

    #[test]
    fn a_claim_of_an_earlier_pod_is_stale() {
        assert!(is_stale(&owned(&[("Pod", "web-1", "other")]), "web-1"));
        assert!(!is_stale(&owned(&[("StatefulSet", "web", "set")]), "web-1"));
        assert!(is_condemned(&set("", "", 1), 1) && !is_condemned(&set("", "", 2), 1));
    }
}

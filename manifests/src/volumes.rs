//! PersistentVolumes and the claims on them: which claims a pod has, and which volume does for a claim.
//!
//! Follows upstream's persistent volume binder; annotations, finalizers and their meaning are upstream's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::placement::term_matches;
use crate::quantity::Quantity;
use crate::selector::Selector;

/// On a claim: its binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: nobody but the controller chose its other half.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make a volume for it.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as older provisioners know it.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node whose pod is its first user.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a class: claims that name none get this one.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The same, as it was called before.
const DEFAULT_CLASS_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// On a claim or volume: its class, before there was a field for it.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// Keeps a claim while a pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim has it.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Makes directories of nodes into volumes.
pub const LOCAL_PATH_PROVISIONER: &str = "coracle/local-path";
/// On a node: the directory in which it has such volumes.
pub const LOCAL_PATH: &str = "coracle/local-path";
/// On such a volume: the node that has it.
pub const LOCAL_PATH_NODE: &str = "coracle/node";

/// A claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedClaim {
    /// What the pod calls it.
    pub volume: String,
    /// The claim's name, in the pod's namespace.
    pub claim: String,
    /// It is made for the pod and goes with it.
    pub ephemeral: bool,
}

/// The claims that a pod uses.
pub fn claims_of(pod: &Pod) -> Vec<UsedClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let used = volumes.filter_map(|volume| {
        let (claim, ephemeral) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => (source.claim_name.clone(), false),
            (None, Some(_)) => {
                (format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name), true)
            }
            (None, None) => return None,
        };
        Some(UsedClaim { volume: volume.name.clone(), claim, ephemeral })
    });
    used.collect()
}

/// Whether a claim was made for this pod.
pub fn is_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// An annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class of a claim. None: nobody said; empty: none is wanted.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, CLASS_BETA)
        .or_else(|| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()))
}

/// The class of a volume, empty if it has none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, CLASS_BETA)
        .or_else(|| volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or_default()
}

/// Whether a class is for claims that name none.
pub fn is_default(class: &StorageClass) -> bool {
    [DEFAULT_CLASS, DEFAULT_CLASS_BETA].iter().any(|key| annotation(&class.metadata, key) == Some("true"))
}

/// The class for claims that name none: of several, the newest, then the first by name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let key = |class: &StorageClass| {
        let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (std::cmp::Reverse(created), class.metadata.name.clone())
    };
    classes.into_iter().filter(|class| is_default(class)).min_by_key(|class| key(class))
}

/// Whether claims of a class wait until a pod wants them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether a claim has got its volume for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The volume that a claim has, or wants.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether a volume is reserved for a claim, or has it.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// Whether a volume can be had on a node. One without affinity can be had everywhere; an empty list of terms selects
/// nothing.
pub fn is_there(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.node_selector_terms.iter().any(|term| term_matches(term, name, labels))
}

/// How much a volume has.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    let capacity = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    Quantity::parse(&capacity.0).ok()
}

fn request(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    Quantity::parse(&resources.requests.as_ref()?.get("storage")?.0).ok()
}

/// Why a volume does not do for a claim, in upstream's words; None if it does. Whether it is free, and which labels it
/// has, is not looked at.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (offered, wanted) = (volume.spec.as_ref(), claim.spec.as_ref());
    if request(claim) > capacity(volume) {
        return Some("requested PV is too small");
    }
    if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    if mode(offered.and_then(|spec| spec.volume_mode.as_ref()))
        != mode(wanted.and_then(|spec| spec.volume_mode.as_ref()))
    {
        return Some("incompatible volumeMode");
    }
    let modes = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let has = modes(offered.and_then(|spec| spec.access_modes.as_ref()));
    let wants = modes(wanted.and_then(|spec| spec.access_modes.as_ref()));
    if !wants.iter().all(|mode| has.contains(mode)) {
        return Some("incompatible accessMode");
    }
    None
}

/// Whether a volume is free and does for a claim.
pub fn does(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none())
        && volume.metadata.deletion_timestamp.is_none();
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    // A claim without a selector takes any volume.
    let selected = selector.is_none_or(|selector| {
        Selector::from_label_selector(Some(selector))
            .is_ok_and(|selector| selector.matches_meta(volume.metadata.labels.as_ref()))
    });
    free && selected && mismatch(volume, claim).is_none()
}

/// The smallest volume that is free and does for a claim, then the first by name.
pub fn smallest<'a, V: AsRef<PersistentVolume>>(
    volumes: impl IntoIterator<Item = &'a V>,
    claim: &PersistentVolumeClaim,
) -> Option<&'a V> {
    let fitting = volumes.into_iter().filter(|volume| does(volume.as_ref(), claim));
    fitting.min_by(|a, b| {
        let key = |volume: &PersistentVolume| (capacity(volume), volume.metadata.name.clone());
        key(a.as_ref()).partial_cmp(&key(b.as_ref())).unwrap_or(std::cmp::Ordering::Equal)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut spec =
            json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": spec}),
            )
            .unwrap(),
        )
    }

    fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": size}},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn the_smallest_volume_that_does() {
        let all = [
            volume("large", "10Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("taken", "1Gi", json!({"claimRef": {"name": "x", "namespace": "n"}})),
            volume("other", "1Gi", json!({"storageClassName": ""})),
        ];
        let check = |claim: PersistentVolumeClaim, expected: Option<&str>| {
            let found = smallest(&all, &claim).and_then(|volume| volume.metadata.name.as_deref());
            assert_eq!(found, expected, "{claim:?}");
        };
        check(claim("500Mi", json!({})), Some("small"));
        check(claim("1Gi", json!({})), Some("small"));
        check(claim("2Gi", json!({})), Some("large"));
        check(claim("20Gi", json!({})), None);
        check(claim("1Gi", json!({"storageClassName": ""})), Some("other"));
        check(claim("1Gi", json!({"accessModes": ["ReadWriteMany"]})), None);
        check(claim("1Gi", json!({"volumeMode": "Block"})), None);
        check(claim("1Gi", json!({"selector": {"matchLabels": {"disk": "large"}}})), Some("large"));
    }

    #[test]
    fn volumes_are_where_their_affinity_says() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}})).unwrap();
        let check = |terms: Value, expected: bool| {
            let more = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}});
            assert_eq!(is_there(&volume("v", "1Gi", more.clone()), &node), expected, "{more}");
        };
        assert!(is_there(&volume("v", "1Gi", json!({})), &node));
        check(json!([]), false);
        check(json!([{}]), false);
        check(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]), true);
        check(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]), false);
        check(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]), true);
    }

    #[test]
    fn reservations_are_by_name_and_uid() {
        let reserved = |reference: Value| {
            is_reserved_for(&volume("v", "1Gi", json!({ "claimRef": reference })), &claim("1Gi", json!({})))
        };
        assert!(reserved(json!({"name": "a", "namespace": "n"})));
        assert!(reserved(json!({"name": "a", "namespace": "n", "uid": "u"})));
        assert!(!reserved(json!({"name": "a", "namespace": "n", "uid": "earlier"})));
        assert!(!reserved(json!({"name": "a", "namespace": "other"})));
    }

    #[test]
    fn the_newest_default_class() {
        let class = |name: &str, default: bool, created: &str| -> StorageClass {
            serde_json::from_value(json!({"provisioner": "p", "metadata": {
                "name": name, "creationTimestamp": created, "annotations": {DEFAULT_CLASS: default.to_string()},
            }}))
            .unwrap()
        };
        let all = [
            class("old", true, "2026-01-01T00:00:00Z"),
            class("new", true, "2026-01-02T00:00:00Z"),
            class("newest", false, "2026-01-03T00:00:00Z"),
        ];
        assert_eq!(default_class(&all).and_then(|class| class.metadata.name.as_deref()), Some("new"));
        assert_eq!(default_class(&all[2..]), None);
    }
}

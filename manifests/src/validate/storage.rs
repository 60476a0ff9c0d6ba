//! Volumes, claims, storage classes and what storage drivers register.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::{immutable, object_meta, object_meta_update, one_of, text};
use crate::encode::same;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

fn access_modes(modes: Option<&[String]>, path: &Path, errors: &mut ErrorList) {
    let modes = modes.unwrap_or_default();
    if modes.is_empty() {
        errors.push(FieldError::required(path, "at least 1 access mode is required"));
    }
    for mode in modes {
        one_of(mode, &MODES, path, errors);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, why));
    }
}

fn storage(list: Option<&BTreeMap<String, ApiQuantity>>, path: &Path, errors: &mut ErrorList) {
    match list.and_then(|list| list.get("storage")) {
        None => errors.push(FieldError::required(path, "")),
        Some(amount) => match Quantity::parse(&amount.0) {
            Ok(parsed) if parsed.is_negative() || parsed.is_zero() => {
                errors.push(FieldError::invalid(path, &amount.0, "must be greater than zero"));
            }
            _ => {}
        },
    }
}

/// A new PersistentVolume.
pub fn persistent_volume(volume: &PersistentVolume) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&volume.metadata, false, names::dns1123_subdomain, &mut errors);
    volume_spec(volume, &mut errors);
    errors
}

fn volume_spec(volume: &PersistentVolume, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), volume.spec.clone().unwrap_or_default());
    access_modes(spec.access_modes.as_deref(), &path.child("accessModes"), errors);
    if spec.capacity.as_ref().is_none_or(BTreeMap::is_empty) {
        errors.push(FieldError::required(&path.child("capacity"), ""));
    } else {
        storage(spec.capacity.as_ref(), &path.child("capacity").key("storage"), errors);
    }
    let policies = ["Delete", "Recycle", "Retain"];
    one_of(
        text(&spec.persistent_volume_reclaim_policy),
        &policies,
        &path.child("persistentVolumeReclaimPolicy"),
        errors,
    );
    one_of(text(&spec.volume_mode), &VOLUME_MODES, &path.child("volumeMode"), errors);
    let sources = [
        spec.host_path.is_some(),
        spec.nfs.is_some(),
        spec.local.is_some(),
        spec.csi.is_some(),
        spec.iscsi.is_some(),
        spec.fc.is_some(),
        spec.rbd.is_some(),
        spec.cephfs.is_some(),
        spec.cinder.is_some(),
        spec.glusterfs.is_some(),
        spec.flex_volume.is_some(),
        spec.aws_elastic_block_store.is_some(),
        spec.gce_persistent_disk.is_some(),
        spec.azure_disk.is_some(),
        spec.azure_file.is_some(),
        spec.vsphere_volume.is_some(),
        spec.portworx_volume.is_some(),
        spec.quobyte.is_some(),
        spec.scale_io.is_some(),
        spec.storageos.is_some(),
        spec.photon_persistent_disk.is_some(),
        spec.flocker.is_some(),
    ];
    match sources.iter().filter(|source| **source).count() {
        0 => errors.push(FieldError::required(&path, "must specify a volume type")),
        1 => {}
        _ => errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type")),
    }
    if spec.local.is_some() && spec.node_affinity.is_none() {
        errors.push(FieldError::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
}

/// An update of a PersistentVolume.
pub fn persistent_volume_update(new: &PersistentVolume, old: &PersistentVolume) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    volume_spec(new, &mut errors);
    let source = |volume: &PersistentVolume| {
        let mut spec = volume.spec.clone().unwrap_or_default();
        // What may change is put aside; what is left is where the data is.
        spec.capacity = None;
        spec.access_modes = None;
        spec.claim_ref = None;
        spec.persistent_volume_reclaim_policy = None;
        spec.storage_class_name = None;
        spec.mount_options = None;
        spec.volume_mode = None;
        spec.node_affinity = None;
        spec.volume_attributes_class_name = None;
        spec
    };
    if !same(&source(new), &source(old)) {
        let path = Path::new("spec").child("persistentvolumesource");
        errors.push(FieldError::forbidden(&path, "spec.persistentvolumesource is immutable after creation"));
    }
    let mode = |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.volume_mode.clone());
    immutable(&mode(new), &mode(old), &Path::new("spec").child("volumeMode"), &mut errors);
    errors
}

/// A new PersistentVolumeClaim.
pub fn persistent_volume_claim(claim: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&claim.metadata, true, names::dns1123_subdomain, &mut errors);
    claim_spec(claim, &mut errors);
    errors
}

fn claim_spec(claim: &PersistentVolumeClaim, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), claim.spec.clone().unwrap_or_default());
    super::meta::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    access_modes(spec.access_modes.as_deref(), &path.child("accessModes"), errors);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    storage(requests, &path.child("resources").key("storage"), errors);
    one_of(text(&spec.volume_mode), &VOLUME_MODES, &path.child("volumeMode"), errors);
}

/// An update of a PersistentVolumeClaim.
pub fn persistent_volume_claim_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    claim_spec(new, &mut errors);
    let (now, before) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let mut allowed = before.clone();
    let bound = old.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
    if before.volume_name.is_none() {
        allowed.volume_name.clone_from(&now.volume_name);
    }
    if before.storage_class_name.is_none() {
        allowed.storage_class_name.clone_from(&now.storage_class_name);
    }
    allowed.volume_attributes_class_name.clone_from(&now.volume_attributes_class_name);
    if bound {
        allowed.resources.clone_from(&now.resources);
    }
    if !same(&allowed, &now) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                   claims";
        errors.push(FieldError::forbidden(&Path::new("spec"), why));
    }
    let wanted = |claim: &PersistentVolumeClaim| {
        let resources = claim.spec.as_ref()?.resources.as_ref()?;
        Quantity::parse(&resources.requests.as_ref()?.get("storage")?.0).ok()
    };
    if let (Some(now), Some(before)) = (wanted(new), wanted(old))
        && now < before
    {
        let path = Path::new("spec").child("resources").child("requests").child("storage");
        errors.push(FieldError::forbidden(&path, "field can not be less than previous value"));
    }
    errors
}

/// A new StorageClass.
pub fn storage_class(class: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&class.metadata, false, names::dns1123_subdomain, &mut errors);
    if class.provisioner.is_empty() {
        errors.push(FieldError::required(&Path::new("provisioner"), &*class.provisioner));
    }
    one_of(text(&class.reclaim_policy), &["Delete", "Retain"], &Path::new("reclaimPolicy"), &mut errors);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    one_of(text(&class.volume_binding_mode), &modes, &Path::new("volumeBindingMode"), &mut errors);
    errors
}

/// An update of a StorageClass.
pub fn storage_class_update(new: &StorageClass, old: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    if !same(&new.parameters, &old.parameters) {
        let why = "updates to parameters are forbidden.";
        errors.push(FieldError::forbidden(&Path::new("parameters"), why));
    }
    if new.provisioner != old.provisioner {
        errors
            .push(FieldError::forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden."));
    }
    if new.reclaim_policy != old.reclaim_policy {
        errors.push(FieldError::forbidden(
            &Path::new("reclaimPolicy"),
            "updates to reclaimPolicy are forbidden.",
        ));
    }
    immutable(
        &new.volume_binding_mode,
        &old.volume_binding_mode,
        &Path::new("volumeBindingMode"),
        &mut errors,
    );
    errors
}

/// A new CSIDriver.
pub fn csi_driver(driver: &CSIDriver) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&driver.metadata, false, names::dns1123_subdomain, &mut errors);
    errors
}

/// An update of a CSIDriver.
pub fn csi_driver_update(new: &CSIDriver, old: &CSIDriver) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("spec");
    immutable(
        &new.spec.attach_required,
        &old.spec.attach_required,
        &path.child("attachRequired"),
        &mut errors,
    );
    let modes = path.child("volumeLifecycleModes");
    immutable(&new.spec.volume_lifecycle_modes, &old.spec.volume_lifecycle_modes, &modes, &mut errors);
    errors
}

/// A new CSINode.
pub fn csi_node(node: &CSINode) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&node.metadata, false, names::dns1123_subdomain, &mut errors);
    for (index, driver) in node.spec.drivers.iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(index);
        if driver.node_id.is_empty() {
            errors.push(FieldError::required(&path.child("nodeID"), &*driver.node_id));
        }
        if node.spec.drivers[..index].iter().any(|other| other.name == driver.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &driver.name));
        }
    }
    errors
}

/// An update of a CSINode.
pub fn csi_node_update(new: &CSINode, old: &CSINode) -> ErrorList {
    let mut errors = csi_node(new);
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    errors
}

/// A new CSIStorageCapacity.
pub fn csi_storage_capacity(capacity: &CSIStorageCapacity) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&capacity.metadata, true, names::dns1123_subdomain, &mut errors);
    super::named(
        &capacity.storage_class_name,
        names::dns1123_subdomain,
        &Path::new("storageClassName"),
        &mut errors,
    );
    errors
}

/// An update of a CSIStorageCapacity.
pub fn csi_storage_capacity_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&new.node_topology, &old.node_topology, &Path::new("nodeTopology"), &mut errors);
    immutable(&new.storage_class_name, &old.storage_class_name, &Path::new("storageClassName"), &mut errors);
    errors
}

/// A new VolumeAttachment.
pub fn volume_attachment(attachment: &VolumeAttachment) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&attachment.metadata, false, names::dns1123_subdomain, &mut errors);
    let path = Path::new("spec");
    if attachment.spec.attacher.is_empty() {
        errors.push(FieldError::required(&path.child("attacher"), &*attachment.spec.attacher));
    }
    if attachment.spec.node_name.is_empty() {
        errors.push(FieldError::required(&path.child("nodeName"), ""));
    }
    errors
}

/// An update of a VolumeAttachment.
pub fn volume_attachment_update(new: &VolumeAttachment, old: &VolumeAttachment) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&new.spec, &old.spec, &Path::new("spec"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "n"}, "spec": spec, "status": {"phase": phase}}),
        )
        .unwrap()
    }

    fn spec(size: &str, class: &str) -> Value {
        json!({
            "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": class,
            "resources": {"requests": {"storage": size}},
        })
    }

    #[test]
    fn claims() {
        assert!(persistent_volume_claim(&claim(spec("1Gi", "a"), "Pending")).is_empty());
        assert_eq!(persistent_volume_claim(&claim(json!({"volumeMode": "Filesystem"}), "Pending")).len(), 2);
        let check = |new: Value, phase: &str, expected: usize| {
            let old = claim(spec("1Gi", "a"), phase);
            let mut new = claim(new, phase);
            new.metadata.resource_version = Some("1".to_owned());
            let mut old = old;
            old.metadata.resource_version = Some("1".to_owned());
            let errors = persistent_volume_claim_update(&new, &old);
            assert_eq!(errors.len(), expected, "{errors}");
        };
        check(spec("1Gi", "a"), "Bound", 0);
        check(spec("2Gi", "a"), "Bound", 0);
        check(spec("2Gi", "a"), "Pending", 1);
        check(spec("1Mi", "a"), "Bound", 1);
        check(spec("1Gi", "b"), "Bound", 1);
    }

    #[test]
    fn volumes() {
        let check = |spec: Value, expected: usize| {
            let made = json!({"metadata": {"name": "v"}, "spec": spec});
            let errors = persistent_volume(&serde_json::from_value(made).unwrap());
            assert_eq!(errors.len(), expected, "{errors}");
        };
        let mut good = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
        });
        check(good.clone(), 0);
        good["nfs"] = json!({"path": "/", "server": "s"});
        check(good.clone(), 1);
        good["accessModes"] = json!([]);
        check(good, 2);
    }
}

//! Defaults of volumes, claims and storage classes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};

use super::text;

/// Defaults of a PersistentVolume.
pub fn persistent_volume(volume: &mut PersistentVolume) {
    text(&mut volume.status.get_or_insert_default().phase, "Pending");
    let spec = volume.spec.get_or_insert_default();
    text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    text(&mut spec.volume_mode, "Filesystem");
    if let Some(path) = &mut spec.host_path {
        path.type_.get_or_insert_default();
    }
}

/// Defaults of a PersistentVolumeClaim.
pub fn persistent_volume_claim(claim: &mut PersistentVolumeClaim) {
    text(&mut claim.status.get_or_insert_default().phase, "Pending");
    claim_spec(claim.spec.get_or_insert_default());
}

pub(super) fn claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    text(&mut spec.volume_mode, "Filesystem");
}

/// Defaults of a StorageClass.
pub fn storage_class(class: &mut StorageClass) {
    text(&mut class.reclaim_policy, "Delete");
    text(&mut class.volume_binding_mode, "Immediate");
}

/// Defaults of a CSIDriver.
pub fn csi_driver(driver: &mut CSIDriver) {
    let spec = &mut driver.spec;
    spec.attach_required.get_or_insert(true);
    spec.pod_info_on_mount.get_or_insert(false);
    spec.storage_capacity.get_or_insert(false);
    text(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType");
    if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
        spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
    }
    spec.requires_republish.get_or_insert(false);
    spec.se_linux_mount.get_or_insert(false);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn volumes() {
        check(
            persistent_volume,
            json!({"spec": {"hostPath": {"path": "/x"}}}),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
        );
        check(persistent_volume_claim, json!({"spec": {}}), json!({"spec": {"volumeMode": "Filesystem"}}));
        check(
            storage_class,
            json!({"provisioner": "p"}),
            json!({"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
        );
    }
}

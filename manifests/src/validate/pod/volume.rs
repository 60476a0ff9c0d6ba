//! Volumes and where they are mounted.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeMount,
};

use super::super::{named, one_of, one_of_if_set, text};
use super::env;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The volumes that are well formed, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

pub(super) fn volumes<'a>(
    volumes: Option<&'a [Volume]>,
    pod_name: Option<&str>,
    is_pod: bool,
    path: &Path,
    errors: &mut ErrorList,
) -> Volumes<'a> {
    let volumes = volumes.unwrap_or_default();
    let pod_name = pod_name.unwrap_or_default();
    let created: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| volume.ephemeral.is_some() && !pod_name.is_empty())
        .map(|volume| format!("{pod_name}-{}", volume.name))
        .collect();
    let mut good = Volumes::new();
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(volume, pod_name, is_pod, &path, errors);
        if volume.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            named(&volume.name, names::dns1123_label, &path.child("name"), errors);
        }
        if seen.contains(&volume.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &volume.name));
        }
        if errors.len() == before {
            seen.insert(&volume.name);
            good.insert(&volume.name, volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && created.contains(&claim.claim_name)
        {
            let path = path.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(&path, &claim.claim_name, detail));
        }
    }
    good
}

/// Which sources are given, in the order in which they are looked at.
fn sources(volume: &Volume) -> Vec<&'static str> {
    let all = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwarAPI", volume.downward_api.is_some()), // upstream's spelling of this one path
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

fn source(volume: &Volume, pod_name: &str, is_pod: bool, path: &Path, errors: &mut ErrorList) {
    let given = sources(volume);
    match given.first().copied() {
        None => errors.push(FieldError::required(path, "must specify a volume type")),
        Some("emptyDir") => {
            let limit = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref());
            if limit.is_some_and(|limit| Quantity::try_from(limit).is_ok_and(|limit| limit.is_negative())) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(&path.child("emptyDir").child("sizeLimit"), detail));
            }
        }
        Some("hostPath") => host_path(volume, &path.child("hostPath"), errors),
        Some("secret") => {
            if let Some(source) = &volume.secret {
                let path = path.child("secret");
                required(text(&source.secret_name), &path.child("secretName"), errors);
                mode(source.default_mode, &path.child("defaultMode"), errors);
                keys(source.items.as_deref(), &path.child("items"), errors);
            }
        }
        Some("configMap") => {
            if let Some(source) = &volume.config_map {
                let path = path.child("configMap");
                required(&source.name, &path.child("name"), errors);
                mode(source.default_mode, &path.child("defaultMode"), errors);
                keys(source.items.as_deref(), &path.child("items"), errors);
            }
        }
        Some("downwarAPI") => {
            if let Some(source) = &volume.downward_api {
                let path = path.child("downwardAPI");
                mode(source.default_mode, &path.child("defaultMode"), errors);
                for file in source.items.iter().flatten() {
                    downward_file(file, &path, errors);
                }
            }
        }
        Some("projected") => {
            if let Some(source) = &volume.projected {
                let path = path.child("projected");
                mode(source.default_mode, &path.child("defaultMode"), errors);
                projections(source, &path, errors);
            }
        }
        Some("persistentVolumeClaim") => {
            if let Some(source) = &volume.persistent_volume_claim {
                required(&source.claim_name, &path.child("persistentVolumeClaim").child("claimName"), errors);
            }
        }
        Some("nfs") => {
            if let Some(source) = &volume.nfs {
                let path = path.child("nfs");
                required(&source.server, &path.child("server"), errors);
                required(&source.path, &path.child("path"), errors);
                if !source.path.starts_with('/') {
                    errors.push(FieldError::invalid(
                        &path.child("path"),
                        &source.path,
                        "must be an absolute path",
                    ));
                }
            }
        }
        Some("ephemeral") => {
            let path = path.child("ephemeral");
            if volume.ephemeral.as_ref().is_some_and(|source| source.volume_claim_template.is_none()) {
                errors.push(FieldError::required(&path.child("volumeClaimTemplate"), ""));
            }
            if !pod_name.is_empty() && !volume.name.is_empty() {
                let claim = format!("{pod_name}-{}", volume.name);
                for message in names::dns1123_subdomain(&claim) {
                    let detail = format!("PVC name {}: {message}", crate::go::quote(&claim));
                    errors.push(FieldError::invalid(&path.child("name"), &volume.name, detail));
                }
            }
        }
        Some("image") => {
            if let Some(source) = &volume.image {
                let path = path.child("image");
                if is_pod {
                    required(text(&source.reference), &path.child("reference"), errors);
                }
                let policies = ["Always", "IfNotPresent", "Never"];
                one_of(text(&source.pull_policy), &policies, &path.child("pullPolicy"), errors);
            }
        }
        // Sources that nothing here mounts; the agent says so for the pod that has one.
        Some(_) => {}
    }
    for extra in given.iter().skip(1) {
        errors.push(FieldError::forbidden(&path.child(extra), "may not specify more than 1 volume type"));
    }
}

fn required(value: &str, path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn host_path(volume: &Volume, path: &Path, errors: &mut ErrorList) {
    let Some(source) = &volume.host_path else { return };
    if source.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(&source.path, &path.child("path"), errors);
    let types =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    one_of_if_set(&source.type_, &types, &path.child("type"), errors);
}

fn mode(mode: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path, mode, MODE));
    }
}

fn keys(items: Option<&[KeyToPath]>, path: &Path, errors: &mut ErrorList) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        required(&item.key, &path.child("key"), errors);
        required(&item.path, &path.child("path"), errors);
        local_path(&item.path, &path.child("path"), errors);
        mode(item.mode, &path.child("mode"), errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut ErrorList) {
    required(&file.path, &path.child("path"), errors);
    local_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::object_field(field, &env::VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            env::resource_field(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(file.mode, &path.child("mode"), errors);
}

fn projections(source: &ProjectedVolumeSource, path: &Path, errors: &mut ErrorList) {
    const CONFLICT: &str = "conflicting duplicate paths";
    let mut seen = BTreeSet::new();
    let mut file = |file: &str, value: &str, errors: &mut ErrorList| {
        if !file.is_empty() && !seen.insert(file.to_owned()) {
            errors.push(FieldError::invalid(path, value, CONFLICT));
        }
    };
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        let item = path.child("sources").index(index);
        let mut count = 0;
        if let Some(secret) = &projection.secret {
            count += 1;
            required(&secret.name, &item.child("secret").child("name"), errors);
            keys(secret.items.as_deref(), &item.child("secret").child("items"), errors);
            for key in secret.items.iter().flatten() {
                file(&key.path, &secret.name, errors);
            }
        }
        if let Some(map) = &projection.config_map {
            count += 1;
            required(&map.name, &item.child("configMap").child("name"), errors);
            keys(map.items.as_deref(), &item.child("configMap").child("items"), errors);
            for key in map.items.iter().flatten() {
                file(&key.path, &map.name, errors);
            }
        }
        if let Some(downward) = &projection.downward_api {
            count += 1;
            for one in downward.items.iter().flatten() {
                downward_file(one, &item.child("downwardAPI"), errors);
                file(&one.path, &one.path, errors);
            }
        }
        if let Some(token) = &projection.service_account_token {
            count += 1;
            let seconds = token.expiration_seconds.unwrap_or_default();
            let seconds_path = item.child("serviceAccountToken").child("expirationSeconds");
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(&seconds_path, seconds, detail));
            }
            if seconds > 1 << 32 {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.push(FieldError::invalid(&seconds_path, seconds, detail));
            }
            if token.path.is_empty() {
                errors.push(FieldError::required(&path.child("path"), ""));
            } else {
                local_path(&token.path, &path.child("path"), errors);
            }
        }
        count += usize::from(projection.cluster_trust_bundle.is_some());
        count += usize::from(projection.pod_certificate.is_some());
        if count > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(&item, detail));
        }
    }
}

fn no_backsteps(value: &str, path: &Path, errors: &mut ErrorList) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

/// A relative path that stays below where it begins.
pub(super) fn descending_path(value: &str, path: &Path, errors: &mut ErrorList) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(value, path, errors);
}

/// A descending path that does not look like what the agent keeps beside the files.
fn local_path(value: &str, path: &Path, errors: &mut ErrorList) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

pub(super) fn mounts(container: &Container, volumes: &Volumes<'_>, path: &Path, errors: &mut ErrorList) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let item = path.index(index);
        required(&mount.name, &item.child("name"), errors);
        if !volumes.contains_key(mount.name.as_str()) {
            errors.push(FieldError::not_found(&item.child("name"), &mount.name));
        }
        let mount_path = item.child("mountPath");
        required(&mount.mount_path, &mount_path, errors);
        if !seen.insert(&mount.mount_path) {
            errors.push(FieldError::invalid(&mount_path, &mount.mount_path, "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&item.child("name"), &mount.name, detail));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&mount_path, &mount.mount_path, detail));
        }
        let sub_path = text(&mount.sub_path);
        let sub_path_expr = text(&mount.sub_path_expr);
        if !sub_path.is_empty() {
            descending_path(sub_path, &path.child("subPath"), errors);
        }
        if !sub_path_expr.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(&item.child("subPathExpr"), sub_path_expr, detail));
            }
            descending_path(sub_path_expr, &path.child("subPathExpr"), errors);
        }
        propagation(mount, container, &path.child("mountPropagation"), errors);
        recursive_read_only(mount, &path.child("recursiveReadOnly"), errors);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &Path, errors: &mut ErrorList) {
    let modes = ["Bidirectional", "HostToContainer", "None"];
    one_of_if_set(&mount.mount_propagation, &modes, path, errors);
    let privileged =
        container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if mount.mount_propagation.as_deref() == Some("Bidirectional") && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn recursive_read_only(mount: &VolumeMount, path: &Path, errors: &mut ErrorList) {
    let modes = ["Disabled", "Enabled", "IfPossible"];
    one_of_if_set(&mount.recursive_read_only, &modes, path, errors);
    if matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")) {
        if mount.read_only != Some(true) {
            errors.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
        }
        if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
            let detail = "may only be specified when mountPropagation is None or not specified";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
}

pub(super) fn devices(container: &Container, volumes: &Volumes<'_>, path: &Path, errors: &mut ErrorList) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let item = path.index(index);
        let name_path = item.child("name");
        let device_path = item.child("devicePath");
        required(&device.name, &name_path, errors);
        if !names.insert(&device.name) && !device.name.is_empty() {
            errors.push(FieldError::invalid(&name_path, &device.name, "must be unique"));
        }
        match volumes.get(device.name.as_str()) {
            None => errors.push(FieldError::not_found(&name_path, &device.name)),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&name_path, &device.name, detail));
            }
            Some(_) => {}
        }
        required(&device.device_path, &device_path, errors);
        if !paths.insert(&device.device_path) {
            errors.push(FieldError::invalid(&device_path, &device.device_path, "must be unique"));
        }
        if device.device_path.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&device_path, &device.device_path, detail));
        }
        if mounts.iter().any(|mount| mount.name == device.name) {
            let detail = "must not already exist in volumeMounts";
            errors.push(FieldError::invalid(&name_path, &device.name, detail));
        }
        if mounts.iter().any(|mount| mount.mount_path == device.device_path) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&device_path, &device.device_path, detail));
        }
    }
}

//! Security contexts of pods and containers.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use super::super::{one_of_if_set, text};
use super::volume::descending_path;
use crate::encode;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

pub(super) fn pod_context(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(context) = &spec.security_context else { return };
    id(context.fs_group, &path.child("fsGroup"), errors);
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &path.child("supplementalGroups").index(index), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(spec, &path.child("sysctls"), errors);
    let policies = ["Always", "OnRootMismatch"];
    one_of_if_set(&context.fs_group_change_policy, &policies, &path.child("fsGroupChangePolicy"), errors);
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    let policies = ["Merge", "Strict"];
    one_of_if_set(
        &context.supplemental_groups_policy,
        &policies,
        &path.child("supplementalGroupsPolicy"),
        errors,
    );
    let policies = ["MountOption", "Recursive"];
    one_of_if_set(&context.se_linux_change_policy, &policies, &path.child("seLinuxChangePolicy"), errors);
}

pub(super) fn container_context(
    context: &SecurityContext,
    host_users: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        if !matches!(mount.as_str(), "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(&path, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            errors.push(FieldError::invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        let value = || encode::to_value(context).unwrap_or_default();
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, value(), detail));
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, value(), detail));
        }
    }
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn id(id: Option<i64>, path: &Path, errors: &mut ErrorList) {
    if let Some(id) = id {
        for message in names::in_range(id, 0, MAX_ID) {
            errors.push(FieldError::invalid(path, id, message));
        }
    }
}

fn sysctls(spec: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let mut seen = std::collections::BTreeSet::new();
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for (index, sysctl) in sysctls.enumerate() {
        let path = path.index(index).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if name.len() > 253 || !is_sysctl(name) {
            let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
            errors.push(FieldError::invalid(&path, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if spec.host_ipc == Some(true) && ipc {
            errors.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    name.split(['.', '/']).all(|segment| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        match segment.as_bytes() {
            [] => false,
            bytes => {
                inner(bytes[0])
                    && inner(bytes[bytes.len() - 1])
                    && bytes.iter().all(|&b| inner(b) || matches!(b, b'-' | b'_'))
            }
        }
    })
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut ErrorList) {
    let Some(profile) = profile else { return };
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    let type_path = path.child("type");
    match profile.type_.as_str() {
        "" => {
            errors.push(FieldError::required(&type_path, "type is required when seccompProfile is set"));
        }
        type_ if !types.contains(&type_) => errors.push(FieldError::not_supported(&type_path, type_, &types)),
        _ => {}
    }
    let local_path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => {
            errors.push(FieldError::required(&local_path, "must be set when seccomp type is Localhost"));
        }
        (Some(local), true) => descending_path(local, &local_path, errors),
        (Some(_), false) => {
            let value = encode::to_value(profile).unwrap_or_default();
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&local_path, value, detail));
        }
        (None, false) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut ErrorList) {
    const MAX_PATH: usize = 4095;
    let Some(profile) = profile else { return };
    let local_path = path.child("localhostProfile");
    match profile.type_.as_str() {
        "Localhost" => {
            let local = text(&profile.localhost_profile);
            if local.trim() != local {
                errors.push(FieldError::invalid(&local_path, local, "must not be padded with whitespace"));
            } else if local.is_empty() {
                let detail = "must be set when AppArmor type is Localhost";
                errors.push(FieldError::required(&local_path, detail));
            }
            if local.len() > MAX_PATH {
                errors.push(FieldError::too_long(&local_path, MAX_PATH));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.localhost_profile.is_some() {
                let value = text(&profile.localhost_profile);
                let detail = "can only be set when AppArmor type is Localhost";
                errors.push(FieldError::invalid(&local_path, value, detail));
            }
        }
        "" => {
            let detail = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(&path.child("type"), detail));
        }
        other => {
            let types = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(&path.child("type"), other, &types));
        }
    }
}

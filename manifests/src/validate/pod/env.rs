//! Environment variables and where their values come from.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use super::super::{named, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

/// Fields of a pod that a variable can hold.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod that a file can hold.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that exist at all.
const FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn env(variables: Option<&[EnvVar]>, path: &Path, errors: &mut ErrorList) {
    for (index, variable) in variables.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            named(&variable.name, names::env_var_name, &path.child("name"), errors);
        }
        if let Some(source) = &variable.value_from {
            let has_value = !text(&variable.value).is_empty();
            value_from(source, has_value, &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(source: &EnvVarSource, has_value: bool, path: &Path, errors: &mut ErrorList) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        object_field(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_field(resource, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_of(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_of(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if source.file_key_ref.is_some() {
        sources += 1;
        let detail = "not supported by this server";
        errors.push(FieldError::forbidden(&path.child("fileKeyRef"), detail));
    }
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn key_of(name: &str, key: &str, path: &Path, errors: &mut ErrorList) {
    named(name, names::dns1123_subdomain, &path.child("name"), errors);
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        named(key, names::config_map_key, &path.child("key"), errors);
    }
}

/// A field of the pod, such as `metadata.labels['app']`.
pub(super) fn object_field(
    field: &ObjectFieldSelector,
    allowed: &[&str],
    path: &Path,
    errors: &mut ErrorList,
) {
    let version = text(&field.api_version);
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if field.field_path.is_empty() {
        errors.push(FieldError::required(&path.child("fieldPath"), ""));
        return;
    }
    let subscripted = split_subscript(&field.field_path);
    let problem = match subscripted {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {}", field.field_path)),
        None if FIELDS.contains(&field.field_path.as_str()) || field.field_path == "spec.host" => None,
        None => Some(format!("field label not supported: {}", field.field_path)),
    };
    if let Some(problem) = problem {
        let detail = format!("error converting fieldPath: {problem}");
        errors.push(FieldError::invalid(&path.child("fieldPath"), &field.field_path, detail));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            named(&key.to_lowercase(), names::qualified_name, path, errors)
        }
        Some((_, key)) => named(key, names::qualified_name, path, errors),
        None => {
            let name = if field.field_path == "spec.host" { "spec.nodeName" } else { &field.field_path };
            if !allowed.contains(&name) {
                errors.push(FieldError::not_supported(&path.child("fieldPath"), name, allowed));
            }
        }
    }
}

/// `metadata.labels['app']` into the field and the key.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, key))
}

/// A resource of a container.
pub(super) fn resource_field(
    field: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let resource = field.resource.as_str();
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(&field.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
    let Some(divisor) = field.divisor.as_ref().map(Quantity::of).filter(|divisor| !divisor.is_zero()) else {
        return;
    };
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, name) = match resource {
        "limits.cpu" | "requests.cpu" => ("1m, 1", "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if huge => (SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.split(", ").any(|allowed| allowed == divisor.to_string()) {
        let allowed = allowed.replace("1m, 1", "1m and 1");
        let detail = format!("only divisor's values {allowed} are supported with the {name} resource");
        errors.push(FieldError::invalid(&path.child("divisor"), resource, detail));
    }
}

pub(super) fn env_from(sources: Option<&[EnvFromSource]>, path: &Path, errors: &mut ErrorList) {
    for (index, source) in sources.unwrap_or_default().iter().enumerate() {
        let item = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            named(prefix, names::env_var_name, &item.child("prefix"), errors);
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        for (field, name) in references {
            match name.map(String::as_str) {
                None => {}
                Some("") => errors.push(FieldError::required(&item.child(field).child("name"), "")),
                Some(name) => {
                    let messages = names::prefix_of(names::dns1123_subdomain, name);
                    errors.push_invalid(&item.child(field).child("name"), name, messages);
                }
            }
        }
        let detail = match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path, "", detail));
    }
}

//! Metadata, labels and selectors.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ManagedFieldsEntry, ObjectMeta, OwnerReference,
};

use super::{immutable, named, non_negative, request, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names::{self, NameRule};
use crate::{encode, go};

/// All annotations of an object together, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Metadata of a new object. `name_rule` is the rule for names of its kind.
pub fn object_meta(meta: &ObjectMeta, namespaced: bool, name_rule: NameRule, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    let generate_name = text(&meta.generate_name);
    if !generate_name.is_empty() {
        let messages = names::prefix_of(name_rule, generate_name);
        errors.push_invalid(&path.child("generateName"), generate_name, messages);
    }
    match text(&meta.name) {
        "" => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        name => named(name, name_rule, &path.child("name"), errors),
    }
    let namespace = text(&meta.namespace);
    let namespace_path = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required(&namespace_path, "")),
        (true, namespace) => named(namespace, names::dns1123_label, &namespace_path, errors),
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&namespace_path, "not allowed on this type")),
    }
    non_negative(meta.generation.unwrap_or_default(), &path.child("generation"), errors);
    labels(&meta.labels, &path.child("labels"), errors);
    annotations(&meta.annotations, &path.child("annotations"), errors);
    owner_references(meta.owner_references.as_deref(), &path.child("ownerReferences"), errors);
    finalizers(meta.finalizers.as_deref().unwrap_or_default(), &path.child("finalizers"), errors);
    managed_fields(meta.managed_fields.as_deref(), &path.child("managedFields"), errors);
    standard_finalizers(meta, &path, errors);
}

/// Metadata of an update.
pub fn object_meta_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    if old.deletion_timestamp.is_some() {
        let old: BTreeSet<&String> = old.finalizers.iter().flatten().collect();
        let added: BTreeSet<&String> =
            new.finalizers.iter().flatten().filter(|name| !old.contains(name)).collect();
        if !added.is_empty() {
            let names: Vec<String> = added.into_iter().map(|name| go::quote(name)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                names.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if text(&new.resource_version).is_empty() {
        let path = path.child("resourceVersion");
        errors.push(FieldError::invalid(&path, "", "must be specified for an update"));
    }
    let generation = new.generation.unwrap_or_default();
    non_negative(generation, &path.child("generation"), errors);
    if generation < old.generation.unwrap_or_default() {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    immutable(text(&new.name), text(&old.name), &path.child("name"), errors);
    immutable(text(&new.namespace), text(&old.namespace), &path.child("namespace"), errors);
    immutable(text(&new.uid), text(&old.uid), &path.child("uid"), errors);
    immutable(&new.creation_timestamp, &old.creation_timestamp, &path.child("creationTimestamp"), errors);
    immutable(&new.deletion_timestamp, &old.deletion_timestamp, &path.child("deletionTimestamp"), errors);
    let grace_path = path.child("deletionGracePeriodSeconds");
    immutable(&new.deletion_grace_period_seconds, &old.deletion_grace_period_seconds, &grace_path, errors);
    labels(&new.labels, &path.child("labels"), errors);
    annotations(&new.annotations, &path.child("annotations"), errors);
    owner_references(new.owner_references.as_deref(), &path.child("ownerReferences"), errors);
    managed_fields(new.managed_fields.as_deref(), &path.child("managedFields"), errors);
    standard_finalizers(new, &path, errors);
}

/// A label key, at the path of whatever holds it.
pub(super) fn label_name(name: &str, path: &Path, errors: &mut ErrorList) {
    named(name, names::qualified_name, path, errors);
}

/// Labels, or anything that selects by them.
pub(super) fn labels(labels: &Option<BTreeMap<String, String>>, path: &Path, errors: &mut ErrorList) {
    for (name, value) in labels.iter().flatten() {
        label_name(name, path, errors);
        named(value, names::label_value, path, errors);
    }
}

/// Annotations: keys like labels', in any case, and a bound on the size of all.
pub(super) fn annotations(
    annotations: &Option<BTreeMap<String, String>>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut size = 0;
    for (name, value) in annotations.iter().flatten() {
        errors.push_invalid(path, name, names::qualified_name(&name.to_lowercase()));
        size += name.len() + value.len();
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owner_references(references: Option<&[OwnerReference]>, path: &Path, errors: &mut ErrorList) {
    let references = references.unwrap_or_default();
    let mut controller: Option<String> = None;
    for (index, reference) in references.iter().enumerate() {
        let item = path.index(index);
        let version = &reference.api_version;
        if version.is_empty() {
            errors.push(FieldError::required(&item.child("apiVersion"), "must not be empty"));
        } else if version.matches('/').count() > 1 || version.ends_with('/') {
            let detail = "must be <group>/<version> or <version>";
            errors.push(FieldError::invalid(&item.child("apiVersion"), version, detail));
        }
        for (field, value) in [("kind", &reference.kind), ("name", &reference.name), ("uid", &reference.uid)]
        {
            if value.is_empty() {
                errors.push(FieldError::required(&item.child(field), "must not be empty"));
            }
        }
        if version == "v1" && reference.kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&item, encode::to_value(reference).unwrap_or_default(), detail));
        }
        if reference.controller == Some(true) {
            let name = format!("{}/{}", reference.kind, reference.name);
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    let value = encode::to_value(references).unwrap_or_default();
                    errors.push(FieldError::invalid(path, value, detail));
                }
                None => controller = Some(name),
            }
        }
    }
}

fn finalizers(finalizers: &[String], path: &Path, errors: &mut ErrorList) {
    for name in finalizers {
        named(name, names::qualified_name, path, errors);
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, finalizers, detail));
    }
}

/// A name without a domain is one of the few that Kubernetes itself uses.
fn standard_finalizers(meta: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    for (index, name) in meta.finalizers.iter().flatten().enumerate() {
        standard_finalizer(name, &path.child("finalizers").index(index), errors);
    }
}

pub(super) fn standard_finalizer(name: &str, path: &Path, errors: &mut ErrorList) {
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn managed_fields(entries: Option<&[ManagedFieldsEntry]>, path: &Path, errors: &mut ErrorList) {
    for (index, entry) in entries.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        match text(&entry.operation) {
            "" => errors.push(FieldError::required(&path.child("operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => {
                errors.push(FieldError::not_supported(&path.child("operation"), other, &["Apply", "Update"]));
            }
        }
        let fields_type = text(&entry.fields_type);
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            let path = path.child("fieldsType");
            errors.push(FieldError::invalid(&path, fields_type, "must be `FieldsV1`"));
        }
        request::manager_name(text(&entry.manager), &path.child("manager"), errors);
        if text(&entry.subresource).len() > 256 {
            errors.push(FieldError::too_long(&path.child("subresource"), 256));
        }
    }
}

/// A label selector.
pub(super) fn label_selector(selector: Option<&LabelSelector>, path: &Path, errors: &mut ErrorList) {
    let Some(selector) = selector else { return };
    labels(&selector.match_labels, &path.child("matchLabels"), errors);
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        selector_requirement(requirement, &path.child("matchExpressions").index(index), errors);
    }
}

fn selector_requirement(requirement: &LabelSelectorRequirement, path: &Path, errors: &mut ErrorList) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    label_name(&requirement.key, &path.child("key"), errors);
    for (index, value) in values.iter().enumerate() {
        named(value, names::label_value, &path.child("values").index(index), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(meta: Value, namespaced: bool, expected: &[&str]) {
        let decoded: ObjectMeta = serde_json::from_value(meta.clone()).unwrap();
        let mut errors = ErrorList::new();
        object_meta(&decoded, namespaced, names::dns1123_subdomain, &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{meta}");
    }

    fn check_update(new: Value, old: Value, expected: &[&str]) {
        let decode = |value: &Value| serde_json::from_value::<ObjectMeta>(value.clone()).unwrap();
        let mut errors = ErrorList::new();
        object_meta_update(&decode(&new), &decode(&old), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{new} over {old}");
    }

    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

    #[test]
    fn creation() {
        check(json!({"name": "a", "namespace": "b"}), true, &[]);
        check(json!({"name": "a"}), false, &[]);
        check(
            json!({}),
            true,
            &[
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value",
            ],
        );
        check(json!({"name": "A"}), false, &[&format!("metadata.name: Invalid value: \"A\": {SUBDOMAIN}")]);
        check(
            json!({"name": "a", "generateName": "Web-"}),
            false,
            &[&format!("metadata.generateName: Invalid value: \"Web-\": {SUBDOMAIN}")],
        );
        check(
            json!({"name": "a", "namespace": "b"}),
            false,
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
        check(
            json!({"name": "a", "annotations": {"X.io/Y": "fine"}, "labels": {"a": "b c"}}),
            false,
            &[
                "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        );
        check(
            json!({"name": "a", "annotations": {"a": "x".repeat(300_000)}}),
            false,
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        check(
            json!({"name": "a", "finalizers": ["mine", "example.com/mine", "orphan"]}),
            false,
            &[
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
        check(
            json!({"name": "a", "ownerReferences": [
                {"apiVersion": "", "kind": "", "name": "", "uid": ""},
                {"apiVersion": "a/b/c", "kind": "A", "name": "n", "uid": "u", "controller": true},
                {"apiVersion": "v1", "kind": "B", "name": "n", "uid": "u", "controller": false},
            ]}),
            false,
            &[
                "metadata.ownerReferences[0].apiVersion: Required value: must not be empty",
                "metadata.ownerReferences[0].kind: Required value: must not be empty",
                "metadata.ownerReferences[0].name: Required value: must not be empty",
                "metadata.ownerReferences[0].uid: Required value: must not be empty",
                "metadata.ownerReferences[1].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
            ],
        );
    }

    #[test]
    fn updates() {
        let old = json!({"name": "a", "uid": "u", "resourceVersion": "1", "generation": 2});
        check_update(old.clone(), old.clone(), &[]);
        check_update(
            json!({"name": "b", "uid": "v", "generation": 1}),
            old,
            &[
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ],
        );
        let deleted = json!({"name": "a", "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]});
        let mut more = deleted.clone();
        more["finalizers"] = json!(["a.b/c", "a.b/d"]);
        check_update(
            more,
            deleted,
            &[
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/d\"}",
            ],
        );
    }

    #[test]
    fn selectors() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchExpressions": [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Is"},
        ]}))
        .unwrap();
        let mut errors = ErrorList::new();
        label_selector(Some(&selector), &Path::new("selector"), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "selector.matchExpressions[2].operator: Invalid value: \"Is\": not a valid selector operator",
            ]
        );
    }
}

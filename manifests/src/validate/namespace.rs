//! Namespaces.

use k8s_openapi::api::core::v1::Namespace;

use super::{meta, named, object_meta, object_meta_update, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// A new namespace.
pub fn namespace(namespace: &Namespace) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&namespace.metadata, false, names::dns1123_label, &mut errors);
    let path = Path::new("spec").child("finalizers");
    for name in finalizers(namespace) {
        finalizer(name, &path, &mut errors);
    }
    errors
}

/// An update of a namespace.
pub fn namespace_update(new: &Namespace, old: &Namespace) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    errors
}

/// An update of a namespace's status.
pub fn namespace_status_update(new: &Namespace, old: &Namespace) -> ErrorList {
    let mut errors = namespace_update(new, old);
    let phase = new.status.as_ref().map(|status| text(&status.phase)).unwrap_or_default();
    let path = Path::new("status").child("Phase");
    match (new.metadata.deletion_timestamp.is_some(), phase) {
        (false, "Active") | (true, "Terminating") => {}
        (false, phase) => {
            let detail = "may only be 'Active' if `deletionTimestamp` is empty";
            errors.push(FieldError::invalid(&path, phase, detail));
        }
        (true, phase) => {
            let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            errors.push(FieldError::invalid(&path, phase, detail));
        }
    }
    errors
}

/// An update through the subresource `finalize`.
pub fn namespace_finalize_update(new: &Namespace, old: &Namespace) -> ErrorList {
    let mut errors = namespace_update(new, old);
    for (index, name) in finalizers(new).enumerate() {
        finalizer(name, &Path::new("spec").child("finalizers").index(index), &mut errors);
    }
    errors
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &str> {
    namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).map(String::as_str)
}

fn finalizer(name: &str, path: &Path, errors: &mut ErrorList) {
    named(name, names::qualified_name, path, errors);
    meta::standard_finalizer(name, path, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, check_update, cluster_wide};
    use super::*;

    #[test]
    fn namespaces() {
        check(namespace, cluster_wide(json!({"spec": {"finalizers": ["kubernetes", "a.b/c"]}})), &[]);
        check(
            namespace,
            json!({"metadata": {"name": "a.b"}}),
            &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        );
        check(
            namespace,
            cluster_wide(json!({"spec": {"finalizers": ["mine"]}})),
            &[
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
        check_update(
            namespace_status_update,
            cluster_wide(json!({"status": {"phase": "Terminating"}})),
            cluster_wide(json!({})),
            &[
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
            ],
        );
    }
}

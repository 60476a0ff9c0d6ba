//! Nothing is created in a namespace that does not exist or is being terminated; some namespaces cannot be deleted.

use manifests::status::ApiError;
use store::{Compare, Revision};

use crate::registry::{Env, Row, namespace_phase};

/// Namespaces that the cluster itself lives in.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// Whether an object may be created in a namespace. What is returned must still hold when the object is written, so that
/// nothing slips into a namespace that is being emptied at the same time.
pub(crate) fn admit_create(
    env: &Env<'_>,
    row: &Row,
    namespace: &str,
    name: &str,
) -> Result<Compare, ApiError> {
    let Some(found) = env.get("", "namespaces", namespace) else {
        return Err(ApiError::not_found("namespaces", "", namespace));
    };
    if namespace_phase(&found) == "Terminating" {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(row.forbidden(name, &why).with_cause(
            "NamespaceTerminating",
            "metadata.namespace",
            &format!("namespace {namespace} is being terminated"),
        ));
    }
    let key = env.key("", "namespaces", namespace);
    Ok(Compare::ModRevision(key, Revision(found.revision())))
}

/// Whether a namespace may be deleted.
pub(crate) fn admit_delete(row: &Row, name: &str) -> Result<(), ApiError> {
    if row.kind.group.is_empty() && row.kind.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(row.forbidden(name, "this namespace may not be deleted"));
    }
    Ok(())
}

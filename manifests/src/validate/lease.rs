//! Leases.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

use super::{named, object_meta, object_meta_update, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// A new Lease.
pub fn lease(lease: &Lease) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&lease.metadata, true, names::dns1123_subdomain, &mut errors);
    spec(lease.spec.as_ref(), &mut errors);
    errors
}

/// An update of a Lease.
pub fn lease_update(new: &Lease, old: &Lease) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    spec(new.spec.as_ref(), &mut errors);
    errors
}

fn spec(spec: Option<&LeaseSpec>, errors: &mut ErrorList) {
    let Some(spec) = spec else { return };
    let path = Path::new("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
    }
    if let Some(transitions) = spec.lease_transitions.filter(|transitions| *transitions < 0) {
        let path = path.child("leaseTransitions");
        errors.push(FieldError::invalid(&path, transitions, super::NEGATIVE));
    }
    if let Some(strategy) = &spec.strategy {
        let path = path.child("strategy").child("strategy"); // twice, as upstream has it
        if strategy.contains('/') {
            named(strategy, names::qualified_name, &path, errors);
        } else if strategy != "OldestEmulationVersion" {
            errors.push(FieldError::not_supported(&path, strategy, &["OldestEmulationVersion"]));
        }
    }
    if !text(&spec.preferred_holder).is_empty() && text(&spec.strategy).is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden(&path.child("preferredHolder"), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, namespaced};
    use super::*;

    #[test]
    fn leases() {
        check(lease, namespaced(json!({"spec": {"leaseDurationSeconds": 40, "holderIdentity": "a"}})), &[]);
        check(
            lease,
            namespaced(
                json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "a"}}),
            ),
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ],
        );
    }
}

//! ResourceQuotas.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::{NEGATIVE, immutable, object_meta, object_meta_update};
use crate::encode;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

/// What is counted in whole numbers.
const COUNTS: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const AMOUNTS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// What can be counted for some pods only.
const OF_PODS: [&str; 7] =
    ["pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SCOPES: [&str; 6] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
];
const UNFIT: &str = "unsupported scope applied to resource";

/// A new ResourceQuota.
pub fn resource_quota(quota: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&quota.metadata, true, names::dns1123_subdomain, &mut errors);
    if let Some(spec) = &quota.spec {
        check_spec(spec, &mut errors);
    }
    let status = quota.status.clone().unwrap_or_default();
    let path = Path::new("status");
    list(status.hard.as_ref(), &path.child("hard"), &mut errors);
    list(status.used.as_ref(), &path.child("used"), &mut errors);
    errors
}

/// An update of a ResourceQuota.
pub fn resource_quota_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    if let Some(spec) = &new.spec {
        check_spec(spec, &mut errors);
    }
    let scopes = |quota: &ResourceQuota| {
        let mut scopes = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
        scopes.sort();
        scopes
    };
    immutable(&scopes(new), &scopes(old), &Path::new("spec").child("scopes"), &mut errors);
    errors
}

/// An update of a ResourceQuota's status.
pub fn resource_quota_status_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let status = new.status.clone().unwrap_or_default();
    let path = Path::new("status");
    list(status.hard.as_ref(), &path.child("hard"), &mut errors);
    list(status.used.as_ref(), &path.child("used"), &mut errors);
    errors
}

fn is_standard(name: &str) -> bool {
    COUNTS.contains(&name)
        || AMOUNTS.contains(&name)
        || name.starts_with("requests.hugepages-")
        || name.starts_with("hugepages-")
}

/// Resources of any domain, and counts of any kind.
fn is_qualified(name: &str) -> bool {
    name.contains('/')
}

fn list(amounts: Option<&BTreeMap<String, ApiQuantity>>, path: &Path, errors: &mut ErrorList) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        errors.push_invalid(&path, name, names::qualified_name(name));
        if !is_qualified(name) && !is_standard(name) {
            let type_ = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(&path, name, type_));
            errors.push(FieldError::invalid(&path, name, "must be a standard resource for quota"));
        }
        let quantity = Quantity::of(amount);
        if quantity.is_negative() {
            errors.push(FieldError::invalid(&path, &amount.0, NEGATIVE));
        }
        let whole = COUNTS.contains(&name.as_str()) || name.starts_with("count/");
        if whole && !quantity.is_integer() {
            errors.push(FieldError::invalid(&path, &amount.0, "must be an integer"));
        }
    }
}

fn check_spec(spec: &ResourceQuotaSpec, errors: &mut ErrorList) {
    let path = Path::new("spec");
    list(spec.hard.as_ref(), &path.child("hard"), errors);
    let scopes = spec.scopes.clone().unwrap_or_default();
    let scopes_path = path.child("scopes");
    for scope in &scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.push(FieldError::invalid(&scopes_path, &scopes, "unsupported scope"));
        }
        for _ in unfit(spec, scope) {
            errors.push(FieldError::invalid(&scopes_path, &scopes, UNFIT));
        }
    }
    let names: Vec<&str> = scopes.iter().map(String::as_str).collect();
    conflicts(&names, &scopes_path, &scopes, errors);
    let Some(selector) = &spec.scope_selector else { return };
    let path = path.child("scopeSelector").child("matchExpressions");
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        if !SCOPES.contains(&requirement.scope_name.as_str()) {
            let path = path.child("scopeName");
            errors.push(FieldError::invalid(&path, &requirement.scope_name, "unsupported scope"));
        }
        for _ in unfit(spec, &requirement.scope_name) {
            errors.push(FieldError::invalid(&path, encode::to_value(selector).unwrap_or_default(), UNFIT));
        }
        check_requirement(requirement, &path, errors);
    }
    let names: Vec<&str> = requirements.iter().map(|requirement| requirement.scope_name.as_str()).collect();
    conflicts(&names, &path, &scopes, errors);
}

/// Limited resources that a scope does not go with.
fn unfit<'s>(spec: &'s ResourceQuotaSpec, scope: &'s str) -> impl Iterator<Item = &'s String> {
    spec.hard.iter().flat_map(BTreeMap::keys).filter(move |name| {
        let fits = match scope {
            "BestEffort" => name.as_str() == "pods",
            _ => OF_PODS.contains(&name.as_str()),
        };
        is_standard(name) && !fits
    })
}

fn conflicts(scopes: &[&str], path: &Path, value: &[String], errors: &mut ErrorList) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.push(FieldError::invalid(path, value, "conflicting scopes"));
        }
    }
}

fn check_requirement(requirement: &ScopedResourceSelectorRequirement, path: &Path, errors: &mut ErrorList) {
    let operator = requirement.operator.as_str();
    let values = requirement.values.as_deref().unwrap_or_default();
    if requirement.scope_name != "PriorityClass" && operator != "Exists" {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                   ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                   ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(FieldError::invalid(&path.child("operator"), operator, why));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(FieldError::required(&path.child("values"), why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(FieldError::invalid(&path.child("values"), values, why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{check, check_update, namespaced};
    use super::*;

    #[test]
    fn quotas() {
        let quota = |spec: Value| namespaced(json!({"spec": spec}));
        let good = json!({
            "hard": {"pods": "10", "requests.cpu": "1500m", "count/deployments.apps": "2", "requests.acme.com/gpu": "1"},
        });
        check(resource_quota, quota(good), &[]);
        check(
            resource_quota,
            quota(json!({"hard": {"limit.cpu": "1", "pods": "1.5", "secrets": "-1"}})),
            &[
                "spec.hard[limit.cpu]: Invalid value: \"limit.cpu\": must be a standard resource type or fully qualified",
                "spec.hard[limit.cpu]: Invalid value: \"limit.cpu\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1.5\": must be an integer",
                "spec.hard[secrets]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        );
        check(resource_quota, quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})), &[]);
        check(
            resource_quota,
            quota(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            &[
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ],
        );
        let class = |operator: &str, values: Value| {
            let one = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            quota(json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [one]}}))
        };
        check(resource_quota, class("In", json!(["high"])), &[]);
        check(
            resource_quota,
            class("In", json!([])),
            &[
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ],
        );
        check_update(
            resource_quota_update,
            quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})),
            quota(json!({"hard": {"pods": "1"}})),
            &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
        );
    }
}

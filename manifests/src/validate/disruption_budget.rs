//! PodDisruptionBudgets.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::label_selector;
use super::{non_negative, object_meta, object_meta_update, one_of_if_set};
use crate::encode;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// A new PodDisruptionBudget.
pub fn pod_disruption_budget(budget: &PodDisruptionBudget) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&budget.metadata, true, names::dns1123_subdomain, &mut errors);
    spec(budget, &mut errors);
    errors
}

/// An update of a PodDisruptionBudget.
pub fn pod_disruption_budget_update(new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    spec(new, &mut errors);
    errors
}

/// An update of a PodDisruptionBudget's status.
pub fn pod_disruption_budget_status_update(
    new: &PodDisruptionBudget,
    old: &PodDisruptionBudget,
) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let status = new.status.clone().unwrap_or_default();
    for (field, count) in [
        ("disruptionsAllowed", status.disruptions_allowed),
        ("currentHealthy", status.current_healthy),
        ("desiredHealthy", status.desired_healthy),
        ("expectedPods", status.expected_pods),
    ] {
        non_negative(count.unwrap_or_default(), &Path::new("status").child(field), &mut errors);
    }
    errors
}

fn spec(budget: &PodDisruptionBudget, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let Some(spec) = &budget.spec else { return };
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let value = encode::to_value(spec).unwrap_or_default();
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, value, why));
    }
    for (field, amount) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
    {
        if let Some(amount) = amount {
            number_or_percent(amount, &path.child(field), errors);
        }
    }
    label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    one_of_if_set(
        &spec.unhealthy_pod_eviction_policy,
        &policies,
        &path.child("unhealthyPodEvictionPolicy"),
        errors,
    );
}

fn number_or_percent(value: &IntOrString, path: &Path, errors: &mut ErrorList) {
    match value {
        IntOrString::Int(count) => non_negative(*count, path, errors),
        IntOrString::String(text) => {
            errors.push_invalid(path, text, names::percent(text));
            let number = text.strip_suffix('%').and_then(|number| number.parse::<u64>().ok());
            if number.is_some_and(|number| number > 100) {
                errors.push(FieldError::invalid(path, text, "must not be greater than 100%"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{check, check_update, namespaced};
    use super::*;

    #[test]
    fn budgets() {
        let budget = |spec: Value| namespaced(json!({"spec": spec}));
        check(pod_disruption_budget, budget(json!({})), &[]);
        check(pod_disruption_budget, budget(json!({"minAvailable": "50%", "selector": {}})), &[]);
        check(
            pod_disruption_budget,
            budget(json!({"minAvailable": -1})),
            &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            pod_disruption_budget,
            budget(json!({"maxUnavailable": "101%", "unhealthyPodEvictionPolicy": "Never"})),
            &[
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
        check(
            pod_disruption_budget,
            budget(json!({"minAvailable": 1, "maxUnavailable": 1})),
            &[
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ],
        );
        check_update(
            pod_disruption_budget_status_update,
            namespaced(json!({"status": {"expectedPods": -1}})),
            namespaced(json!({})),
            &["status.expectedPods: Invalid value: -1: must be greater than or equal to 0"],
        );
    }
}

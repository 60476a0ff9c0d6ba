//! HorizontalPodAutoscalers.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscaler, MetricIdentifier, MetricSpec,
    MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::meta::label_selector;
use super::{non_negative, object_meta, object_meta_update, one_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

const LONGEST_WINDOW: i32 = 3600;
const LONGEST_PERIOD: i32 = 1800;
const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// A new HorizontalPodAutoscaler.
pub fn horizontal_pod_autoscaler(autoscaler: &HorizontalPodAutoscaler) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&autoscaler.metadata, true, names::dns1123_subdomain, &mut errors);
    spec(autoscaler, &mut errors);
    errors
}

/// An update of a HorizontalPodAutoscaler.
pub fn horizontal_pod_autoscaler_update(
    new: &HorizontalPodAutoscaler,
    old: &HorizontalPodAutoscaler,
) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    spec(new, &mut errors);
    errors
}

/// An update of a HorizontalPodAutoscaler's status.
pub fn horizontal_pod_autoscaler_status_update(
    new: &HorizontalPodAutoscaler,
    old: &HorizontalPodAutoscaler,
) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let status = new.status.clone().unwrap_or_default();
    let path = Path::new("status");
    non_negative(status.current_replicas.unwrap_or_default(), &path.child("currentReplicas"), &mut errors);
    non_negative(status.desired_replicas, &path.child("desiredReplicas"), &mut errors);
    errors
}

fn spec(autoscaler: &HorizontalPodAutoscaler, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let spec = &autoscaler.spec;
    let least = spec.min_replicas.unwrap_or(1);
    if least < 1 {
        let why = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(&path.child("minReplicas"), least, why));
    }
    if spec.max_replicas < 1 {
        errors.push(FieldError::invalid(
            &path.child("maxReplicas"),
            spec.max_replicas,
            "must be greater than 0",
        ));
    }
    if spec.max_replicas < least {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&path.child("maxReplicas"), spec.max_replicas, why));
    }
    reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), errors);
    for (index, metric) in spec.metrics.iter().flatten().enumerate() {
        check_metric(metric, &path.child("metrics").index(index), errors);
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        rules(behavior.scale_up.as_ref(), &path.child("scaleUp"), errors);
        rules(behavior.scale_down.as_ref(), &path.child("scaleDown"), errors);
    }
}

fn reference(to: &CrossVersionObjectReference, path: &Path, errors: &mut ErrorList) {
    for (field, value) in [("kind", &to.kind), ("name", &to.name)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            errors.push_invalid(&path.child(field), value, names::path_segment(value));
        }
    }
}

fn rules(rules: Option<&HPAScalingRules>, path: &Path, errors: &mut ErrorList) {
    let Some(rules) = rules else { return };
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.push(FieldError::invalid(&path, window, "must be greater than or equal to zero"));
        }
        if window > LONGEST_WINDOW {
            let why = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(&path, window, why));
        }
    }
    if let Some(select) = &rules.select_policy {
        one_of(select, &["Disabled", "Max", "Min"], &path.child("selectPolicy"), errors);
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let path = path.child("policies");
    if policies.is_empty() {
        errors.push(FieldError::required(&path, "must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = path.index(index);
        one_of(&policy.type_, &["Percent", "Pods"], &path.child("type"), errors);
        for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if value <= 0 {
                errors.push(FieldError::invalid(&path.child(field), value, "must be greater than zero"));
            }
        }
        if policy.period_seconds > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.push(FieldError::invalid(&path.child("periodSeconds"), policy.period_seconds, why));
        }
    }
}

fn check_metric(metric: &MetricSpec, path: &Path, errors: &mut ErrorList) {
    if metric.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), "must specify a metric source type"));
    } else if !SOURCES.contains(&metric.type_.as_str()) {
        errors.push(FieldError::not_supported(&path.child("type"), &metric.type_, &SOURCES));
    }
    let given = [
        ("Object", "object", metric.object.is_some()),
        ("External", "external", metric.external.is_some()),
        ("Pods", "pods", metric.pods.is_some()),
        ("Resource", "resource", metric.resource.is_some()),
        ("ContainerResource", "containerResource", metric.container_resource.is_some()),
    ];
    for (kind, field, given) in given {
        if given && kind != metric.type_ {
            let why = "must populate the given metric source only";
            errors.push(FieldError::forbidden(&path.child(field), why));
        } else if !given && kind == metric.type_ {
            let why = "must populate information for the given metric source";
            errors.push(FieldError::required(&path.child(field), why));
        }
    }
    if let Some(source) = &metric.object {
        let path = path.child("object");
        reference(&source.described_object, &path.child("describedObject"), errors);
        identifier(&source.metric, &path.child("metric"), errors);
        target(&source.target, &path.child("target"), errors);
        if source.target.value.is_none() && source.target.average_value.is_none() {
            let path = path.child("target").child("averageValue");
            errors.push(FieldError::required(&path, "must set either a target value or averageValue"));
        }
    }
    if let Some(source) = &metric.external {
        let path = path.child("external");
        identifier(&source.metric, &path.child("metric"), errors);
        let path = path.child("target");
        target(&source.target, &path, errors);
        match (&source.target.value, &source.target.average_value) {
            (None, None) => {
                let why = "must set either a target value for metric or a per-pod target";
                errors.push(FieldError::required(&path.child("averageValue"), why));
            }
            (Some(_), Some(_)) => {
                let why = "may not set both a target value for metric and a per-pod target";
                errors.push(FieldError::forbidden(&path.child("value"), why));
            }
            _ => {}
        }
    }
    if let Some(source) = &metric.pods {
        let path = path.child("pods");
        identifier(&source.metric, &path.child("metric"), errors);
        target(&source.target, &path.child("target"), errors);
        if !source.target.average_value.as_ref().is_some_and(is_positive) {
            let path = path.child("target").child("averageValue");
            errors.push(FieldError::required(&path, "must specify a positive target averageValue"));
        }
    }
    if let Some(source) = &metric.resource {
        resource(&source.name, &source.target, &path.child("resource"), errors);
    }
    if let Some(source) = &metric.container_resource {
        let path = path.child("containerResource");
        if source.container.is_empty() {
            errors.push(FieldError::required(&path.child("container"), "must specify a container"));
        }
        resource(&source.name, &source.target, &path, errors);
    }
}

fn resource(name: &str, wanted: &MetricTarget, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "must specify a resource name"));
    }
    let path = path.child("target");
    target(wanted, &path, errors);
    match (wanted.average_utilization, &wanted.average_value) {
        (None, None) => {
            let why = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(&path.child("averageUtilization"), why));
        }
        (Some(_), Some(_)) => {
            let why = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(&path.child("averageValue"), why));
        }
        _ => {}
    }
}

fn identifier(metric: &MetricIdentifier, path: &Path, errors: &mut ErrorList) {
    if metric.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "must specify a metric name"));
    } else {
        errors.push_invalid(&path.child("name"), &metric.name, names::path_segment(&metric.name));
    }
    label_selector(metric.selector.as_ref(), &path.child("selector"), errors);
}

fn is_positive(amount: &ApiQuantity) -> bool {
    let amount = Quantity::of(amount);
    !amount.is_zero() && !amount.is_negative()
}

fn target(target: &MetricTarget, path: &Path, errors: &mut ErrorList) {
    if target.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), "must specify a metric target type"));
    } else if !["Utilization", "Value", "AverageValue"].contains(&target.type_.as_str()) {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&path.child("type"), &target.type_, why));
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount.as_ref().filter(|amount| !is_positive(amount)) {
            errors.push(FieldError::invalid(&path.child(field), &amount.0, "must be positive"));
        }
    }
    if let Some(share) = target.average_utilization.filter(|share| *share < 1) {
        errors.push(FieldError::invalid(&path.child("averageUtilization"), share, "must be greater than 0"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{check, namespaced};
    use super::*;

    fn autoscaler(more: Value) -> Value {
        let mut spec = json!({
            "minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        namespaced(json!({"spec": spec}))
    }

    #[test]
    fn autoscalers() {
        check(horizontal_pod_autoscaler, autoscaler(json!({})), &[]);
        check(
            horizontal_pod_autoscaler,
            autoscaler(
                json!({"minReplicas": 0, "maxReplicas": -1, "scaleTargetRef": {"kind": "", "name": "a/b"}}),
            ),
            &[
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than 0",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.kind: Required value",
                "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
            ],
        );
        let metric = |metric: Value| autoscaler(json!({"metrics": [metric]}));
        check(
            horizontal_pod_autoscaler,
            metric(
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}),
            ),
            &[
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ],
        );
        check(
            horizontal_pod_autoscaler,
            metric(json!({"type": "Pods"})),
            &["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
        );
        check(
            horizontal_pod_autoscaler,
            autoscaler(json!({"behavior": {"scaleUp": {
                "stabilizationWindowSeconds": 4000, "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1900}],
            }}})),
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1900: must be less than or equal to 1800",
            ],
        );
    }
}

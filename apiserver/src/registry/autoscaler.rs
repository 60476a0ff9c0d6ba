//! HorizontalPodAutoscalers: stored as `autoscaling/v2`, shown as `autoscaling/v1` to older clients.
//!
//! What version 1 has no field for is in its annotations, so that a client that writes back what it read loses nothing.
//! Follows `k8s.io/kubernetes/pkg/apis/autoscaling/v1/conversion.go`.

use manifests::field::ErrorList;
use manifests::k8s_openapi::api::autoscaling::v2::{self as autoscaling, HorizontalPodAutoscalerStatus};
use manifests::status::ApiError;
use manifests::{default, validate};
use serde_json::{Map, Value, json};

use super::env::Env;
use super::kind::{Kind, Part};

pub(super) struct Autoscaler;

impl Kind for Autoscaler {
    type Object = autoscaling::HorizontalPodAutoscaler;

    fn default(object: &mut autoscaling::HorizontalPodAutoscaler) {
        default::horizontal_pod_autoscaler(object);
    }

    fn prepare_create(
        object: &mut autoscaling::HorizontalPodAutoscaler,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        object.status = Some(HorizontalPodAutoscalerStatus {
            current_replicas: Some(0),
            ..HorizontalPodAutoscalerStatus::default()
        });
        Ok(())
    }

    fn prepare_update(
        new: &mut autoscaling::HorizontalPodAutoscaler,
        old: &autoscaling::HorizontalPodAutoscaler,
        part: Part,
        _: &Env<'_>,
    ) -> Result<(), ApiError> {
        match part {
            Part::Status => new.spec.clone_from(&old.spec),
            _ => new.status.clone_from(&old.status),
        }
        Ok(())
    }

    fn validate(object: &autoscaling::HorizontalPodAutoscaler) -> ErrorList {
        validate::horizontal_pod_autoscaler(object)
    }

    fn validate_update(
        new: &autoscaling::HorizontalPodAutoscaler,
        old: &autoscaling::HorizontalPodAutoscaler,
        part: Part,
    ) -> ErrorList {
        match part {
            Part::Status => validate::horizontal_pod_autoscaler_status_update(new, old),
            _ => validate::horizontal_pod_autoscaler_update(new, old),
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// A field of a metric in version 1, and where it is in version 2, below the source.
type Field = (&'static str, &'static str);

/// By type of metric: the field of its source, and the source's own fields.
const TARGETS: [(&str, &str, &[Field]); 5] = [
    (
        "Resource",
        "resource",
        &[
            ("name", "/name"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "/name"),
            ("container", "/container"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "Object",
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("averageValue", "/target/averageValue"),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
];

/// The same of what was measured.
const MEASURED: [(&str, &str, &[Field]); 5] = [
    (
        "Resource",
        "resource",
        &[
            ("name", "/name"),
            ("currentAverageUtilization", "/current/averageUtilization"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "/name"),
            ("container", "/container"),
            ("currentAverageUtilization", "/current/averageUtilization"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
    (
        "Object",
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("currentValue", "/current/value"),
            ("averageValue", "/current/averageValue"),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("currentValue", "/current/value"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
];

/// From version 2 to version 1.
pub(super) fn show(object: &mut Map<String, Value>) {
    let mut notes = Map::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics =
            spec.remove("metrics").and_then(|metrics| metrics.as_array().cloned()).unwrap_or_default();
        let (cpu, others): (Vec<Value>, Vec<Value>) =
            metrics.into_iter().partition(|metric| !use_of_cpu(metric, "target").is_null());
        if let Some(cpu) = cpu.first() {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), use_of_cpu(cpu, "target").clone());
        }
        note(&mut notes, METRICS, others.iter().map(|metric| older(metric, &TARGETS)).collect());
        if let Some(behavior) = spec.remove("behavior") {
            notes.insert(BEHAVIOR.to_owned(), behavior.to_string().into());
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut list =
            |field: &str| status.remove(field).and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let (conditions, metrics) = (list("conditions"), list("currentMetrics"));
        note(&mut notes, CONDITIONS, conditions);
        let (cpu, others): (Vec<Value>, Vec<Value>) =
            metrics.into_iter().partition(|metric| !use_of_cpu(metric, "current").is_null());
        if let Some(cpu) = cpu.first() {
            status.insert("currentCPUUtilizationPercentage".to_owned(), use_of_cpu(cpu, "current").clone());
        }
        note(&mut notes, CURRENT, others.iter().map(|metric| older(metric, &MEASURED)).collect());
    }
    if !notes.is_empty() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        let annotations = metadata.as_object_mut().map(|metadata| metadata.entry("annotations"));
        let annotations = annotations.map(|entry| entry.or_insert_with(|| json!({})));
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.extend(notes);
        }
    }
}

fn note(notes: &mut Map<String, Value>, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        notes.insert(name.to_owned(), Value::Array(list).to_string().into());
    }
}

/// How much of the CPU is used, or is to be, if it is that which a metric is about.
fn use_of_cpu<'m>(metric: &'m Value, what: &str) -> &'m Value {
    if metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" {
        &metric["resource"][what]["averageUtilization"]
    } else {
        &Value::Null
    }
}

fn older(metric: &Value, table: &[(&str, &str, &[Field])]) -> Value {
    let Some((kind, source, fields)) = table.iter().find(|(kind, ..)| metric["type"] == *kind) else {
        return metric.clone();
    };
    let mut old = Map::new();
    for (field, path) in *fields {
        if let Some(value) = metric[source].pointer(path) {
            old.insert((*field).to_owned(), value.clone());
        }
    }
    json!({"type": kind, *source: old})
}

fn newer(old: &Value, table: &[(&str, &str, &[Field])], amounts: &str) -> Value {
    let Some((kind, source, fields)) = table.iter().find(|(kind, ..)| old["type"] == *kind) else {
        return old.clone();
    };
    let mut new = json!({});
    for (field, path) in *fields {
        let value = &old[source][field];
        if value.is_null() {
            continue;
        }
        let mut at = &mut new;
        for name in path.split('/').skip(1) {
            at = &mut at[name];
        }
        *at = value.clone();
    }
    if amounts == "target" {
        let target = &mut new["target"];
        let form = match () {
            () if !target["averageUtilization"].is_null() => "Utilization",
            () if !target["averageValue"].is_null() => "AverageValue",
            () => "Value",
        };
        target["type"] = form.into();
        if let Some(target) = target.as_object_mut() {
            target.retain(|_, value| !value.is_null());
        }
    }
    json!({"type": kind, *source: new})
}

/// From version 1 to version 2.
pub(super) fn to_stored(object: &mut Map<String, Value>) {
    let annotations = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut);
    let mut notes = [METRICS, BEHAVIOR, CONDITIONS, CURRENT].map(|_| Value::Null);
    if let Some(annotations) = annotations {
        for (note, name) in notes.iter_mut().zip([METRICS, BEHAVIOR, CONDITIONS, CURRENT]) {
            let text = annotations.remove(name).and_then(|text| text.as_str().map(str::to_owned));
            // What somebody has written there that is no JSON says nothing.
            *note = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        }
    }
    let [metrics, behavior, conditions, current] = notes;
    let all =
        |cpu: Option<Value>, others: Value, table: &[(&str, &str, &[Field])], amounts: &str| -> Vec<Value> {
            let cpu = cpu.filter(|share| !share.is_null()).map(|share| {
                let mut amount = json!({"averageUtilization": share});
                if amounts == "target" {
                    amount["type"] = "Utilization".into();
                }
                json!({"type": "Resource", "resource": {"name": "cpu", amounts: amount}})
            });
            let others = others.as_array().cloned().unwrap_or_default();
            cpu.into_iter().chain(others.iter().map(|old| newer(old, table, amounts))).collect()
        };
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = all(spec.remove("targetCPUUtilizationPercentage"), metrics, &TARGETS, "target");
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), metrics.into());
        }
        if behavior.is_object() {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = all(status.remove("currentCPUUtilizationPercentage"), current, &MEASURED, "current");
        if !current.is_empty() {
            status.insert("currentMetrics".to_owned(), current.into());
        }
        if conditions.is_array() {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn there_and_back() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let requests = json!({"type": "Object", "object": {
            "describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "requests"},
            "target": {"type": "Value", "value": "10"},
        }});
        let behavior = json!({"scaleDown": {"selectPolicy": "Disabled"}});
        let stored = map(json!({
            "metadata": {"name": "h", "annotations": {"own": "kept"}},
            "spec": {"maxReplicas": 3, "metrics": [cpu, memory, requests], "behavior": behavior},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]},
        }));
        let mut shown = stored.clone();
        show(&mut shown);
        assert_eq!(shown["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}));
        let notes = &shown["metadata"]["annotations"];
        assert_eq!(
            notes[METRICS],
            r#"[{"resource":{"name":"memory","targetAverageValue":"1Gi"},"type":"Resource"},{"object":{"metricName":"requests","target":{"kind":"Ingress","name":"i"},"targetValue":"10"},"type":"Object"}]"#
        );
        assert_eq!((&notes["own"], shown["status"].get("conditions")), (&json!("kept"), None));
        to_stored(&mut shown);
        assert_eq!(shown, stored);
    }

    #[test]
    fn plain_ones_need_no_annotations() {
        let mut object = map(json!({"metadata": {}, "spec": {"targetCPUUtilizationPercentage": 50}}));
        to_stored(&mut object);
        assert_eq!(
            object["spec"]["metrics"][0]["resource"]["target"],
            json!({"type": "Utilization", "averageUtilization": 50})
        );
        show(&mut object);
        assert_eq!(
            Value::Object(object),
            json!({"metadata": {}, "spec": {"targetCPUUtilizationPercentage": 50}})
        );
    }
}

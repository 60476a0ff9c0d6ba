//! HorizontalPodAutoscalers: what is measured, beside what it should be.

use serde_json::{Value, json};

use super::Printer;
use super::column::{AGE, NAME, integer, string};
use super::plain::{Object, row};

pub(super) const HORIZONTAL_POD_AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        string("Reference", "What is scaled."),
        string("Targets", "What is measured, and what it should be."),
        string("MinPods", "The least number of pods."),
        integer("MaxPods", "The largest number of pods."),
        integer("Replicas", "The number of pods."),
        AGE,
    ],
    row: |object, now| row(object, now, cells),
};

fn cells(scaler: &Object<'_>) -> Vec<Value> {
    let kind = scaler.text("/spec/scaleTargetRef/kind");
    let reference = format!("{kind}/{}", scaler.text("/spec/scaleTargetRef/name"));
    let least = match scaler.at("/spec/minReplicas") {
        Value::Null => "<unset>".to_owned(),
        number => number.to_string(),
    };
    vec![
        scaler.name(),
        reference.into(),
        targets(scaler).into(),
        least.into(),
        scaler.number("/spec/maxReplicas").into(),
        scaler.number("/status/currentReplicas").into(),
        scaler.age(),
    ]
}

/// The first two metrics, and how many there are more.
fn targets(scaler: &Object<'_>) -> String {
    let measured: Vec<&Value> = scaler.list("/status/currentMetrics").collect();
    let wanted: Vec<&Value> = scaler.list("/spec/metrics").collect();
    if wanted.is_empty() {
        return "<none>".to_owned();
    }
    let none = json!({});
    let mut texts: Vec<String> = wanted
        .iter()
        .enumerate()
        .map(|(index, metric)| target(metric, measured.get(index).copied().unwrap_or(&none)))
        .collect();
    let more = texts.len().saturating_sub(2);
    texts.truncate(2);
    if more > 0 { format!("{} + {more} more...", texts.join(", ")) } else { texts.join(", ") }
}

fn target(metric: &Value, measured: &Value) -> String {
    let kind = metric["type"].as_str().unwrap_or_default();
    let source = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, current) = (&metric[source]["target"], &measured[source]["current"]);
    let text = |value: &Value| value.as_str().map_or("<unknown>".to_owned(), str::to_owned);
    let pair = match kind {
        "Resource" | "ContainerResource" if wanted["averageValue"].is_null() => {
            let percent =
                |value: &Value| value.as_i64().map_or("<unknown>".to_owned(), |share| format!("{share}%"));
            let goal =
                wanted["averageUtilization"].as_i64().map_or("<auto>".to_owned(), |goal| format!("{goal}%"));
            format!("{}/{goal}", percent(&current["averageUtilization"]))
        }
        "Object" | "External" if wanted["averageValue"].is_null() => {
            format!("{}/{}", text(&current["value"]), text(&wanted["value"]))
        }
        "Object" | "External" => {
            format!("{}/{} (avg)", text(&current["averageValue"]), text(&wanted["averageValue"]))
        }
        _ => format!("{}/{}", text(&current["averageValue"]), text(&wanted["averageValue"])),
    };
    match kind {
        "Resource" => format!("{}: {pair}", metric[source]["name"].as_str().unwrap_or_default()),
        _ => pair,
    }
}

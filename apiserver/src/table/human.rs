//! Values as people read them in cells.

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// The time since then; `<unknown>` when it never was.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        Some(then) => manifests::time::age(now.duration_since(then)),
        None => "<unknown>".to_string(),
    }
}

pub(super) fn instant(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

pub(super) fn micro_instant(time: Option<&MicroTime>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

/// The cell of the Age column.
pub(super) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(instant(meta.creation_timestamp.as_ref()), now).into()
}

/// The cell of the Name column.
pub(super) fn name(meta: &ObjectMeta) -> Value {
    meta.name.as_deref().unwrap_or_default().into()
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    non_empty(&pairs.join(","), "<none>")
}

/// `text`, or what stands for nothing.
pub(super) fn non_empty(text: &str, nothing: &str) -> String {
    if text.is_empty() { nothing.to_string() } else { text.to_string() }
}

/// The first `max` of the entries, and how many more there are.
pub(super) fn first_few(entries: &[String], max: usize) -> String {
    let shown = entries[..entries.len().min(max)].join(",");
    if entries.len() > max { format!("{shown} + {} more...", entries.len() - max) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many() {
        let entries: Vec<String> = ["a", "b", "c", "d"].map(str::to_string).to_vec();
        assert_eq!(first_few(&entries, 3), "a,b,c + 1 more...");
        assert_eq!(first_few(&entries[..3], 3), "a,b,c");
        assert_eq!(first_few(&[], 3), "");
    }
}

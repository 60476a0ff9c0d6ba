//! Values as people read them in cells.

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// A duration with two or three significant figures: `5s`, `3m20s`, `2d5h`.
pub fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let days = hours / 24;
    // Two seconds of a clock that runs ahead count as now.
    match seconds {
        ..=-2 => return "<invalid>".to_string(),
        -1 => return "0s".to_string(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    match (minutes, hours) {
        (..10, _) => with_rest(minutes, "m", seconds % 60, "s"),
        (..180, _) => format!("{minutes}m"),
        (_, ..8) => with_rest(hours, "h", minutes % 60, "m"),
        (_, ..48) => format!("{hours}h"),
        (_, ..192) => with_rest(days, "d", hours % 24, "h"),
        (_, ..17_520) => format!("{days}d"),
        (_, ..70_080) => with_rest(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn with_rest(whole: i64, unit: &str, rest: i64, rest_unit: &str) -> String {
    if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{rest_unit}") }
}

/// The time since then; `<unknown>` when it never was.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        Some(then) => human_duration(now.duration_since(then)),
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
    fn durations() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * MINUTE, "2m"),
            (2 * MINUTE + 5, "2m5s"),
            (9 * MINUTE + 59, "9m59s"),
            (10 * MINUTE + 30, "10m"),
            (179 * MINUTE, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 20 * MINUTE, "3h20m"),
            (8 * HOUR + 20 * MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3 * HOUR, "2d3h"),
            (8 * DAY + 3 * HOUR, "8d"),
            (729 * DAY, "729d"),
            (730 * DAY, "2y"),
            (2 * 365 * DAY + DAY, "2y1d"),
            (8 * 365 * DAY + DAY, "8y"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn a_few_of_many() {
        let entries: Vec<String> = ["a", "b", "c", "d"].map(str::to_string).to_vec();
        assert_eq!(first_few(&entries, 3), "a,b,c + 1 more...");
        assert_eq!(first_few(&entries[..3], 3), "a,b,c");
        assert_eq!(first_few(&[], 3), "");
    }
}

//! The owners after an update, when most of them are not concerned: only entries that lose or gain fields are decoded.
//!
//! A status that is written again and again concerns one entry of several, and the others are often the larger ones.

use std::slice;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::managers::{MAX_UPDATERS, Managers, Operation, Owned};
use super::set::Set;
use super::walk::compare;
use super::{Writer, stripped};

impl Writer {
    /// The entries after an update of an object that has these; nothing if it takes more than this way can do.
    pub(super) fn updated_lightly(
        &self,
        live: &Value,
        new: &Value,
        kept: &[ManagedFieldsEntry],
        now: Timestamp,
    ) -> Option<Vec<ManagedFieldsEntry>> {
        if kept.is_empty() {
            return None;
        }
        let changes = compare(live, new, self.of).without(&self.reset);
        if changes.is_same() {
            return Some(kept.to_vec());
        }
        let mut own = changes.modified;
        own.extend(changes.added);
        let mut entries = Vec::with_capacity(kept.len() + 1);
        let mut before = None;
        for entry in kept {
            let same_version = entry.api_version.as_deref() == Some(&self.api_version);
            let is_own = same_version
                && entry.operation.as_deref() == Some("Update")
                && entry.manager.as_deref().unwrap_or_default() == self.name
                && entry.subresource.as_deref().unwrap_or_default() == self.subresource;
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0)?;
            let concerned = same_version && (own.meets(fields) || changes.removed.meets(fields));
            if !is_own && !concerned {
                entries.push(entry.clone());
                continue;
            }
            let mut owned = Managers::decode(slice::from_ref(entry)).ok()?.0.pop()?;
            owned.fields.remove(&own);
            owned.fields.remove(&changes.removed);
            if is_own {
                if before.replace(owned).is_some() {
                    return None;
                }
            } else if !owned.fields.is_empty() {
                entries.extend(Managers(vec![owned]).encode()?);
            }
        }
        own.remove(&stripped());
        let own = match before {
            _ if !own.is_empty() => {
                own.extend(before.map(|before| before.fields).unwrap_or_default());
                Some(Owned { manager: self.manager(Operation::Update), fields: own, time: Some(now) })
            }
            before => before.filter(|before| !before.fields.is_empty()),
        };
        if let Some(own) = own {
            entries.extend(Managers(vec![own]).encode()?);
        }
        let updaters = entries.iter().filter(|entry| entry.operation.as_deref() == Some("Update")).count();
        if updaters > MAX_UPDATERS || entries.is_empty() {
            return None;
        }
        entries.sort_by(|a, b| order(a).cmp(&order(b)));
        Some(entries)
    }
}

/// Upstream's order of entries.
fn order(entry: &ManagedFieldsEntry) -> impl Ord + '_ {
    (
        entry.operation.as_deref() != Some("Apply"),
        entry.time.as_ref().map_or(0, |time| time.0.as_second()),
        entry.manager.as_deref().unwrap_or_default(),
        entry.api_version.as_deref().unwrap_or_default(),
        entry.subresource.as_deref().unwrap_or_default(),
    )
}

impl Set {
    /// Whether a set in its encoded form may have a member of this one. Yes where it is not certain.
    fn meets(&self, fields: &Value) -> bool {
        let Some(fields) = fields.as_object() else { return true };
        // Elements that carry JSON have one form here, and may have another there.
        let in_doubt = |element: &str| !element.starts_with("f:");
        self.nodes().any(|(element, node)| match fields.get(element) {
            Some(below) => {
                let member =
                    below.as_object().is_none_or(|below| below.is_empty() || below.contains_key("."));
                (node.member && member) || node.below.meets(below)
            }
            None => in_doubt(element) && fields.keys().any(|key| key.get(..2) == element.get(..2)),
        })
    }
}

#[cfg(test)]
mod tests {
    use manifests::kinds;
    use serde_json::json;

    use super::*;

    /// Every step from every state, by two managers through two doors: both ways lead to the same entries.
    #[test]
    fn it_is_the_same_as_the_whole_way() {
        let states = [
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}}),
            json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}),
            json!({"metadata": {"name": "p", "labels": {"a": "2", "b": "1"}}, "spec": {"containers": [
                {"name": "c", "image": "j", "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "d", "image": "i"},
            ]}}),
            json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"},
            ]}}),
        ];
        let writer = |name: &str, door| Writer::new(name.to_owned(), &kinds::POD, door);
        let writers = [writer("a", ""), writer("b", ""), writer("a", "status"), writer("b", "status")];
        let mut at = 1_700_000_000;
        let mut compared = 0;
        for first in &writers {
            for start in &states {
                let time = |at: i64| Timestamp::from_second(at).unwrap();
                let mut kept = first.updated_wholly(None, start, None, None, time(at));
                let mut live = start;
                for step in 0..40_usize {
                    at += 1;
                    let new = &states[(step * 7 + step / 5) % states.len()];
                    let writer = &writers[(step * 3 + step / 4) % writers.len()];
                    let whole = writer.updated_wholly(Some(live), new, None, kept.as_deref(), time(at));
                    if let Some(kept) = &kept {
                        let light = writer.updated_lightly(live, new, kept, time(at));
                        compared += usize::from(light.is_some());
                        assert!(light.is_none() || light == whole, "{live} {new}: {light:?} {whole:?}");
                    }
                    (kept, live) = (whole, new);
                }
            }
        }
        assert!(compared > 400, "{compared}");
    }
}

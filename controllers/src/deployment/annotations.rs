//! What a Deployment writes on its ReplicaSets: revisions for `kubectl rollout`, sizes for proportional scaling.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::limits;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that are about itself alone.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Longer histories lose their oldest entries.
const HISTORY_LIMIT: usize = 2000;

fn get<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The revision that an object carries; 0 if none.
pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    get(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The wanted number of pods of the Deployment when the ReplicaSet was last scaled.
pub(super) fn desired(replica_set: &ReplicaSet) -> Option<i32> {
    get(&replica_set.metadata, DESIRED)?.parse().ok()
}

/// The greatest number of pods of the Deployment when the ReplicaSet was last scaled.
pub(super) fn max(replica_set: &ReplicaSet) -> Option<i32> {
    get(&replica_set.metadata, MAX)?.parse().ok()
}

/// Writes the Deployment's present sizes on a ReplicaSet.
pub(super) fn set_sizes(replica_set: &mut ReplicaSet, deployment: &Deployment) {
    let desired = limits::replicas(deployment);
    let most = desired.saturating_add(limits::max_surge(deployment));
    let annotations = replica_set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MAX.to_owned(), most.to_string());
}

/// Whether the sizes on a ReplicaSet are the present ones.
pub(super) fn sizes_are_current(replica_set: &ReplicaSet, deployment: &Deployment) -> bool {
    let desired_now = limits::replicas(deployment);
    desired(replica_set) == Some(desired_now)
        && max(replica_set) == Some(desired_now.saturating_add(limits::max_surge(deployment)))
}

/// Copies the Deployment's annotations to its newest ReplicaSet and gives that a revision. A ReplicaSet that
/// has an older revision is being rolled back to; its history keeps the number.
pub(super) fn set_new(replica_set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let before = get(&replica_set.metadata, REVISION).unwrap_or_default().to_owned();
    let annotations = replica_set.metadata.annotations.get_or_insert_default();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    let number = match before.parse::<i64>() {
        Ok(number) => number,
        Err(_) if before.is_empty() => 0,
        // Not ours to replace.
        Err(_) => return,
    };
    if number >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if !before.is_empty() {
        remember(annotations, &before);
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: &str) {
    let history = annotations.entry(HISTORY.to_owned()).or_default();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(revision);
    while history.len() > HISTORY_LIMIT {
        match history.split_once(',') {
            Some((_, rest)) => *history = rest.to_owned(),
            None => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(annotations: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"replicas": 4, "selector": {}, "template": {}},
        }))
        .unwrap()
    }

    fn replica_set(annotations: Value) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {"selector": {}}}))
            .unwrap()
    }

    #[test]
    fn revisions_and_their_history() {
        let check = |before: Value, revision: i64, expected: Value| {
            let mut set = replica_set(before);
            set_new(&mut set, &deployment(json!({})), revision);
            assert_eq!(serde_json::to_value(&set.metadata.annotations).unwrap(), expected);
        };
        check(json!({}), 1, json!({REVISION: "1"}));
        check(json!({REVISION: "1"}), 1, json!({REVISION: "1"}));
        check(json!({REVISION: "1"}), 3, json!({REVISION: "3", HISTORY: "1"}));
        check(json!({REVISION: "3", HISTORY: "1"}), 5, json!({REVISION: "5", HISTORY: "1,3"}));
        check(json!({REVISION: "x"}), 5, json!({REVISION: "x"}));
    }

    #[test]
    fn history_is_bounded() {
        let mut set = replica_set(json!({}));
        for revision in 1..2000 {
            set_new(&mut set, &deployment(json!({})), revision);
        }
        let history = get(&set.metadata, HISTORY).unwrap();
        assert!(history.len() <= HISTORY_LIMIT && history.ends_with(",1997,1998"), "{history}");
    }

    #[test]
    fn annotations_are_copied_but_for_the_deployments_own() {
        let mut set = replica_set(json!({"kept": "yes"}));
        let annotations = json!({
            "kubernetes.io/change-cause": "new image",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            REVISION: "9",
        });
        set_new(&mut set, &deployment(annotations), 1);
        set_sizes(&mut set, &deployment(json!({})));
        assert!(sizes_are_current(&set, &deployment(json!({}))));
        let expected = json!({
            "kept": "yes", "kubernetes.io/change-cause": "new image", REVISION: "1", DESIRED: "4", MAX: "5",
        });
        assert_eq!(serde_json::to_value(&set.metadata.annotations).unwrap(), expected);
    }
}

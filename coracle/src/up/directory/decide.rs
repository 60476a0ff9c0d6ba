//! What to write: a pure function of what the files say, what they said before, and what came of writing it.

use std::collections::{BTreeMap, BTreeSet};

use agent::sources::manifest::ObjectId;
use tokio::time::Instant;

/// What is known at one moment.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    /// Every source has been read: what is not wanted now is to go.
    pub(super) ready: bool,
    /// What the files say, as a number that changes with it.
    pub(super) wanted: &'a BTreeMap<ObjectId, u64>,
    /// Every object that may have been written for a file, in this life or an earlier one.
    pub(super) written: &'a BTreeSet<ObjectId>,
    /// What came of writing, in this life.
    pub(super) results: &'a BTreeMap<ObjectId, Result>,
    pub(super) now: Instant,
}

/// What came of writing an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Result {
    /// The control plane has it, or will never take it: there is nothing to do until the file changes.
    Settled { digest: u64 },
    /// It may not be as its file says any more.
    Drifted { at: Instant },
    /// Worth another try.
    Failed { failures: u32, retry_at: Instant },
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) apply: Vec<ObjectId>,
    pub(super) delete: Vec<ObjectId>,
    /// When to decide again, if nothing happens before.
    pub(super) wake_at: Option<Instant>,
}

pub(super) fn decide(seen: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    for (id, digest) in seen.wanted {
        match seen.results.get(id) {
            Some(Result::Settled { digest: settled }) if settled == digest => {}
            result => plan.at(result, seen.now, |plan| plan.apply.push(id.clone())),
        }
    }
    let gone = seen.written.iter().filter(|id| seen.ready && !seen.wanted.contains_key(id));
    for id in gone {
        plan.at(seen.results.get(id), seen.now, |plan| plan.delete.push(id.clone()));
    }
    plan.apply.sort_by_key(|id| rank(&id.kind));
    plan.delete.sort_by_key(|id| std::cmp::Reverse(rank(&id.kind)));
    plan
}

impl Plan {
    /// Now, or when the last failure is long enough ago.
    fn at(&mut self, result: Option<&Result>, now: Instant, act: impl FnOnce(&mut Self)) {
        match result {
            Some(Result::Failed { retry_at, .. } | Result::Drifted { at: retry_at }) if now < *retry_at => {
                self.wake_at = Some(self.wake_at.map_or(*retry_at, |at| at.min(*retry_at)));
            }
            _ => act(self),
        }
    }
}

/// What others need comes first. A wrong order costs a second try, no more.
fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "PriorityClass" | "StorageClass" | "RuntimeClass" | "ResourceQuota" | "LimitRange" => 2,
        "ServiceAccount" | "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => 3,
        "ConfigMap" | "Secret" | "PersistentVolume" | "PersistentVolumeClaim" => 4,
        // Before the pods behind it, so that they find it in their environment.
        "Service" => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(kind: &str) -> ObjectId {
        ObjectId {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: "default".into(),
            name: "a".into(),
        }
    }

    #[track_caller]
    fn check(
        ready: bool,
        wanted: &[(&str, u64)],
        written: &[&str],
        results: &[(&str, Result)],
        apply: &[&str],
        delete: &[&str],
        now: Instant,
    ) {
        let wanted = wanted.iter().map(|(kind, digest)| (id(kind), *digest)).collect();
        let written = written.iter().map(|kind| id(kind)).collect();
        let results = results.iter().map(|(kind, result)| (id(kind), *result)).collect();
        let plan = decide(&Observed { ready, wanted: &wanted, written: &written, results: &results, now });
        let kinds = |ids: &[ObjectId]| ids.iter().map(|id| id.kind.clone()).collect::<Vec<_>>();
        assert_eq!(
            (kinds(&plan.apply), kinds(&plan.delete)),
            (
                apply.iter().map(|k| (*k).to_owned()).collect(),
                delete.iter().map(|k| (*k).to_owned()).collect()
            )
        );
    }

    #[tokio::test]
    async fn plans() {
        let now = Instant::now();
        let settled = |digest| Result::Settled { digest };
        let failed = |at| Result::Failed { failures: 1, retry_at: at };
        let later = now + Duration::from_secs(1);
        // In the order in which they are needed, and back.
        check(
            true,
            &[("Deployment", 1), ("Namespace", 1), ("Service", 1)],
            &[],
            &[],
            &["Namespace", "Service", "Deployment"],
            &[],
            now,
        );
        check(true, &[], &["Namespace", "Deployment"], &[], &[], &["Deployment", "Namespace"], now);
        // Done is done, until the file says something else.
        check(true, &[("Service", 1)], &["Service"], &[("Service", settled(1))], &[], &[], now);
        check(true, &[("Service", 2)], &["Service"], &[("Service", settled(1))], &["Service"], &[], now);
        // What cannot be known not to be wanted stays.
        check(false, &[], &["Service"], &[], &[], &[], now);
        // What others have changed is written again, at once or when it is time.
        let drifted = |at| Result::Drifted { at };
        check(true, &[("Service", 1)], &["Service"], &[("Service", drifted(now))], &["Service"], &[], now);
        check(true, &[("Service", 1)], &["Service"], &[("Service", drifted(later))], &[], &[], now);
        // Failures wait.
        check(
            true,
            &[("Service", 1)],
            &["Secret"],
            &[("Service", failed(later)), ("Secret", failed(now))],
            &[],
            &["Secret"],
            now,
        );
        check(true, &[("Service", 1)], &[], &[("Service", failed(later))], &["Service"], &[], later);
    }

    #[tokio::test]
    async fn the_next_retry_is_waited_for() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        let wanted = BTreeMap::from([(id("Service"), 1), (id("Secret"), 1)]);
        let results = BTreeMap::from([
            (id("Service"), Result::Failed { failures: 0, retry_at: later }),
            (id("Secret"), Result::Failed { failures: 0, retry_at: soon }),
        ]);
        let plan = decide(&Observed {
            ready: true,
            wanted: &wanted,
            written: &BTreeSet::new(),
            results: &results,
            now,
        });
        assert_eq!(plan, Plan { wake_at: Some(soon), ..Plan::default() });
    }
}

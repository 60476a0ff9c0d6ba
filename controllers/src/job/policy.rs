//! What a job's own rules say about its pods: by exit code, by condition, by index, and when enough have succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement};
use manifests::k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::decide::index_of;
use super::indexes;
use crate::pod_state;

/// On a pod: how many pods of its index had failed when it was made.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// What a failure is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of those that are limited.
    Count,
    /// None.
    Ignore,
    /// The last of its index.
    FailIndex,
    /// The end of the job, for this reason.
    FailJob(String),
}

/// What the rules make of a pod that has failed. The first that matches counts.
pub(super) fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let matched = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(wanted), _) => exit_code(wanted, pod).map(|(container, code)| {
                let (namespace, name) = (pod.namespace(), pod.name());
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
            }),
            (None, Some(patterns)) => {
                let given = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let mut found = given.filter(|condition| {
                    patterns.iter().any(|pattern| {
                        pattern.type_ == condition.type_
                            && pattern.status.as_deref().unwrap_or("True") == condition.status
                    })
                });
                found.next().map(|condition| {
                    format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), condition.type_)
                })
            }
            (None, None) => None,
        };
        let Some(what) = matched else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::FailJob(format!("{what} matching {} rule at index {number}", rule.action)),
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// The container that failed as a rule has it, and with which code.
fn exit_code<'p>(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &'p Pod) -> Option<(&'p str, i32)> {
    let status = pod.status.as_ref()?;
    let all: [&Option<Vec<ContainerStatus>>; 2] =
        [&status.container_statuses, &status.init_container_statuses];
    let mut ended = all.into_iter().flatten().flatten().filter_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        Some((container.name.as_str(), code))
    });
    ended.find(|(name, code)| {
        let meant = wanted.container_name.as_deref().is_none_or(|wanted| wanted == *name);
        // Success is no failure, whatever a rule says.
        let listed = wanted.values.contains(code);
        meant && *code != 0 && if wanted.operator == "NotIn" { !listed } else { listed }
    })
}

/// How many pods of its index have failed with this one.
pub(super) fn failures_with(pod: &Pod) -> i32 {
    let before = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(FAILURES));
    before.and_then(|text| text.parse::<i32>().ok()).unwrap_or(0).saturating_add(1)
}

/// How many pods of each index have failed, from those that are still there.
pub(super) fn failures(spec: &JobSpec, own: &[Arc<Pod>]) -> BTreeMap<i32, i32> {
    let mut failures = BTreeMap::new();
    for pod in own.iter().filter(|pod| pod_state::phase(pod) == "Failed") {
        let Some(index) = index_of(pod) else { continue };
        let ignored = verdict(spec, pod) == Verdict::Ignore;
        let count = failures_with(pod) - i32::from(ignored);
        let known = failures.entry(index).or_insert(0);
        *known = count.max(*known);
    }
    failures
}

/// The rule by which enough has succeeded, if there is one.
pub(super) fn enough(spec: &JobSpec, done: &BTreeSet<i32>) -> Option<usize> {
    let below = spec.completions.unwrap_or(0);
    let rules = spec.success_policy.as_ref()?.rules.iter();
    rules.enumerate().find_map(|(number, rule)| {
        let meant: BTreeSet<i32> = match rule.succeeded_indexes.as_deref() {
            Some(text) => indexes::parse(text, below),
            None => (0..below).collect(),
        };
        let succeeded = meant.intersection(done).count();
        let wanted = rule.succeeded_count.map_or(meant.len(), |count| usize::try_from(count).unwrap_or(0));
        (succeeded >= wanted && wanted > 0).then_some(number)
    })
}

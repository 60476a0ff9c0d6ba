//! What a budget's status is to say: no clock, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Next, Object as _};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::time::time;

use crate::pod_state;

/// A pod that was to be evicted and is still not on its way out after this time will not be.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// How many pods there should be of the kind of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scale {
    /// So many, says the object with this uid.
    Of { owner: String, replicas: i32 },
    /// It has no controller.
    Unmanaged,
    /// It has one that nobody knows.
    Unknown,
}

/// A budget and the pods that it selects.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    pub(super) pods: Vec<(Scale, Arc<Pod>)>,
}

/// What to say.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The status, if it is to change.
    pub(super) status: Option<PodDisruptionBudgetStatus>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    pub(super) next: Next,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let before = observed.budget.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    let (expected, desired) = match expected(observed) {
        Ok(counts) => counts,
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            events.push((EventType::Warning, "CalculateExpectedPodCountFailed", message));
            // Whatever else is unknown: nothing may be evicted.
            let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..before.clone() };
            set_condition(&mut status, "False", "SyncFailed", &why, now);
            return Plan { status: (status != before).then_some(status), events, next: Next::Wait };
        }
    };
    if observed.pods.is_empty() {
        events.push((EventType::Normal, "NoPods", "No matching pods found".to_owned()));
    }
    if counts_controllers(observed) && observed.pods.iter().any(|(scale, _)| *scale == Scale::Unmanaged) {
        events.push((EventType::Warning, "UnmanagedPods", unmanaged(observed.budget)));
    }
    let (disrupted, next) = disrupted(observed, before.disrupted_pods.as_ref(), now);
    let healthy = observed.pods.iter().map(|(_, pod)| pod).filter(|pod| {
        !pod_state::is_deleting(pod) && !disrupted.contains_key(pod.name()) && pod_state::is_ready(pod)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // With no pod expected, the first ones that appear are safe until they have been counted.
    let allowed = if expected <= 0 { 0 } else { healthy.saturating_sub(desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: observed.budget.metadata.generation,
        conditions: before.conditions.clone(),
    };
    if allowed > 0 {
        set_condition(&mut status, "True", "SufficientPods", "", now);
    } else {
        set_condition(&mut status, "False", "InsufficientPods", "", now);
    }
    Plan { status: (status != before).then_some(status), events, next }
}

/// Whether the budget is a share of what controllers want, not a number of pods.
fn counts_controllers(observed: &Observed<'_>) -> bool {
    let Some(spec) = &observed.budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// How many pods there should be, and how many of them must be healthy.
fn expected(observed: &Observed<'_>) -> Result<(i32, i32), String> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    if !counts_controllers(observed) {
        let Some(IntOrString::Int(wanted)) = spec.min_available else { return Ok((0, 0)) };
        return Ok((i32::try_from(observed.pods.len()).unwrap_or(i32::MAX), wanted));
    }
    let mut scales = BTreeMap::new();
    for (scale, pod) in &observed.pods {
        match scale {
            Scale::Of { owner, replicas } => drop(scales.insert(owner, *replicas)),
            Scale::Unmanaged => {}
            Scale::Unknown => return Err(format!("found no controllers for pod \"{}\"", pod.name())),
        }
    }
    let expected = scales.values().fold(0_i32, |sum, replicas| sum.saturating_add(*replicas));
    let wanted = match (&spec.max_unavailable, &spec.min_available) {
        (Some(missing), _) => (expected - scaled(missing, expected)?).max(0),
        (None, Some(least)) => scaled(least, expected)?,
        (None, None) => 0,
    };
    Ok((expected, wanted))
}

/// A number, or a share of `whole`, rounded up.
fn scaled(amount: &IntOrString, whole: i32) -> Result<i32, String> {
    match amount {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {text}"))?;
            let share = (percent * i64::from(whole) + 99) / 100;
            Ok(i32::try_from(share).unwrap_or(i32::MAX))
        }
    }
}

/// The pods that are about to go, and when to look again at those that do not.
fn disrupted(
    observed: &Observed<'_>,
    before: Option<&BTreeMap<String, Time>>,
    now: Timestamp,
) -> (BTreeMap<String, Time>, Next) {
    let mut still = BTreeMap::new();
    let mut look: Option<Timestamp> = None;
    for (_, pod) in &observed.pods {
        let Some(since) = before.and_then(|before| before.get(pod.name())) else { continue };
        let until = since.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if pod_state::is_deleting(pod) || until < now {
            continue;
        }
        look = Some(look.map_or(until, |look| look.min(until)));
        still.insert(pod.name().to_owned(), since.clone());
    }
    let next = look.map_or(Next::Wait, |look| {
        let wait = Duration::try_from(look.duration_since(now)).unwrap_or_default();
        // Times of objects are whole seconds; ours is not.
        Next::After(wait + Duration::from_millis(10))
    });
    (still, next)
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().find(|known| known.type_ == ALLOWED);
    let since = before.filter(|known| known.status == value).map(|known| known.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: since.unwrap_or_else(|| time(now)),
    };
    match conditions.iter_mut().find(|known| known.type_ == ALLOWED) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: \
         &LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{}},}}) \
         were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result \
         in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an \
         integer value."
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use testkit::{PodBuilder, pod};

    use super::*;

    fn of(replicas: i32) -> Scale {
        Scale::Of { owner: "o".to_owned(), replicas }
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let meta = json!({"name": "b", "namespace": "n", "generation": 3});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    fn plan(budget: &PodDisruptionBudget, pods: Vec<(Scale, PodBuilder)>) -> Plan {
        let pods = pods.into_iter().map(|(scale, pod)| (scale, Arc::new(pod.build()))).collect();
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        decide(&Observed { budget, pods }, now)
    }

    /// Expected, desired, healthy, allowed.
    fn check(spec: Value, pods: Vec<(Scale, PodBuilder)>, expected: [i32; 4]) {
        let again = pods.clone();
        let made = budget(spec, json!({}));
        let status = plan(&made, pods).status.unwrap();
        let found = [
            status.expected_pods,
            status.desired_healthy,
            status.current_healthy,
            status.disruptions_allowed,
        ];
        assert_eq!(found, expected.map(Some), "{:?}", made.spec);
        let reason = if expected[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!(status.conditions.as_ref().unwrap()[0].reason, reason);
        assert_eq!(status.observed_generation, Some(3));
        let settled = PodDisruptionBudget { status: Some(status), ..made };
        assert_eq!(plan(&settled, again).status, None, "nothing more to say");
    }

    #[test]
    fn budgets() {
        let three = |scale: fn() -> Scale| {
            vec![(scale(), pod("a").ready()), (scale(), pod("b").ready()), (scale(), pod("c"))]
        };
        let managed = || three(|| of(3));
        check(json!({"minAvailable": 1}), managed(), [3, 1, 2, 1]);
        check(json!({"minAvailable": 2}), managed(), [3, 2, 2, 0]);
        check(json!({"minAvailable": "50%"}), managed(), [3, 2, 2, 0]);
        check(json!({"maxUnavailable": 2}), managed(), [3, 1, 2, 1]);
        check(json!({"maxUnavailable": "34%"}), managed(), [3, 1, 2, 1]);
        check(json!({"maxUnavailable": 5}), managed(), [3, 0, 2, 2]);
        check(json!({"minAvailable": 0}), vec![], [0, 0, 0, 0]);
        check(json!({"minAvailable": 1}), three(|| Scale::Unmanaged), [3, 1, 2, 1]);
        check(json!({"maxUnavailable": 1}), three(|| Scale::Unmanaged), [0, 0, 2, 0]);
        check(
            json!({"minAvailable": 1}),
            vec![(of(2), pod("a").ready().terminating()), (of(2), pod("b").ready())],
            [2, 1, 1, 0],
        );
    }

    #[test]
    fn evicted_pods_are_not_healthy_until_they_should_long_be_gone() {
        let status = |since: &str| json!({"disruptedPods": {"a": since, "gone": since}});
        let pods = || vec![(of(2), pod("a").ready()), (of(2), pod("b").ready())];
        let fresh = plan(&budget(json!({"minAvailable": 1}), status("2026-01-01T00:09:00Z")), pods());
        let written = fresh.status.unwrap();
        assert_eq!(written.disruptions_allowed, Some(0));
        assert_eq!(written.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert!(matches!(fresh.next, Next::After(wait) if wait.as_secs() == 60));
        let old = plan(&budget(json!({"minAvailable": 1}), status("2026-01-01T00:07:00Z")), pods());
        let written = old.status.unwrap();
        assert_eq!((written.disruptions_allowed, written.disrupted_pods), (Some(1), None));
    }

    #[test]
    fn what_is_not_known_allows_nothing() {
        let before = json!({"disruptionsAllowed": 1, "expectedPods": 1});
        let plan =
            plan(&budget(json!({"maxUnavailable": 1}), before), vec![(Scale::Unknown, pod("a").ready())]);
        let status = plan.status.unwrap();
        assert_eq!(status.disruptions_allowed, Some(0));
        let condition = &status.conditions.unwrap()[0];
        let why = "found no controllers for pod \"a\"";
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", why));
        assert_eq!(plan.events[0].1, "CalculateExpectedPodCountFailed");
    }
}

//! What brings a namespace nearer to its end.

use client::ApiResource;
use manifests::k8s_openapi::api::core::v1::NamespaceCondition;

use super::observe::{Observed, Remaining};

/// The finalizer that is this controller's.
pub(super) const FINALIZER: &str = "kubernetes";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    DeleteAll(ApiResource),
    SetConditions(Vec<NamespaceCondition>),
    /// Takes our finalizer off: the server removes the namespace.
    Finalize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan(pub(super) Vec<Action>);

impl Plan {
    pub(super) fn is_finished(&self) -> bool {
        self.0.contains(&Action::Finalize) || self.0.is_empty()
    }

    /// Nothing can be done but to wait for others.
    pub(super) fn waits(&self) -> bool {
        !self.0.iter().any(|action| matches!(action, Action::DeleteAll(_) | Action::Finalize))
    }
}

pub(super) fn decide(observed: &Observed) -> Plan {
    let held_by_us = observed
        .namespace
        .spec
        .as_ref()
        .is_some_and(|spec| spec.finalizers.iter().flatten().any(|name| name == FINALIZER));
    if observed.remaining.is_empty() {
        return Plan(if held_by_us { vec![Action::Finalize] } else { Vec::new() });
    }
    let mut actions: Vec<Action> = observed
        .remaining
        .iter()
        .filter(|remaining| remaining.untouched > 0)
        .map(|remaining| Action::DeleteAll(remaining.resource.clone()))
        .collect();
    let wanted = conditions(&observed.remaining);
    let status = observed.namespace.status.as_ref();
    let have = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let same = |wanted: &NamespaceCondition| {
        have.iter().any(|have| {
            have.type_ == wanted.type_
                && have.status == wanted.status
                && have.reason == wanted.reason
                && have.message == wanted.message
        })
    };
    if !wanted.iter().all(same) {
        actions.push(Action::SetConditions(wanted));
    }
    Plan(actions)
}

/// What holds the namespace, in upstream's words. Times are set when they are written.
fn conditions(remaining: &[Remaining]) -> Vec<NamespaceCondition> {
    let condition = |type_: &str, holds: bool, reason: &str, message: String| NamespaceCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    };
    let resource = |remaining: &Remaining| {
        let suffix = if remaining.resource.group.is_empty() {
            String::new()
        } else {
            format!(".{}", remaining.resource.group)
        };
        format!("{}.{suffix}", remaining.resource.plural).replace("..", ".")
    };
    let instances: Vec<String> = remaining
        .iter()
        .map(|left| format!("{} has {} resource instances", resource(left), left.untouched + left.leaving))
        .collect();
    let mut held: Vec<(String, usize)> = Vec::new();
    for (name, count) in remaining.iter().flat_map(|left| &left.finalizers) {
        match held.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += count,
            None => held.push((name.clone(), *count)),
        }
    }
    held.sort();
    let finalizers: Vec<String> =
        held.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        condition(
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", instances.join(", ")),
        ),
        if finalizers.is_empty() {
            condition(
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
            condition("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ]
}

#[cfg(test)]
mod tests {
    use client::ApiResource;
    use manifests::k8s_openapi::api::core::v1::{Namespace, Pod};
    use serde_json::json;

    use super::*;

    fn observed(remaining: Vec<Remaining>) -> Observed {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": "side", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"},
        }))
        .unwrap();
        Observed { namespace, remaining }
    }

    fn pods(untouched: usize, leaving: usize, finalizers: &[(&str, usize)]) -> Remaining {
        let finalizers = finalizers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Remaining { resource: ApiResource::of::<Pod>(), untouched, leaving, finalizers }
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        assert_eq!(decide(&observed(vec![])), Plan(vec![Action::Finalize]));
    }

    #[test]
    fn what_is_there_is_deleted_once() {
        let plan = decide(&observed(vec![pods(2, 0, &[])]));
        assert_eq!(plan.0[0], Action::DeleteAll(ApiResource::of::<Pod>()));
        assert!(!plan.waits() && !plan.is_finished());
        let plan = decide(&observed(vec![pods(0, 2, &[])]));
        assert!(!plan.0.iter().any(|action| matches!(action, Action::DeleteAll(_))));
        assert!(plan.waits() && !plan.is_finished());
    }

    #[test]
    fn the_conditions_say_what_is_waited_for_and_are_written_once() {
        let mut observed = observed(vec![pods(0, 1, &[("example.com/hold", 1)])]);
        let Plan(actions) = decide(&observed);
        let [Action::SetConditions(conditions)] = actions.as_slice() else { panic!("{actions:?}") };
        let messages: Vec<_> =
            conditions.iter().map(|condition| condition.message.as_deref().unwrap_or_default()).collect();
        assert_eq!(messages[2], "Some resources are remaining: pods. has 1 resource instances");
        assert_eq!(
            messages[3],
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        observed.namespace.status.as_mut().unwrap().conditions = Some(conditions.clone());
        assert_eq!(decide(&observed).0, []);
    }
}

//! The PodScheduled condition, and the node for which a pod waits.

use client::{Object, Patch};
use jiff::Timestamp;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// What becomes of `status.nominatedNodeName`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nomination<'a> {
    /// It stays as it is.
    Keep,
    /// Others go for the pod on this node.
    Set(&'a str),
    /// No node will do.
    Clear,
}

/// The change that makes a pod's status say why it has no node; None if it says so already.
pub(super) fn patch(
    pod: &Pod,
    reason: &str,
    message: &str,
    nomination: Nomination<'_>,
    now: Timestamp,
) -> Option<Patch> {
    let condition = condition(pod, reason, message, now);
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let nominated = nominated.unwrap_or_default();
    let wanted = match nomination {
        Nomination::Keep => nominated,
        Nomination::Set(node) => node,
        Nomination::Clear => "",
    };
    if condition.is_none() && nominated == wanted {
        return None;
    }
    let mut status = json!({});
    if let Some(condition) = condition {
        status["conditions"] = json!([condition]);
    }
    if nominated != wanted {
        status["nominatedNodeName"] = if wanted.is_empty() { Value::Null } else { json!(wanted) };
    }
    Some(Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status})))
}

/// The condition, if it is not the present one.
fn condition(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let current = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let same_status = current.is_some_and(|current| current.status == "False");
    if let Some(current) = current
        && same_status
        && current.reason.as_deref() == Some(reason)
        && current.message.as_deref() == Some(message)
    {
        return None;
    }
    let since = current.filter(|_| same_status).and_then(|current| current.last_transition_time.clone());
    Some(json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "observedGeneration": pod.metadata.generation,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or(Time(now)),
    }))
}

#[cfg(test)]
mod tests {
    use testkit::pod;

    use super::*;

    #[test]
    fn says_it_once() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let Some(Patch::Strategic(first)) =
            patch(&pod("p").build(), "Unschedulable", "no", Nomination::Keep, now)
        else {
            panic!("nothing to say")
        };
        let condition = first["status"]["conditions"][0].clone();
        assert_eq!(condition["lastTransitionTime"], "1970-01-12T13:46:40Z");
        let told = |reason: &str, message: &str| {
            let mut pod = pod("p").condition("PodScheduled", "False").build();
            let told = &mut pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0];
            told.reason = Some(reason.into());
            told.message = Some(message.into());
            told.last_transition_time = Some(Time(Timestamp::UNIX_EPOCH));
            pod
        };
        assert!(patch(&told("Unschedulable", "no"), "Unschedulable", "no", Nomination::Clear, now).is_none());
        let Some(Patch::Strategic(again)) =
            patch(&told("Unschedulable", "yes"), "Unschedulable", "no", Nomination::Keep, now)
        else {
            panic!("nothing to say")
        };
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let same = told("Unschedulable", "no");
        let Some(Patch::Strategic(chosen)) = patch(&same, "Unschedulable", "no", Nomination::Set("n1"), now)
        else {
            panic!("nothing to say")
        };
        assert_eq!(chosen["status"], json!({"nominatedNodeName": "n1"}));
    }
}

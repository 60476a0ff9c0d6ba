//! What a node's silence or its own word means for its conditions, its taints and its pods.

use std::sync::Arc;
use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::placement::tolerates;

use super::GRACE;
use crate::ownership::Ref;
use crate::pod_state::is_ready;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The conditions that a node must report, as upstream lists them.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Taints by condition: type, status, key.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// One snapshot of everything that the decision needs.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) node: Arc<Node>,
    /// Pods that are bound to it.
    pub(super) pods: Vec<Arc<Pod>>,
    /// Time since its last sign of life.
    pub(super) silence: Duration,
    /// Another node is ready.
    pub(super) others_ready: bool,
    pub(super) now: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// The node's conditions are no longer known.
    SetConditions(Vec<NodeCondition>),
    SetTaints(Vec<Taint>),
    /// The pod's word that it is ready counts no longer.
    MarkUnready(Ref),
    Evict(Ref),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// When to look again, if nothing happens before.
    pub(super) again: Option<Duration>,
    /// The node is silent.
    pub(super) silent: bool,
}

/// When the node last reported its status, by its own clock.
pub(super) fn reported(node: &Node) -> Option<Time> {
    condition(node, "Ready")?.last_heartbeat_time.clone()
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(super) fn decide(observed: &Observed) -> Plan {
    let node = &*observed.node;
    let silent = observed.silence >= GRACE;
    let mut plan = Plan { actions: Vec::new(), again: (!silent).then(|| GRACE - observed.silence), silent };

    // What the node is known to be, from now on.
    let mut conditions: Vec<NodeCondition> =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if silent {
        let unknown = unknown(&conditions, observed.now);
        if unknown != conditions {
            plan.actions.push(Action::SetConditions(unknown.clone()));
        }
        conditions = unknown;
    }
    let have = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    // When no node is ready, the fault is more likely here than with all of them: pods stay where they are.
    let evict = ready || observed.others_ready;
    let taints = taints(&conditions, &have, unschedulable, evict, observed.now);
    if taints != have {
        plan.actions.push(Action::SetTaints(taints.clone()));
    }

    for pod in &observed.pods {
        if !ready && is_ready(pod) {
            plan.actions.push(Action::MarkUnready(Ref::to(&**pod)));
        }
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match eviction(pod, &taints) {
            Eviction::Never => {}
            Eviction::At(time) if time <= observed.now => {
                plan.actions.push(Action::Evict(Ref::to(&**pod)));
            }
            Eviction::At(time) => {
                let left = Duration::try_from(time.duration_since(observed.now)).unwrap_or_default();
                plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
            }
        }
    }
    plan
}

/// The conditions of a node that says nothing.
fn unknown(have: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = have.to_vec();
    for type_ in CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_transition_time: Some(Time(now)),
                last_heartbeat_time: None,
            }),
        }
    }
    conditions
}

/// The taints that follow from conditions replace those that did before; others stay. A taint that stays keeps its time.
fn taints(
    conditions: &[NodeCondition],
    have: &[Taint],
    unschedulable: bool,
    evict: bool,
    now: Timestamp,
) -> Vec<Taint> {
    let ours = |taint: &Taint| {
        taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key)
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if conditions.iter().any(|condition| condition.type_ == type_ && condition.status == status) {
            wanted.push((key, "NoSchedule"));
            if type_ == "Ready" && evict {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints: Vec<Taint> = have
        .iter()
        .filter(|taint| {
            !ours(taint) || wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect)
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    taints
}

#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    Never,
    At(Timestamp),
}

/// When the NoExecute taints make the pod go: the earliest end of what it tolerates.
fn eviction(pod: &Pod, taints: &[Taint]) -> Eviction {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut end: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        let seconds = match matching.as_slice() {
            [] => 0,
            some => match some.iter().filter_map(|toleration| toleration.toleration_seconds).min() {
                Some(seconds) => seconds.max(0),
                None => continue,
            },
        };
        let until = since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        end = Some(end.map_or(until, |end| end.min(until)));
    }
    end.map_or(Eviction::Never, Eviction::At)
}

/// Whether the node says that it is ready.
pub(super) fn says_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

use std::sync::Arc;
use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{Action, Observed, Plan, decide};

fn node(ready: &str) -> Value {
    json!({"metadata": {"name": "n1"}, "spec": {},
           "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn pod(tolerations: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default", "uid": "u"},
           "spec": {"nodeName": "n1", "containers": [], "tolerations": tolerations},
           "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn observed(node: Value, pods: Vec<Value>, silence: u64, now: &str) -> Observed {
    Observed {
        node: Arc::new(serde_json::from_value::<Node>(node).unwrap()),
        pods: pods.into_iter().map(|pod| Arc::new(serde_json::from_value::<Pod>(pod).unwrap())).collect(),
        silence: Duration::from_secs(silence),
        others_ready: true,
        now: now.parse::<Timestamp>().unwrap(),
    }
}

/// Carries the plan out on the model.
fn apply(observed: &mut Observed, plan: &Plan) {
    let mut node = (*observed.node).clone();
    for action in &plan.actions {
        match action {
            Action::SetConditions(conditions) => {
                node.status.get_or_insert_default().conditions = Some(conditions.clone())
            }
            Action::SetTaints(taints) => node.spec.get_or_insert_default().taints = Some(taints.clone()),
            Action::MarkUnready(_) => {
                for pod in &mut observed.pods {
                    let status = Arc::make_mut(pod).status.get_or_insert_default();
                    status.conditions.get_or_insert_default()[0].status = "False".to_owned();
                }
            }
            Action::Evict(gone) => observed.pods.retain(|pod| pod.metadata.uid.as_ref() != Some(&gone.uid)),
        }
    }
    observed.node = Arc::new(node);
}

const NOON: &str = "2026-01-01T12:00:00Z";

#[test]
fn a_node_that_reports_is_left_alone_and_looked_at_when_it_could_be_late() {
    let plan = decide(&observed(node("True"), vec![pod(json!([]))], 10, NOON));
    assert_eq!(plan, Plan { actions: vec![], again: Some(Duration::from_secs(30)), silent: false });
}

#[test]
fn a_silent_node_is_unreachable_and_its_pods_go_when_their_toleration_ends() {
    let toleration = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    let mut observed = observed(node("True"), vec![pod(toleration)], 41, NOON);
    let plan = decide(&observed);
    assert!(plan.silent);
    assert_eq!(plan.again, Some(Duration::from_secs(300)));
    apply(&mut observed, &plan);
    let conditions = observed.node.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert!(conditions.iter().all(|condition| condition.status == "Unknown"), "{conditions:?}");
    let taints = observed.node.spec.as_ref().unwrap().taints.as_ref().unwrap();
    let effects: Vec<_> = taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
    assert_eq!(
        effects,
        [("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")]
    );
    assert_eq!(decide(&observed).actions, [], "deciding again finds something to do");

    observed.now = "2026-01-01T12:05:00Z".parse().unwrap();
    let plan = decide(&observed);
    assert!(matches!(plan.actions.as_slice(), [Action::Evict(_)]), "{plan:?}");
    apply(&mut observed, &plan);
    assert_eq!(decide(&observed).actions, []);
}

#[test]
fn a_pod_without_a_toleration_goes_at_once_and_one_that_tolerates_all_stays() {
    let evicted = |tolerations: Value| {
        let plan = decide(&observed(node("False"), vec![pod(tolerations)], 0, NOON));
        plan.actions.iter().any(|action| matches!(action, Action::Evict(_)))
    };
    assert!(evicted(json!([])));
    assert!(!evicted(json!([{"operator": "Exists"}])));
    assert!(evicted(json!([{"key": "other", "operator": "Exists"}])));
}

#[test]
fn a_node_that_is_back_loses_its_taints_and_keeps_others() {
    let mut back = node("True");
    back["spec"]["taints"] = json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, {"key": "mine", "value": "x", "effect": "NoSchedule"}]);
    let plan = decide(&observed(back, vec![], 0, NOON));
    let [Action::SetTaints(taints)] = plan.actions.as_slice() else { panic!("{plan:?}") };
    assert_eq!(taints.iter().map(|taint| taint.key.as_str()).collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn a_cordoned_node_is_tainted_as_unschedulable() {
    let mut cordoned = node("True");
    cordoned["spec"]["unschedulable"] = json!(true);
    let plan = decide(&observed(cordoned, vec![], 0, NOON));
    let [Action::SetTaints(taints)] = plan.actions.as_slice() else { panic!("{plan:?}") };
    assert_eq!(taints[0].key, "node.kubernetes.io/unschedulable");
}

#[test]
fn when_no_node_is_ready_pods_stay_where_they_are() {
    for (ready, silence) in [("False", 0), ("True", 41)] {
        let mut alone = observed(node(ready), vec![pod(json!([]))], silence, NOON);
        alone.others_ready = false;
        let plan = decide(&alone);
        apply(&mut alone, &plan);
        let taints = alone.node.spec.as_ref().unwrap().taints.clone().unwrap();
        assert_eq!(taints.iter().map(|taint| taint.effect.as_str()).collect::<Vec<_>>(), ["NoSchedule"]);
        assert_eq!((alone.pods.len(), decide(&alone).actions), (1, vec![]));
        // Another node is ready again: now this one is to blame.
        alone.others_ready = true;
        assert!(decide(&alone).actions.iter().any(|action| matches!(action, Action::Evict(_))));
    }
}

use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Pod, Service};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::decide::{Action, Observed, decide};

fn service(spec: Value) -> Service {
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

fn observed(service: Service, pods: Vec<Value>) -> Observed {
    let pods = pods.into_iter().map(|pod| Arc::new(serde_json::from_value::<Pod>(pod).unwrap())).collect();
    Observed { service: Some(Arc::new(service)), pods: Some(pods), ..Observed::default() }
}

/// Carries a plan out on the model.
fn apply(observed: &mut Observed, plan: Vec<Action>) {
    for action in plan {
        match action {
            Action::Create(slice) => observed.slices.push(Arc::new(slice)),
            Action::Update(slice) => {
                observed.slices.retain(|have| have.metadata.name != slice.metadata.name);
                observed.slices.push(Arc::new(slice));
            }
            Action::Delete { name, .. } => {
                observed.slices.retain(|have| have.metadata.name.as_deref() != Some(&name))
            }
        }
    }
}

/// Decides, applies, and checks that nothing is left to do; returns the slices.
#[track_caller]
fn settle(observed: &mut Observed) -> Vec<Arc<EndpointSlice>> {
    let plan = decide(observed);
    apply(observed, plan);
    assert_eq!(decide(observed), [], "deciding again finds something to do");
    observed.slices.clone()
}

#[test]
fn ready_pods_are_ready_endpoints() {
    let mut observed = observed(
        service(
            json!({"clusterIP": "10.43.0.9", "selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]}),
        ),
        vec![pod("one", "10.42.0.2", true), pod("two", "10.42.0.3", false)],
    );
    let slices = settle(&mut observed);
    let [slice] = slices.as_slice() else { panic!("{slices:?}") };
    let ready: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| (endpoint.addresses[0].as_str(), endpoint.conditions.as_ref().unwrap().ready))
        .collect();
    assert_eq!(ready, [("10.42.0.2", Some(true)), ("10.42.0.3", Some(false))]);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
}

#[test]
fn a_terminating_pod_serves_but_is_not_ready_unless_published() {
    let mut terminating = pod("one", "10.42.0.2", true);
    terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for publish in [false, true] {
        let service = service(
            json!({"selector": {"a": "b"}, "ports": [{"port": 80}], "publishNotReadyAddresses": publish}),
        );
        let slices = settle(&mut observed(service, vec![terminating.clone()]));
        let conditions = slices[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(publish), Some(true), Some(true))
        );
    }
}

#[test]
fn ended_pods_and_pods_without_an_address_are_no_endpoints() {
    let mut ended = pod("one", "10.42.0.2", false);
    ended["status"]["phase"] = json!("Succeeded");
    let mut waiting = pod("two", "", false);
    waiting["status"]["podIP"] = Value::Null;
    let service = service(json!({"selector": {"a": "b"}, "ports": [{"port": 80}]}));
    let slices = settle(&mut observed(service, vec![ended, waiting]));
    assert_eq!(slices.len(), 1, "one empty slice says that there are none");
    assert_eq!(slices[0].endpoints.as_deref(), Some([].as_slice()));
}

#[test]
fn a_hundred_endpoints_fill_a_slice() {
    let pods = (0..250)
        .map(|n| pod(&format!("p{n}"), &format!("10.42.{}.{}", n / 250, n % 250 + 1), true))
        .collect();
    let service = service(json!({"selector": {"a": "b"}, "ports": [{"port": 80}]}));
    let slices = settle(&mut observed(service, pods));
    let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
}

#[test]
fn what_is_no_longer_wanted_goes() {
    let service = service(json!({"selector": {"a": "b"}, "ports": [{"port": 80}]}));
    let mut observed = observed(service, vec![pod("one", "10.42.0.2", true)]);
    assert_eq!(settle(&mut observed).len(), 1);
    observed.pods = None;
    assert_eq!(settle(&mut observed).len(), 0, "the selector went away");
}

#[test]
fn pods_with_other_port_numbers_are_in_a_slice_of_their_own() {
    let mut other = pod("two", "10.42.0.3", true);
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    let service = service(json!({"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]}));
    let slices = settle(&mut observed(service, vec![pod("one", "10.42.0.2", true), other]));
    assert_eq!(slices.len(), 2);
}

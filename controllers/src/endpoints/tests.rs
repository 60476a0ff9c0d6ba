use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use serde_json::json;

use super::decide::{Action, Observed, decide};

fn observed(pods: &[(&str, bool)]) -> Observed {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"tier": "front"}},
        "spec": {"clusterIP": "10.43.0.9", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }))
    .unwrap();
    let pod = |(ip, ready): &(&str, bool)| -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{ip}"), "namespace": "default"},
                "spec": {"containers": [{"name": "a"}]},
                "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if *ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    };
    Observed { service: Some(Arc::new(service)), pods: Some(pods.iter().map(pod).collect()), endpoints: None }
}

#[track_caller]
fn settle(observed: &mut Observed) -> Endpoints {
    match decide(observed) {
        Some(Action::Create(endpoints) | Action::Update(endpoints)) => {
            observed.endpoints = Some(Arc::new(endpoints))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(decide(observed), None, "deciding again finds something to do");
    (**observed.endpoints.as_ref().unwrap()).clone()
}

#[test]
fn ready_and_not_ready_addresses_share_a_subset() {
    let endpoints = settle(&mut observed(&[("10.42.0.3", true), ("10.42.0.2", true), ("10.42.0.4", false)]));
    let subsets = endpoints.subsets.unwrap();
    assert_eq!(subsets.len(), 1);
    let ips = |addresses: &Option<Vec<_>>| -> Vec<String> {
        addresses
            .iter()
            .flatten()
            .map(|address: &manifests::k8s_openapi::api::core::v1::EndpointAddress| address.ip.clone())
            .collect()
    };
    assert_eq!(ips(&subsets[0].addresses), ["10.42.0.2", "10.42.0.3"]);
    assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.42.0.4"]);
    assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 8080);
    assert_eq!(endpoints.metadata.labels.unwrap()["tier"], "front");
}

#[test]
fn a_change_of_readiness_is_an_update_of_the_same_object() {
    let mut before = observed(&[("10.42.0.2", true)]);
    let mut endpoints = settle(&mut before);
    endpoints.metadata.resource_version = Some("7".to_owned());
    let mut after = observed(&[("10.42.0.2", false)]);
    after.endpoints = Some(Arc::new(endpoints));
    assert_eq!(settle(&mut after).metadata.resource_version.as_deref(), Some("7"));
}

#[test]
fn endpoints_go_with_their_service_unless_somebody_else_made_them() {
    let mut observed = observed(&[]);
    settle(&mut observed);
    observed.service = None;
    assert!(matches!(decide(&observed), Some(Action::Delete { .. })));
    observed.endpoints = Some(Arc::new(Endpoints::default()));
    assert_eq!(decide(&observed), None);
}

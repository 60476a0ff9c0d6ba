//! Quotas of namespaces, and budgets of disruptions.

use serde_json::{Value, json};

use crate::common::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn pod(name: &str, resources: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]},
    })
}

/// Waits until a quota counts this.
async fn counts(cluster: &Cluster, name: &str, used: Value) {
    let path = format!("{QUOTAS}/{name}");
    let mut events = cluster.watch(&format!("{QUOTAS}?watch=1&fieldSelector=metadata.name={name}")).await;
    while cluster.get(&path).await.expect(200)["status"]["used"] != used {
        events.next().await.expect("the quota is counted");
    }
}

#[tokio::test]
async fn a_quota_is_kept() {
    let cluster = Cluster::start().await;
    let quota = json!({
        "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/secrets": "1", "services.nodeports": "1"}},
    });
    cluster.post(QUOTAS, quota).await.expect(201);
    let none = json!({"count/secrets": "0", "pods": "0", "requests.cpu": "0", "services.nodeports": "0"});
    counts(&cluster, "q", none).await;

    let message = cluster.post(PODS, pod("silent", json!({}))).await.refused(403, "Forbidden");
    let why = "failed quota: q: must specify requests.cpu for: c";
    assert_eq!(message, format!("pods \"silent\" is forbidden: {why}"));
    let half = json!({"requests": {"cpu": "600m"}});
    let dry = cluster.post(&format!("{PODS}?dryRun=All"), pod("dry", half.clone())).await;
    dry.expect(201);
    cluster.post(PODS, pod("one", half.clone())).await.expect(201);
    // The count is written with the pod, not after it.
    let counted = cluster.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(
        (&counted["status"]["used"]["pods"], &counted["status"]["used"]["requests.cpu"]),
        (&json!("1"), &json!("600m"))
    );
    let message = cluster.post(PODS, pod("two", half.clone())).await.refused(403, "Forbidden");
    let why =
        "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1";
    assert_eq!(message, format!("pods \"two\" is forbidden: {why}"));

    cluster.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.expect(201);
    let more = json!({"metadata": {"name": "t"}});
    let message = cluster.post("/api/v1/namespaces/default/secrets", more).await.refused(403, "Forbidden");
    assert!(message.contains("requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1"));

    // A service that becomes more than it was.
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}});
    cluster.post(services, service).await.expect(201);
    let public = json!({"spec": {"type": "NodePort"}});
    let message = cluster.patch(&format!("{services}/s"), "merge", public).await.refused(403, "Forbidden");
    assert!(message.contains("requested: services.nodeports=2, used: services.nodeports=0"), "{message}");

    // What goes makes room.
    cluster.delete(&format!("{PODS}/one?gracePeriodSeconds=0")).await.expect(200);
    let left = json!({"count/secrets": "1", "pods": "0", "requests.cpu": "0", "services.nodeports": "0"});
    counts(&cluster, "q", left).await;
    cluster.post(PODS, pod("two", half)).await.expect(201);
}

#[tokio::test]
async fn the_last_place_is_given_once() {
    let cluster = Cluster::start().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3"}}});
    cluster.post(QUOTAS, quota).await.expect(201);
    counts(&cluster, "q", json!({"pods": "0"})).await;
    let names: Vec<String> = (0..10).map(|n| format!("p{n}")).collect();
    let made = names.iter().map(|name| cluster.post(PODS, pod(name, json!({}))));
    let codes: Vec<u16> =
        futures_util::future::join_all(made).await.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 3, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 7, "{codes:?}");
}

#[tokio::test]
async fn a_budget_guards_its_pods() {
    let cluster = Cluster::start().await;
    let budget = json!({
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}},
    });
    let made = cluster.post(BUDGETS, budget).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let row = cluster.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(row["status"]["disruptionsAllowed"], 0);
    let evict = async |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        cluster.post(&format!("{PODS}/{name}/eviction"), eviction).await
    };
    for name in ["pending", "one", "two"] {
        let mut pod = pod(name, json!({}));
        pod["spec"]["nodeName"] = "n".into();
        cluster.post(PODS, pod).await.expect(201);
    }
    for name in ["one", "two"] {
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(&format!("{PODS}/{name}/status"), "merge", status).await.expect(200);
    }
    // What does not run yet is not guarded.
    evict("pending").await.expect(201);
    let refused = evict("one").await;
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 10);
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["message"], "The disruption budget b is still being processed by the server.");
    assert_eq!(cause["reason"], "DisruptionBudget");
    let message = refused.refused(429, "TooManyRequests");
    assert_eq!(message, "Cannot evict pod as it would violate the pod's disruption budget.");

    let status = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }});
    cluster.patch(&format!("{BUDGETS}/b/status"), "merge", status).await.expect(200);
    evict("one").await.expect(201);
    let going = cluster.get(&format!("{PODS}/one")).await.expect(200);
    let conditions = going["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.last().unwrap()["reason"], "EvictionByEvictionAPI");
    let taken = cluster.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(taken["status"]["disruptionsAllowed"], 0);
    assert!(taken["status"]["disruptedPods"]["one"].is_string());
    let refused = evict("two").await;
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["message"], "The disruption budget b needs 1 healthy pods and has 2 currently");
    refused.refused(429, "TooManyRequests");
    // One that is going already needs nobody's leave.
    evict("one").await.expect(201);
}

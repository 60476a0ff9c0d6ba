//! Deployments and ReplicaSets: generation, status, scale. Events in two groups.

use serde_json::{Value, json};

use crate::common::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(replicas: u64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "busybox"}]},
            },
        },
    })
}

#[tokio::test]
async fn generation_counts_what_is_wanted() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let created = cluster.post(DEPLOYMENTS, deployment(2)).await.expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["spec"]["strategy"]["type"], "RollingUpdate");
    let same = cluster.put(&path, deployment(2)).await.expect(200);
    assert_eq!(version(&same), version(&created), "defaults are no change");
    let labelled =
        cluster.patch(&path, "merge", json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = cluster.patch(&path, "merge", json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(scaled["metadata"]["generation"], 2);
    let patch = json!({"status": {"replicas": 3, "observedGeneration": 2}, "spec": {"replicas": 9}});
    let observed = cluster.patch(&format!("{path}/status"), "merge", patch).await.expect(200);
    assert_eq!((&observed["metadata"]["generation"], &observed["spec"]["replicas"]), (&json!(2), &json!(3)));
    assert_eq!(observed["status"]["observedGeneration"], 2);
    let kept = cluster.put(&path, deployment(3)).await.expect(200);
    assert_eq!(kept["status"]["replicas"], 3);
}

#[tokio::test]
async fn scale() {
    let cluster = Cluster::start().await;
    let created = cluster.post(DEPLOYMENTS, deployment(2)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = cluster.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    assert_eq!(scale["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 5.into();
    let scaled = cluster.put(&path, wanted.clone()).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    cluster.put(&path, wanted).await.refused(409, "Conflict");
    let scaled = cluster.patch(&path, "merge", json!({"spec": {"replicas": 1}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 1);
    let found = cluster.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!((&found["spec"]["replicas"], &found["metadata"]["generation"]), (&json!(1), &json!(3)));
    let message =
        cluster.patch(&path, "merge", json!({"spec": {"replicas": -1}})).await.refused(422, "Invalid");
    assert!(
        message.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{message}"
    );
}

#[tokio::test]
async fn one_event_in_two_groups() {
    let cluster = Cluster::start().await;
    let old = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e1"}, "reason": "Started", "message": "it did",
        "type": "Normal", "source": {"component": "agent"}, "count": 1,
        "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default", "apiVersion": "v1"},
    });
    cluster.post(old, event).await.expect(201);
    let shown = cluster.get(&format!("{new}/e1")).await.expect(200);
    assert_eq!((&shown["apiVersion"], &shown["note"]), (&json!("events.k8s.io/v1"), &json!("it did")));
    assert_eq!((&shown["regarding"]["name"], &shown["deprecatedCount"]), (&json!("web"), &json!(1)));

    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e2"}, "reason": "Scheduled",
        "note": "there", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Binding",
        "reportingController": "example.com/scheduler", "reportingInstance": "one",
        "regarding": {"kind": "Pod", "name": "db", "namespace": "default"},
    });
    let created = cluster.post(new, event).await.expect(201);
    assert_eq!((&created["note"], &created["apiVersion"]), (&json!("there"), &json!("events.k8s.io/v1")));
    let message =
        cluster.patch(&format!("{new}/e2"), "merge", json!({"note": "here"})).await.refused(422, "Invalid");
    assert!(message.contains("field is immutable"), "{message}");
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = cluster.patch(&format!("{new}/e2"), "merge", patch).await.expect(200);
    assert_eq!((&patched["note"], &patched["metadata"]["labels"]["a"]), (&json!("there"), &json!("b")));
    let found = cluster.get(&format!("{old}/e2")).await.expect(200);
    assert_eq!(
        (&found["message"], &found["reportingComponent"]),
        (&json!("there"), &json!("example.com/scheduler"))
    );

    for (path, selector, expected) in [
        (old, "involvedObject.name%3Dweb", 1),
        (new, "regarding.name%3Dweb", 1),
        (old, "source%3Dagent", 1),
        (old, "source%3Dexample.com%2Fscheduler", 1),
        (old, "type%3DNormal", 2),
        (old, "reason%3DStarted,involvedObject.kind%3DNode", 0),
    ] {
        let list = cluster.get(&format!("{path}?fieldSelector={selector}")).await.expect(200);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(expected), "{selector}");
    }
    let list = cluster.get(new).await.expect(200);
    assert_eq!(list["items"][0]["note"], "it did");
    let mut events = cluster.watch(&format!("{new}?watch=1&resourceVersion=0")).await;
    let (_, first) = events.next().await.unwrap();
    assert_eq!((&first["note"], &first["apiVersion"]), (&json!("it did"), &json!("events.k8s.io/v1")));
}

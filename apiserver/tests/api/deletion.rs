//! Finalizers, propagation, preconditions, collections.

use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn finalizers_hold_an_object() {
    let cluster = Cluster::start().await;
    let mut object = config_map("a", json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(MAPS, object).await.expect(201);
    let path = format!("{MAPS}/a");
    let marked = cluster.delete(&path).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = cluster.delete(&path).await.expect(200);
    assert_eq!(version(&again), version(&marked));

    let message = cluster.post(MAPS, config_map("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(message, "object is being deleted: configmaps \"a\" already exists");

    // Nobody can undo it.
    let undo = json!({"metadata": {"deletionTimestamp": null, "labels": {"x": "y"}}});
    let patched = cluster.patch(&path, "merge", undo).await.expect(200);
    assert_eq!(patched["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);

    let mut events = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&patched))).await;
    let last = cluster.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert!(last["metadata"].get("finalizers").is_none());
    assert_eq!(events.named().await, ("DELETED".into(), "a".into()));
    cluster.get(&path).await.expect(404);
}

#[tokio::test]
async fn propagation() {
    let cluster = Cluster::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
        let path = format!("{MAPS}/a");
        let marked = cluster.delete_with(&path, json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        // Changing one's mind ends it.
        cluster.delete_with(&path, json!({"propagationPolicy": "Background"})).await.expect(200);
        cluster.get(&path).await.expect(404);
    }
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let gone = cluster.delete(&format!("{MAPS}/a?propagationPolicy=Background")).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!((&gone["details"]["name"], &gone["details"]["kind"]), (&json!("a"), &json!("configmaps")));
    assert!(gone["details"]["uid"].is_string());
    let message =
        cluster.delete(&format!("{MAPS}/a?propagationPolicy=Sideways")).await.refused(422, "Invalid");
    assert!(message.contains("propagationPolicy: Unsupported value: \"Sideways\""), "{message}");
}

#[tokio::test]
async fn preconditions() {
    let cluster = Cluster::start().await;
    let object = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let message =
        cluster.delete_with(&path, json!({"preconditions": {"uid": "other"}})).await.refused(409, "Conflict");
    assert!(
        message.contains("the UID in the precondition (other) does not match the UID in record"),
        "{message}"
    );
    cluster
        .delete_with(&path, json!({"preconditions": {"resourceVersion": "1"}}))
        .await
        .refused(409, "Conflict");
    let exact = json!({"preconditions": {
        "uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"],
    }});
    cluster.delete_with(&path, exact).await.expect(200);
    cluster.delete(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn collections() {
    let cluster = Cluster::start().await;
    for n in 0..40 {
        cluster
            .post(MAPS, config_map(&format!("m{n}"), json!({"odd": (n % 2).to_string()})))
            .await
            .expect(201);
    }
    let deleted = cluster.delete(&format!("{MAPS}?labelSelector=odd%3D1")).await.expect(200);
    assert_eq!(
        (&deleted["kind"], deleted["items"].as_array().map(Vec::len)),
        (&json!("ConfigMapList"), Some(20))
    );
    assert_eq!(cluster.get(MAPS).await.expect(200)["items"].as_array().map(Vec::len), Some(20));
    cluster.delete(&format!("{MAPS}?fieldSelector=metadata.name%3Dm0")).await.expect(200);
    assert_eq!(cluster.get(MAPS).await.expect(200)["items"].as_array().map(Vec::len), Some(19));
    cluster.delete(MAPS).await.expect(200);
    assert_eq!(cluster.get(MAPS).await.expect(200)["items"], json!([]));
    cluster.delete("/api/v1/namespaces").await.refused(405, "MethodNotAllowed");
}

//! What a write may say, and what it may not change.

use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn generated_names() {
    let cluster = Cluster::start().await;
    let mut object = config_map("", json!({}));
    object["metadata"] = json!({"generateName": "m-"});
    let created = cluster.post(MAPS, object).await.expect(201);
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-") && name.len() == 7, "{name}");
    cluster.post(MAPS, config_map("", json!({}))).await.refused(422, "Invalid");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::start().await;
    let object = cluster.post(&format!("{MAPS}?dryRun=All"), config_map("a", json!({}))).await.expect(201);
    assert!(object["metadata"]["uid"].is_string());
    assert!(object["metadata"].get("resourceVersion").is_none());
    cluster.get(&format!("{MAPS}/a")).await.expect(404);
    let object = cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let mut changed = object.clone();
    changed["data"]["k"] = "w".into();
    let answer = cluster.put(&format!("{MAPS}/a?dryRun=All"), changed).await.expect(200);
    assert_eq!(answer["data"]["k"], "w");
    cluster.patch(&format!("{MAPS}/a?dryRun=All"), "merge", json!({"data": null})).await.expect(200);
    cluster.delete(&format!("{MAPS}/a?dryRun=All")).await.expect(200);
    cluster.delete_with(&format!("{MAPS}/a"), json!({"dryRun": ["All"]})).await.expect(200);
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.expect(200), object);
    cluster.post(&format!("{MAPS}?dryRun=Some"), config_map("b", json!({}))).await.refused(422, "Invalid");
}

#[tokio::test]
async fn unknown_fields() {
    let cluster = Cluster::start().await;
    let mut object = config_map("a", json!({}));
    object["spec"] = json!({"foo": 1});
    let message = cluster
        .post(&format!("{MAPS}?fieldValidation=Strict"), object.clone())
        .await
        .refused(400, "BadRequest");
    assert!(message.contains("strict decoding error: unknown field \"spec\""), "{message}");
    let answer = cluster.post(&format!("{MAPS}?dryRun=All"), object.clone()).await;
    assert_eq!(answer.warnings, ["299 - \"unknown field \\\"spec\\\"\""]);
    answer.expect(201);
    let answer = cluster.post(&format!("{MAPS}?fieldValidation=Ignore"), object).await;
    assert_eq!(answer.warnings, [""; 0]);
    assert!(answer.expect(201).get("spec").is_none());

    let mut wrong = config_map("b", json!({}));
    wrong["data"] = json!({"k": 1});
    let message = cluster.post(MAPS, wrong).await.refused(400, "BadRequest");
    assert!(message.contains("ConfigMap in version \"v1\" cannot be handled as a ConfigMap"), "{message}");
}

#[tokio::test]
async fn what_the_server_decides_stays() {
    let cluster = Cluster::start().await;
    let mut object = config_map("a", json!({}));
    object["metadata"]["uid"] = "mine".into();
    object["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    object["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    object["metadata"]["generation"] = 7.into();
    let created = cluster.post(MAPS, object.clone()).await.expect(201);
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_ne!(created["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(created["metadata"].get("deletionTimestamp").is_none());
    assert!(created["metadata"].get("generation").is_none());

    let message = cluster.put(&format!("{MAPS}/a"), object.clone()).await.refused(409, "Conflict");
    assert!(message.contains("Precondition failed: UID in precondition: mine"), "{message}");
    object["metadata"].as_object_mut().unwrap().remove("uid");
    let updated = cluster.put(&format!("{MAPS}/a"), object.clone()).await.expect(200);
    assert_eq!(updated["metadata"], created["metadata"], "not even a new version");

    object["metadata"]["namespace"] = "other".into();
    let message = cluster.put(&format!("{MAPS}/a"), object.clone()).await.refused(400, "BadRequest");
    assert!(message.contains("the namespace of the provided object does not match"), "{message}");
    object["metadata"] = json!({"name": "b"});
    let message = cluster.put(&format!("{MAPS}/a"), object).await.refused(400, "BadRequest");
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    cluster.put(&format!("{MAPS}/c"), config_map("c", json!({}))).await.refused(404, "NotFound");
    let mut versioned = config_map("d", json!({}));
    versioned["metadata"]["resourceVersion"] = "5".into();
    cluster.post(MAPS, versioned).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn patches() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, config_map("a", json!({"x": "1"}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let object = cluster
        .patch(&path, "merge", json!({"metadata": {"labels": {"x": null, "y": "2"}}}))
        .await
        .expect(200);
    assert_eq!(object["metadata"]["labels"], json!({"y": "2"}));
    let object = cluster
        .patch(&path, "strategic-merge", json!({"metadata": {"finalizers": ["a/b"]}}))
        .await
        .expect(200);
    assert_eq!(object["metadata"]["finalizers"], json!(["a/b"]));
    let object = cluster
        .patch(&path, "strategic-merge", json!({"metadata": {"finalizers": ["c/d"]}}))
        .await
        .expect(200);
    assert_eq!(object["metadata"]["finalizers"].as_array().map(Vec::len), Some(2));
    let operations = json!([{"op": "test", "path": "/data/k", "value": "v"}, {"op": "replace", "path": "/data/k", "value": "w"}]);
    let object = cluster.patch(&path, "json", operations.clone()).await.expect(200);
    assert_eq!(object["data"]["k"], "w");
    cluster.patch(&path, "json", operations).await.refused(422, "Invalid");

    // A patch that names a version is meant for that version.
    let old =
        json!({"metadata": {"resourceVersion": (version(&object) - 1).to_string(), "labels": {"z": "3"}}});
    cluster.patch(&path, "merge", old).await.refused(409, "Conflict");
    let now = json!({"metadata": {"resourceVersion": version(&object).to_string(), "labels": {"z": "3"}}});
    cluster.patch(&path, "merge", now).await.expect(200);

    let answer = cluster.ask(http::Method::PATCH, &path, "application/json", "{}").await;
    let message = answer.refused(415, "UnsupportedMediaType");
    assert!(message.contains("application/apply-patch+yaml"), "{message}");
    cluster.patch(&format!("{MAPS}/none"), "merge", json!({})).await.refused(404, "NotFound");
    cluster.patch(&path, "merge", json!({"metadata": {"name": "b"}})).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let cluster = std::sync::Arc::new(Cluster::start().await);
    // A second server over the same store: each sees the other's writes late.
    let other = std::sync::Arc::new(Cluster::over(cluster.store.clone()).await);
    cluster.post(MAPS, config_map("a", json!({}))).await.expect(201);
    let mut writers = Vec::new();
    for n in 0..60 {
        let cluster = if n % 2 == 0 { cluster.clone() } else { other.clone() };
        writers.push(tokio::spawn(async move {
            let patch = json!({"data": {format!("k{n}"): "v"}});
            cluster.patch(&format!("{MAPS}/a"), "merge", patch).await.expect(200);
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for cluster in [cluster, other] {
        let object = cluster.get(&format!("{MAPS}/a")).await.expect(200);
        assert_eq!(object["data"].as_object().map(serde_json::Map::len), Some(61));
    }
}

#[tokio::test]
async fn bodies_are_bounded_and_typed() {
    let cluster = Cluster::start().await;
    let mut big = config_map("a", json!({}));
    big["data"]["k"] = "x".repeat(4 << 20).into();
    let message = cluster.post(MAPS, big).await.refused(413, "RequestEntityTooLarge");
    assert!(message.contains("limit is 3145728"), "{message}");
    cluster.ask(http::Method::POST, MAPS, "text/plain", "x").await.refused(415, "UnsupportedMediaType");
    cluster.ask(http::Method::POST, MAPS, "application/json", "{").await.refused(400, "BadRequest");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {k: v}\n";
    cluster.ask(http::Method::POST, MAPS, "application/yaml", yaml).await.expect(201);
    let message =
        cluster.post(MAPS, json!({"apiVersion": "v1", "kind": "Secret"})).await.refused(400, "BadRequest");
    assert!(message.contains("cannot be handled as a ConfigMap"), "{message}");
    let message =
        cluster.post(MAPS, json!({"apiVersion": "v2", "kind": "ConfigMap"})).await.refused(400, "BadRequest");
    assert_eq!(message, "the API version in the data (v2) does not match the expected API version (v1)");
}

#[tokio::test]
async fn create_on_update_where_upstream_allows_it() {
    let cluster = Cluster::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "me"},
    });
    let created = cluster.put(&format!("{leases}/l"), lease.clone()).await.expect(201);
    assert!(created["metadata"]["uid"].is_string());
    let message = cluster.put(&format!("{leases}/l"), lease).await.refused(422, "Invalid");
    assert!(
        message.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{message}"
    );
    let mut next = created.clone();
    next["spec"]["holderIdentity"] = "you".into();
    cluster.put(&format!("{leases}/l"), next.clone()).await.expect(200);
    cluster.put(&format!("{leases}/l"), next).await.refused(409, "Conflict");
}

#[tokio::test]
async fn what_is_wrong_is_said_field_by_field() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let bad = json!({
        "metadata": {"name": "Bad_Name", "labels": {"a b": "c"}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "-1"}}}], "restartPolicy": "Maybe"},
    });
    let answer = cluster.post(pods, bad).await;
    let causes = answer.body["details"]["causes"].as_array().unwrap().clone();
    let fields: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    for expected in [
        "metadata.name",
        "metadata.labels",
        "spec.containers[0].image",
        "spec.containers[0].resources.limits[cpu]",
        "spec.restartPolicy",
    ] {
        assert!(fields.contains(&expected), "{expected} is not in {fields:?}");
    }
    let message = answer.refused(422, "Invalid");
    assert!(
        message.starts_with("Pod \"Bad_Name\" is invalid: [metadata.name: Invalid value: \"Bad_Name\""),
        "{message}"
    );

    let class = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    cluster.patch(class, "merge", json!({"value": 5})).await.refused(422, "Invalid");
    let mut secret = json!({"metadata": {"name": "s"}, "immutable": true, "stringData": {"a": "b"}});
    let created = cluster.post("/api/v1/namespaces/default/secrets", secret.clone()).await.expect(201);
    assert_eq!((&created["data"]["a"], &created["type"]), (&json!("Yg=="), &json!("Opaque")));
    assert!(created.get("stringData").is_none());
    secret["stringData"]["a"] = "c".into();
    cluster.put("/api/v1/namespaces/default/secrets/s", secret).await.refused(422, "Invalid");
}

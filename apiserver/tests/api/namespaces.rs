//! Namespaces: what every cluster has, and how one ends.

use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn what_every_cluster_has() {
    let cluster = Cluster::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = cluster.get(&format!("/api/v1/namespaces/{name}")).await.expect(200);
        assert_eq!(namespace["status"]["phase"], "Active");
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
    }
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    for class in ["system-node-critical", "system-cluster-critical"] {
        cluster.get(&format!("/apis/scheduling.k8s.io/v1/priorityclasses/{class}")).await.expect(200);
    }
    // A second start finds it all.
    let again = Cluster::over(cluster.store.clone()).await;
    let found = again.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(found, service);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_empty() {
    let cluster = Cluster::start().await;
    let namespaces = "/api/v1/namespaces";
    let message = cluster
        .post("/api/v1/namespaces/x/configmaps", config_map("a", json!({})))
        .await
        .refused(404, "NotFound");
    assert_eq!(message, "namespaces \"x\" not found");
    cluster
        .post(namespaces, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}))
        .await
        .expect(201);
    cluster.post("/api/v1/namespaces/x/configmaps", config_map("a", json!({}))).await.expect(201);

    let ending = cluster.delete("/api/v1/namespaces/x").await.expect(200);
    assert_eq!(ending["status"]["phase"], "Terminating");
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let again = cluster.delete("/api/v1/namespaces/x").await.expect(200);
    assert_eq!(again["metadata"]["uid"], ending["metadata"]["uid"]);

    let answer = cluster.post("/api/v1/namespaces/x/configmaps", config_map("b", json!({}))).await;
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let message = answer.refused(403, "Forbidden");
    assert_eq!(
        message,
        "configmaps \"b\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );

    // An ordinary update cannot take the finalizer away.
    let mut forced = again.clone();
    forced["spec"] = json!({"finalizers": []});
    let kept = cluster.put("/api/v1/namespaces/x", forced.clone()).await.expect(200);
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
    cluster.delete("/api/v1/namespaces/x/configmaps/a").await.expect(200);
    forced["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    cluster.put("/api/v1/namespaces/x/finalize", forced).await.expect(200);
    cluster.get("/api/v1/namespaces/x").await.expect(404);
}

#[tokio::test]
async fn nothing_slips_into_a_namespace_that_ends() {
    let cluster = std::sync::Arc::new(Cluster::start().await);
    let other = std::sync::Arc::new(Cluster::over(cluster.store.clone()).await);
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    cluster.post("/api/v1/namespaces", object).await.expect(201);
    let writers: Vec<_> = (0..40)
        .map(|n| {
            let other = other.clone();
            tokio::spawn(async move {
                let answer = other
                    .post("/api/v1/namespaces/x/configmaps", config_map(&format!("m{n}"), json!({})))
                    .await;
                assert!(answer.code == 201 || answer.code == 403, "{answer:?}");
                (answer.code == 201).then(|| version(&answer.body))
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let ending = cluster.delete("/api/v1/namespaces/x").await.expect(200);
    for writer in writers {
        if let Some(revision) = writer.await.unwrap() {
            assert!(revision < version(&ending), "created at {revision}, after the end began");
        }
    }
}

#[tokio::test]
async fn some_namespaces_stay() {
    let cluster = Cluster::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        let message = cluster.delete(&format!("/api/v1/namespaces/{name}")).await.refused(403, "Forbidden");
        assert_eq!(message, format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"));
    }
    cluster.delete("/api/v1/namespaces/kube-node-lease").await.expect(200);
}

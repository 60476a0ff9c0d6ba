//! Kinds that are defaults, validation and columns.

use http::Request;
use serde_json::{Value, json};

use crate::common::*;

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
    })
}

fn always() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Always".into();
    template
}

/// A collection, an object for it, and its row, without its age, in the table.
fn samples() -> Vec<(&'static str, Value, Value)> {
    let selector = json!({"matchLabels": {"app": "a"}});
    let volume = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
    });
    let claim = json!({"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    vec![
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            json!({"spec": {"selector": selector, "template": always()}}),
            json!(["a", 0, 0, 0, 0, 0, "<none>", "c", "i", "app=a"]),
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            json!({"spec": {"selector": selector, "serviceName": "s", "template": always()}}),
            json!(["a", "0/1", "c", "i"]),
        ),
        (
            "/apis/apps/v1/namespaces/default/controllerrevisions",
            json!({"revision": 3, "data": {"x": 1}}),
            json!(["a", "<none>", 3]),
        ),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template()}}}}),
            json!(["a", "*/5 * * * *", "<none>", "False", 0, "<none>", "c", "i", ""]),
        ),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            json!({"spec": {"template": always()}}),
            json!(["a", 1, 0, 0, "c", "i", "app=a"]),
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
            json!(["a", "Deployment/web", "cpu: <unknown>/80%", "1", 3, 0]),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}),
            json!(["a", "p", 1000, "<none>", "?"]),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
            json!(["a", "Limited", "30", "<none>", "<none>", "<none>"]),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"spec": {"maxUnavailable": "20%"}}),
            json!(["a", "N/A", "20%", 0]),
        ),
        ("/api/v1/namespaces/default/podtemplates", json!({"template": always()}), json!(["a"])),
        (
            "/api/v1/persistentvolumes",
            json!({"spec": volume}),
            json!(["a", "1Gi", "RWO", "Retain", "Pending", "", "", "<unset>", "", "Filesystem"]),
        ),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            json!({"spec": claim}),
            json!(["a", "Pending", "", "", "", "", "<unset>", "Filesystem"]),
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"provisioner": "p"}),
            json!(["a", "p", "Delete", "Immediate", false]),
        ),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({"spec": {}}), json!(["a"])),
        (
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}}),
            json!(["a"]),
        ),
        (
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            json!({"storageClassName": "s"}),
            json!(["a"]),
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"spec": {"attacher": "x", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
            json!(["a"]),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"spec": {"defaultBackend": backend}}),
            json!(["a", "<none>", "*", "", "80"]),
        ),
        (
            "/apis/networking.k8s.io/v1/ingressclasses",
            json!({"spec": {"controller": "x.y/z"}}),
            json!(["a", "x.y/z", "<none>"]),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"spec": {"podSelector": {"matchLabels": {"x": "y"}}}}),
            json!(["a", "x=y"]),
        ),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "h"}), json!(["a", "h"])),
    ]
}

#[tokio::test]
async fn each_lives_and_has_its_columns() {
    let cluster = Cluster::start().await;
    for (collection, mut object, expected) in samples() {
        object["metadata"] = json!({"name": "a"});
        let made = cluster.post(collection, object.clone()).await.expect(201);
        assert!(made["metadata"]["managedFields"].is_array(), "{made:#}");
        let path = format!("{collection}/a");
        // What was read can be written back, and that changes nothing.
        assert_eq!(cluster.put(&path, made.clone()).await.expect(200), made, "{collection}");
        let request =
            Request::get(collection).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let table =
            answer(cluster.send(request.body(apiserver::Body::empty()).unwrap()).await).await.expect(200);
        let columns = table["columnDefinitions"].as_array().unwrap();
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(columns.len(), cells.len(), "{collection}");
        let shown: Vec<&Value> = columns
            .iter()
            .zip(cells)
            .filter(|(column, _)| column["name"] != "Age")
            .map(|(_, cell)| cell)
            .collect();
        assert_eq!(json!(shown), expected, "{collection}");
        cluster.delete(&path).await.expect(200);
        if made["metadata"]["finalizers"].is_array() {
            // Claims and volumes stay until a controller says that nobody uses them.
            let freed = json!({"metadata": {"finalizers": null}});
            cluster.patch(&path, "merge", freed).await.expect(200);
        }
        cluster.get(&path).await.refused(404, "NotFound");
        object["metadata"]["name"] = "Not a name".into();
        cluster.post(collection, object).await.refused(422, "Invalid");
    }
}

#[tokio::test]
async fn a_job_knows_its_pods() {
    let cluster = Cluster::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "a"}, "spec": {"template": template()}});
    let made = cluster.post(jobs, job.clone()).await.expect(201);
    let uid = &made["metadata"]["uid"];
    assert_eq!(made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], *uid);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"]["job-name"], "a");
    assert_eq!(made["metadata"]["generation"], 1);
    let status = json!({"status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}});
    let done = cluster.patch(&format!("{jobs}/a/status"), "merge", status).await.expect(200);
    assert_eq!((&done["status"]["succeeded"], &done["metadata"]["generation"]), (&json!(1), &json!(1)));
    let changed = json!({"spec": {"template": {"spec": {"hostNetwork": true}}}});
    let message = cluster.patch(&format!("{jobs}/a"), "merge", changed).await.refused(422, "Invalid");
    assert!(message.contains("field is immutable"), "{message}");
    let mut wrong = job;
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    wrong["metadata"]["name"] = "b".into();
    let message = cluster.post(jobs, wrong).await.refused(422, "Invalid");
    assert!(
        message.contains(
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        ),
        "{message}"
    );
}

#[tokio::test]
async fn a_stateful_set_scales_and_keeps_its_spec() {
    let cluster = Cluster::start().await;
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let set = json!({"metadata": {"name": "a"}, "spec": {
        "serviceName": "s", "selector": {"matchLabels": {"app": "a"}}, "template": always(),
    }});
    cluster.post(sets, set).await.expect(201);
    let scale = cluster.get(&format!("{sets}/a/scale")).await.expect(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=a")));
    let scaled = cluster
        .patch(&format!("{sets}/a/scale"), "merge", json!({"spec": {"replicas": 3}}))
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let message = cluster
        .patch(&format!("{sets}/a"), "merge", json!({"spec": {"serviceName": "t"}}))
        .await
        .refused(422, "Invalid");
    assert!(message.contains("updates to statefulset spec for fields other than"), "{message}");
}

#[tokio::test]
async fn a_namespace_limits_its_containers() {
    let cluster = Cluster::start().await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]}});
    cluster.post("/api/v1/namespaces/default/limitranges", range).await.expect(201);
    // As with upstream, limits count once they are seen.
    cluster.get("/api/v1/namespaces/default/limitranges").await.expect(200);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, resources: Value| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    let made = cluster.post(pods, pod("a", json!({}))).await.expect(201);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}})
    );
    let message =
        cluster.post(pods, pod("b", json!({"limits": {"cpu": "2"}}))).await.refused(403, "Forbidden");
    assert_eq!(message, "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
}

#[tokio::test]
async fn an_autoscaler_has_two_versions() {
    let cluster = Cluster::start().await;
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let old = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "targetCPUUtilizationPercentage": 50},
    });
    let made = cluster.post(v1, old).await.expect(201);
    assert_eq!(
        (&made["apiVersion"], &made["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(50))
    );
    let new = cluster.get(&format!("{v2}/web")).await.expect(200);
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let more = json!([{"op": "add", "path": "/spec/metrics/-", "value": memory}]);
    cluster.patch(&format!("{v2}/web"), "json", more).await.expect(200);
    // An old client that changes what it knows leaves the rest alone.
    let patch = json!({"spec": {"maxReplicas": 5}});
    let patched = cluster.patch(&format!("{v1}/web"), "merge", patch).await.expect(200);
    assert_eq!(patched["spec"]["maxReplicas"], 5);
    let read = cluster.get(&format!("{v1}/web")).await.expect(200);
    cluster.put(&format!("{v1}/web"), read).await.expect(200);
    let new = cluster.get(&format!("{v2}/web")).await.expect(200);
    assert_eq!(
        (&new["spec"]["maxReplicas"], new["spec"]["metrics"].as_array().map(Vec::len)),
        (&json!(5), Some(2))
    );
    assert_eq!(new["metadata"]["annotations"], Value::Null);
    let refused = cluster.patch(&format!("{v1}/web"), "merge", json!({"spec": {"minReplicas": 9}})).await;
    let message = refused.refused(422, "Invalid");
    assert!(
        message
            .contains("spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"),
        "{message}"
    );
    let group = cluster.get("/apis/autoscaling").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

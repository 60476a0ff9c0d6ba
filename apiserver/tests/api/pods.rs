//! Pods: admission, status, binding, graceful deletion, eviction.

use serde_json::{Value, json};

use crate::common::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    })
}

async fn bind(cluster: &Cluster, name: &str, node: &str) -> Answer {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node},
    });
    cluster.post(&format!("{PODS}/{name}/binding"), binding).await
}

#[tokio::test]
async fn a_new_pod_is_admitted() {
    let cluster = Cluster::start().await;
    let mut wanted = pod("web");
    wanted["status"] = json!({"phase": "Running"});
    let created = cluster.post(PODS, wanted).await.expect(201);
    let spec = &created["spec"];
    assert_eq!(created["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(spec["tolerations"][0]["key"], "node.kubernetes.io/not-ready");

    let mut other = pod("robot");
    other["spec"]["serviceAccountName"] = "robot".into();
    let message = cluster.post(PODS, other).await.refused(403, "Forbidden");
    assert_eq!(
        message,
        "pods \"robot\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
    let mut other = pod("critical");
    other["spec"]["priorityClassName"] = "system-node-critical".into();
    assert_eq!(cluster.post(PODS, other).await.expect(201)["spec"]["priority"], 2_000_001_000);
    let mut other = pod("unknown");
    other["spec"]["priorityClassName"] = "high".into();
    let message = cluster.post(PODS, other).await.refused(403, "Forbidden");
    assert_eq!(message, "pods \"unknown\" is forbidden: no PriorityClass with name high was found");
}

#[tokio::test]
async fn a_pod_runs_as_an_account() {
    let cluster = Cluster::start().await;
    let created = cluster.post(PODS, pod("web")).await.expect(201);
    let mount = &created["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(created["spec"]["volumes"][0]["name"], mount["name"]);

    let mut other = pod("other");
    other["spec"]["serviceAccountName"] = "robot".into();
    let message = cluster.post(PODS, other).await.refused(403, "Forbidden");
    let why = "error looking up service account default/robot: serviceaccount \"robot\" not found";
    assert_eq!(message, format!("pods \"other\" is forbidden: {why}"));

    // The account of a new namespace comes a little later.
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "new"}})).await.expect(201);
    let (made, ()) =
        tokio::join!(cluster.post("/api/v1/namespaces/new/pods", pod("early")), cluster.account("new"));
    assert_eq!(made.expect(201)["spec"]["serviceAccountName"], "default");
}

#[tokio::test]
async fn an_older_manifest_need_not_name_what_admission_added() {
    let cluster = Cluster::start().await;
    let mut first = pod("web");
    first["spec"]["automountServiceAccountToken"] = false.into();
    let created = cluster.post(PODS, first.clone()).await.expect(201);
    let mut again = first;
    again["spec"]["serviceAccountName"] = "default".into();
    let replaced = cluster.put(&format!("{PODS}/web"), again).await.expect(200);
    assert_eq!(replaced["spec"], created["spec"]);
    assert_eq!(replaced["metadata"]["generation"], 1);
}

#[tokio::test]
async fn status_and_spec_are_apart() {
    let cluster = Cluster::start().await;
    let created = cluster.post(PODS, pod("web")).await.expect(201);
    let mut changed = created.clone();
    changed["status"]["phase"] = "Failed".into();
    changed["metadata"]["labels"]["x"] = "y".into();
    let updated = cluster.put(&format!("{PODS}/web"), changed).await.expect(200);
    assert_eq!(updated["status"]["phase"], "Pending");
    assert_eq!(updated["metadata"]["labels"]["x"], "y");
    assert_eq!(updated["metadata"]["generation"], 1);

    let mut changed = updated.clone();
    changed["status"]["phase"] = "Running".into();
    changed["status"]["podIP"] = "10.42.0.7".into();
    changed["status"]["podIPs"] = json!([{"ip": "10.42.0.7"}]);
    changed["spec"]["containers"][0]["image"] = "other".into();
    let updated = cluster.put(&format!("{PODS}/web/status"), changed).await.expect(200);
    assert_eq!(updated["status"]["phase"], "Running");
    assert_eq!(updated["spec"]["containers"][0]["image"], "busybox");

    let patch = json!({"status": {"phase": "Succeeded"}, "spec": {"nodeName": "n"}});
    let updated = cluster.patch(&format!("{PODS}/web/status"), "strategic-merge", patch).await.expect(200);
    assert_eq!(updated["status"]["phase"], "Succeeded");
    assert!(updated["spec"].get("nodeName").is_none());
    let image = json!({"spec": {"containers": [{"name": "c", "image": "newer"}]}});
    let updated = cluster.patch(&format!("{PODS}/web"), "strategic-merge", image).await.expect(200);
    assert_eq!(updated["spec"]["containers"][0]["image"], "newer");
    assert_eq!(updated["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, pod("web")).await.expect(201);
    let bound = bind(&cluster, "web", "n1").await.expect(201);
    assert_eq!((&bound["kind"], &bound["status"]), (&json!("Status"), &json!("Success")));
    let found = cluster.get(&format!("{PODS}/web")).await.expect(200);
    assert_eq!(found["spec"]["nodeName"], "n1");
    assert_eq!(found["status"]["conditions"][0]["type"], "PodScheduled");
    let message = bind(&cluster, "web", "n2").await.refused(409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"n1\""
    );
    bind(&cluster, "none", "n1").await.refused(404, "NotFound");
    bind(&cluster, "web", "").await.refused(422, "Invalid");
}

#[tokio::test]
async fn graceful_deletion() {
    let cluster = Cluster::start().await;
    // Not scheduled: nobody has to stop anything.
    cluster.post(PODS, pod("idle")).await.expect(201);
    let gone = cluster.delete(&format!("{PODS}/idle")).await.expect(200);
    assert_eq!(gone["kind"], "Pod");
    cluster.get(&format!("{PODS}/idle")).await.expect(404);

    cluster.post(PODS, pod("web")).await.expect(201);
    bind(&cluster, "web", "n1").await.expect(201);
    let path = format!("{PODS}/web");
    let leaving = cluster.delete(&path).await.expect(200);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(leaving["metadata"]["generation"], 2);
    let again = cluster.delete(&path).await.expect(200);
    assert_eq!(version(&again), version(&leaving));
    let sooner = cluster.delete_with(&path, json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    let message = bind(&cluster, "web", "n2").await.refused(409, "Conflict");
    assert!(message.contains("pod web is being deleted, cannot be assigned to a host"), "{message}");

    // The agent says that the containers have ended.
    let uid = &sooner["metadata"]["uid"];
    let confirm = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    cluster.delete_with(&path, confirm).await.expect(200);
    cluster.get(&path).await.expect(404);

    cluster.post(PODS, pod("done")).await.expect(201);
    bind(&cluster, "done", "n1").await.expect(201);
    cluster
        .patch(&format!("{PODS}/done/status"), "merge", json!({"status": {"phase": "Succeeded"}}))
        .await
        .expect(200);
    cluster.delete(&format!("{PODS}/done")).await.expect(200);
    cluster.get(&format!("{PODS}/done")).await.expect(404);
}

#[tokio::test]
async fn a_graceful_deletion_waits_for_finalizers_too() {
    let cluster = Cluster::start().await;
    let mut held = pod("web");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(PODS, held).await.expect(201);
    bind(&cluster, "web", "n1").await.expect(201);
    let path = format!("{PODS}/web");
    cluster.delete(&path).await.expect(200);
    // Without finalizers it still has its grace period.
    let patch = json!({"metadata": {"finalizers": null}});
    let kept = cluster.patch(&path, "merge", patch.clone()).await.expect(200);
    assert_eq!(kept["metadata"]["deletionGracePeriodSeconds"], 30);
    cluster.patch(&path, "merge", json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    cluster.delete_with(&path, json!({"gracePeriodSeconds": 0})).await.expect(200);
    cluster.patch(&path, "merge", patch).await;
    cluster.get(&path).await.expect(404);
}

#[tokio::test]
async fn eviction_deletes() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, pod("web")).await.expect(201);
    bind(&cluster, "web", "n1").await.expect(201);
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web", "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 3},
    });
    cluster.post(&format!("{PODS}/web/eviction"), eviction).await.expect(201);
    let leaving = cluster.get(&format!("{PODS}/web")).await.expect(200);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 3);
}

#[tokio::test]
async fn field_selectors() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(PODS, pod(name)).await.expect(201);
    }
    bind(&cluster, "b", "n1").await.expect(201);
    cluster
        .patch(&format!("{PODS}/c/status"), "merge", json!({"status": {"phase": "Running"}}))
        .await
        .expect(200);
    for (selector, expected) in [
        ("spec.nodeName=n1", "b"),
        ("spec.nodeName!=n1", "a,c"),
        ("spec.nodeName=", "a,c"),
        ("status.phase=Running", "c"),
        ("status.phase!=Running,metadata.name!=a", "b"),
        ("metadata.name=a,metadata.namespace=default", "a"),
        ("metadata.namespace=other", ""),
        (
            "spec.restartPolicy=Always,spec.schedulerName=default-scheduler,spec.serviceAccountName=default",
            "a,b,c",
        ),
    ] {
        let encoded: String = form_urlencoded::byte_serialize(selector.as_bytes()).collect();
        let list = cluster.get(&format!("/api/v1/pods?fieldSelector={encoded}")).await.expect(200);
        let names: Vec<_> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.join(","), expected, "{selector}");
    }
    let message = cluster.get(&format!("{PODS}?fieldSelector=spec.foo%3Dx")).await.refused(400, "BadRequest");
    assert_eq!(message, "field label not supported: spec.foo");
    let message = cluster.get(&format!("{MAPS}?fieldSelector=spec.foo%3Dx")).await.refused(400, "BadRequest");
    assert_eq!(
        message,
        "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );

    // An agent sees its pods come and go.
    let mut events =
        cluster.watch("/api/v1/pods?watch=1&resourceVersion=0&fieldSelector=spec.nodeName%3Dn2").await;
    bind(&cluster, "a", "n2").await.expect(201);
    assert_eq!(events.named().await, ("ADDED".into(), "a".into()));
    cluster.delete_with(&format!("{PODS}/a"), json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(events.named().await, ("DELETED".into(), "a".into()));
}

//! Server-side apply and the account of who owns which fields.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::common::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Cluster {
    async fn apply(&self, path: &str, manager: &str, config: Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}");
        self.ask(Method::PATCH, &path, "application/apply-patch+yaml", config.to_string()).await
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn whole(replicas: i32, image: &str) -> Value {
    deployment(json!({
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        },
    }))
}

/// Manager, operation, subresource, and the fields.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            let how = format!("{} {}", text(&entry["operation"]), text(&entry["subresource"]));
            (text(&entry["manager"]), how.trim().to_owned(), entry["fieldsV1"].clone())
        })
        .collect()
}

#[tokio::test]
async fn every_writer_owns_what_it_writes() {
    let cluster = Cluster::start().await;
    let request = Request::post(MAPS)
        .header("user-agent", "tool/v1 (linux)")
        .header("content-type", "application/json")
        .body(apiserver::Body::from(config_map("a", json!({"l": "1"})).to_string()))
        .unwrap();
    let made = answer(cluster.send(request).await).await.expect(201);
    let fields = json!({"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:labels": {".": {}, "f:l": {}}}});
    assert_eq!(owners(&made), [("tool".to_owned(), "Update".to_owned(), fields)]);
    assert!(made["metadata"]["managedFields"][0]["time"].is_string());
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "v1");

    let patched = cluster
        .patch(&format!("{MAPS}/a?fieldManager=me"), "merge", json!({"data": {"k": "w"}}))
        .await
        .expect(200);
    let mine = ("me".to_owned(), "Update".to_owned(), json!({"f:data": {"f:k": {}}}));
    assert!(owners(&patched).contains(&mine), "{patched:#}");
    // Whatever comes without an account, for example from a client that drops it, leaves it as it is.
    let mut without = patched.clone();
    without["metadata"]["managedFields"] = Value::Null;
    let same = cluster.put(&format!("{MAPS}/a"), without).await.expect(200);
    assert_eq!(same, patched, "nothing has changed, so nothing is written");
    let closed = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let closed = cluster.patch(&format!("{MAPS}/a"), "json", closed).await.expect(200);
    assert_eq!(owners(&closed), []);
}

#[tokio::test]
async fn what_the_server_fills_in_belongs_to_nobody() {
    let cluster = Cluster::start().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = cluster.post("/api/v1/namespaces/default/pods?fieldManager=m", pod).await.expect(201);
    let [(_, _, fields)] = &owners(&made)[..] else { panic!("{made:#}") };
    let spec = &fields["f:spec"];
    assert!(
        spec["f:terminationGracePeriodSeconds"].is_object(),
        "a default belongs to who makes the object: {fields:#}"
    );
    assert_eq!(
        (&spec["f:tolerations"], &spec["f:serviceAccountName"], &fields["f:status"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let path = "/api/v1/namespaces/default/pods/p/status?fieldManager=kubelet";
    let after = cluster.patch(path, "strategic-merge", status).await.expect(200);
    let expected = json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}}}});
    let owned = owners(&after).into_iter().find(|(name, ..)| name == "kubelet").unwrap();
    assert_eq!(
        (owned.1.as_str(), &owned.2["f:status"]["f:conditions"]["k:{\"type\":\"Ready\"}"]["f:status"]),
        ("Update status", &json!({}))
    );
    assert_eq!(owned.2["f:status"]["f:conditions"]["."], expected["f:status"]["f:conditions"]["."]);
}

#[tokio::test]
async fn apply_creates_changes_and_removes() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let made = cluster.apply(&path, "a", whole(2, "x:1")).await.expect(201);
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]["generation"]), (&json!(2), &json!(1)));
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate");
    let [(manager, how, fields)] = &owners(&made)[..] else { panic!("{made:#}") };
    assert_eq!((manager.as_str(), how.as_str()), ("a", "Apply"));
    assert_eq!(
        fields["f:spec"]["f:template"]["f:spec"]["f:containers"],
        json!({"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}})
    );
    assert_eq!(fields["f:spec"]["f:strategy"], Value::Null);

    // The same again changes nothing.
    let again = cluster.apply(&path, "a", whole(2, "x:1")).await.expect(200);
    assert_eq!(again, made);
    let mut fewer = whole(2, "x:2");
    fewer["spec"].as_object_mut().unwrap().remove("replicas");
    let changed = cluster.apply(&path, "a", fewer).await.expect(200);
    assert_eq!(changed["spec"]["replicas"], 1, "what is not applied any more is as if it had never been");
    assert_eq!(changed["metadata"]["generation"], 2);

    let conflict = cluster
        .apply(
            &path,
            "b",
            deployment(json!({"template": {"spec": {"containers": [{"name": "c", "image": "x:3"}]}}})),
        )
        .await;
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(
        conflict.body["details"]["causes"][0]["field"],
        ".spec.template.spec.containers[name=\"c\"].image"
    );
    assert_eq!(
        conflict.refused(409, "Conflict"),
        "Apply failed with 1 conflict: conflict with \"a\": .spec.template.spec.containers[name=\"c\"].image"
    );
    let sidecar = deployment(json!({"template": {"spec": {"containers": [{"name": "d", "image": "y"}]}}}));
    let both = cluster.apply(&path, "b", sidecar).await.expect(200);
    assert_eq!(both["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
    let forced = format!("{path}?fieldManager=b&force=true");
    let config = deployment(json!({"template": {"spec": {"containers": [{"name": "c", "image": "x:3"}]}}}));
    let answer =
        cluster.ask(Method::PATCH, &forced, "application/apply-patch+yaml", config.to_string()).await;
    let containers = answer.expect(200)["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!((containers.as_array().map(Vec::len), &containers[0]["image"]), (Some(1), &json!("x:3")));
}

#[tokio::test]
async fn applying_through_subresources() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster.apply(&path, "a", whole(2, "x:1")).await.expect(201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 5}});
    cluster.apply(&format!("{path}/scale"), "s", scale.clone()).await.refused(409, "Conflict");
    let force = format!("{path}/scale?fieldManager=s&force=true");
    let scaled = cluster
        .ask(Method::PATCH, &force, "application/apply-patch+yaml", scale.to_string())
        .await
        .expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    let object = cluster.get(&path).await.expect(200);
    assert!(owners(&object).contains(&(
        "s".to_owned(),
        "Apply scale".to_owned(),
        json!({"f:spec": {"f:replicas": {}}})
    )));

    let mut status = deployment(json!({"replicas": 9}));
    status["status"] = json!({"replicas": 3, "observedGeneration": 1});
    let object = cluster.apply(&format!("{path}/status"), "controller", status).await.expect(200);
    assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(5), &json!(3)));
    let expected = json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}});
    assert!(owners(&object).contains(&("controller".to_owned(), "Apply status".to_owned(), expected)));
    cluster
        .apply(&format!("{DEPLOYMENTS}/none/status"), "c", deployment(json!({})))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn what_cannot_be_applied() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let ask = |path: String, body: String| {
        let cluster = &cluster;
        async move { cluster.ask(Method::PATCH, &path, "application/apply-patch+yaml", body).await }
    };
    let message = ask(path.clone(), whole(1, "x").to_string()).await.refused(422, "Invalid");
    assert_eq!(
        message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let message =
        cluster.patch(&format!("{path}?force=true"), "merge", json!({})).await.refused(422, "Invalid");
    assert!(message.ends_with("force: Forbidden: may not be specified for non-apply patch"), "{message}");
    let mut config = whole(1, "x");
    config["kind"] = "ReplicaSet".into();
    let message = cluster.apply(&path, "a", config).await.refused(400, "BadRequest");
    assert_eq!(message, "invalid object type: apps/v1, Kind=ReplicaSet");
    let mut config = whole(1, "x");
    config["metadata"]["managedFields"] = json!([]);
    let message = cluster.apply(&path, "a", config).await.refused(400, "BadRequest");
    assert_eq!(message, "metadata.managedFields must be nil");
    let mut config = whole(1, "x");
    config["spec"]["colour"] = "blue".into();
    let answer = cluster.apply(&path, "a", config).await;
    assert_eq!(answer.code, 500);
    assert_eq!(
        answer.body["message"],
        "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.colour: field not declared in schema"
    );
    for garbage in ["", "[", "- 1", "a: [", "\u{0}", "&a [*a]", "null", "1"] {
        let answer = ask(format!("{path}?fieldManager=a"), garbage.to_owned()).await;
        assert!((400..500).contains(&answer.code), "{garbage:?}: {:#}", answer.body);
    }
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  mode: '0644'\n  b: \"yes\"\n";
    let made = ask(format!("{MAPS}/one?fieldManager=a"), yaml.to_owned()).await.expect(201);
    assert_eq!(made["data"], json!({"mode": "0644", "b": "yes"}));
    let dry =
        ask(format!("{MAPS}/two?fieldManager=a&dryRun=All"), yaml.replace("one", "two")).await.expect(201);
    assert_eq!(dry["metadata"]["name"], "two");
    cluster.get(&format!("{MAPS}/two")).await.refused(404, "NotFound");
}

//! What is wrong in a manifest is named, with the field and what is expected; the cluster goes on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use tests::Cluster;

fn pod(container: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  containers:\n  - {container}\n")
}

#[track_caller]
fn refused(cluster: &Cluster, yaml: &str, expected: &[&str]) {
    // Both clients: the server's words reach the user through either.
    let path = cluster.machine.write("bad.yaml", yaml);
    let path = path.to_str().unwrap();
    for said in [cluster.kubectl(["apply", "-f", path]).err(), cluster.coracle(&["apply", "-f", path]).err()]
    {
        for text in expected {
            assert!(said.contains(text), "expected {text:?} in:\n{said}");
        }
    }
}

#[test]
fn errors_name_the_field_and_what_is_expected() {
    let cluster = Cluster::up();
    refused(
        &cluster,
        &pod("{name: a, image: b, imagee: c}"),
        &[r#"unknown field "spec.containers[0].imagee""#],
    );
    refused(&cluster, &pod("{name: a, image: b, tty: often}"), &["tty", "bool"]);
    refused(
        &cluster,
        &pod("{name: A_B, image: b}"),
        &["spec.containers[0].name", "a lowercase RFC 1123 label must consist of"],
    );
    refused(&cluster, &pod("{name: a}"), &["spec.containers[0].image: Required value"]);
    refused(
        &cluster,
        &pod("{name: a, image: b, resources: {limits: {memory: 12 apples}}}"),
        &["quantities must match the regular expression"],
    );
    refused(
        &cluster,
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 70000}]}\n",
        &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    refused(
        &cluster,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
         template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}\n",
        &["`selector` does not match template `labels`"],
    );
    refused(&cluster, "apiVersion: v9\nkind: Pod\nmetadata: {name: p}\n", &["Pod", "v9"]);

    // Ours says where in the file; the broken document is found before anything of the file is applied.
    let path = cluster.machine.write(
        "broken.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n---\na: [1,\nb: }\n",
    );
    let said = cluster.coracle(&["apply", "-f", path.to_str().unwrap()]).err();
    assert!(said.contains("broken.yaml:5:4"), "{said}");
    assert!(cluster.kubectl(["get", "configmap", "first"]).err().contains("NotFound"));

    // The cluster goes on.
    cluster.apply(&pod("{name: a, image: 'coracle.example/busybox:1', command: [sleep, '1000']}")).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/bad", "--timeout=60s"]).ok();
    cluster.kubectl(["delete", "pod", "bad", "--grace-period=0", "--force"]).ok();
}

#[test]
fn a_missing_image_is_told_in_status_and_events() {
    let cluster = Cluster::up();
    cluster.apply(&pod("{name: a, image: 'localhost:1/no/such:image'}")).ok();
    let reason = ["get", "pod", "bad", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}"];
    tests::eventually("the pod says so", || match cluster.kubectl(reason).ok() {
        reason if reason == "ErrImagePull" || reason == "ImagePullBackOff" => Ok(()),
        other => Err(other),
    });
    let message = cluster.kubectl(["get", "events", "-o", "jsonpath={.items[*].message}"]).ok();
    assert!(message.contains("Failed to pull image \"localhost:1/no/such:image\""), "{message}");
    cluster.kubectl(["delete", "pod", "bad", "--grace-period=0", "--force"]).ok();
}

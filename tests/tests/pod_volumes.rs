//! Volumes of pods on the real runtime: images, what the cluster says about itself, paths from the environment.

use tests::{Cluster, eventually};

fn expect(cluster: &Cluster, pod: &str, path: &str, expected: &str) {
    eventually(&format!("{pod}: {path} is {expected:?}"), || {
        let found = cluster.kubectl(["get", "pod", pod, "-o", &format!("jsonpath={path}")]).stdout;
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found}\n{}", cluster.kubectl(["describe", "pod", pod]).stdout))
        }
    });
}

fn exec(cluster: &Cluster, pod: &str, command: &str) -> String {
    cluster.kubectl(["exec", pod, "-c", "a", "--", "sh", "-c", command]).ok()
}

#[test]
fn images_are_volumes() {
    let mut cluster = Cluster::up();
    let data = cluster.machine.path("model");
    std::fs::create_dir_all(data.join("weights")).unwrap();
    std::fs::write(data.join("weights/layer"), "0.5\n").unwrap();
    let data = data.display().to_string();
    cluster.coracle_local(&["image", "build-rootfs", "--name", "coracle.example/model:1", &data]).ok();
    cluster
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sleep, '100000']
    volumeMounts:
    - {name: model, mountPath: /model}
    - {name: model, mountPath: /weights, subPath: weights}
  volumes: [{name: model, image: {reference: 'coracle.example/model:1', pullPolicy: IfNotPresent}}]
---
apiVersion: v1
kind: Pod
metadata: {name: missing}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000'], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, image: {reference: 'coracle.example/none:1', pullPolicy: Never}}]
"#,
        )
        .ok();
    expect(&cluster, "p", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    assert_eq!(exec(&cluster, "p", "cat /model/weights/layer /weights/layer"), "0.5\n0.5\n");
    let refused = exec(&cluster, "p", "touch /model/x 2>&1; touch /weights/x 2>&1; true");
    assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
    eventually("the missing image is told", || {
        let selector = "involvedObject.name=missing,reason=FailedMount";
        let found = cluster
            .kubectl(["get", "events", "--field-selector", selector, "-o", "jsonpath={.items[*].message}"])
            .stdout;
        if found.contains("is not present with pull policy of Never") { Ok(()) } else { Err(found) }
    });
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_authority_of_the_cluster_is_in_every_namespace() {
    let cluster = Cluster::up();
    cluster.kubectl(["create", "namespace", "other"]).ok();
    let bundle = |namespace: &str| {
        eventually("the bundle is published", || {
            let found = cluster.kubectl([
                "get",
                "configmap",
                "kube-root-ca.crt",
                "-n",
                namespace,
                "-o",
                "jsonpath={.data.ca\\.crt}",
            ]);
            if found.success { Ok(found.stdout) } else { Err(found.stderr) }
        })
    };
    let ca = std::fs::read_to_string(cluster.machine.path("data/pki/ca.crt")).unwrap();
    assert_eq!(bundle("default"), ca);
    assert_eq!(bundle("other"), ca);
    // What somebody breaks is repaired, and what somebody deletes comes back.
    cluster.kubectl(["patch", "configmap", "kube-root-ca.crt", "-p", r#"{"data":{"ca.crt":"none"}}"#]).ok();
    cluster.kubectl(["delete", "configmap", "kube-root-ca.crt", "-n", "other"]).ok();
    eventually("the bundles are right again", || {
        if bundle("default") == ca && bundle("other") == ca { Ok(()) } else { Err(String::new()) }
    });
    cluster
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sleep, '100000']
    env: [{name: BOAT, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: cluster, mountPath: /cluster, readOnly: true}
    - {name: own, mountPath: /own, subPathExpr: 'boats/$(BOAT)'}
    - {name: own, mountPath: /all}
  volumes:
  - name: own
    emptyDir: {}
  - name: cluster
    projected:
      sources:
      - {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}
      - {downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}}
"#,
        )
        .ok();
    expect(&cluster, "p", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    assert_eq!(exec(&cluster, "p", "cat /cluster/ca.crt"), ca);
    assert_eq!(exec(&cluster, "p", "cat /cluster/namespace"), "default");
    assert_eq!(exec(&cluster, "p", "echo here > /own/file; cat /all/boats/p/file"), "here\n");
    cluster.kubectl(["delete", "pod", "p"]).ok();
}

#[test]
fn a_pod_has_a_token_that_the_server_knows() {
    let mut cluster = Cluster::up();
    cluster.kubectl(["create", "serviceaccount", "sailor"]).ok();
    cluster
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  serviceAccountName: sailor
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 2000}
  containers:
  - name: a
    image: coracle.example/busybox:1
    command: [sleep, '100000']
    volumeMounts: [{name: access, mountPath: /access, readOnly: true}]
  volumes:
  - name: access
    projected:
      sources:
      - {serviceAccountToken: {path: token, expirationSeconds: 3600}}
      - {serviceAccountToken: {path: vault/token, audience: vault, expirationSeconds: 3600}}
      - {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}
"#,
        )
        .ok();
    expect(&cluster, "p", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    let token = exec(&cluster, "p", "cat /access/token");
    assert_ne!(token, exec(&cluster, "p", "cat /access/vault/token"));
    assert_eq!(exec(&cluster, "p", "stat -L -c %a:%g /access/token"), "640:2000\n");
    let ca = cluster.machine.write("ca-of-pod", &exec(&cluster, "p", "cat /access/ca.crt"));
    let server = cluster.kubectl(["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
    let whoami = |cluster: &Cluster, token: &str| {
        let mut command = cluster.machine.command(tests::kubectl("1.36"));
        command.args([
            "--kubeconfig=/dev/null",
            "--server",
            &server,
            "--token",
            token,
            "--certificate-authority",
        ]);
        command.arg(&ca).args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
        let output = command.output().unwrap();
        if output.status.success() {
            String::from_utf8(output.stdout).unwrap()
        } else {
            String::from_utf8(output.stderr).unwrap()
        }
    };
    assert_eq!(whoami(&cluster, &token), "system:serviceaccount:default:sailor");
    // A token for somebody else is none for the server.
    let refused = whoami(&cluster, &exec(&cluster, "p", "cat /access/vault/token"));
    assert!(!refused.contains("system:serviceaccount"), "{refused}");
    // A restart of the agent changes nothing for the pod; and with the pod its token is worth nothing.
    cluster.kill();
    cluster.start();
    expect(&cluster, "p", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    assert_eq!(exec(&cluster, "p", "cat /access/token"), token);
    cluster.kubectl(["delete", "pod", "p", "--grace-period=0", "--force"]).ok();
    eventually("the token of a pod that is gone is refused", || {
        let found = whoami(&cluster, &token);
        if found.contains("system:serviceaccount") { Err(found) } else { Ok(()) }
    });
}

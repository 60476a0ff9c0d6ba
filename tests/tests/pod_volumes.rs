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

/// What a claim, its volume and the pod say.
fn jsonpath(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.kubectl(["get", object, "-o", &format!("jsonpath={path}")]).stdout
}

fn becomes(cluster: &Cluster, object: &str, path: &str, expected: &str) {
    eventually(&format!("{object}: {path} is {expected:?}"), || {
        let found = jsonpath(cluster, object, path);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found}\n{}", cluster.kubectl(["get", "pv,pvc,pods,events", "-A"]).stdout))
        }
    });
}

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

fn user(name: &str, volume: &str, more: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  {more}
  containers:
  - {{name: a, image: 'coracle.example/busybox:1', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /data}}]}}
  volumes: [{{name: v, {volume}}}]
"
    )
}

#[test]
fn a_claim_gets_a_directory_that_outlives_its_pods() {
    let mut cluster = Cluster::up();
    cluster.apply(CLAIM).ok();
    becomes(&cluster, "pvc/data", "{.spec.storageClassName}", "local-path");
    eventually("the claim says why it waits", || {
        let events = jsonpath(&cluster, "events", "{.items[*].reason}");
        if events.contains("WaitForFirstConsumer") { Ok(()) } else { Err(events) }
    });
    let claimed = "persistentVolumeClaim: {claimName: data}";
    cluster.apply(&user("first", claimed, "securityContext: {runAsUser: 1000, fsGroup: 2000}")).ok();
    expect(&cluster, "first", "{.status.phase}", "Running");
    becomes(&cluster, "pvc/data", "{.status.phase} {.status.capacity.storage}", "Bound 1Gi");
    let volume = jsonpath(&cluster, "pvc/data", "{.spec.volumeName}");
    becomes(&cluster, &format!("pv/{volume}"), "{.status.phase} {.spec.claimRef.name}", "Bound data");
    let path = jsonpath(&cluster, &format!("pv/{volume}"), "{.spec.hostPath.path}");
    assert_eq!(exec(&cluster, "first", "echo kept >/data/file && stat -c %u:%g /data/file"), "1000:2000\n");

    // In use: the claim stays until the pod has gone.
    cluster.kubectl(["delete", "pod", "first", "--grace-period=0", "--force"]).ok();
    cluster.apply(&user("second", claimed, "")).ok();
    expect(&cluster, "second", "{.status.phase}", "Running");
    assert_eq!(exec(&cluster, "second", "cat /data/file"), "kept\n");
    cluster.kubectl(["delete", "pvc", "data", "--wait=false"]).ok();
    cluster.apply(&user("late", claimed, "")).ok();
    eventually("the late pod is told why it waits", || {
        let message = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
        let found = jsonpath(&cluster, "pod/late", message);
        if found.contains("persistentvolumeclaim \"data\" is being deleted") { Ok(()) } else { Err(found) }
    });
    assert_eq!(exec(&cluster, "second", "cat /data/file"), "kept\n");
    assert!(std::path::Path::new(&path).is_dir());
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    eventually("claim, volume and data are gone", || {
        let left = cluster.kubectl(["get", "pvc,pv", "-o", "name"]).stdout;
        let data = std::path::Path::new(&path).exists();
        if left.is_empty() && !data { Ok(()) } else { Err(format!("{left} {path}: {data}")) }
    });
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn volumes_that_people_make_are_bound_by_class_node_and_size() {
    let mut cluster = Cluster::up();
    let base = cluster.machine.path("disks");
    for name in ["small", "large", "elsewhere"] {
        std::fs::create_dir_all(base.join(name)).unwrap();
    }
    let base = base.display().to_string();
    let node = jsonpath(&cluster, "nodes", "{.items[0].metadata.labels.kubernetes\\.io/hostname}");
    let volume = |name: &str, size: &str, host: &str| {
        format!(
            r"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce]
  storageClassName: disks
  local: {{path: {base}/{name}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{host}]}}]}}]}}}}
---
"
        )
    };
    let class = r"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: disks}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
";
    let claim = CLAIM.replace("spec: {", "spec: {storageClassName: disks, ");
    let all = [
        class,
        &volume("elsewhere", "1Gi", "another-node"),
        &volume("large", "5Gi", &node),
        &volume("small", "2Gi", &node),
        &claim,
    ];
    cluster.apply(&all.concat()).ok();
    let claimed = "persistentVolumeClaim: {claimName: data, readOnly: true}";
    cluster.apply(&user("reader", claimed, "")).ok();
    expect(&cluster, "reader", "{.status.phase}", "Running");
    becomes(&cluster, "pvc/data", "{.status.phase} {.spec.volumeName}", "Bound small");
    becomes(&cluster, "pv/elsewhere", "{.status.phase}", "Available");
    assert!(exec(&cluster, "reader", "touch /data/x 2>&1; true").contains("Read-only file system"));

    // One of the pod's own, which goes with it.
    let template = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}";
    cluster.apply(&user("own", template, "")).ok();
    expect(&cluster, "own", "{.status.phase}", "Running");
    exec(&cluster, "own", "echo x >/data/x");
    becomes(&cluster, "pvc/own-v", "{.status.phase}", "Bound");
    cluster.kubectl(["delete", "pod", "--all", "--grace-period=0", "--force"]).ok();
    eventually("the pod's own claim is gone", || {
        let left = cluster.kubectl(["get", "pvc", "-o", "name"]).stdout;
        if left == "persistentvolumeclaim/data\n" { Ok(()) } else { Err(left) }
    });
    // Retained: the data stays, and nobody else gets it.
    cluster.kubectl(["delete", "pvc", "data"]).ok();
    becomes(&cluster, "pv/small", "{.status.phase}", "Released");
    cluster.apply(&user("none", "persistentVolumeClaim: {claimName: none}", "")).ok();
    eventually("a claim that does not exist is told", || {
        let message = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
        let found = jsonpath(&cluster, "pod/none", message);
        let expected = "0/1 nodes are available: persistentvolumeclaim \"none\" not found. preemption: 0/1 nodes are \
                        available: 1 Preemption is not helpful for scheduling.";
        if found == expected { Ok(()) } else { Err(found) }
    });
    cluster.down().ok();
    let left = cluster.machine.leftovers(&cluster.cgroup_marker());
    assert!(left.is_empty(), "{left:?}");
}

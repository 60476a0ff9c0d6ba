//! Disruption budgets and quotas, as people meet them with kubectl.

use tests::{Cluster, eventually};

const GUARDED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: coracle.example/busybox:1, command: [sleep, "100000"]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
"#;

#[test]
fn a_drain_waits_for_the_budget() {
    let cluster = Cluster::up();
    cluster.apply(GUARDED).ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    eventually("the budget is counted", || {
        let row = cluster.kubectl(["get", "pdb", "web", "--no-headers"]);
        let cells: Vec<&str> = row.stdout.split_whitespace().collect();
        if cells.starts_with(&["web", "1", "N/A", "1"]) { Ok(()) } else { Err(format!("{row:?}")) }
    });
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    // There is no other node: what is evicted cannot come back, and the second pod has to stay.
    for version in ["1.20", "1.36"] {
        let drained = cluster.kubectl_version(version, &["drain", &node, "--timeout=3s"]);
        let why = "Cannot evict pod as it would violate the pod's disruption budget.";
        assert!(!drained.success && drained.stderr.contains(why), "{version}: {drained:?}");
    }
    let running = ["get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o", "name"];
    assert_eq!(cluster.kubectl(running).ok().lines().count(), 1);

    // With room elsewhere, or a smaller wish, it goes on.
    cluster.kubectl(["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#]).ok();
    cluster.kubectl(["drain", &node, "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(running).ok(), "");
    cluster.kubectl(["uncordon", &node]).ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    cluster.kubectl(["delete", "pdb", "web"]).ok();
    let events = cluster.kubectl(["get", "pdb"]);
    assert!(events.stderr.contains("No resources found"), "{events:?}");
}

#[test]
fn a_quota_holds_controllers_back() {
    let cluster = Cluster::up();
    cluster.kubectl(["create", "namespace", "small"]).ok();
    cluster.kubectl(["create", "quota", "few", "-n", "small", "--hard=pods=1,count/configmaps=2"]).ok();
    eventually("the quota is counted", || {
        let shown = cluster.kubectl(["describe", "quota", "few", "-n", "small"]);
        let rows: Vec<Vec<&str>> =
            shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        // The authority of the cluster is one of the two ConfigMaps.
        let counted =
            rows.contains(&vec!["pods", "0", "1"]) && rows.contains(&vec!["count/configmaps", "1", "2"]);
        if counted { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    let image = "--image=coracle.example/busybox:1";
    cluster
        .kubectl([
            "create",
            "deployment",
            "web",
            "-n",
            "small",
            image,
            "--replicas=2",
            "--",
            "sleep",
            "100000",
        ])
        .ok();
    eventually("the second pod is refused", || {
        let path = "-o=jsonpath={.items[0].status.conditions[?(@.type==\"ReplicaFailure\")].message}";
        let told = cluster.kubectl(["get", "replicasets", "-n", "small", path]);
        let why = "exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";
        if told.stdout.contains(why) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    cluster.kubectl(["create", "configmap", "one", "-n", "small"]).ok();
    let refused = cluster.kubectl(["create", "configmap", "two", "-n", "small"]).err();
    assert!(refused.contains("exceeded quota: few, requested: count/configmaps=1"), "{refused}");
    // Room for the second pod, which the controller then makes.
    cluster
        .kubectl([
            "patch",
            "quota",
            "few",
            "-n",
            "small",
            "--type=merge",
            "-p",
            r#"{"spec":{"hard":{"pods":"2"}}}"#,
        ])
        .ok();
    cluster.kubectl(["rollout", "status", "deployment/web", "-n", "small", "--timeout=60s"]).ok();
    cluster.kubectl(["delete", "namespace", "small", "--timeout=60s"]).ok();
}

//! A HorizontalPodAutoscaler follows what pods use.

use tests::{Cluster, eventually};

const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: coracle.example/busybox:1
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 10m}, limits: {cpu: 50m}}
"#;

#[test]
fn busy_pods_become_more() {
    let cluster = Cluster::up();
    cluster.apply(BUSY).ok();
    cluster.kubectl(["autoscale", "deployment", "busy", "--cpu-percent=50", "--min=1", "--max=2"]).ok();
    // A rate needs two looks, and a pod is believed once it was ready for all of the time between them.
    eventually("figures", || {
        let top = cluster.kubectl(["top", "pod", "--no-headers"]);
        if top.stdout.contains("busy-") { Ok(()) } else { Err(top.stderr) }
    });
    let path =
        "jsonpath={.status.currentReplicas} {.status.desiredReplicas} {.spec.metrics[0].resource.name}";
    eventually("two pods", || {
        let shown = cluster.kubectl(["get", "hpa.v2.autoscaling", "busy", "-o", path]).ok();
        match shown.as_str() {
            "2 2 cpu" => Ok(()),
            _ => Err(cluster.kubectl(["describe", "hpa", "busy"]).stdout),
        }
    });
    eventually("an event", || {
        let events = cluster.kubectl(["get", "events", "-o", "jsonpath={.items[*].message}"]).ok();
        let told = "New size: 2; reason: cpu resource utilization (percentage of request) above target";
        if events.contains(told) { Ok(()) } else { Err(events) }
    });
    // Its bounds hold at once.
    cluster.kubectl(["patch", "hpa", "busy", "--type=merge", "-p", r#"{"spec":{"maxReplicas":1}}"#]).ok();
    eventually("one pod", || {
        let replicas = cluster.kubectl(["get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}"]).ok();
        if replicas == "1" { Ok(()) } else { Err(replicas) }
    });
}

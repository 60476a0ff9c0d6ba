//! Jobs run to their end, are counted once, and go when their time is over.

use tests::{Cluster, eventually};

const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: three}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: coracle.example/busybox:1, command: [echo, done]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  ttlSecondsAfterFinished: 1
  template:
    metadata: {labels: {kind: indexed}}
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: coracle.example/busybox:1
        command: [sh, -c, 'test $(hostname) = indexed-$JOB_COMPLETION_INDEX']
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: coracle.example/busybox:1, command: ["false"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: endless}
spec:
  template:
    spec:
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: coracle.example/busybox:1, command: [sleep, "100000"]}]
"#;

#[test]
fn jobs_run_to_their_end() {
    let cluster = Cluster::up();
    cluster.apply(JOBS).ok();
    cluster.kubectl(["wait", "job/three", "--for=condition=Complete", "--timeout=60s"]).ok();
    let shown = cluster.kubectl(["get", "job", "three", "--no-headers"]).ok();
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(cells[..3], ["three", "Complete", "3/3"], "{shown}");
    cluster.kubectl(["wait", "job/hopeless", "--for=condition=Failed", "--timeout=60s"]).ok();
    let why = "jsonpath={.status.failed} {.status.conditions[*].type} {.status.conditions[0].reason}";
    let told = cluster.kubectl(["get", "job", "hopeless", "-o", why]).ok();
    assert_eq!(told, "1 FailureTarget Failed BackoffLimitExceeded");

    // Both indexes succeed, which they only do with their own name; then the job goes, and its pods with it.
    eventually("the finished job is removed", || {
        let job = cluster.kubectl(["get", "job", "indexed"]);
        if job.stderr.contains("NotFound") { Ok(()) } else { Err(format!("{job:?}")) }
    });
    eventually("its pods are gone", || {
        let pods = cluster.kubectl(["get", "pods", "-l", "kind=indexed", "-o", "name"]).ok();
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let events = cluster.kubectl(["get", "events", "--field-selector=reason=Completed", "-o", "name"]).ok();
    assert!(!events.is_empty());

    // One that is deleted while it runs leaves nothing behind, though its pod waits to be counted.
    eventually("the endless one runs", || {
        let path = "jsonpath={.status.active} {.status.ready}";
        let job = cluster.kubectl(["get", "job", "endless", "-o", path]).ok();
        if job == "1 1" { Ok(()) } else { Err(job) }
    });
    cluster.kubectl(["patch", "job", "endless", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]).ok();
    cluster.kubectl(["wait", "job/endless", "--for=condition=Suspended", "--timeout=60s"]).ok();
    cluster.kubectl(["patch", "job", "endless", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]).ok();
    cluster.kubectl(["delete", "job", "--all", "--timeout=60s"]).ok();
    eventually("no pod is left", || {
        let pods = cluster.kubectl(["get", "pods", "-o", "name"]).ok();
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}
